"""How are units carried out in this process, without Ray?"""

from __future__ import annotations

import contextlib
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

from bilevel import trees
from bilevel.events import Done, Fault, Lost, Tree, Units
from bilevel.execute.worker import Raised, Settings, compute, keep_memory, settled, usable


@dataclass(frozen=True)
class Inline:
    """Units are computed in this process, one after the other: the reference that workers must equal bit by bit.

    Args:
        device: where shared trees are put, e.g. "cuda"; the CPU if not given.
    """

    device: str | None = None

    def open(self, threads: int = 1, code: Sequence[str] = ()) -> InlineExecutor:  # noqa: ARG002 as Ray.open
        """The live executor; each unit computes with `threads` torch threads.

        Raises:
            BadInput: torch knows no such device here.
        """
        return InlineExecutor(threads, self.device or "cpu")


@dataclass
class _Ticket:
    number: int
    units: Units
    shared: Tree
    results: list[Tree]


class InlineExecutor:
    """`bilevel.events.Executor` in this process: `submit` queues, `poll` computes."""

    def __init__(self, threads: int, device: str) -> None:
        self._device = usable(device)
        self._settings = Settings.here(threads)
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
        with settled(self._settings), contextlib.redirect_stdout(sys.stderr):
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
