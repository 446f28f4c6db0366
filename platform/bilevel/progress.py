"""Where does a running search stand? What its driver tells a display, a few times a second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Running:
    """A trial at work."""

    trial: int
    step: int = 0
    value: float | None = None
    """The last value of the (first) objective, unsigned; None: none reported yet."""
    last: int | None = None
    """The step that it ends at, if that is known."""
    point: Mapping[str, Any] = field(default_factory=dict)
    """Its searched values."""
    worker: str = ""


@dataclass(frozen=True)
class Leader:
    """The best so far: of several objectives, the best in the first of them."""

    trial: int
    values: tuple[float, ...]
    """Its objectives, unsigned."""
    point: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Standing:
    """A search, in figures. The driver makes it in a time that does not grow with the trials that have ended."""

    metrics: tuple[str, ...]
    """What is optimized, as the user named it."""
    completed: int = 0
    stopped: int = 0
    failed: int = 0
    trials: int | None = None
    """How many are wanted; None: as many as there is time for."""
    running: tuple[Running, ...] = ()
    best: Leader | None = None
    front: int = 0
    """Of several objectives: how many trials are on the Pareto front."""
    limit: float | None = None
    """The time limit [s], counted as `Progress.seconds`."""
    search: str = ""
    """The search and the rule that stops trials, in words."""

    @property
    def ended(self) -> int:
        """Trials that will not change any more."""
        return self.completed + self.stopped + self.failed
