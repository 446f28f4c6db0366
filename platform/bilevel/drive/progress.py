"""Where does a study at work stand, and who is told?"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from bilevel.study.history import History, Leader, Trial
from bilevel.study.study import Study

LOOK_EVERY = 0.2
"""Seconds between looks of the display."""
RANK_EVERY = 1.0
"""Seconds, at least, between two looks for the best: it sorts all that has ended (and gets a fiftieth of the time)."""


@dataclass(frozen=True)
class Standing:
    """What a search wants and what it has found, made in a time that does not grow with the trials that have ended."""

    trials: int | None = None
    """How many are wanted, repeats included; None: as many as there is time for."""
    last: int | None = None
    """The last step of a trial that is not stopped, if that is known."""
    limit: float | None = None
    """The time limit [s], counted as `Progress.seconds`."""
    search: str = ""
    """The search and the rule that stops trials, in words."""
    best: Leader | None = None
    front: int = 0
    """Of several objectives: how many trials are on the Pareto front."""
    repeats: int = 1
    """Trials of each configuration."""
    confirming: int = 0
    """Trials that have ended and confirm leaders: they are none of those wanted."""


@dataclass(frozen=True)
class Progress:
    """What a display may show of a running study."""

    history: History
    running: Mapping[int, Any]
    """Configurations of running trials, of a study that spreads its work."""
    alive: int
    faults: int
    seconds: float
    standing: Standing | None = None
    """Of a search; None of a study without."""


class Watch(Protocol):
    """Who looks on."""

    def progress(self, progress: Progress) -> None:
        """Called a few times a second."""
        ...

    def say(self, text: str) -> None:
        """Something that the user should know, once."""
        ...


class Quiet:
    """A watch that says what must be said on standard error, and nothing else."""

    def progress(self, progress: Progress) -> None:
        """Shows nothing."""

    def say(self, text: str) -> None:
        """A line on standard error."""
        sys.stderr.write(f"bilevel: {text}\n")


default: Callable[[], Watch] = Quiet
"""Who looks on where nobody is named; in a notebook another one, put here from above."""


class Board:
    """Makes `Progress`, and knows when it is time for it."""

    def __init__(self, study: Study, search: str, limit: float | None) -> None:
        self._study, self._search, self.limit = study, search, limit
        self._looked = self._rank_at = -math.inf
        self._ended = -1
        self._best: Leader | None = None
        self._front = self._confirming = 0
        self._configs: dict[int, Any] = {}

    def due(self) -> bool:
        """Whether it is time to show something."""
        now = time.monotonic()
        due = now - self._looked >= LOOK_EVERY
        if due:
            self._looked = now
        return due

    def running(self, history: History) -> dict[int, Any]:
        """Configurations of what runs, where they say how far it has to go."""
        if not self._study.spreads:
            return {}
        self._configs = {number: self._config(history.trials[number]) for number in history.running}
        return self._configs

    def _config(self, trial: Trial) -> Any:
        known = self._configs.get(trial.number)
        return self._study.build(trial.point) if known is None else known

    def standing(self, history: History, budget: int | None) -> Standing | None:
        """Of a search for so many configurations."""
        study = self._study
        if not study.searches:
            return None
        ended, now = sum(history.ended.values()), time.monotonic()
        if ended != self._ended and now >= self._rank_at:
            self._ended = ended
            self._best = next(iter(history.leaders(1)), None)
            self._front = len(history.pareto()) if len(history.objectives) > 1 else 0
            self._confirming = sum(t.confirms and t.state != "running" for t in history.trials.values())
            took = time.monotonic() - now
            self._rank_at = now + max(RANK_EVERY, 50 * took)
        wanted = None if budget is None else budget * study.repeats
        last = study.stop.last if study.stop is not None else None
        return Standing(
            wanted, last, self.limit, self._search, self._best, self._front, study.repeats, self._confirming
        )
