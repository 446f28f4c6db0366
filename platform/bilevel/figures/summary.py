"""What are a search's tables made of? Leaders, counts and failures in words, for the page and the terminal alike."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bilevel.figures.chart import number, shown
from bilevel.figures.search import Search
from bilevel.space.dimensions import Parameter
from bilevel.study.history import Leader, Trial

STATES = ("completed", "stopped", "failed", "running")
_DIGITS = re.compile(r"[-+]?\d[\d.]*(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class Row:
    """A trial of a table, and its values in words, in the order of the table's parameters."""

    trial: Trial
    objectives: tuple[str, ...]
    values: tuple[str, ...]
    counted: Trial
    """The trial whose state and step these values are of: itself, or its first confirmation."""

    @property
    def state(self) -> str:
        """That one's, in words."""
        confirmed = f", by trial {self.counted.number}" if self.counted.confirms else ""
        return self.counted.state + confirmed + (" (over a limit)" if self.counted.violation else "")


@dataclass(frozen=True)
class Failure:
    """Trials that failed for the same reason, numbers in it apart; `reason` is that of the first."""

    reason: str
    trials: tuple[int, ...]


def leaders(search: Search, parameters: Sequence[Parameter], count: int) -> list[Row]:
    """The best configurations, best first."""
    return [row(search, leader.trial, parameters, leader) for leader in search.history.leaders(count)]


def front(search: Search, parameters: Sequence[Parameter], count: int) -> list[Row]:
    """Of several objectives: the trials of the Pareto front, by the first objective."""
    trials = sorted(search.history.pareto(), key=lambda trial: search.sign * float(trial.objective or 0.0))
    return [row(search, trial, parameters) for trial in trials[:count]]


def row(search: Search, trial: Trial, parameters: Sequence[Parameter], leader: Leader | None = None) -> Row:
    """A trial's objectives and values in words."""
    several = len(search.history.objectives) > 1 and bool(trial.values)
    objectives = tuple(number(value) for value in trial.values) if several else (_objective(trial, leader),)
    values = tuple(shown(trial.point[p.name]) if p.name in trial.point else "" for p in parameters)
    return Row(trial, objectives, values, trial if leader is None else leader.counted[0])


def _objective(trial: Trial, leader: Leader | None) -> str:
    value = trial.objective if leader is None else leader.mean
    text = "" if value is None else f"{value:.5g}"
    if leader is not None and leader.half is not None:
        text += f" ± {leader.half:.2g} ({leader.runs} seeds)"
    return text


def counts(search: Search) -> Mapping[str, int]:
    """How many trials are in each state."""
    states = [trial.state for trial in search.trials]
    return {state: states.count(state) for state in STATES}


def failures(search: Search) -> list[Failure]:
    """Why trials failed, the most frequent reason first."""
    return grouped(search.trials)


def grouped(trials: Sequence[Trial]) -> list[Failure]:
    """Of these trials, why those failed that did."""
    groups: dict[str, list[Trial]] = {}
    for trial in trials:
        if trial.state == "failed":
            groups.setdefault(_DIGITS.sub("#", trial.reason or "no reason recorded"), []).append(trial)
    found = [Failure(g[0].reason or "no reason recorded", tuple(t.number for t in g)) for g in groups.values()]
    return sorted(found, key=lambda failure: -len(failure.trials))


def numbers(trials: Sequence[int], most: int = 8) -> str:
    """`3, 5, 9 and 12 more`."""
    listed = ", ".join(map(str, trials[:most]))
    return listed if len(trials) <= most else f"{listed} and {len(trials) - most} more"


def duration(seconds: float) -> str:
    """`4.2 s`, `3 min 20 s`, `1 h 05 min`, `2 d 3 h`."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"
