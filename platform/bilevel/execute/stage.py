"""Which warm actor runs which trial, and what if it dies or freezes?"""

from __future__ import annotations

import dataclasses
import os
import pickle
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from bilevel import trees
from bilevel.errors import BadInput
from bilevel.execute.actors import Actors, Member, line
from bilevel.execute.declarations import Ray, Say, unheard
from bilevel.execute.luggage import Luggage, pack
from bilevel.execute.pickling import dumps
from bilevel.execute.trial_runner import Script
from bilevel.execute.vitals import Pulse, Vitals, vitals
from bilevel.execute.worker import Missing, Played, Spoiled, unpacked
from bilevel.study.events import Fault, Gone, Order, Placed, Raised, Said

import ray  # isort: skip # after the variables that `cluster` sets for it


KEY = 0
"""Of the one script that the workers of a stage know."""
INLINE = 100_000
"""Bytes that still travel inside a call; more goes once through Ray's object store."""
SILENCE = 10.0
"""Seconds without a word from a worker, after which it is looked whether its process is stopped, or does nothing."""
GROWTH = 1000.0
"""Megabytes by which a worker may have grown since its first trial; then another one takes its place."""
STEP = 0.5
"""Seconds between two looks at the workers."""
FEW = 3
"""Calls that may be out for the next look at them to be as good as another one now."""


@dataclass(eq=False)
class _Seat:
    """A trial at a worker: computing while `ref` is there, waiting for an answer otherwise."""

    order: Order
    member: Member
    ref: Any = None
    heard: float = 0.0
    pulse: Pulse = field(default_factory=Pulse)


class RayStage:
    """`bilevel.study.events.Stage` on warm Ray actors: one trial at a time on each.

    Nothing is retried here: of a trial whose worker is lost the driver is told, and it decides.
    """

    def __init__(
        self,
        wanted: Ray,
        script: Script,
        code: tuple[str, ...],
        *,
        threads: int,
        cpus: float,
        fresh: bool,
        say: Say = unheard,
    ) -> None:
        self._fresh, self._silence = fresh, wanted.silence
        luggage = pack(code)
        self._actors = Actors(wanted, threads, luggage, cpus, say, fresh=fresh)
        try:
            self._script = shipped(script, luggage)
        except BaseException:
            self._actors.close()
            raise
        self._queue: deque[Order] = deque()
        self._seats: dict[int, _Seat] = {}
        self._busy: dict[Member, _Seat] = {}
        self._sizes: dict[Member, float] = {}
        self._probes: dict[Any, Member] = {}
        self._news: list[Said | Placed | Gone | Fault] = []
        self._actors.staff()
        self._looked = time.monotonic()

    # -- the port ------------------------------------------------------------------------------------------------------

    @property
    def alive(self) -> int:
        """Workers ready now."""
        return len(self._actors.ready())

    @property
    def room(self) -> int:
        """Workers that are wanted."""
        return self._actors.target

    def begin(self, order: Order) -> None:
        """Queue an attempt, and hand it out if there is a worker for it."""
        self._queue.append(order)
        self._hand_out()

    def answer(self, trial: int, answer: Any) -> None:  # noqa: ARG002 units do not come from here
        """Let a trial go on after its report."""
        seat = self._seats.get(trial)
        if seat is not None and seat.ref is None:
            self._call(seat, None)

    def close_trial(self, trial: int) -> None:
        """End an attempt: one that waits is told, one that computes loses its worker."""
        self._queue = deque(order for order in self._queue if order.trial != trial)
        seat = self._seats.pop(trial, None)
        if seat is None:
            return
        del self._busy[seat.member]
        if seat.ref is not None or self._fresh:
            self._dismiss(seat.member)
        else:
            seat.member.handle.leave.remote()

    def poll(self, timeout: float) -> list[Said | Placed | Gone | Fault]:
        """What has happened, waiting at most `timeout` seconds for the first of it.

        Raises:
            ClusterFailed: no worker has been ready for too long, or none can start.
        """
        until = time.monotonic() + timeout
        while True:
            self._look_around()
            self._hand_out()
            left = until - time.monotonic()
            if not self._news:
                self._listen(min(max(left, 0.0), STEP))
            if self._news or left <= 0:
                news, self._news = self._news, []
                return news

    def close(self) -> None:
        """End the actors, and leave the cluster to the next ones. May be called again."""
        self._queue.clear()
        computing = {seat.member for seat in self._seats.values() if seat.ref is not None}
        self._seats.clear()
        self._busy.clear()
        ready = [] if self._fresh else self._actors.ready()
        self._actors.close([member for member in ready if member not in computing])

    # -- what is sent --------------------------------------------------------------------------------------------------

    def _hand_out(self) -> None:
        if not self._queue:
            return
        for member in self._actors.ready():
            if not self._queue:
                return
            if member not in self._busy:
                self._seat(member, self._queue.popleft())

    def _seat(self, member: Member, order: Order) -> None:
        seat = _Seat(order, member)
        self._seats[order.trial] = self._busy[member] = seat
        self._call(seat, order)
        self._news.append(Placed(order.trial, order.attempt, str(member)))

    def _call(self, seat: _Seat, order: Order | None) -> None:
        member = seat.member
        script = None if KEY in member.knows else self._script
        member.knows.add(KEY)
        seat.heard, seat.pulse = time.monotonic(), Pulse()
        # One argument where it can be: Ray packs each by itself, which takes longer than all the rest of a call.
        state, files = None, None
        if order is not None and order.state is not None:
            order, state = dataclasses.replace(order, state=None), trees.pack(order.state)
        if order is not None and order.files:
            order, files = dataclasses.replace(order, files={}), order.files
        large = () if state is None and script is None and files is None else (state, script, files)
        seat.ref = member.handle.play_packed.remote(pickle.dumps((KEY, order), pickle.HIGHEST_PROTOCOL), *large)

    # -- what comes back -----------------------------------------------------------------------------------------------

    def _listen(self, timeout: float) -> None:
        awaited: dict[Any, Member] = {seat.ref: seat.member for seat in self._seats.values() if seat.ref is not None}
        awaited |= {member.greeting: member for member in self._actors.members if member.hello is None}
        awaited |= self._probes
        if not awaited:
            time.sleep(timeout)
            return
        ready, left = ray.wait(list(awaited), num_returns=1, timeout=timeout, fetch_local=True)
        if ready and len(left) > FEW:
            more, _ = ray.wait(left, num_returns=len(left), timeout=0)
            ready += more
        for ref in ready:
            self._take(ref, awaited[ref])

    def _take(self, ref: Any, member: Member) -> None:
        if ref in self._probes:
            self._probed(ref)
        elif member.hello is None:
            failure = self._actors.greet(member)
            if failure:
                self._news.append(Fault("died", f"a worker did not start: {failure}"))
        elif member in self._busy and self._busy[member].ref == ref:
            self._heard(self._busy[member])

    def _heard(self, seat: _Seat) -> None:
        try:
            played = unpacked(ray.get(seat.ref))
        except ray.exceptions.RayTaskError as error:  # the actor catches what a trial raises: this could not be pickled
            played = Played((), Raised(line(error), str(error)), "", None, 0, 0.0)
        except ray.exceptions.RayError as error:
            self._bury(seat.member, "died", line(error))
            return
        seat.ref = None
        if isinstance(played, Missing):
            seat.member.knows.discard(KEY)
            self._call(seat, seat.order)
            return
        if isinstance(played, Spoiled):
            self._spoiled(seat)
            return
        order, state = seat.order, None if played.state is None else trees.unpack(played.state)
        if played.end is not None:
            self._leave(seat, played.megabytes)
        self._news.append(
            Said(
                order.trial,
                order.attempt,
                played.reports,
                None,
                played.end,
                played.output,
                state,
                played.state_step,
                played.files,
            )
        )

    def _leave(self, seat: _Seat, megabytes: float) -> None:
        """A trial has ended: its worker is free, unless it must not be used again."""
        del self._seats[seat.order.trial]
        del self._busy[seat.member]
        first = self._sizes.setdefault(seat.member, megabytes)
        if self._fresh or megabytes > first + GROWTH:
            self._dismiss(seat.member)

    def _spoiled(self, seat: _Seat) -> None:
        """What was stopped on this worker computes on: the trial that was to begin there goes elsewhere."""
        del self._seats[seat.order.trial]
        del self._busy[seat.member]
        self._queue.appendleft(seat.order)
        self._dismiss(seat.member)
        self._news.append(Fault("spoiled", f"{seat.member}: a trial that was stopped computes on; replaced"))

    # -- what is lost --------------------------------------------------------------------------------------------------

    def _look_around(self) -> None:
        now = time.monotonic()
        if now - self._looked < STEP and self._actors.ready():
            return
        self._looked = now
        self._actors.staff()
        probed = set(self._probes.values())
        for seat in list(self._busy.values()):
            if seat.ref is None or now - seat.heard < SILENCE or seat.member in probed:
                continue
            hello = seat.member.hello
            if hello is None:
                continue
            if hello.host == os.uname().nodename:
                self._judge(seat.member, vitals(hello.pid))
            else:
                self._probes[_probe(hello.node, hello.pid)] = seat.member
            seat.heard = now

    def _probed(self, ref: Any) -> None:
        member = self._probes.pop(ref)
        try:
            self._judge(member, ray.get(ref))
        except ray.exceptions.RayError:  # the node is gone or frozen too: Ray will say so of the worker
            return

    def _judge(self, member: Member, found: Vitals | None) -> None:
        seat = self._busy.get(member)
        if found is None or seat is None or seat.ref is None:
            return
        idle = seat.pulse.idle(found, time.monotonic())
        if found.stopped:
            self._bury(member, "frozen", "its process is stopped")
        elif idle > self._silence:
            self._bury(member, "frozen", f"for {idle:.0f} s it has said nothing, and its process done nothing")

    def _bury(self, member: Member, kind: str, detail: str) -> None:
        seat = self._busy.pop(member)
        del self._seats[seat.order.trial]
        self._dismiss(member, frozen=kind == "frozen")
        self._news.append(Gone(seat.order.trial, seat.order.attempt, kind, f"{member}: {detail}"))

    def _dismiss(self, member: Member, *, frozen: bool = False) -> None:
        self._sizes.pop(member, None)
        self._actors.dismiss(member, frozen=frozen)
        self._actors.staff()


def shipped(script: Script, luggage: Luggage) -> Any:
    """The script pickled, or, if that is large, where it lies in Ray's object store.

    Raises:
        BadInput: something in it cannot be pickled.
    """
    try:
        pickled = dumps(script, luggage)
    except Exception as error:  # whatever the user's objects raise when they are to be pickled
        raise BadInput(
            f"the study cannot travel to the workers: {line(error)}; make what it names inside of the objective"
            " (run.cache keeps it), or run with --workers 0"
        ) from error
    return ray.put(pickled) if len(pickled) > INLINE else pickled


def _probe(node: str, pid: int) -> Any:
    """Have `vitals` called on the worker's own node."""
    there = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node, soft=False)
    return ray.remote(num_cpus=0, max_retries=0)(vitals).options(scheduling_strategy=there).remote(pid)
