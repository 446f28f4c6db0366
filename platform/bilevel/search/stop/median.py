"""Is a trial worse than the middle of those that came as far?"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass

from bilevel.search.stop.port import check_whole
from bilevel.search.stop.rung import Rung


@dataclass(frozen=True, kw_only=True)
class Median:
    """The median rule (Golovin et al. 2017, section 3.2.2).

    A trial is stopped at a step if its best value so far is worse than the median of the other trials' running
    averages at the same step (of an even number: the upper of the two in the middle). A value that is not finite stops
    its trial, and counts as infinite in its average.

    Args:
        warmup_trials: how many others must have come to a step before it is judged there.
        warmup_steps: the steps before this one are not judged.
        last: the last step of a trial, if it is known.

    Raises:
        BadInput: an option that cannot work.
    """

    warmup_trials: int = 5
    warmup_steps: int = 1
    last: int | None = None

    def __post_init__(self) -> None:
        check_whole(self, "warmup_trials", self.warmup_trials, 1, "trials to compare with")
        check_whole(self, "warmup_steps", self.warmup_steps, 1, "the first step at which trials are compared")
        if self.last is not None:
            check_whole(self, "last", self.last, self.warmup_steps + 1, "beyond warmup_steps, or None")

    def open(self) -> _Stopper:
        """The rule with nothing reported yet."""
        return _Stopper(self)


@dataclass
class _Curve:
    """What a trial has reported so far."""

    count: int = 0
    total: float = 0.0
    best: float = math.inf


class _Stopper:
    def __init__(self, rule: Median) -> None:
        self._rule = rule
        self._curves: defaultdict[int, _Curve] = defaultdict(_Curve)
        self._averages: defaultdict[int, Rung] = defaultdict(Rung)

    def report(self, trial: int, step: int, value: float, *, upto: int | None = None) -> bool:
        """Whether a trial is worse than the median at this step."""
        finite = math.isfinite(value)
        curve = self._curves[trial]
        curve.count += 1
        curve.total += value if finite else math.inf
        curve.best = min(curve.best, value) if finite else curve.best
        if step < self._rule.warmup_steps:
            return False
        averages = self._averages[step]
        others, better = averages.compare(curve.best, upto)
        averages.enter(trial, curve.total / curve.count)
        return not finite or (others >= self._rule.warmup_trials and 2 * better > others)
