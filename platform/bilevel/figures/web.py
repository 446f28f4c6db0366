"""How does plotly draw a chart? Each panel as the JSON that plotly.js takes, its words escaped."""

from __future__ import annotations

import html
import math
from typing import Any

import numpy as np

from bilevel.figures import style
from bilevel.figures.chart import Axis, Chart, Layer, Panel, short
from bilevel.figures.search import Array

HEIGHT = 300  # px of a panel
LETTERS = 32  # of an axis' title
DIGITS = 5  # of a value

_SCALE = [[index / (len(style.SHADES) - 1), color] for index, color in enumerate(style.SHADES)]
_SYMBOLS = {"full": "circle", "hollow": "circle-open", "cross": "x-thin"}


def panels(chart: Chart) -> list[dict[str, Any]]:
    """`{"data", "layout"}` of each panel."""
    return [_panel(panel) for panel in chart.panels]


def _panel(panel: Panel) -> dict[str, Any]:
    axes = (_said(panel.x.title), _said(panel.y.title))
    data = [_trace(layer, axes) for layer in panel.layers if layer.kind != "words"]
    for layer in panel.layers:
        if layer.kind == "bars" and layer.reach is not None:
            low, high = layer.reach
            x, y = (_between(pair) for pair in ((low, high), (layer.y, layer.y)))
            data.append({"type": "scatter", "mode": "lines", "x": x, "y": y, "hoverinfo": "skip", "line": _ink(1.6)})
    layout = {
        "height": round(HEIGHT * panel.height) + 40,
        "margin": {"l": 8, "r": 14, "t": 12, "b": 8},
        "xaxis": _axis(panel.x),
        "yaxis": _axis(panel.y),
        "annotations": [note for layer in panel.layers if layer.kind == "words" for note in _notes(layer)],
        "showlegend": False,
        "hovermode": "closest",
        "bargap": 0.4,
        "font": {"family": "system-ui, sans-serif", "size": 12, "color": style.INK},
        "plot_bgcolor": "white",
        "paper_bgcolor": "white",
    }
    return {"data": data, "layout": layout}


def _axis(axis: Axis) -> dict[str, Any]:
    made: dict[str, Any] = {
        "title": {"text": _said(short(axis.title, LETTERS)), "standoff": 8},
        "type": "log" if axis.log else "linear",
        "automargin": True,
        "gridcolor": "#e4e4e4",
        "zeroline": False,
        "linecolor": style.INK,
        "showline": axis.ticks != (),
        "ticks": "outside",
        "nticks": 6,
    }
    if axis.span is not None:
        made["range"] = [math.log10(end) if axis.log else end for end in axis.span]
    if axis.ticks is not None:
        places, words = [place for place, _ in axis.ticks], [_said(word) for _, word in axis.ticks]
        made |= {"tickmode": "array", "tickvals": places, "ticktext": words, "showgrid": bool(places)}
    if axis.whole:
        few = axis.span is not None and axis.span[1] - axis.span[0] < 7
        made |= {"tickformat": ",d", **({"dtick": 1} if few else {})}
    return made


def _trace(layer: Layer, axes: tuple[str, str]) -> dict[str, Any]:
    trace: dict[str, Any] = {
        "type": "scatter",
        "x": _list(layer.x),
        "y": _list(layer.y),
        "name": _said(layer.name),
        "opacity": layer.opacity,
    }
    if layer.kind == "bars":
        hover = "%{x:.3f}<extra></extra>"
        trace |= {"type": "bar", "orientation": "h", "marker": {"color": layer.color}, "hovertemplate": hover}
        return trace
    if layer.trials is None:
        trace["hoverinfo"] = "skip"
    else:
        named = [f"<br>{name}: %{{{way}}}" for name, way in zip(axes, "xy", strict=True) if name]
        trace["customdata"] = _list(layer.trials)
        trace["hovertemplate"] = "trial %{customdata}" + "".join(named) + f"<extra>{_said(layer.name)}</extra>"
    if layer.kind == "line":
        color = layer.color if layer.shade is None else _shade(float(layer.shade[0]))
        line = {"color": color, "width": layer.size, "dash": "dash" if layer.dashed else "solid"}
        return trace | {"mode": "lines", "line": line}
    marker: dict[str, Any] = {"size": layer.size, "color": layer.color, "symbol": _SYMBOLS[layer.marker]}
    if layer.marker != "full":
        marker["line"] = {"width": 2, "color": layer.color}
    if layer.shade is not None:
        marker |= {"color": _list(layer.shade), "colorscale": _SCALE, "cmin": 0, "cmax": 1}
    return trace | {"mode": "markers", "marker": marker, "cliponaxis": False}


def _notes(layer: Layer) -> list[dict[str, Any]]:
    look = {"showarrow": False, "bgcolor": "rgba(255,255,255,0.85)", "borderpad": 1, "xanchor": layer.anchor}
    font = {"size": layer.size, "color": layer.color}
    places = zip(_list(layer.x), _list(layer.y), layer.words, strict=True)
    return [{"x": x, "y": y, "text": _said(words), "font": font, **look} for x, y, words in places]


def legend(chart: Chart) -> list[tuple[str, str, str]]:
    """`(kind, color, words)` of each entry; kind: line, dashed, full, hollow or cross."""
    entries: list[tuple[str, str, str]] = []
    for layer in chart.legend():
        kind = layer.marker if layer.kind == "points" else "dashed" if layer.dashed else "line"
        color = layer.color if layer.shade is None else style.SHADES[4]
        entries.append((kind, color, layer.name))
    return entries


def _between(pair: tuple[Array, Array]) -> list[float | None]:
    return [end for low, high in zip(*map(_list, pair), strict=True) for end in (low, high, None)]


def _ink(width: float) -> dict[str, Any]:
    return {"color": style.INK, "width": width}


def _shade(place: float) -> str:
    return style.SHADES[round(place * (len(style.SHADES) - 1))]


def _said(text: str) -> str:
    """Plotly takes a part of HTML for markup, and `%{x}` for a value: what a user wrote is text."""
    return html.escape(text).replace("%{", "%&#123;")


def _list(values: Array) -> list[float | None]:
    """Short numbers, and null for what is none."""
    return [_number(value) for value in values.tolist()]


def _number(value: float) -> float | None:
    if not np.isfinite(value):
        return None
    kept = float(f"{value:.{DIGITS}g}")
    return int(kept) if kept.is_integer() and abs(kept) < 1e15 else kept
