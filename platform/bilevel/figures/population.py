"""How did a population change its values? Who went on from whom, and the schedule of the best."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from bilevel.figures import style
from bilevel.figures.chart import Axis, Chart, Layer, Panel, present, short, shown
from bilevel.figures.importance import Importance
from bilevel.figures.scales import linear, logarithmic
from bilevel.figures.search import Search
from bilevel.figures.values import named, number_of, ordered
from bilevel.space.dimensions import OneOf, Parameter

MEMBERS = 6  # parameters in the chart of a population


def population(search: Search, found: Importance | None) -> Chart | None:
    """How a population changed its values over the steps, with the lineage of its best member; None without moves."""
    if not any(track.moves for track in search.tracks.values()):
        return None
    best = search.history.best()
    parameters = ordered(search, found)[:MEMBERS]
    lineage = _lineage(search, best.number) if best is not None else []
    panels = []
    for parameter, name in named(parameters):
        lines = {n: _stays(search, n, parameter) for n in search.tracks}
        axis, to_place = _plain_axis(parameter, name, [v for stays in lines.values() for _, _, v in stays])
        grey = [row for stays in lines.values() for row in _stroke(stays, to_place)]
        jumps = [row for n in search.tracks for row in _jumps(search, n, parameter, to_place)]
        own = [row for n, start, end in lineage for row in _stroke(_cut(lines[n], start, end), to_place, gap=False)]
        layers = [
            _traced(grey, style.GREY, "members", 1.2, 0.7),
            _traced(jumps, style.ORANGE, "went on from another member", 1.0, 0.8, dashed=True),
            _traced(own, style.BLUE, "lineage of the best", 2.6, 1.0),
        ]
        panels.append(Panel(Axis("step", whole=True), axis, present(layers)))
    caption = "The thick line is the schedule of values that led to the best result; thin ones were given up."
    return Chart("population", "How the population changed its values", caption, tuple(panels)) if panels else None


Stay = tuple[float, float, Any]
"""From a step to a step, with a value."""


def _stays(search: Search, number_: int, parameter: Parameter) -> list[Stay]:
    track, trial = search.tracks[number_], search.history.trials[number_]
    points = [track.point, *(move.point for move in track.moves)]
    steps = [0.0, *(float(move.step) for move in track.moves), float(max(trial.step, 0))]
    return [
        (steps[i], max(steps[i], steps[i + 1]), point[parameter.name])
        for i, point in enumerate(points)
        if parameter.name in point
    ]


def _lineage(search: Search, best: int) -> list[tuple[int, float, float]]:
    """`(member, from step, to step)` from the start to the end of the best one."""
    rows: list[tuple[int, float, float]] = []
    member, until = best, float(search.history.trials[best].step)
    for _ in range(10_000):  # each turn goes back in time
        earlier = [move for move in search.tracks[member].moves if move.step <= until and move.step > 0]
        earlier = [move for move in earlier if (member, float(move.step), until) not in rows]
        if not earlier:
            return [(member, 0.0, until), *rows]
        move = earlier[-1]
        rows.insert(0, (member, float(move.step), until))
        member, until = move.donor, float(move.step) - 1e-9
    return rows


def _cut(stays: Sequence[Stay], start: float, end: float) -> list[Stay]:
    return [(max(a, start), min(b, end), value) for a, b, value in stays if b > start and a < end]


def _stroke(stays: Sequence[Stay], to_place: Any, gap: bool = True) -> list[tuple[float, float]]:
    rows = [(at, to_place(value)) for start, end, value in stays for at in (start, end)]
    return [*rows, (np.nan, np.nan)] if gap and rows else rows


def _jumps(search: Search, number_: int, parameter: Parameter, to_place: Any) -> list[tuple[float, float]]:
    rows: list[tuple[float, float]] = []
    for move in search.tracks[number_].moves:
        donors = [v for a, b, v in _stays(search, move.donor, parameter) if a < move.step <= b]
        if donors and parameter.name in move.point:
            step = float(move.step)
            rows += [(step, to_place(donors[-1])), (step, to_place(move.point[parameter.name])), (np.nan, np.nan)]
    return rows


def _traced(
    rows: Sequence[tuple[float, float]], color: str, name: str, width: float, opacity: float, dashed: bool = False
) -> Layer:
    line = np.array(rows, dtype=float).reshape(-1, 2)
    return Layer("line", line[:, 0], line[:, 1], color, name, width, opacity, dashed=dashed)


def _plain_axis(parameter: Parameter, name: str, values: Sequence[Any]) -> tuple[Axis, Any]:
    dimension = parameter.dimension
    if isinstance(dimension, OneOf):
        labels = [repr(label) for label in dimension.labels]
        ticks = tuple((float(i), short(shown(label), 16)) for i, label in enumerate(dimension.labels))
        span = (-0.5, len(labels) - 0.5)
        return Axis(name, span=span, ticks=ticks), lambda v: labels.index(repr(v)) if repr(v) in labels else np.nan
    numbers = np.array([number_of(value) for value in values])
    finite = numbers[np.isfinite(numbers)]
    if dimension.log and finite.size and finite.min() > 0:
        axis = logarithmic(name, float(finite.min()), float(finite.max()))
    else:
        axis = linear(name, finite)
    return axis, lambda value: float(axis.places(np.array([number_of(value)]))[0])
