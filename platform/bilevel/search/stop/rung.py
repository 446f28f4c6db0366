"""How does a trial's value compare with those that other trials had when they stood where it stands?"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left, bisect_right, insort


class Rung:
    """The values of all trials that have come here, 24 bytes each; what is not finite counts as infinite.

    Entering and comparing are binary searches: microseconds among 10,000 trials.
    """

    def __init__(self) -> None:
        self._numbers = array("q")  # of trials, ascending
        self._values = array("d")  # theirs
        self._ranked = array("d")  # the same, ascending

    def __contains__(self, trial: int) -> bool:
        at = bisect_left(self._numbers, trial)
        return at < len(self._numbers) and self._numbers[at] == trial

    def compare(self, value: float, upto: int | None) -> tuple[int, int]:
        """How many trials have been here, and how many of them were better; of those up to number `upto`."""
        better = bisect_left(self._ranked, value)
        if upto is None:
            return len(self._numbers), better
        known = bisect_right(self._numbers, upto)
        return known, better - sum(other < value for other in self._values[known:])

    def enter(self, trial: int, value: float) -> None:
        """A trial has come here."""
        value = value if math.isfinite(value) else math.inf
        at = bisect_left(self._numbers, trial)
        self._numbers.insert(at, trial)
        self._values.insert(at, value)
        insort(self._ranked, value)
