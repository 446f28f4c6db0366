"""What is a picture made of, whoever draws it? Panels of points, lines, bars and words, over named axes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bilevel.figures import style
from bilevel.figures.search import Array

ROOM = 30  # characters of all ticks of an axis together

Marker = Literal["full", "hollow", "cross"]


@dataclass(frozen=True)
class Axis:
    """An axis of a panel.

    Args:
        title: what it measures, with its unit.
        log: on a logarithmic scale.
        span: what it shows; None: what is drawn.
        ticks: `(place, words)`; None: left to who draws, where it is linear.
        whole: it counts.
    """

    title: str
    log: bool = False
    span: tuple[float, float] | None = None
    ticks: tuple[tuple[float, str], ...] | None = None
    whole: bool = False


@dataclass(frozen=True, eq=False)
class Layer:
    """One thing that a panel shows.

    Args:
        kind: points; a line (NaN breaks it); bars from 0 to `x` at `y`; words at places.
        x, y: where, one for each point.
        name: in the legend; "" for none.
        size: width of a line, diameter of a point [px].
        marker: of points: full, hollow or a cross.
        shade: places on the chart's color scale, in [0, 1], instead of `color`.
        trials: which trial each point is of, for who points at it.
        reach: `(low, high)` of each bar's interval.
        words: one for each place; `anchor` is where in them it lies.
    """

    kind: Literal["points", "line", "bars", "words"]
    x: Array
    y: Array
    color: str = style.BLUE
    name: str = ""
    size: float = 1.6
    opacity: float = 1.0
    marker: Marker = "full"
    dashed: bool = False
    shade: Array | None = None
    trials: Array | None = None
    reach: tuple[Array, Array] | None = None
    words: tuple[str, ...] = ()
    anchor: Literal["left", "center"] = "center"


@dataclass(frozen=True)
class Panel:
    """A pair of axes and what lies between them; `height` in units of a usual panel's."""

    x: Axis
    y: Axis
    layers: tuple[Layer, ...]
    title: str = ""
    height: float = 1.0


@dataclass(frozen=True)
class Scale:
    """What the colors of `Layer.shade` mean: the words at both ends."""

    title: str
    low: str
    high: str


@dataclass(frozen=True)
class Chart:
    """A picture: `caption` says in one sentence what to look for; `wide`: panels below each other."""

    name: str
    title: str
    caption: str
    panels: tuple[Panel, ...]
    scale: Scale | None = None
    wide: bool = False

    def legend(self) -> tuple[Layer, ...]:
        """One layer for each name, for its looks."""
        named = {layer.name: layer for panel in self.panels for layer in panel.layers if layer.name}
        return tuple(named.values())


# -- scales ------------------------------------------------------------------------------------------------------------


def spread(title: str, values: Array, *, minimize: bool = True) -> tuple[Axis, Array]:
    """An axis for measured values, and the values as it shows them.

    Positive ones that span more than a decade lie on a log scale. On a linear one the far outliers on the bad side
    are drawn at its edge, and the axis says how many.
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        return Axis(title), values
    if finite.min() > 0 and finite.max() > style.DECADES * finite.min():
        return logarithmic(title, float(finite.min()), float(finite.max())), values
    sign = 1.0 if minimize else -1.0
    best, upper = float((sign * finite).min()), float(np.quantile(sign * finite, 0.75))
    edge = upper + 3.0 * (upper - best)
    beyond = int((sign * finite > edge).sum())
    beyond = beyond if upper > best else 0
    low, high = sorted((sign * best, sign * edge)) if beyond else (float(finite.min()), float(finite.max()))
    margin = 0.04 * (high - low) or 0.05 * abs(high) or 0.5
    words = f"{title} ({beyond} beyond the edge)" if beyond else title
    return Axis(words, span=(low - margin, high + margin)), np.clip(values, low, high)


def logarithmic(title: str, low: float, high: float) -> Axis:
    """A log axis over positive values, with ticks that can be read."""
    room = max((high / low) ** 0.04, 1.02)
    return Axis(title, log=True, span=(low / room, high * room), ticks=log_ticks(low, high))


def log_ticks(low: float, high: float) -> tuple[tuple[float, str], ...]:
    """1, 2 and 5 of each decade, 1 and 3 of each, or powers of ten: as many as a phone has room for."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    ways: list[tuple[tuple[int, ...], int]] = [
        ((1, 2, 5), 1),
        ((1, 3), 1),
        *(((1,), n) for n in range(1, last - first)),
    ]
    for digits, step in ways:
        places = [digit * 10.0**power for power in range(first, last + 1, step) for digit in digits]
        inside = tuple((place, number(place)) for place in places if low * 0.97 <= place <= high * 1.03)
        if len(inside) < 3 and len(digits) > 1:
            break
        if sum(len(words) + 1 for _, words in inside) <= ROOM and len(inside) > 1:
            return inside
    return even_ticks(low, high)


def even_ticks(low: float, high: float) -> tuple[tuple[float, str], ...]:
    """Three to five round numbers between two values."""
    if not high > low:
        return ((low, number(low)),)
    raw = (high - low) / 4
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(digit * power for digit in (1, 2, 2.5, 5, 10) if digit * power >= raw)
    first = math.ceil(low / step - 1e-9)
    places = [float(f"{index * step:.12g}") for index in range(first, math.floor(high / step + 1e-9) + 1)]
    return tuple((place, number(place)) for place in places)


def hours(seconds: float) -> tuple[float, str]:
    """A fit unit of time for so long: how many seconds it has, and what it is called."""
    if seconds < 180:
        return 1.0, "s"
    return (60.0, "min") if seconds < 3 * 3600 else (3600.0, "h")


# -- words -------------------------------------------------------------------------------------------------------------


def number(value: float) -> str:
    """Short: 0.001, 1e-5, 20, 3e6."""
    text = f"{value:.4g}"
    head, e, power = text.partition("e")
    return f"{head}e{int(power)}" if e else text


def shown(value: Any) -> str:
    """A configuration's value in few characters."""
    if isinstance(value, float):
        return number(value)
    return (
        value if isinstance(value, str) else str(value) if value is None or isinstance(value, bool) else _plain(value)
    )


def short(text: str, most: int) -> str:
    """A long name without its middle: the end of a path tells more than its beginning."""
    if len(text) <= most:
        return text
    tail = (2 * (most - 1)) // 3
    return f"{text[: most - 1 - tail]}…{text[len(text) - tail :]}"


def distinct(names: Sequence[str], most: int) -> list[str]:
    """Several names made short; those that would look alike get a number."""
    made = [short(name, most) for name in names]
    return [
        f"{short(n, most - 3)} {i + 1}" if made.count(s) > 1 else s
        for i, (n, s) in enumerate(zip(names, made, strict=True))
    ]


def _plain(value: Any) -> str:
    return json.dumps(value, default=str)


# -- choices -----------------------------------------------------------------------------------------------------------


def thin(count: int, most: int, first: Sequence[int] = ()) -> NDArray[np.int64]:
    """Which of many to draw: those named, and an even choice of the others; in their order."""
    if count <= most:
        return np.arange(count)
    kept = np.array(sorted(set(first[:most])), dtype=int)
    rest = np.setdiff1d(np.arange(count), kept)
    even = rest[np.linspace(0, len(rest) - 1, most - len(kept)).astype(int)] if most > len(kept) else rest[:0]
    return np.sort(np.concatenate([kept, even]))


def present(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """Those with anything to draw."""
    return tuple(layer for layer in layers if layer.x.size)
