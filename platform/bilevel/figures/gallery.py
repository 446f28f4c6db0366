"""Which charts does a search have?"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from bilevel.figures.chart import Chart
from bilevel.figures.importance import Importance, importance
from bilevel.figures.population import population
from bilevel.figures.search import Search
from bilevel.figures.values import importance_chart, parallel_coordinates, slices
from bilevel.figures.views import best_so_far, learning_curves, pareto_front, timeline

T = TypeVar("T")
Failed = Callable[[str, Exception], object]
"""Is told the name of what could not be drawn, and why."""


def charts(search: Search, found: Importance | None = None, failed: Failed | None = None) -> list[Chart]:
    """Those that there is data for, in the order in which they are read; of a single trial its learning curve.

    Args:
        search: what they show.
        found: what matters, if that is known already.
        failed: is told which could not be drawn, and the others are; without it, the first error is raised.
    """
    if len(search.history.trials) < 2:
        curve = attempt("learning_curves", lambda: learning_curves(search), failed)
        return [] if curve is None else [curve]
    if found is None:
        found = attempt("parameter_importance", lambda: importance(search), failed)
    makers: dict[str, Callable[[], Chart | None]] = {
        "best_so_far": lambda: best_so_far(search),
        "pareto_front": lambda: pareto_front(search),
        "parameter_importance": lambda: importance_chart(found),
        "slices": lambda: slices(search, found),
        "parallel_coordinates": lambda: parallel_coordinates(search, found),
        "learning_curves": lambda: learning_curves(search),
        "population": lambda: population(search, found),
        "timeline": lambda: timeline(search),
    }
    drawn = [attempt(name, make, failed) for name, make in makers.items()]
    return [chart for chart in drawn if chart is not None]


def attempt(name: str, make: Callable[[], T | None], failed: Failed | None) -> T | None:
    """What is made; None, and `failed` is told, if it cannot be."""
    try:
        return make()
    except Exception as error:
        if failed is None:
            raise
        failed(name, error)
        return None
