"""Does a dimension of numbers make sense, and is a value one of its own?"""

from __future__ import annotations

import dataclasses
import math
import sys
from typing import Any

from bilevel.errors import BadInput
from bilevel.space.dimensions.grid import resolution, steps_to
from bilevel.space.dimensions.port import DimensionTraits

_LARGEST = math.log(sys.float_info.max)


def check_range(dimension: Any, *, whole: bool = False) -> None:
    """Whether there is a range, and its step and center fit it; `whole`: of whole numbers.

    Raises:
        BadInput: they do not.
    """
    name, low, high = type(dimension).__name__, dimension.low, dimension.high
    shown = f"{name}({_shown(low)}, {_shown(high)})"
    for field in dataclasses.fields(dimension) if whole else ():
        value = vars(dimension)[field.name]
        if value is not None and not is_whole(value):
            raise BadInput(f"{name}: {field.name}={value!r}; it takes a whole number")
        if value is not None and not is_number(value):
            raise BadInput(f"{name}: {field.name} is {_shown(value)}, which no float can hold; numbers end at 1.8e308")
    if not (is_number(low) and is_number(high)):
        raise BadInput(f"{shown}: bounds are finite numbers")
    if not is_number(high - low):
        raise BadInput(f"{shown}: the range is too wide for floats")
    if low > high:
        raise BadInput(f"{shown}: the lower bound is above the upper one")
    if low == high and not whole:
        raise BadInput(f"{shown}: nothing to choose; write the constant {low!r} instead")
    if dimension.log and low <= 0:
        raise BadInput(f"{shown}: a logarithmic scale has positive bounds")
    step = DimensionTraits(dimension).step
    if step is not None and not (is_number(step) and 0 < step <= (high - low or step) * (1 + 1e-9)):
        raise BadInput(f"{name}: step={_shown(step)}; it takes a positive number up to {high - low:g}")
    least = resolution(low, high) if step is not None and not whole else 0.0
    if step is not None and step < least:
        raise BadInput(
            f"{name}: step={step!r}: floats as large as {low!r} and {high!r} are {least:g} apart; take a larger step,"
            " or search the difference to the lower bound and add it in the objective"
        )
    if dimension.center is not None and not dimension.contains(dimension.center):
        grid = f" in steps of {step:g}" if step not in (None, 1) else ""
        raise BadInput(f"{name}: center={_shown(dimension.center)} is not one of its values, {low:g} to {high:g}{grid}")


def check_normal(dimension: Any) -> None:
    """Whether mean, deviation and step make a normal distribution (of the logarithm, if it is one of a logarithm).

    Raises:
        BadInput: they do not.
    """
    name, mean, sd = type(dimension).__name__, dimension.mean, dimension.sd
    if not is_number(mean) or not (is_number(sd) and sd > 0):
        raise BadInput(f"{name}({_shown(mean)}, {_shown(sd)}): give a finite mean and a positive deviation")
    if dimension.log and abs(mean) + 8 * sd > _LARGEST:
        raise BadInput(f"{name}({mean!r}, {sd!r}): they are those of the logarithm; take smaller ones")
    step = DimensionTraits(dimension).step
    widest = abs(mean) + 8 * sd
    if not dimension.log and not math.isfinite(widest):
        raise BadInput(f"{name}({mean!r}, {sd!r}): its values are too large for floats; take smaller ones")
    if step is not None and is_number(step) and step > 0 and not math.isfinite(widest / step):
        raise BadInput(f"{name}: step={step!r} is too small beside values up to {widest:g}; take a larger one")
    if step is not None and not (is_number(step) and step > 0):
        raise BadInput(f"{name}: step={_shown(step)}; it takes a positive number")


def is_number(value: Any) -> bool:
    """Whether it is a finite number, and one that a float can hold."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # a whole number of more than 308 digits
        return False


def _shown(value: Any) -> str:
    """As it is written; of a whole number that fills lines only how long it is."""
    if is_whole(value) and value.bit_length() > 256:
        return f"a whole number of {math.ceil(value.bit_length() * math.log10(2))} digits"
    return repr(value)


def is_whole(value: Any) -> bool:
    """Whether it is a whole number, and one by its type."""
    return isinstance(value, int) and not isinstance(value, bool)


def on_range(dimension: Any, value: Any) -> bool:
    """Whether it is a number within the bounds, and on the grid of a step."""
    if not is_number(value) or not dimension.low <= value <= dimension.high:
        return False
    if dimension.step is None:
        return True
    return steps_to(dimension.low, dimension.step, value) is not None
