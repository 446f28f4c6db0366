"""How does matplotlib draw a chart? Pictures for the record's artifacts."""

from __future__ import annotations

import textwrap
from typing import Any

from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator

from bilevel.figures import style
from bilevel.figures.chart import Axis, Chart, Layer, Panel, Scale, short

WIDTH, HEIGHT, WIDE = 4.6, 3.5, 9.2  # inches of a panel; of one that has the width for itself
POINT = 0.75  # points (1/72 in) that a pixel of the charts is
LINE = 0.2  # inches of a line of the caption
LETTERS = 44  # of an axis' title

_SHADES = LinearSegmentedColormap.from_list("shades", style.SHADES)


def draw(chart: Chart) -> Figure:
    """The chart as a figure."""
    count = len(chart.panels)
    columns = 1 if chart.wide or count == 1 else 2 if count in (2, 4) else 3 if count <= 9 else 4
    rows = -(-count // columns)
    width = WIDE if columns == 1 else WIDTH * columns
    height = HEIGHT * rows * chart.panels[0].height + 0.9
    lines = textwrap.wrap(style.words(chart.caption), int(13 * width))
    room = 2 * LINE + LINE * len(lines)
    whole = height + room
    figure = Figure(figsize=(width, whole), layout=ConstrainedLayoutEngine(rect=(0.0, 0.0, 1.0, height / whole)))
    figure.text(0.5, 1.0 - 0.4 * LINE / whole, chart.title, fontsize=12, ha="center", va="top")
    below = 1.0 - 1.6 * LINE / whole
    figure.text(0.5, below, "\n".join(lines), fontsize=9, color=style.INK, ha="center", va="top")
    axes = [_panel(figure, panel, (rows, columns, index + 1)) for index, panel in enumerate(chart.panels)]
    if chart.scale is not None:
        _scale(figure, axes, chart.scale)
    handles = [_handle(layer) for layer in chart.legend()]
    if handles:
        places = min(len(handles), max(2, int(width / 2)))
        figure.legend(handles=handles, loc="outside lower center", ncols=places, frameon=False, fontsize=9)
    return figure


def _panel(figure: Figure, panel: Panel, place: tuple[int, int, int]) -> Any:
    axes = figure.add_subplot(*place)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    if panel.title:
        axes.set_title(panel.title, fontsize=10)
    for axis, name in ((panel.x, "x"), (panel.y, "y")):
        if axis.log:
            getattr(axes, f"set_{name}scale")("log")
    for layer in panel.layers:
        _layer(axes, layer)
    _axis(axes, panel.x, "x")
    _axis(axes, panel.y, "y")
    return axes


def _axis(axes: Any, axis: Axis, name: str) -> None:
    getattr(axes, f"set_{name}label")(style.words(short(axis.title, LETTERS)))
    if axis.span is not None:
        getattr(axes, f"set_{name}lim")(*axis.span)
    own = getattr(axes, f"{name}axis")
    if axis.ticks is not None:
        own.set_ticks([place for place, _ in axis.ticks], [style.words(words) for _, words in axis.ticks])
        own.set_minor_locator(NullLocator())
        own.set_minor_formatter(NullFormatter())
        own.set_tick_params(labelsize=9)
    if axis.whole:
        own.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
    if axis.ticks == ():
        axes.spines[["bottom" if name == "x" else "left"]].set_visible(False)


def _layer(axes: Any, layer: Layer) -> None:
    if layer.kind == "words":
        for x, y, words in zip(layer.x, layer.y, layer.words, strict=True):
            behind = {"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 1.0}
            size = POINT * layer.size
            axes.text(
                x, y, style.words(words), color=layer.color, fontsize=size, ha=layer.anchor, va="center", bbox=behind
            )
    elif layer.kind == "bars":
        axes.barh(layer.y, layer.x, height=layer.size, color=layer.color, alpha=0.75)
        if layer.reach is not None:
            axes.hlines(layer.y, *layer.reach, color=style.INK, linewidth=1.4)
    elif layer.kind == "line":
        dashes = "--" if layer.dashed else "-"
        width = {"linewidth": POINT * layer.size, "linestyle": dashes, "solid_capstyle": "butt"}
        axes.plot(layer.x, layer.y, color=_color(layer), alpha=layer.opacity, **width)
    else:
        area = (POINT * layer.size) ** 2
        colors: dict[str, Any] = {"color": layer.color}
        if layer.shade is not None:
            colors = {"c": layer.shade, "cmap": _SHADES, "vmin": 0.0, "vmax": 1.0}
        if layer.marker == "hollow":
            colors = {"facecolors": "none", "edgecolors": layer.color, "linewidths": 1.5}
        marker = "x" if layer.marker == "cross" else "o"
        lines = {} if layer.marker != "full" else {"linewidths": 0}
        axes.scatter(layer.x, layer.y, area, marker=marker, alpha=layer.opacity, clip_on=False, **colors, **lines)


def _color(layer: Layer) -> Any:
    return layer.color if layer.shade is None else _SHADES(float(layer.shade[0]))


def _handle(layer: Layer) -> Line2D:
    color = layer.color if layer.shade is None else style.SHADES[4]
    if layer.kind == "line":
        width = min(POINT * layer.size, 6)
        dashes = "--" if layer.dashed else "-"
        return Line2D([], [], color=color, linewidth=width, linestyle=dashes, label=style.words(layer.name))
    marker = "x" if layer.marker == "cross" else "o"
    handle = Line2D([], [], linestyle="", marker=marker, markersize=POINT * min(layer.size, 10), color=color)
    handle.set_markerfacecolor("none" if layer.marker == "hollow" else color)
    handle.set_label(style.words(layer.name))
    return handle


def _scale(figure: Figure, axes: list[Any], scale: Scale) -> None:
    bar = figure.colorbar(ScalarMappable(cmap=_SHADES), ax=axes, fraction=0.03, pad=0.02, aspect=40)
    bar.outline.set_visible(False)
    bar.set_ticks([0.0, 1.0], labels=[style.words(scale.low), style.words(scale.high)])
    bar.set_label(style.words(scale.title))
