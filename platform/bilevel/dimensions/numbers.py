"""Which number is it, of a range, a logarithmic one, or a normal distribution?"""

from __future__ import annotations

import dataclasses
import math
import sys
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

from bilevel.dimensions.port import index_of, short
from bilevel.errors import BadInput

_STANDARD = NormalDist()
_LARGEST = math.log(sys.float_info.max)
_TAIL = 1e-12
"""A normal distribution has no ends; the unit interval has: beyond seven standard deviations it is cut."""


# -- numbers -----------------------------------------------------------------------------------------------------------


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
        _check_bounds(self)
        _check_step(self)
        _check_center(self)

    __repr__ = short
    ordered = True
    log = False

    @property
    def size(self) -> int | None:
        """How many values there are."""
        return None if self.step is None else _count(self.low, self.high, self.step)

    @property
    def middle(self) -> float:
        """Where to start."""
        return self.decode(0.5) if self.center is None else float(self.center)

    def decode(self, place: float) -> float:
        """The value at a place."""
        if self.step is None:
            return _between(self.low, self.high, self.low + place * (self.high - self.low))
        return _on_grid(self, index_of(place, _count(self.low, self.high, self.step)))

    def encode(self, value: float) -> float:
        """The place of a value."""
        if self.step is None:
            return _unit((value - self.low) / (self.high - self.low)) if self.high > self.low else 0.5
        return _unit((round((value - self.low) / self.step) + 0.5) / _count(self.low, self.high, self.step))

    def contains(self, value: Any) -> bool:
        """Whether it is a number within, and a multiple of the step."""
        return _is_number(value) and _within(self, value) and (self.step is None or _near_grid(self, value))


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
        _check_bounds(self)
        _check_positive(self)
        _check_step(self)
        _check_center(self)

    __repr__ = short
    ordered = True
    log = True

    @property
    def size(self) -> int | None:
        """How many values there are."""
        return None if self.step is None else _count(self.low, self.high, self.step)

    @property
    def middle(self) -> float:
        """Where to start."""
        return self.decode(0.5) if self.center is None else float(self.center)

    def decode(self, place: float) -> float:
        """The value at a place."""
        low, high = self._edges()
        value = math.exp(math.log(low) + place * (math.log(high) - math.log(low)))
        if self.step is None:
            return _between(self.low, self.high, value)
        count = _count(self.low, self.high, self.step)
        return _on_grid(self, min(max(round((value - self.low) / self.step), 0), count - 1))

    def encode(self, value: float) -> float:
        """The place of a value."""
        low, high = self._edges()
        if high <= low:
            return 0.5
        return _unit((math.log(value) - math.log(low)) / (math.log(high) - math.log(low)))

    def contains(self, value: Any) -> bool:
        """Whether it is a number within, and on the grid of the step."""
        return _is_number(value) and _within(self, value) and (self.step is None or _near_grid(self, value))

    def _edges(self) -> tuple[float, float]:
        """With a step, half a step more at both ends, so that the ends are as likely as their neighbours."""
        if self.step is None:
            return self.low, self.high
        half, last = self.step / 2, _count(self.low, self.high, self.step) - 1
        return (self.low - half if self.low > half else self.low), self.low + last * self.step + half


@dataclass(frozen=True)
class Int:
    """A whole number from `low` to `high`, both included; with `step` only every so many. `center`: a good guess."""

    low: int
    high: int
    step: int = 1
    center: int | None = None

    def __post_init__(self) -> None:
        _check_whole(self)
        _check_bounds(self)
        _check_step(self)
        _check_center(self)

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
        return _is_whole(value) and _within(self, value) and (value - self.low) % self.step == 0


@dataclass(frozen=True)
class LogInt:
    """A whole number from `low` to `high` (both positive), equally likely in each decade. `center`: a good guess."""

    low: int
    high: int
    center: int | None = None

    def __post_init__(self) -> None:
        _check_whole(self)
        _check_bounds(self)
        _check_positive(self)
        _check_center(self)

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
        low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
        return min(max(round(math.exp(low + place * (high - low))), self.low), self.high)

    def encode(self, value: int) -> float:
        """The place of a value."""
        low, high = math.log(self.low - 0.5), math.log(self.high + 0.5)
        return _unit((math.log(value) - low) / (high - low))

    def contains(self, value: Any) -> bool:
        """Whether it is a whole number within."""
        return _is_whole(value) and _within(self, value)


@dataclass(frozen=True)
class Normal:
    """A float around `mean` with standard deviation `sd`, without bounds; with `step` rounded to a multiple of it."""

    mean: float
    sd: float
    step: float | None = None

    def __post_init__(self) -> None:
        _check_normal(self)

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
        return value if self.step is None else _plain(round(value / self.step) * self.step)

    def encode(self, value: float) -> float:
        """The place of a value."""
        return _STANDARD.cdf((value - self.mean) / self.sd)

    def contains(self, value: Any) -> bool:
        """Whether it is a finite number."""
        return _is_number(value)


@dataclass(frozen=True)
class LogNormal:
    """A positive float whose natural logarithm is normal around `mean` with standard deviation `sd`."""

    mean: float
    sd: float

    def __post_init__(self) -> None:
        _check_normal(self)

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
        return _is_number(value) and value > 0


# -- checks ------------------------------------------------------------------------------------------------------------


def _check_bounds(dimension: Any) -> None:
    name, low, high = type(dimension).__name__, dimension.low, dimension.high
    if not (_is_number(low) and _is_number(high)):
        raise BadInput(f"{name}({low!r}, {high!r}): bounds are finite numbers")
    if not math.isfinite(high - low):
        raise BadInput(f"{name}({low!r}, {high!r}): the range is too wide for floats")
    if low > high:
        raise BadInput(f"{name}({low!r}, {high!r}): the lower bound is above the upper one")
    if isinstance(dimension, Uniform | Log) and low == high:
        raise BadInput(f"{name}({low!r}, {high!r}): nothing to choose; write the constant {low!r} instead")


def _check_positive(dimension: Any) -> None:
    if not dimension.low > 0:
        name = type(dimension).__name__
        raise BadInput(f"{name}({dimension.low!r}, {dimension.high!r}): a logarithmic scale has positive bounds")


def _check_whole(dimension: Any) -> None:
    for field in dataclasses.fields(dimension):
        value = getattr(dimension, field.name)
        if value is not None and not _is_whole(value):
            raise BadInput(f"{type(dimension).__name__}: {field.name}={value!r}; it takes a whole number")


def _check_step(dimension: Any) -> None:
    step = dimension.step
    if step is not None and not (_is_number(step) and 0 < step <= max(dimension.high - dimension.low, 1e-300)):
        if isinstance(dimension, Int) and dimension.low == dimension.high and step > 0:
            return
        most = dimension.high - dimension.low
        raise BadInput(f"{type(dimension).__name__}: step={step!r}; it takes a positive number up to {most:g}")


def _check_center(dimension: Any) -> None:
    if dimension.center is not None and not dimension.contains(dimension.center):
        name, step = type(dimension).__name__, getattr(dimension, "step", None)
        grid = f" in steps of {step:g}" if step not in (None, 1) else ""
        values = f"{dimension.low:g} to {dimension.high:g}{grid}"
        raise BadInput(f"{name}: center={dimension.center!r} is not one of its values, {values}")


def _check_normal(dimension: Any) -> None:
    name = type(dimension).__name__
    if not _is_number(dimension.mean) or not (_is_number(dimension.sd) and dimension.sd > 0):
        raise BadInput(f"{name}({dimension.mean!r}, {dimension.sd!r}): give a finite mean and a positive deviation")
    if isinstance(dimension, LogNormal) and abs(dimension.mean) + 8 * dimension.sd > _LARGEST:
        raise BadInput(
            f"{name}({dimension.mean!r}, {dimension.sd!r}): they are those of the logarithm; take smaller ones"
        )
    step = getattr(dimension, "step", None)
    if step is not None and not (_is_number(step) and step > 0):
        raise BadInput(f"{name}: step={step!r}; it takes a positive number")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _within(dimension: Any, value: float) -> bool:
    return bool(dimension.low <= value <= dimension.high)


def _near_grid(dimension: Any, value: float) -> bool:
    steps = (value - dimension.low) / dimension.step
    return bool(abs(steps - round(steps)) < 1e-6)


def _count(low: float, high: float, step: float) -> int:
    return int((high - low) / step + 1e-9) + 1


def _on_grid(dimension: Any, index: int) -> float:
    return _between(dimension.low, dimension.high, _plain(dimension.low + index * dimension.step))


def _plain(value: float) -> float:
    """Without the last digits that adding steps brings: 0.30000000000000004 is 0.3."""
    return float(f"{value:.12g}")


def _between(low: float, high: float, value: float) -> float:
    return float(min(max(value, low), high))


def _unit(place: float) -> float:
    return min(max(place, 0.0), 1.0)
