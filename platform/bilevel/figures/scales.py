"""How do numbers of any size fit on an axis?

Who draws computes with margins and powers, which floats near their limits do not survive: there an axis has a unit, or
shows exponents.
"""

from __future__ import annotations

import math
import sys

import numpy as np

from bilevel.figures import style
from bilevel.figures.chart import Axis, number
from bilevel.figures.search import Array

LARGEST = sys.float_info.max
ROOM = 30  # characters of all ticks of an axis together
FACTOR = 3.0  # from the best to the middle of values to be minimized; below it a log scale tells nothing
FAR = 1e200  # numbers beyond it, or below its inverse, are not left to who draws


def spread(title: str, values: Array, *, minimize: bool = True) -> tuple[Axis, Array]:
    """An axis for measured values, and the values as it shows them.

    Positive ones that span decades lie on a log scale where that tells good ones apart (`_decades`). On a linear one
    the far outliers on the bad side are drawn at its edge, and the axis says how many.
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        return Axis(title), values
    if _decades(finite, minimize):
        axis = logarithmic(title, float(finite.min()), float(finite.max()))
        return axis, axis.places(values)
    unit = unit_of(finite)
    sign = 1.0 if minimize else -1.0
    best, upper = float((sign * finite / unit).min()), float(np.quantile(sign * finite / unit, 0.75))
    edge = upper + 3.0 * (upper - best)
    beyond = int((sign * finite / unit > edge).sum())
    beyond = beyond if upper > best else 0
    low, high = sorted((sign * best, sign * edge)) if beyond else _ends(finite, unit)
    margin = 0.04 * (high - low) or 0.05 * abs(high) or 0.5
    words = f"{title} ({beyond} beyond the edge)" if beyond else title
    axis = Axis(_in(words, unit), span=(low - margin, high + margin), unit=unit)
    return axis, np.clip(values / unit, low, high)


def _decades(finite: Array, minimize: bool) -> bool:
    """Whether a log scale helps: the best of positive values is far from the middle one.

    A few failures far from all others are no reason, nor is an accuracy that begins at chance: what is to be large is
    told apart best on a linear scale, unless even the middle one is a decade below the best.
    """
    low, high = float(finite.min()), float(finite.max())
    if low <= 0 or high / style.DECADES <= low:
        return False
    middle = float(np.median(finite))
    return middle / FACTOR > low if minimize else high / style.DECADES > middle


def linear(title: str, values: Array) -> Axis:
    """A linear axis over a parameter's values; its ends are left to who draws where they are no matter."""
    finite = values[np.isfinite(values)]
    unit = unit_of(finite)
    if unit == 1.0:
        return Axis(title)
    low, high = _ends(finite, unit)
    margin = 0.04 * (high - low) or 0.05 * abs(high)
    return Axis(_in(title, unit), span=(low - margin, high + margin), unit=unit)


def logarithmic(title: str, low: float, high: float) -> Axis:
    """A log axis over positive values, with ticks that can be read."""
    if low < 1 / FAR or high > FAR:
        first, last = math.log10(low), math.log10(high)
        margin = 0.04 * (last - first) or 0.5
        return Axis(f"log10 of {title}", span=(first - margin, last + margin), powers=True)
    room = max(math.exp(0.04 * (math.log(high) - math.log(low))), 1.02)
    return Axis(title, log=True, span=(low / room, high * room), ticks=log_ticks(low, high))


def tame(title: str, values: Array) -> Axis:
    """An axis that is left to who draws, wherever that is safe."""
    finite = values[np.isfinite(values)]
    if not finite.size or (np.abs(finite).max() <= FAR and not 0 < finite.min() < 1 / FAR):
        return Axis(title)
    if finite.min() > 0 and finite.max() / style.DECADES > finite.min():
        return logarithmic(title, float(finite.min()), float(finite.max()))
    return linear(title, finite)


def unit_of(finite: Array) -> float:
    """1, but of numbers near the limits of floats the power of ten that makes them such as one reads."""
    largest = float(np.abs(finite).max()) if finite.size else 0.0
    if largest == 0 or 1 / FAR <= largest <= FAR:
        return 1.0
    return float(10.0 ** max(math.floor(math.log10(largest)), -307))


def _ends(finite: Array, unit: float) -> tuple[float, float]:
    return float(finite.min() / unit), float(finite.max() / unit)


def _in(title: str, unit: float) -> str:
    return title if unit == 1.0 else f"{title} [{number(unit)}]"


# -- ticks -------------------------------------------------------------------------------------------------------------


def log_ticks(low: float, high: float) -> tuple[tuple[float, str], ...]:
    """1, 2 and 5 of each decade, 1 and 3 of each, or powers of ten: as many as a phone has room for."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    ways: list[tuple[tuple[int, ...], int]] = [
        ((1, 2, 5), 1),
        ((1, 3), 1),
        *(((1,), n) for n in range(1, last - first)),
    ]
    for digits, step in ways:
        places = [float(f"{digit}e{power}") for power in range(first, last + 1, step) for digit in digits]
        inside = tuple((place, number(place)) for place in places if low * 0.97 <= place <= min(high * 1.03, LARGEST))
        if len(inside) < 3 and len(digits) > 1:
            break
        if sum(len(words) + 1 for _, words in inside) <= ROOM and len(inside) > 1:
            return inside
    return even_ticks(low, high)


def even_ticks(low: float, high: float) -> tuple[tuple[float, str], ...]:
    """Three to five round numbers between two values; those two where there are none."""
    raw = high / 4 - low / 4
    if not raw > 0:
        return ((low, number(low)),)
    power = float(f"1e{math.floor(math.log10(raw))}")
    step = next((digit * power for digit in (1, 2, 2.5, 5, 10) if digit * power >= raw), raw)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    if step < 1e-14 * max(abs(low), abs(high)) or not math.isfinite(step) or last - first > 10:
        return ((low, number(low)), (high, number(high)))
    places = [float(f"{index * step:.12g}") for index in range(first, last + 1)]
    return tuple((place, number(place)) for place in places)


def hours(seconds: float) -> tuple[float, str]:
    """A fit unit of time for so long: how many seconds it has, and what it is called."""
    if seconds < 180:
        return 1.0, "s"
    return (60.0, "min") if seconds < 3 * 3600 else (3600.0, "h")
