"""How early may a trial be stopped, if nobody knows how soon values tell the truth (Hyperband)?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

from bilevel.search.stop.asha import Halving, check, ladder

_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, kw_only=True)
class Hyperband:
    """Hyperband (Li et al. 2018): successive halving in brackets, which differ in their first rung.

    With rungs as in `ASHA`, bracket s uses the last s of them: from all of them down to none, so that some trials are
    never stopped. Each bracket compares its own trials, as soon as they come to a rung (as in Li et al. 2020, section
    3.2). Which one a trial belongs to is a function of its number: the brackets' shares are those of the paper,
    `factor**s / (s + 1)`, so that each spends about the same, and hold for every stretch of trials.

    Args:
        first: the step of the first rung of the most eager bracket.
        factor: one trial in so many goes on.
        last: the last step of a trial.

    Raises:
        BadInput: an option that cannot work.
    """

    first: int = 1
    factor: int = 3
    last: int

    def __post_init__(self) -> None:
        check(self, self.first, self.factor, self.last)

    @cached_property
    def brackets(self) -> tuple[tuple[int, ...], ...]:
        """The rungs of each bracket, the most eager one first."""
        rungs = ladder(self.first, self.factor, self.last)
        return tuple(rungs[skipped:] for skipped in range(len(rungs) + 1))

    @cached_property
    def shares(self) -> tuple[float, ...]:
        """Which part of the trials each bracket has."""
        weights = [self.factor ** len(rungs) / (len(rungs) + 1) for rungs in self.brackets]
        return tuple(weight / sum(weights) for weight in weights)

    def bracket(self, trial: int) -> int:
        """The index of a trial's bracket: multiples of the golden ratio fill the unit interval evenly."""
        place = trial * _GOLDEN % 1
        for index, share in enumerate(self.shares):
            place -= share
            if place < 0:
                return index
        return len(self.shares) - 1

    def open(self) -> _Stopper:
        """The rule with nothing reported yet."""
        return _Stopper(self)


class _Stopper:
    def __init__(self, rule: Hyperband) -> None:
        self._rule = rule
        self._brackets = tuple(Halving(rungs, rule.factor) for rungs in rule.brackets)

    def report(self, trial: int, step: int, value: float, *, upto: int | None = None) -> bool:
        """Whether a trial that has come to a rung is not among the best of its bracket."""
        return self._brackets[self._rule.bracket(trial)].report(trial, step, value, upto=upto)
