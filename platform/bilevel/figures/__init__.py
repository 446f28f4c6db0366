"""What does a reviewer want to see of a run? Pure: a history in, figures out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from bilevel.figures.curves import History, adaptation, learning_curve
from bilevel.figures.exhibits import exhibit
from bilevel.figures.gallery import Failed, attempt, charts
from bilevel.figures.search import Search, search_history

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["History", "Search", "adaptation", "charts", "draw", "exhibit", "learning_curve", "search_history"]


def draw(history: History, search: Search | None = None, failed: Failed | None = None) -> dict[str, Figure]:
    """Name -> figure, of those that there is data for: learning_curve, adaptation, exhibit; of a search its charts.

    `failed` is told which could not be drawn, and the others are; without it, the first error is raised.
    """
    from bilevel.figures import pictures

    several = search is not None and len(search.history.trials) > 1
    if search is not None:
        best = search.history.best()
        number = history.best if best is None else best.number
        history = dataclasses.replace(history, best=number)
        step = "outer step" if history.tested else "step"
        history = dataclasses.replace(history, step=f"{step} of trial {number}" if several else step)
    shown = history
    makers: dict[str, Callable[[], Figure | None]] = {
        "learning_curve": lambda: learning_curve(shown),
        "adaptation": lambda: adaptation(shown),
        "exhibit": lambda: exhibit(shown.exhibit) if shown.exhibit else None,
    }
    if search is not None and several:
        makers |= {chart.name: partial(pictures.draw, chart) for chart in charts(search, None, failed)}
    drawn = {name: attempt(name, make, failed) for name, make in makers.items()}
    return {name: figure for name, figure in drawn.items() if figure is not None}
