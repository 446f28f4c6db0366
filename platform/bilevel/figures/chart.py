"""What is a picture made of, whoever draws it? Panels of points, lines, bars and words, over named axes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bilevel.figures import style
from bilevel.figures.search import Array

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
        unit: what its numbers are multiples of; `span` and `ticks` are such multiples, as are the points of layers.
        powers: its numbers are exponents of ten.
    """

    title: str
    log: bool = False
    span: tuple[float, float] | None = None
    ticks: tuple[tuple[float, str], ...] | None = None
    whole: bool = False
    unit: float = 1.0
    powers: bool = False

    def places(self, values: Array) -> Array:
        """Where values lie on it: in its unit, and at its edge if they are beyond."""
        with np.errstate(divide="ignore", invalid="ignore"):
            shown = np.log10(values) if self.powers else values / self.unit
        return shown if self.span is None else np.clip(shown, *self.span)


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
