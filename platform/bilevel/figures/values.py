"""What do the searched values do? The objective against each of them, all at once, and which of them matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from bilevel.figures import style
from bilevel.figures.chart import (
    Axis,
    Chart,
    Layer,
    Marker,
    Panel,
    Scale,
    distinct,
    number,
    present,
    short,
    shown,
    thin,
)
from bilevel.figures.importance import Importance
from bilevel.figures.objectives import each
from bilevel.figures.scales import even_ticks, linear, log_ticks, logarithmic, spread
from bilevel.figures.search import Array, Search
from bilevel.space.dimensions import Int, OneOf, Parameter
from bilevel.study.history import Trial

SLICES = 12  # parameters with a panel of their own
POINTS = 500  # in each
AXES = 10  # parameters among parallel coordinates
LINES = 400  # trials among them
BANDS = 8  # colors of lines
BARS = 20  # parameters in the chart of importance
WHOLE = 1e9  # an axis of larger whole numbers is like any other
ASIDE = -0.12  # where a line passes an axis whose value it does not have


def ordered(search: Search, found: Importance | None) -> list[Parameter]:
    """The parameters that varied, the most important first; where that is not known, as declared."""
    varied = [p for p in search.parameters if len({repr(t.point.get(p.name)) for t in search.trials}) > 1]
    if found is None or not found.telling:
        return varied
    rank = {share.parameter.name: index for index, share in enumerate(found.shares)}
    return sorted(varied, key=lambda parameter: rank.get(parameter.name, len(rank)))


# -- one value at a time -----------------------------------------------------------------------------------------------


def slices(search: Search, found: Importance | None) -> Chart | None:
    """The objective against each searched value, the most important ones first."""
    ended = [t for t in search.trials if t.state != "running"]
    parameters = ordered(search, found)
    if not parameters or not search.valued():
        return None
    values = np.array([np.nan if t.objective is None else float(t.objective) for t in ended])
    y, drawn = spread(search.metric, values, minimize=search.history.minimize)
    best = search.history.best()
    panels = [_slice(search, p, name, ended, y, drawn, best) for p, name in named(parameters[:SLICES])]
    caption = "A trend or a valley says where to look; good points at an edge of a range, that it should be wider"
    more = len(parameters) - len(panels)
    caption += f" ({more} less important ones are not shown)." if more > 0 else "."
    scale = Scale("trial", "0", str(max(t.number for t in ended)))
    title = "Objective" if len(search.history.objectives) < 2 else short(search.metric, 40)
    return Chart("slices", f"{title} against each value", caption, tuple(panels), scale)


def _slice(
    search: Search, parameter: Parameter, name: str, ended: Sequence[Trial], y: Axis, drawn: Array, best: Trial | None
) -> Panel:
    has = [i for i, t in enumerate(ended) if parameter.name in t.point]
    minimized = search.sign * np.nan_to_num(drawn[has], nan=search.sign * np.inf)
    has = [has[i] for i in thin(len(has), POINTS, np.argsort(minimized)[: POINTS // 5].tolist())]
    axis, places = _value_axis(parameter, name, [ended[i] for i in has])
    numbers = np.array([ended[i].number for i in has], dtype=float)
    most = max(1, max(t.number for t in ended))
    edge = _bad_edge(y, drawn, search.sign)
    layers = []
    kinds: list[tuple[str, Marker, float, str]] = [
        ("completed", "full", 7.0, "completed"),
        ("stopped", "full", 4.5, "stopped early (smaller)"),
        ("broken", "hollow", 7.0, "breaks a limit"),
        ("failed", "cross", 7.0, "failed (at the edge)"),
    ]
    for state, marker, size, label in kinds:
        at = [i for i, place in enumerate(has) if _kind(ended[place]) == state]
        x, heights = places[at], drawn[[has[i] for i in at]] if state != "failed" else np.full(len(at), edge)
        shade = numbers[at] / most if state in ("completed", "stopped") else None
        color = style.VERMILLION if state == "failed" else style.GREY
        layers.append(
            Layer("points", x, heights, color, label, size, 0.8, marker=marker, shade=shade, trials=numbers[at])
        )  # fmt: skip
    mine = [i for i, place in enumerate(has) if best is not None and ended[place].number == best.number]
    layers.append(
        Layer("points", places[mine], drawn[[has[i] for i in mine]], style.VERMILLION, "the best", 14, marker="hollow",
              trials=numbers[mine])
    )  # fmt: skip
    return Panel(axis, y, present(layers))


def _kind(trial: Trial) -> str:
    return "broken" if trial.violation and trial.state != "failed" else trial.state


def _bad_edge(y: Axis, drawn: Array, sign: int) -> float:
    finite = drawn[np.isfinite(drawn)]
    low, high = y.span if y.span is not None else (float(finite.min()), float(finite.max()))
    return high if sign > 0 else low


def _value_axis(parameter: Parameter, name: str, trials: Sequence[Trial]) -> tuple[Axis, Array]:
    """An axis for a parameter's values, and where they lie on it; choices are spread a little to be told apart."""
    dimension = parameter.dimension
    values = [trial.point[parameter.name] for trial in trials]
    if isinstance(dimension, OneOf):
        labels = list(dimension.labels)
        index = {repr(label): i for i, label in enumerate(labels)}
        jitter = np.array([((0.618034 * trial.number) % 1 - 0.5) * 0.5 for trial in trials])
        places = np.array([float(index.get(repr(value), np.nan)) for value in values]) + jitter
        every = -(-len(labels) // 8)
        names = distinct([shown(label) for label in labels], 10 if len(labels) > 3 else 16)
        ticks = tuple((float(i), text) for i, text in enumerate(names))[::every]
        return Axis(name, span=(-0.6, len(labels) - 0.4), ticks=ticks), places
    places = np.array([number_of(value) for value in values])
    finite = places[np.isfinite(places)]
    if dimension.log and finite.size and finite.min() > 0:
        axis = logarithmic(name, float(finite.min()), float(finite.max()))
    elif isinstance(dimension, Int) and finite.size and np.abs(finite).max() < WHOLE:
        axis = Axis(name, span=(float(finite.min()) - 0.5, float(finite.max()) + 0.5), whole=True)
    else:
        axis = linear(name, finite)
    return axis, axis.places(places)


def number_of(value: Any) -> float:
    """A value on a numeric axis; NaN for what is no number, or one that no float can be."""
    try:
        return float(value) if isinstance(value, int | float) else np.nan
    except OverflowError:
        return np.nan


def named(parameters: Sequence[Parameter]) -> list[tuple[Parameter, str]]:
    """Parameters, and what an axis calls them."""
    return list(zip(parameters, distinct([p.name for p in parameters], 34), strict=True))


Ticks = list[tuple[float, str]]


# -- all values at once ------------------------------------------------------------------------------------------------


def parallel_coordinates(search: Search, found: Importance | None) -> Chart | None:
    """Each trial as a line over all searched values and its objectives, from top to bottom, colored by the first."""
    known = ordered(search, found)
    parameters = known[:AXES]
    valued = [t for t in search.valued() if t.state == "completed"]
    valued = valued if len(valued) >= 10 else search.valued()
    if len(parameters) < 2 or len(valued) < 2:
        return None
    values = np.array([float(t.objective or 0.0) for t in valued])
    order = np.lexsort((search.sign * values, np.array([t.violation > 0 for t in valued])))
    kept = set(thin(len(valued), LINES, order[: LINES // 8].tolist()).tolist())
    chosen = [int(i) for i in order if int(i) in kept]
    rows = np.array([[_along(p, valued[i].point) for p in parameters] for i in chosen])
    last = [(view.metric, *_objective_row(view, _objectives(view, valued))) for view in each(search)]
    rows, aside = np.column_stack([rows, *(places[chosen] for _, places, _ in last)]), rows.min(axis=0) < 0
    heights = -np.arange(rows.shape[1], dtype=float)
    ends = np.array([valued[i].number for i in chosen], dtype=float)
    layers: list[Layer] = []
    bands = np.array_split(np.arange(len(chosen)), min(BANDS, len(chosen)))
    for band in reversed(range(len(bands))):
        part = bands[band]
        x = np.concatenate([np.append(rows[i], np.nan) for i in part])
        y = np.tile(np.append(heights, np.nan), len(part))
        shade = np.array([1.0 - band / max(1, len(bands) - 1)])
        opacity = float(np.clip((0.9 if band < 2 else 0.45) * (1 if len(part) < 20 else 0.7), 0.2, 1))
        trials = np.repeat(ends[part], rows.shape[1] + 1)
        layers.append(Layer("line", x, y, size=1.8 if band == 0 else 1.1, opacity=opacity, shade=shade, trials=trials))
    layers += _rulers(parameters, [(metric, ticks) for metric, _, ticks in last], aside.tolist())
    caption = "Where the dark lines run through one place, that value matters; where they spread, it does not."
    if len(chosen) < len(valued):
        caption = caption[:-1] + f" ({len(chosen)} of {len(valued)} trials)."
    if len(parameters) < len(known):
        caption = caption[:-1] + f" ({len(known) - len(parameters)} less important values are not shown)."
    hidden = Axis("", span=(-0.18 if aside.any() else -0.05, 1.05), ticks=())
    high = Axis("", span=(-rows.shape[1] + 0.55, 0.5), ticks=())
    panel = Panel(hidden, high, tuple(layers), height=0.28 * rows.shape[1])
    scale = Scale(f"rank by {short(search.metric, 30)}", "worst", "best")
    return Chart("parallel_coordinates", "Parallel coordinates", caption, (panel,), scale, wide=True)


def _along(parameter: Parameter, point: Mapping[str, Any]) -> float:
    value = point.get(parameter.name)
    if parameter.name not in point or not parameter.dimension.contains(value):
        return ASIDE
    return parameter.dimension.encode(value)


def _objectives(view: Search, trials: Sequence[Trial]) -> Array:
    found = (view.history.trials[trial.number].objective for trial in trials)
    return np.array([np.nan if value is None else float(value) for value in found])


def _objective_row(search: Search, values: Array) -> tuple[Array, Ticks]:
    if not np.isfinite(values).any():
        return values, []
    axis, drawn = spread(search.metric, values, minimize=search.history.minimize)
    low, high = float(np.nanmin(drawn)), float(np.nanmax(drawn))
    ticks = axis.ticks if axis.log and axis.ticks is not None else even_ticks(low, high)
    if axis.powers or axis.unit != 1.0:
        ticks = tuple((at, f"1e{at:g}" if axis.powers else number(at * axis.unit)) for at, _ in ticks)

    def place(value: Any) -> Any:
        if high <= low:
            return np.zeros_like(value) + 0.5
        if axis.log:
            return (np.log(value) - np.log(low)) / (np.log(high) - np.log(low))
        return (value - low) / (high - low)

    return place(drawn), [(float(place(np.float64(v))), words) for v, words in ticks]


def _rulers(parameters: Sequence[Parameter], last: Sequence[tuple[str, Ticks]], aside: Sequence[bool]) -> list[Layer]:
    """The axes themselves: a line each, its ticks in words below, its name above."""
    layers = []
    names = [*distinct([p.name for p in parameters], 40), *(short(metric, 40) for metric, _ in last)]
    for row, name in enumerate(names):
        objective = row >= len(parameters)
        own = last[row - len(parameters)][1] if objective else _ticks(parameters[row])
        ticks = [tick for tick in own if -0.01 <= tick[0] <= 1.01]
        ticks += [(ASIDE, "none")] if not objective and aside[row] else []
        x = np.array([place for place, _ in ticks])
        at, below, words = np.full(len(x), -float(row)), np.full(len(x), -row - 0.17), tuple(w for _, w in ticks)
        layers += [
            Layer("line", np.array([0.0, 1.0]), np.full(2, -float(row)), style.INK, size=1.2),
            Layer("points", x, at, style.INK, size=4),
            Layer("words", x, below, style.INK, words=words, size=11),
            Layer("words", np.zeros(1), np.array([-row + 0.22]), style.INK, words=(name,), size=13, anchor="left"),
        ]
    return layers


def _ticks(parameter: Parameter) -> Ticks:
    """Places in the unit interval of a dimension, and what lies there."""
    dimension = parameter.dimension
    if isinstance(dimension, OneOf):
        every = -(-len(dimension.labels) // 7)
        names = distinct([shown(label) for label in dimension.labels], max(6, 42 // min(len(dimension.labels), 7)))
        return [(dimension.encode(label), text) for label, text in zip(dimension.labels, names, strict=True)][::every]
    low, high = dimension.decode(0.02), dimension.decode(0.98)
    low, high = (dimension.decode(0.0), dimension.decode(1.0)) if hasattr(dimension, "low") else (low, high)
    if not high > low:
        return [(0.5, number(float(low)))]
    ticks = log_ticks(low, high) if dimension.log else even_ticks(low, high)
    return [(_rough(parameter, place, low, high), words) for place, words in ticks]


def _rough(parameter: Parameter, value: float, low: float, high: float) -> float:
    """Where a round number lies on the unit interval, though the dimension may have no such value."""
    whole = parameter.dimension.size is not None
    return parameter.dimension.encode(min(max(round(value) if whole and low >= 1 else value, low), high))


# -- what matters ------------------------------------------------------------------------------------------------------


def importance_chart(found: Importance | None) -> Chart | None:
    """A bar for each value: the share of the objective's variation that goes with it; None with too few trials."""
    return importance_charts([("", found)])


def importance_charts(found: Sequence[tuple[str, Importance | None]]) -> Chart | None:
    """The same of each objective, by its name, one panel below the other."""
    known = [(metric, own) for metric, own in found if own is not None]
    if not known:
        return None
    several = len(found) > 1
    panels = tuple(_importance_panel(own, metric if several else "") for metric, own in known)
    told = "; ".join(_told(own, f" of {short(metric, 30)}" if several else "") for metric, own in known)
    first, others = known[0][1], "" if not several else " in each objective"
    at = "" if first.step is None else f" compared at step {first.step}"
    how = f"permutation in a forest fitted to the ranks of {first.trials} trials{at}; lines: 80 % interval; {told}"
    caption = f"Search the long bars more finely and fix those that are short{others} ({how})."
    more = max(len(own.shares) for _, own in known) - BARS
    caption = caption[:-1] + f" ({more} shorter ones are not shown)." if more > 0 else caption
    if not any(own.telling for _, own in known):
        caption = f"These trials do not tell what matters ({how})."
    return Chart("parameter_importance", "What matters", caption, panels, wide=True)


def _told(found: Importance, what: str) -> str:
    return f"it foretells {max(0.0, found.explained):.0%} of the variation{what} in trials that it has not seen"


def _importance_panel(found: Importance, metric: str) -> Panel:
    shares = found.shares[:BARS]
    y = -np.arange(len(shares), dtype=float)
    values, low, high = (np.array([vars(s)[name] for s in shares]) for name in ("value", "low", "high"))
    color = style.BLUE if found.telling else style.GREY
    bars = Layer("bars", values, y, color, size=0.62, reach=(low, high))
    names = distinct([s.parameter.name for s in shares], 26)
    ticks = tuple((float(at), name) for at, name in zip(y, names, strict=True))
    title = f"{short(metric, 24)}: share" if metric else "share of the variation"
    x = Axis(title, span=(0.0, max(1.05 * float(high.max()), 0.1)))
    return Panel(x, Axis("", span=(-len(shares) + 0.4, 0.6), ticks=ticks), (bars,), height=0.35 + 0.09 * len(shares))
