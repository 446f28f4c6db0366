"""Which floats are `low`, `low + step`, `low + 2 step`, …, and how do logarithms divide a range, at any size?

As one computes them, sums of floats end in digits that nobody wrote (0.30000000000000004); rounding these away takes
values with it where the numbers are large beside the step. So the sum is rounded only as far as the step allows, and
is else that of the decimals that were written.
"""

from __future__ import annotations

import math
import sys
from decimal import Decimal

EXACT = 1e-6  # of a step: as near is a multiple
NARROW = (
    1e-6  # of its lower end: the logarithms of a range that is no wider are too near to each other to be told apart
)
_EPSILON = sys.float_info.epsilon
_LARGEST = math.log(sys.float_info.max)


def count(low: float, high: float, step: float) -> int:
    """How many values there are from `low` to `high`."""
    steps = (high - low) / step
    largest = max(abs(low), abs(high))
    if largest * _EPSILON < 1e-10 * step or largest < sys.float_info.min:  # of such few digits are left
        return int(steps + 1e-9) + 1
    exact = (Decimal(repr(float(high))) - Decimal(repr(float(low)))) / Decimal(repr(float(step)))
    return int(exact + Decimal("1e-9")) + 1


def multiple(low: float, step: float, index: int) -> float:
    """The value that is so many steps above `low`."""
    value = low + index * step
    plain = float(f"{value:.15g}")
    if abs(plain - value) <= EXACT * step and abs(value) * _EPSILON <= EXACT * step:
        return plain
    return float(Decimal(repr(float(low))) + index * Decimal(repr(float(step))))


def steps_to(low: float, step: float, value: float) -> int | None:
    """How many steps a value is above `low`; None if it is no whole number of them."""
    steps = (value - low) / step
    index = round(steps)
    return index if abs(steps - index) < EXACT or value == multiple(low, step, index) else None


def resolution(low: float, high: float) -> float:
    """The distance of two neighbouring floats, where they are farthest apart in a range."""
    return math.ulp(max(abs(low), abs(high)))


# -- logarithms --------------------------------------------------------------------------------------------------------


def narrow(low: float, high: float) -> bool:
    """Whether the difference of the logarithms says too little."""
    return high - low < NARROW * low


def log_value(place: float, low: float, high: float) -> float:
    """The value at a place of the unit interval, over which the logarithms from `low` to `high` are spread."""
    if narrow(low, high):
        return low + low * math.expm1(place * math.log1p((high - low) / low))
    return math.exp(min(math.log(low) + place * (math.log(high) - math.log(low)), _LARGEST))


def log_place(value: float, low: float, high: float) -> float:
    """The place of a value; the middle where there is but one."""
    if high <= low:
        return 0.5
    if narrow(low, high):
        return math.log1p((value - low) / low) / math.log1p((high - low) / low)
    return (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
