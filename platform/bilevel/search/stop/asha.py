"""Is a trial among the best of those that came as far (asynchronous successive halving)?"""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from itertools import count, takewhile

from bilevel.errors import BadInput
from bilevel.search.stop.port import check_whole
from bilevel.search.stop.rung import Rung


@dataclass(frozen=True, kw_only=True)
class ASHA:
    """Asynchronous successive halving (Li et al. 2020), the variant that stops trials instead of pausing them.

    Rungs lie at the steps `first * factor**k` below `last`. Of n trials that have reached a rung so far, the present
    one included, it goes on if it is among the best `max(1, n // factor)`, equals included: so do the first ones that
    come there, if they are the best so far (as in Optuna; Ray differs by interpolating between ranks). A value that is
    not finite stops its trial at the rung. Who reports less often than there are rungs meets a rung at the first report
    at or beyond it; a report beyond several meets the last of them alone.

    Args:
        first: the step of the first rung.
        factor: one trial in so many goes on.
        last: the last step of a trial.

    Raises:
        BadInput: an option that cannot work.
    """

    first: int = None  # type: ignore[assignment]  # never None once it is made
    factor: int = 3
    last: int

    def __post_init__(self) -> None:
        if self.first is None:
            check_whole(self, "last", self.last, 1, "the last step of a trial")
            object.__setattr__(self, "first", max(1, self.last // 9))
        check(self, self.first, self.factor, self.last)

    @property
    def rungs(self) -> tuple[int, ...]:
        """The steps at which trials are compared, ascending."""
        return ladder(self.first, self.factor, self.last)

    def open(self) -> Halving:
        """The rule with nothing reported yet."""
        return Halving(self.rungs, self.factor)


class Halving:
    """Successive halving at work, at given rungs."""

    def __init__(self, rungs: tuple[int, ...], factor: int) -> None:
        self._steps = rungs
        self._factor = factor
        self._rungs = tuple(Rung() for _ in rungs)

    def report(self, trial: int, step: int, value: float, *, upto: int | None = None) -> bool:
        """Whether a trial that has come to a rung is not among its best."""
        index = bisect_right(self._steps, step) - 1
        if index < 0:
            return False
        rung = self._rungs[index]
        if trial in rung:
            return False
        others, better = rung.compare(value, upto)
        rung.enter(trial, value)
        return not math.isfinite(value) or better >= max(1, (others + 1) // self._factor)


def ladder(first: int, factor: int, last: int) -> tuple[int, ...]:
    """The steps `first * factor**k` below `last`."""
    return tuple(takewhile(lambda step: step < last, (first * factor**k for k in count())))


def check(rule: object, first: int, factor: int, last: int) -> None:
    """Whether the options of a rule give at least one rung.

    Raises:
        BadInput: they do not.
    """
    check_whole(rule, "first", first, 1, "the step at which trials are compared first")
    check_whole(rule, "factor", factor, 2, "one trial in so many goes on")
    check_whole(rule, "last", last, 1, "the last step of a trial")
    if last <= first:
        raise BadInput(
            f"{type(rule).__name__}: last={last} is not beyond first={first}, so nothing would ever be stopped;"
            " give the last step of a whole trial"
        )
