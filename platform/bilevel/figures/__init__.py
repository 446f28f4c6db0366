"""What does a reviewer want to see of a run? Pure: a history in, figures out."""

import dataclasses
from typing import TYPE_CHECKING

from bilevel.figures.curves import History, adaptation, learning_curve
from bilevel.figures.exhibits import exhibit
from bilevel.figures.gallery import charts
from bilevel.figures.search import Search, search_history

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["History", "Search", "adaptation", "charts", "draw", "exhibit", "learning_curve", "search_history"]


def draw(history: History, search: Search | None = None) -> "dict[str, Figure]":
    """Name -> figure, of those that there is data for: learning_curve, adaptation, exhibit; of a search its charts."""
    from bilevel.figures import pictures

    several = search is not None and len(search.history.trials) > 1
    if search is not None:
        best = search.history.best()
        number = history.best if best is None else best.number
        history = dataclasses.replace(history, best=number)
        step = "outer step" if history.tested else "step"
        history = dataclasses.replace(history, step=f"{step} of trial {number}" if several else step)
    drawn = {
        "learning_curve": learning_curve(history),
        "adaptation": adaptation(history),
        "exhibit": exhibit(history.exhibit) if history.exhibit else None,
    }
    found = {name: figure for name, figure in drawn.items() if figure is not None}
    if search is not None and several:
        found |= {chart.name: pictures.draw(chart) for chart in charts(search)}
    return found
