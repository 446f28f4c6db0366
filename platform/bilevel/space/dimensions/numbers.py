"""Which number is it, of a range, a logarithmic one, or a normal distribution?"""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from bilevel.space.dimensions.checks import check_normal, check_range, is_number, is_whole, on_range
from bilevel.space.dimensions.grid import count, log_place, log_value, multiple, narrow
from bilevel.space.dimensions.port import index_of, short

_STANDARD = NormalDist()
_LARGEST = math.log(sys.float_info.max)
_TAIL = 1e-12
"""A normal distribution has no ends; the unit interval has: beyond seven standard deviations it is cut."""


@dataclass(frozen=True)
class Uniform:
    """A float between `low` and `high`, both included; with `step` only `low`, `low + step`, … up to `high`.

    `center` is a good guess, if there is one: searches begin there.
    """

    low: float
    high: float
    step: float | None = None
    center: float | None = None

    def __post_init__(self) -> None:
        check_range(self)

    __repr__ = short
    ordered = True
    log = False

    @property
    def size(self) -> int | None:
        """How many values there are."""
        return None if self.step is None else count(self.low, self.high, self.step)

    @property
    def middle(self) -> float:
        """Where to start."""
        return self.decode(0.5) if self.center is None else float(self.center)

    def decode(self, place: float) -> float:
        """The value at a place."""
        if self.step is None:
            return _at(self, place, self.low + place * (self.high - self.low))
        return _on_grid(self, index_of(place, count(self.low, self.high, self.step)))

    def encode(self, value: float) -> float:
        """The place of a value."""
        if self.step is None:
            return _unit((value - self.low) / (self.high - self.low)) if self.high > self.low else 0.5
        return _unit((round((value - self.low) / self.step) + 0.5) / count(self.low, self.high, self.step))

    def contains(self, value: Any) -> bool:
        """Whether it is a number within, and a multiple of the step."""
        return on_range(self, value)


@dataclass(frozen=True)
class Log:
    """A float between `low` and `high` (both positive), equally likely in each decade.

    With `step` it is rounded to `low + k * step`, still evenly spread over the decades. `center`: a good guess.
    """

    low: float
    high: float
    step: float | None = None
    center: float | None = None

    def __post_init__(self) -> None:
        check_range(self)

    __repr__ = short
    ordered = True
    log = True

    @property
    def size(self) -> int | None:
        """How many values there are."""
        return None if self.step is None else count(self.low, self.high, self.step)

    @property
    def middle(self) -> float:
        """Where to start."""
        return self.decode(0.5) if self.center is None else float(self.center)

    def decode(self, place: float) -> float:
        """The value at a place."""
        value = log_value(place, *self._edges())
        if self.step is None:
            return _at(self, place, value)
        last = count(self.low, self.high, self.step) - 1
        return _on_grid(self, min(max(round((value - self.low) / self.step), 0), last))

    def encode(self, value: float) -> float:
        """The place of a value."""
        return _unit(log_place(value, *self._edges()))

    def contains(self, value: Any) -> bool:
        """Whether it is a number within, and on the grid of the step."""
        return on_range(self, value)

    def _edges(self) -> tuple[float, float]:
        """With a step, half a step more at both ends, so that the ends are as likely as their neighbours."""
        if self.step is None:
            return self.low, self.high
        half, last = self.step / 2, count(self.low, self.high, self.step) - 1
        return (self.low - half if self.low > half else self.low), self.low + last * self.step + half


@dataclass(frozen=True)
class Int:
    """A whole number from `low` to `high`, both included; with `step` only every so many. `center`: a good guess."""

    low: int
    high: int
    step: int = 1
    center: int | None = None

    def __post_init__(self) -> None:
        check_range(self, whole=True)

    __repr__ = short
    ordered = True
    log = False

    @property
    def size(self) -> int:
        """How many values there are."""
        return (self.high - self.low) // self.step + 1

    @property
    def middle(self) -> int:
        """Where to start."""
        return self.decode(0.5) if self.center is None else self.center

    def decode(self, place: float) -> int:
        """The value at a place."""
        return self.low + self.step * index_of(place, self.size)

    def encode(self, value: int) -> float:
        """The place of a value."""
        return _unit(((value - self.low) // self.step + 0.5) / self.size)

    def contains(self, value: Any) -> bool:
        """Whether it is a whole number within, and on the step."""
        return is_whole(value) and self.low <= value <= self.high and (value - self.low) % self.step == 0


@dataclass(frozen=True)
class LogInt:
    """A whole number from `low` to `high` (both positive), equally likely in each decade. `center`: a good guess."""

    low: int
    high: int
    center: int | None = None

    def __post_init__(self) -> None:
        check_range(self, whole=True)

    __repr__ = short
    ordered = True
    log = True

    @property
    def size(self) -> int:
        """How many values there are."""
        return self.high - self.low + 1

    @property
    def middle(self) -> int:
        """Where to start."""
        return self.decode(0.5) if self.center is None else self.center

    def decode(self, place: float) -> int:
        """The value at a place."""
        if narrow(self.low, self.high + 1):
            return self.low + index_of(place, self.size)
        low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
        return min(max(round(math.exp(min(low + place * (high - low), _LARGEST))), self.low), self.high)

    def encode(self, value: int) -> float:
        """The place of a value."""
        if narrow(self.low, self.high + 1):
            return _unit((value - self.low + 0.5) / self.size)
        low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
        return _unit((math.log(value) - low) / (high - low))

    def contains(self, value: Any) -> bool:
        """Whether it is a whole number within."""
        return is_whole(value) and self.low <= value <= self.high


@dataclass(frozen=True)
class Normal:
    """A float around `mean` with standard deviation `sd`, without bounds; with `step` rounded to a multiple of it."""

    mean: float
    sd: float
    step: float | None = None

    def __post_init__(self) -> None:
        check_normal(self)

    __repr__ = short
    ordered = True
    log = False
    size = None

    @property
    def middle(self) -> float:
        """Where to start: at the mean."""
        return self.decode(0.5)

    def decode(self, place: float) -> float:
        """The value at a place."""
        value = self.mean + self.sd * _STANDARD.inv_cdf(min(max(place, _TAIL), 1 - _TAIL))
        return value if self.step is None else multiple(0.0, self.step, round(value / self.step))

    def encode(self, value: float) -> float:
        """The place of a value."""
        return _STANDARD.cdf((value - self.mean) / self.sd)

    def contains(self, value: Any) -> bool:
        """Whether it is a finite number."""
        return is_number(value)


@dataclass(frozen=True)
class LogNormal:
    """A positive float whose natural logarithm is normal around `mean` with standard deviation `sd`."""

    mean: float
    sd: float

    def __post_init__(self) -> None:
        check_normal(self)

    __repr__ = short
    ordered = True
    log = True
    size = None

    @property
    def middle(self) -> float:
        """Where to start: at the median."""
        return self.decode(0.5)

    def decode(self, place: float) -> float:
        """The value at a place."""
        return math.exp(self.mean + self.sd * _STANDARD.inv_cdf(min(max(place, _TAIL), 1 - _TAIL)))

    def encode(self, value: float) -> float:
        """The place of a value."""
        return _STANDARD.cdf((math.log(value) - self.mean) / self.sd)

    def contains(self, value: Any) -> bool:
        """Whether it is a positive number."""
        return is_number(value) and value > 0


def _on_grid(dimension: Any, index: int) -> float:
    value = multiple(dimension.low, dimension.step, index) if index else dimension.low
    return _between(dimension.low, dimension.high, value)


def _at(dimension: Any, place: float, value: float) -> float:
    """The value, but of the ends of the unit interval exactly the ends of the range."""
    if not 0 < place < 1:
        return float(dimension.low if place <= 0 else dimension.high)
    return _between(dimension.low, dimension.high, value)


def _between(low: float, high: float, value: float) -> float:
    return float(min(max(value, low), high))


def _unit(place: float) -> float:
    return min(max(place, 0.0), 1.0)
