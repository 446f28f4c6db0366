"""Which charts does a search have?"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import TypeVar

from bilevel.figures.chart import Chart
from bilevel.figures.importance import Importance, importance
from bilevel.figures.objectives import each
from bilevel.figures.population import population
from bilevel.figures.search import Search
from bilevel.figures.values import importance_charts, parallel_coordinates, slices
from bilevel.figures.views import best_so_far, learning_curves, pareto_front, timeline

T = TypeVar("T")
Failed = Callable[[str, Exception], object]
"""Is told the name of what could not be drawn, and why."""


def charts(search: Search, found: Importance | None = None, failed: Failed | None = None) -> list[Chart]:
    """Those that there is data for, in the order in which they are read; of a single trial its learning curve.

    Of several objectives importance, slices and learning curves are drawn for each: those of the second one are called
    `slices_2`, and so on.

    Args:
        search: what they show.
        found: what matters for the leading objective, if that is known already.
        failed: is told which could not be drawn, and the others are; without it, the first error is raised.
    """
    if len(search.history.trials) < 2:
        curve = attempt("learning_curves", lambda: learning_curves(search), failed)
        return [] if curve is None else [curve]
    if found is None:
        found = attempt("parameter_importance", lambda: importance(search), failed)
    views = each(search)
    matters = [found, *(attempt("parameter_importance", partial(importance, view), failed) for view in views[1:])]
    ranked = list(enumerate(zip(views, matters, strict=True), 1))
    makers: dict[str, Callable[[], Chart | None]] = {
        "best_so_far": lambda: best_so_far(search),
        "pareto_front": lambda: pareto_front(search),
        "parameter_importance": lambda: importance_charts([(v.metric, m) for v, m in zip(views, matters, strict=True)]),
        **{_numbered("slices", n): partial(slices, view, known) for n, (view, known) in ranked},
        "parallel_coordinates": lambda: parallel_coordinates(search, found),
        **{_numbered("learning_curves", n): partial(learning_curves, view) for n, (view, _) in ranked},
        "population": lambda: population(search, found),
        "timeline": lambda: timeline(search),
    }
    drawn = [(name, attempt(name, make, failed)) for name, make in makers.items()]
    return [dataclasses.replace(chart, name=name) for name, chart in drawn if chart is not None]


def _numbered(name: str, place: int) -> str:
    return name if place == 1 else f"{name}_{place}"


def attempt(name: str, make: Callable[[], T | None], failed: Failed | None) -> T | None:
    """What is made; None, and `failed` is told, if it cannot be."""
    try:
        return make()
    except Exception as error:
        if failed is None:
            raise
        failed(name, error)
        return None
