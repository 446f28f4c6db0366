"""Which units are out, how long may one take, and when is it late?"""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from bilevel.study.events import Tree
from bilevel.trees import Packed

FIRST = 120.0
"""Seconds for the first unit of its kind: nothing is known about it yet."""
WARMING = 60.0
"""Seconds, at least, for the first unit of a work on a worker: it may load data or compile."""
LEAST = 10.0
"""Seconds that any unit may take."""
LATE = 1.0
"""Seconds after which a unit may count as a straggler."""
SHORT = 0.05
"""Units shorter than this (seconds) queue two deep at a worker, which hides the milliseconds of a call."""
MIDDLING = 1.0
"""So do units shorter than this while there is one more for every worker; the last ones go to whoever is free first."""


@dataclass(eq=False)
class Work:
    """A distinct `Units.work` under its key, as it is sent, and how long its units took, by type of item."""

    function: Any
    key: int
    payload: Any
    seconds: dict[type, deque[float]] = field(default_factory=dict)

    def times(self, item: Any) -> deque[float]:
        """Seconds that the latest units with such an item took."""
        return self.seconds.setdefault(type(item), deque(maxlen=32))


@dataclass(eq=False)
class Ticket:
    """Units that were submitted together: their shared tree under its key, results by position."""

    number: int
    work: Work
    key: int
    shared: Packed
    size: int
    results: dict[int, Tree] = field(default_factory=dict)
    payload: Any = None
    """The shared tree as it is sent: itself, or a reference into Ray's store; None before the first unit is."""
    over: bool = False


@dataclass(eq=False)
class Unit:
    """One item of a ticket: how often it is out now, lost its worker, and passed its deadline."""

    ticket: Ticket
    index: int
    item: Any
    calls: int = 0
    deaths: int = 0
    expired: int = 0

    @property
    def open(self) -> bool:
        """Somebody still wants the result."""
        return not self.ticket.over and self.index not in self.ticket.results

    def typical(self) -> float | None:
        """Seconds that units of this kind take, or None if none has ended yet."""
        times = self.ticket.work.times(self.item)
        return statistics.median(times) if times else None

    def depth(self, plenty: bool) -> int:
        """How many calls a worker may hold when this is given to it; `plenty`: as many wait as there are workers."""
        typical = self.typical()
        return 2 if typical is not None and typical < (MIDDLING if plenty else SHORT) else 1

    def late(self, seconds: float) -> bool:
        """Whether it is out for suspiciously long: an idle worker may try it too."""
        typical = self.typical()
        return self.open and self.calls == 1 and typical is not None and seconds > max(LATE, 4 * typical)

    def limit(self, warm: bool) -> float:
        """Seconds after which its worker counts as frozen; four times longer at each retry, lest it be only slow."""
        times = self.ticket.work.times(self.item)
        seconds = max(LEAST, 20 * statistics.median(times), 3 * max(times)) if times else FIRST
        return max(seconds, 0.0 if warm else WARMING) * 4.0**self.expired


@dataclass(eq=False)
class Call:
    """A unit at a worker: `handed` to it, and `begun` when the one before it had ended (monotonic seconds)."""

    ref: Any
    unit: Unit
    handed: float
    begun: float
