"""Which warm actor computes which unit, and what if it dies, freezes or straggles?"""

from __future__ import annotations

import time
from collections import deque
from typing import Any

from bilevel import trees
from bilevel.errors import described
from bilevel.execute.actors import Actors, Member, line
from bilevel.execute.declarations import Ray, Say, unheard
from bilevel.execute.luggage import pack
from bilevel.execute.pickling import dumps
from bilevel.execute.units import Call, Ticket, Unit, Work
from bilevel.execute.worker import Computed, Missing
from bilevel.study.events import Done, Fault, Lost, Raised, Units

import ray  # isort: skip # after the variables that `cluster` sets for it


DEATHS = 4
"""A unit that lost its worker so often is the cause, not the victim."""
STEP = 0.5
"""Seconds between two looks at deadlines, stragglers and the size of the cluster."""
INLINE = 100_000
"""Bytes that still travel inside a call; more goes once through Ray's object store."""
WORKS = 8
"""Works kept on warm workers after their last unit."""


class Pool:
    """`bilevel.study.events.Executor` on warm Ray actors.

    Calls are never retried by Ray: whatever a worker loses is given out again here. A unit may be given out twice; its
    first result counts, and all results are equal. At most two units are at a worker, so that a death costs little.
    """

    def __init__(self, wanted: Ray, threads: int, code: tuple[str, ...], say: Say = unheard) -> None:
        self._luggage = pack(code)
        self._actors = Actors(wanted, threads, self._luggage, say=say)
        self._tickets: dict[int, Ticket] = {}
        self._queue: deque[Unit] = deque()
        self._works: list[Work] = []  # the last used last
        self._news: list[Done | Lost | Fault] = []
        self._keys = 0
        self._actors.staff()

    # -- the port ------------------------------------------------------------------------------------------------------

    @property
    def alive(self) -> int:
        """Workers ready now."""
        return len(self._actors.ready())

    def pids(self) -> dict[int, str]:
        """Process id of each ready worker, and its host."""
        return {member.hello.pid: member.hello.host for member in self._actors.ready() if member.hello}

    def submit(self, ticket: int, units: Units) -> None:
        """Queue the units of a ticket and hand out what finds a worker.

        Raises:
            ValueError: the ticket is in flight already.
        """
        if ticket in self._tickets:
            raise ValueError(f"ticket {ticket} is in flight already")
        if not units.items:
            self._news.append(Done(ticket, []))
            return
        try:
            work = self._work(units.work)
        except Exception as error:  # noqa: BLE001 pickling runs the user's code; the ticket fails, loudly
            reason = f"{described(error)}; what an objective hands to workers must be picklable"
            self._news.append(Lost(ticket, "the work itself", reason))
            return
        entry = Ticket(ticket, work, self._key(), trees.pack(units.shared), len(units.items))
        self._tickets[ticket] = entry
        self._queue.extend(Unit(entry, index, item) for index, item in enumerate(units.items))
        self._hand_out()

    def poll(self, timeout: float) -> list[Done | Lost | Fault]:
        """What has happened, waiting at most `timeout` seconds for the first of it.

        Raises:
            ClusterFailed: no worker has been ready for too long, or none can start.
        """
        until = time.monotonic() + timeout
        while True:
            self._actors.staff()
            self._hand_out()
            self._speculate()
            self._watch()
            left = until - time.monotonic()
            if not self._news:
                self._listen(min(max(left, 0.0), STEP))
            if self._news or left <= 0:
                news, self._news = self._news, []
                return news

    def close(self) -> None:
        """End the actors, and leave the cluster to the next ones. May be called again."""
        self._queue.clear()
        self._tickets.clear()
        self._works.clear()
        self._actors.close([member for member in self._actors.ready() if not member.calls])

    # -- what is sent --------------------------------------------------------------------------------------------------

    def _key(self) -> int:
        self._keys += 1
        return self._keys

    def _work(self, function: Any) -> Work:
        """The record of this very object; of those without units, the ones used longest ago are forgotten."""
        work = next((known for known in self._works if known.function is function), None)
        if work is None:
            pickled = dumps(function, self._luggage)
            work = Work(function, self._key(), ray.put(pickled) if len(pickled) > INLINE else pickled)
        else:
            self._works.remove(work)
        self._works.append(work)
        used = {ticket.work.key for ticket in self._tickets.values()}
        idle = [known for known in self._works[:-1] if known.key not in used]
        for known in idle[: max(0, len(idle) - WORKS)]:
            self._works.remove(known)
        return work

    def _give(self, member: Member, unit: Unit) -> None:
        """Call the actor; the work and the shared tree go along if it does not know them, and what it may forget."""
        ticket, work = unit.ticket, unit.ticket.work
        if ticket.payload is None:
            ticket.payload = ray.put(ticket.shared) if ticket.shared.data.nbytes > INLINE else ticket.shared
        live = {entry.key for entry in self._tickets.values()} | {entry.key for entry in self._works}
        gone = tuple(member.knows - live)
        fresh = [entry.payload if entry.key not in member.knows else None for entry in (work, ticket)]
        try:
            ref = member.handle.compute.remote((work.key, ticket.key, gone, unit.item), *fresh)
        except (TypeError, AttributeError, ValueError) as error:  # nothing was sent: the item cannot be pickled
            self._lose(unit, described(error))
            return
        member.knows.difference_update(gone)
        member.warm.difference_update(gone)
        member.knows.update((work.key, ticket.key))
        now = time.monotonic()
        member.calls.append(Call(ref, unit, now, now))
        unit.calls += 1

    def _hand_out(self) -> None:
        """Give units from the queue to the workers that hold least."""
        ready = self._actors.ready()
        while ready and self._queue:
            unit = self._queue[0]
            if unit.open:
                member = min(ready, key=lambda member: len(member.calls))
                if len(member.calls) >= unit.depth(len(self._queue) >= len(ready)):
                    return
                self._give(member, unit)
            self._queue.popleft()

    def _speculate(self) -> None:
        """Give units that are out for suspiciously long to idle workers too."""
        idle = [member for member in self._actors.ready() if not member.calls]
        if self._queue or not idle:
            return
        now = time.monotonic()
        calls = (call for member in self._actors.members for call in member.calls)
        late = sorted((call for call in calls if call.unit.late(now - call.handed)), key=lambda call: call.handed)
        for member, call in zip(idle, late, strict=False):
            self._give(member, call.unit)

    # -- what comes back -----------------------------------------------------------------------------------------------

    def _listen(self, timeout: float) -> None:
        """Wait for the next answer of any actor, and take it."""
        awaited = {ref: member for member in self._actors.members if (ref := member.awaited) is not None}
        if not awaited:
            time.sleep(timeout)
            return
        ready, _ = ray.wait(list(awaited), timeout=timeout)
        for ref in ready:
            self._take(awaited[ref])

    def _take(self, member: Member) -> None:
        """An actor has answered: its greeting, or the outcome of its first call."""
        if member.hello is None:
            failure = self._actors.greet(member)
            if failure:
                self._news.append(Fault("died", f"a worker did not start: {failure}"))
            return
        try:
            outcome = ray.get(member.calls[0].ref)
        except ray.exceptions.RayTaskError as error:  # the actor catches all: its answer could not be pickled
            outcome = Raised(line(error), str(error))
        except ray.exceptions.RayError as error:
            if isinstance(error, ray.exceptions.ObjectLostError):
                self._resend()
            self._bury(member, "died", line(error))
            return
        self._finish(member, outcome)

    def _finish(self, member: Member, outcome: Computed | Raised | Missing) -> None:
        unit = member.calls.popleft().unit
        unit.calls -= 1
        if member.calls:
            member.calls[0].begun = time.monotonic()
        ticket = unit.ticket
        if isinstance(outcome, Missing):
            member.knows.clear()
            self._again(unit)
            return
        if isinstance(outcome, Computed):
            ticket.work.times(unit.item).append(outcome.seconds)
            member.warm.add(ticket.work.key)
        if not unit.open:  # a late duplicate, or its ticket has failed
            return
        if isinstance(outcome, Raised):
            self._lose(unit, outcome.reason, outcome.traceback)
            return
        ticket.results[unit.index] = trees.unpack(outcome.result)
        if len(ticket.results) == ticket.size:
            self._end(ticket)
            self._news.append(Done(ticket.number, [ticket.results[index] for index in range(ticket.size)]))

    def _lose(self, unit: Unit, reason: str, traceback: str = "") -> None:
        self._end(unit.ticket)
        self._news.append(Lost(unit.ticket.number, str(unit.item), reason, traceback))

    def _end(self, ticket: Ticket) -> None:
        ticket.over = True
        ticket.payload = None
        self._tickets.pop(ticket.number, None)

    # -- what is lost --------------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        """Bury workers whose unit has passed its deadline: Ray never reports a stopped process."""
        now = time.monotonic()
        for member in [member for member in self._actors.members if member.calls]:
            call = member.calls[0]
            seconds = now - call.begun
            warm = call.unit.ticket.work.key in member.warm
            if seconds > call.unit.limit(warm) and not ray.wait([call.ref], timeout=0)[0]:
                call.unit.expired += 1
                self._bury(member, "frozen", f"no answer for {seconds:.0f} s")

    def _bury(self, member: Member, kind: str, detail: str) -> None:
        """A worker is lost: its units go to others. The first of them ran; those behind it are not to blame."""
        self._actors.dismiss(member, frozen=kind == "frozen")
        units = [call.unit for call in member.calls]
        for unit in units:
            unit.calls -= 1
        blamed = units[0]
        blamed.deaths += 1
        self._news.append(Fault(kind, f"{member}: {detail}; at unit {blamed.item}"))
        if blamed.open and blamed.deaths >= DEATHS:
            self._lose(blamed, f"its worker was lost {blamed.deaths} times, each another one; at last: {detail}")
        for unit in reversed(units):
            self._again(unit)

    def _again(self, unit: Unit) -> None:
        """Back to the front of the queue, unless it is done, dropped or still out with another worker."""
        if unit.open and unit.calls == 0:
            self._queue.appendleft(unit)

    def _resend(self) -> None:
        """The object store lost something of ours: put all anew, and send it to all again."""
        for ticket in self._tickets.values():
            ticket.payload = None
        for work in self._works:
            if not isinstance(work.payload, bytes):
                work.payload = ray.put(dumps(work.function, self._luggage))
        for member in self._actors.members:
            member.knows.clear()
