"""How do trials at work, or several studies, stand beside what is known already? Curves laid over each other."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from bilevel.figures import style
from bilevel.figures.chart import Axis, Chart, Layer, Panel, distinct, present, short, thin
from bilevel.figures.scales import spread, tame
from bilevel.figures.search import Array, Search
from bilevel.figures.views import incumbents

RUNNING = 12  # running trials with a color of their own
POINTS = 400  # of a curve
STUDIES = 12  # laid over each other


def running_curves(search: Search) -> Chart | None:
    """The curves of the trials at work, over that of the best one; None where none of them has reported yet."""
    at_work = [n for n in search.history.running if _some(search.tracks[n].curve)]
    if not at_work:
        return None
    drawn = at_work[-RUNNING:]
    best = search.history.best()
    curves = [("", search.tracks[n].curve) for n in drawn]
    if best is not None and _some(search.tracks[best.number].curve):
        curves.append(("best", search.tracks[best.number].curve))
    values = np.concatenate([curve[np.isfinite(curve[:, 1]), 1] for _, curve in curves])
    y, _ = spread(search.metric, values, minimize=search.history.minimize)
    steps = np.concatenate([curve[np.isfinite(curve[:, 0]), 0] for _, curve in curves])
    x = Axis("step", whole=True, span=(float(steps.min()) - 0.5, float(steps.max()) + 0.5))
    layers: list[Layer] = []
    if best is not None and len(curves) > len(drawn):
        known = thinned(search.tracks[best.number].curve)
        who = np.full(len(known), float(best.number))
        name = f"the best, trial {best.number}"
        layers.append(Layer("line", known[:, 0], y.places(known[:, 1]), style.GREY, name, 2.2, trials=who))
    for index, number in enumerate(drawn):
        curve, color = thinned(search.tracks[number].curve), style.CYCLE[index % len(style.CYCLE)]
        who, places, name = np.full(len(curve), float(number)), y.places(curve[:, 1]), f"trial {number}"
        dashed = index >= len(style.CYCLE)
        layers.append(Layer("line", curve[:, 0], places, color, name, 2.4, dashed=dashed, trials=who))
        layers.append(Layer("points", curve[-1:, 0], places[-1:], color, "", 8, trials=who[-1:]))
    more = len(at_work) - len(drawn)
    caption = f"Each trial at work, with its last report as a dot{f' (the newest {RUNNING})' if more else ''}."
    if len(curves) > len(drawn):
        caption = caption[:-1] + "; in grey the best so far."
    return Chart("running", "Running now", caption, (Panel(x, y, present(layers)),), wide=True)


def _some(curve: Array) -> bool:
    return bool(np.isfinite(curve[:, 1]).any()) if len(curve) else False


def thinned(curve: Array) -> Array:
    """A curve with its ends and an even choice of what lies between."""
    return curve[thin(len(curve), POINTS, [0, len(curve) - 1])]


def whole(title: str, values: Array) -> Axis:
    """An axis for lines: on a log scale where others would be, but with nothing beyond its edge."""
    axis, _ = spread(title, values)
    return axis if axis.log or axis.powers else tame(title, values)


def studies(searches: Mapping[str, Search]) -> Chart | None:
    """The best so far of several studies, a panel for each objective and direction that they have; None without any.

    Args:
        searches: by the name that is shown.
    """
    panels: dict[tuple[str, bool], list[tuple[int, Array]]] = {}
    for index, search in enumerate(list(searches.values())[:STUDIES]):
        ended = search.valued()
        best = incumbents(search, ended) if ended else np.empty(0)
        if np.isfinite(best).any():
            panels.setdefault((search.metric, search.history.minimize), []).append((index, best))
    if not panels:
        return None
    names = distinct(list(searches), 40)
    made = [_study_panel(metric, lines, names) for (metric, _), lines in panels.items()]
    caption = "Lower is better" if len(panels) == 1 and next(iter(panels))[1] else "Higher is better"
    caption = caption + "." if len(panels) == 1 else "They look for different things: a picture for each."
    return Chart("beside", "Best so far, side by side", caption, tuple(made), wide=True)


def _study_panel(metric: str, lines: list[tuple[int, Array]], names: list[str]) -> Panel:
    everything = np.concatenate([best[np.isfinite(best)] for _, best in lines])
    y = whole(metric, everything)
    longest = max(len(best) for _, best in lines)
    x = Axis("trials with a result", span=(0.0, 1.02 * longest), whole=True)
    layers = []
    for index, best in lines:
        known = np.flatnonzero(np.isfinite(best))
        at = [i for i in known if i in (known[0], len(best) - 1) or best[i] != best[i - 1]]
        line_x, line_y = np.repeat(np.array(at, dtype=float) + 1.0, 2)[1:], y.places(np.repeat(best[at], 2)[:-1])
        color, dashed = style.CYCLE[index % len(style.CYCLE)], index >= len(style.CYCLE)
        layers.append(Layer("line", line_x, line_y, color, short(names[index], 40), 2.4, dashed=dashed))
    return Panel(x, y, present(layers))
