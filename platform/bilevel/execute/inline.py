"""How are units carried out in this process, without Ray?"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from bilevel import trees
from bilevel.episodes import guarded
from bilevel.errors import BilevelError
from bilevel.execute.callbacks import Away, never
from bilevel.execute.settings import Settings, keep_memory, settled, usable
from bilevel.execute.trial_runner import Hosted, Script, plain, raised
from bilevel.execute.worker import compute
from bilevel.study.events import Done, Fault, Gone, Lost, Order, Placed, Raised, Report, Said, Tree, Units


@dataclass
class _Ticket:
    number: int
    units: Units
    shared: Tree
    results: list[Tree]


class InlineExecutor:
    """`bilevel.study.events.Executor` in this process: `submit` queues, `poll` computes."""

    def __init__(self, threads: int, device: str) -> None:
        self._device = usable(device)
        self._settings = Settings.here(threads).on(self._device)
        keep_memory()
        self._tickets: deque[_Ticket] = deque()

    @property
    def alive(self) -> int:
        """0: there are no workers."""
        return 0

    def submit(self, ticket: int, units: Units) -> None:
        """Queue the units; nothing is computed before `poll`."""
        # Packed as for a worker: so that a unit sees the same values in memory aligned the same way.
        shared = trees.to_device(trees.unpack(trees.pack(units.shared)), self._device)
        self._tickets.append(_Ticket(ticket, units, shared, []))

    def poll(self, timeout: float) -> list[Done | Lost | Fault]:
        """Compute units until a ticket ends or `timeout` seconds have passed; at least one unit, if there is any."""
        until = time.monotonic() + timeout
        # Standard output is for results; on a worker, too, what a unit prints does not get there.
        with settled(self._settings), guarded(), contextlib.redirect_stdout(sys.stderr):
            while self._tickets:
                ended = self._advance(self._tickets[0])
                if ended is not None:
                    self._tickets.popleft()
                    return [ended]
                if time.monotonic() >= until:
                    break
        return []

    def _advance(self, ticket: _Ticket) -> Done | Lost | None:
        items = ticket.units.items
        if len(ticket.results) < len(items):
            item = items[len(ticket.results)]
            outcome = compute(ticket.units.work, ticket.shared, item)
            if isinstance(outcome, Raised):
                return Lost(ticket.number, str(item), outcome.reason, outcome.traceback)
            ticket.results.append(trees.unpack(outcome.result))
        if len(ticket.results) < len(items):
            return None
        return Done(ticket.number, ticket.results)

    def close(self) -> None:
        """Forget what is queued."""
        self._tickets.clear()


class InlineStage:
    """A `Stage` in this process: each `poll` lets every trial that may go on come to its next report."""

    def __init__(
        self,
        script: Script,
        cache: dict[Any, Any],
        *,
        echo: bool = True,
        asked: Callable[[], bool] = never,
        device: str = "cpu",
    ) -> None:
        """Nothing has begun yet.

        Args:
            script: whose trials they are.
            cache: their `Run.cache`.
            echo: what they print is seen, too.
            asked: whether this process was asked to leave; then a trial that may never report is not waited for.
            device: their `Run.device`.
        """
        self._device = device
        self._script, self._cache, self._echo, self._asked = script, cache, echo, asked
        self._hosted: dict[int, tuple[int, Hosted]] = {}
        self._turns: deque[tuple[int, Any]] = deque()
        self._news: list[Said | Placed | Gone | Fault] = []

    @property
    def alive(self) -> int:
        """0: there are no workers."""
        return 0

    @property
    def room(self) -> int:
        """One trial after the other."""
        return 1

    def begin(self, order: Order) -> None:
        """Make the trial ready; it begins when it is polled for."""
        self._news.append(Placed(order.trial, order.attempt, "driver"))
        try:
            hosted = self._script.host(order, self._cache, echo=self._echo, asked=self._asked, device=self._device)
        except BilevelError as error:
            if not order.point:
                raise
            self._news.append(Said(order.trial, order.attempt, end=raised(error)))
            return
        except BaseException as error:  # the user's configuration refuses these values
            if isinstance(error, KeyboardInterrupt):
                raise
            self._news.append(Said(order.trial, order.attempt, end=raised(error)))
            return
        self._hosted[order.trial] = order.attempt, hosted
        self._turns.append((order.trial, None))

    def answer(self, trial: int, answer: Any) -> None:
        """It goes on when it is polled for."""
        if trial in self._hosted:
            self._turns.append((trial, answer))

    def close_trial(self, trial: int) -> None:
        """End it where it stands."""
        if trial in self._hosted:
            _, hosted = self._hosted.pop(trial)
            if not hosted.close():
                self._news.append(Fault("spoiled", f"trial {trial} was stopped, and computes on in this process"))
        self._turns = deque(turn for turn in self._turns if turn[0] != trial)

    def poll(self, timeout: float) -> list[Said | Placed | Gone | Fault]:  # noqa: ARG002 trials are never idle here
        """Let each trial whose turn it is go on to its next report; first say which have begun."""
        if self._news:
            begun, self._news = self._news, []
            return begun
        turns, self._turns = self._turns, deque()
        while turns:
            trial, answer = turns.popleft()
            try:
                self._news.append(self._advance(trial, answer))
            except BilevelError:
                self._turns.extend(turns)
                raise
        news, self._news = self._news, []
        return news

    def _advance(self, trial: int, answer: Any) -> Said:
        attempt, hosted = self._hosted[trial]
        said = hosted.advance(answer)
        output, files = hosted.output(), hosted.folder.news()
        if isinstance(said, Away):
            return Said(trial, attempt, output=output, files=files)
        if isinstance(said, Units):
            return Said(trial, attempt, units=said, output=output, files=files)
        if isinstance(said, Report):
            state = None if said.state is None else hosted.kept()
            return Said(trial, attempt, (plain(said),), None, None, output, state, said.step, files)
        del self._hosted[trial]
        hosted.close()
        return Said(trial, attempt, (), None, said, output, files=files)

    def close(self) -> None:
        """End all trials."""
        for trial in list(self._hosted):
            self.close_trial(trial)
