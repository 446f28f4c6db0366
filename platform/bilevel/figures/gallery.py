"""Which charts does a search have?"""

from __future__ import annotations

from bilevel.figures.chart import Chart
from bilevel.figures.importance import Importance, importance
from bilevel.figures.population import population
from bilevel.figures.search import Search
from bilevel.figures.values import importance_chart, parallel_coordinates, slices
from bilevel.figures.views import best_so_far, learning_curves, pareto_front, timeline


def charts(search: Search, found: Importance | None = None) -> list[Chart]:
    """Those that there is data for, in the order in which they are read; of a single trial its learning curve.

    `found` is what matters, if that is known already.
    """
    if len(search.history.trials) < 2:
        curve = learning_curves(search)
        return [] if curve is None else [curve]
    found = found or importance(search)
    drawn = [
        best_so_far(search),
        pareto_front(search),
        importance_chart(found),
        slices(search, found),
        parallel_coordinates(search, found),
        learning_curves(search),
        population(search, found),
        timeline(search),
    ]
    return [chart for chart in drawn if chart is not None]
