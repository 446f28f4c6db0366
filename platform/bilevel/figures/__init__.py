"""What does a reviewer want to see of a run? Pure: a history in, matplotlib figures out."""

from matplotlib.figure import Figure

from bilevel.figures.curves import History, adaptation, learning_curve
from bilevel.figures.exhibits import exhibit

__all__ = ["History", "adaptation", "draw", "exhibit", "learning_curve"]


def draw(history: History) -> dict[str, Figure]:
    """Name -> figure, of those that the history has data for: learning_curve, adaptation, exhibit."""
    drawn = {
        "learning_curve": learning_curve(history),
        "adaptation": adaptation(history),
        "exhibit": exhibit(history.exhibit) if history.exhibit else None,
    }
    return {name: figure for name, figure in drawn.items() if figure is not None}
