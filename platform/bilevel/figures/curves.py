"""How did the loss move, and what does adaptation bring? Curves over outer steps and over adaptation steps."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bilevel.figures import style
from bilevel.figures.scales import tame
from bilevel.figures.search import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Reports = Mapping[int, Sequence[tuple[int, Mapping[str, float]]]]
DRAWN = 300  # points of a smoothed curve; longer ones are cut into as many bins, and their medians drawn
SHOWN = ("loss", "accuracy", "mae")  # kinds of metric with a panel of their own, in this order
CALLED = {
    "loss": "loss (mean over queries)",
    "accuracy": "accuracy (fraction of queries)",
    "mae": "mean absolute error (units of y)",
}
_AT = re.compile(r"(?P<source>test[^@]*)/(?P<kind>[^/@]+)@(?P<step>\d+)")
_BASELINE = re.compile(r"(?P<source>test[^@]*)/(?P<name>[^/@]+?)_(?P<kind>balanced_accuracy|[a-z]+)")


@dataclass(frozen=True)
class History:
    """What figures are drawn from.

    Args:
        reports: of each trial, `(outer step, metrics)` in order.
        metric: the name that the study optimizes.
        exhibit: a few test tasks: `{"support", "query": {"x", "y"}: [tasks, samples, ...], "predictions": [tasks,
            adaptation steps + 1, samples, outputs]}`.
        chance: the accuracy of guessing; by default one over the outputs of an exhibit of classes.
        best: the trial whose figures are drawn; by default the one that was tested, else the first.
        step: what a step is called.
    """

    reports: Reports = field(default_factory=dict)
    metric: str = ""
    exhibit: Mapping[str, Any] | None = None
    chance: float | None = None
    best: int | None = None
    step: str = "outer step"

    def shown(self) -> Sequence[tuple[int, Mapping[str, float]]]:
        """The reports of the trial that figures are drawn of."""
        if self.best is not None and self.best in self.reports:
            return self.reports[self.best]
        tested = [reports for reports in self.reports.values() if reports and _has_test(reports[-1][1])]
        return next(iter([*tested, *self.reports.values()]), [])

    @property
    def tested(self) -> bool:
        """Whether its last report is a meta-training's, which has tests."""
        return any(_has_test(metrics) for _, metrics in self.shown()[-1:])


def learning_curve(history: History) -> Figure | None:
    """Training and validation by outer step, a panel for each kind of metric; None without reports."""
    curves = _curves(history.shown())
    kinds = [kind for kind in SHOWN if any(name.rpartition("/")[2] == kind for name in curves)]
    plain = history.step != "outer step" and not history.tested
    if history.metric in curves and (plain or not kinds) and history.metric.rpartition("/")[2] not in kinds:
        kinds = [history.metric, *kinds]
    if not kinds or (plain and max(len(steps) for steps, _ in curves.values()) < 2):
        return None
    from matplotlib.ticker import MaxNLocator

    figure, axes = style.sheet(len(kinds))
    for axis, kind in zip(axes, kinds, strict=True):
        drawn: list[float] = []
        names = sorted(name for name in curves if kind in (name, name.rpartition("/")[2]))
        own = tame(kind if plain else CALLED.get(kind, kind), np.concatenate([curves[name][1] for name in names]))
        for index, name in enumerate(names):
            steps, values = curves[name]
            drawn += _curve(axis, steps, own.places(values), name, style.CYCLE[index % len(style.CYCLE)])
        if not own.powers and any(_falls(curves[name][1]) for name in names):  # what rises is told apart at its top
            style.scale(axis, drawn)
        if kind == "accuracy" and history.chance is not None:
            axis.axhline(history.chance, color=style.GREY, linestyle=":", label="chance")
        axis.xaxis.set_major_locator(MaxNLocator(integer=True))
        axis.set_xlabel(history.step)
        axis.set_ylabel(style.words(own.title))
        axis.legend(frameon=False, fontsize=9)
    figure.suptitle(f"Training and validation by {history.step}")
    return figure


def _falls(values: Array) -> bool:
    finite = values[np.isfinite(values)]
    return finite.size > 0 and bool(finite[-1] < finite[0])


def adaptation(history: History) -> Figure | None:
    """The test's metrics after 0, 1, 2, ... adaptation steps with 95 % intervals; None without a test."""
    metrics: dict[str, float] = {}
    for _, reported in history.shown():
        metrics |= {name: value for name, value in reported.items() if name.startswith("test")}
    found: dict[str, dict[str, list[int]]] = {}
    for name in metrics:
        match = _AT.fullmatch(name)
        if match and not match["kind"].endswith("_ci95"):
            found.setdefault(match["kind"], {}).setdefault(match["source"], []).append(int(match["step"]))
    kinds = [kind for kind in ("accuracy", "mae", "loss") if kind in found]
    if not kinds:
        return None
    figure, axes = style.sheet(len(kinds))
    for axis, kind in zip(axes, kinds, strict=True):
        _adaptation_panel(axis, kind, found[kind], metrics, history)
    steps = max(step for sources in found.values() for steps in sources.values() for step in steps)
    figure.suptitle(f"Unseen tasks after 0 to {steps} adaptation steps\n(mean and 95 % interval)")
    return figure


def _adaptation_panel(
    axis: Any, kind: str, sources: Mapping[str, list[int]], metrics: Mapping[str, float], history: History
) -> None:
    from matplotlib.ticker import MaxNLocator

    found = {source: _judged(metrics, source, kind, sorted(steps)) for source, steps in sorted(sources.items())}
    beside = [each for each in _baselines(kind, metrics) if np.isfinite(each[1])]
    own = tame(CALLED.get(kind, kind), np.concatenate([*(np.ravel(ends) for ends in found.values()), _lows(beside)]))
    drawn: list[float] = []
    for index, (source, (middle, low, high)) in enumerate(found.items()):
        steps = sorted(sources[source])
        color, marker = style.CYCLE[index % len(style.CYCLE)], style.MARKERS[index % len(style.MARKERS)]
        middle, low, high = (own.places(values) for values in (middle, low, high))
        if len(steps) == 1:
            ends = np.stack([middle - low, high - middle])
            axis.errorbar(
                steps, middle, ends, color=color, marker=marker, capsize=4, label=style.words(_called(source))
            )
        else:
            axis.plot(steps, middle, color=color, marker=marker, markersize=5, label=style.words(_called(source)))
            axis.fill_between(steps, low, high, color=color, alpha=0.2, linewidth=0)
        drawn += [value for value in (*middle, *low) if np.isfinite(value)]
    for name, value, half_width in beside:
        ends = own.places(np.array([value, value - half_width, value + half_width]))
        axis.axhline(ends[0], color=style.INK, linestyle="--", linewidth=1.2)
        axis.axhspan(ends[1], ends[2], color=style.INK, alpha=0.08, linewidth=0)
        axis.annotate(
            style.words(name), (0.99, ends[0]), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=9
        )
        drawn.append(float(ends[0]))
    if kind == "accuracy":
        chance = _chance(history)
        if chance is not None:
            axis.axhline(chance, color=style.GREY, linestyle=":")
            axis.annotate(
                "chance", (0.99, chance), xycoords=("axes fraction", "data"), ha="right", va="bottom", fontsize=9
            )
        axis.set_ylim(0, 1.02)
    elif not own.powers:
        style.scale(axis, drawn)
    axis.xaxis.set_major_locator(MaxNLocator(integer=True))
    axis.set_xlabel("adaptation steps on the support set")
    axis.set_ylabel(style.words(own.title))
    axis.legend(frameon=False, fontsize=9)


def _judged(metrics: Mapping[str, float], source: str, kind: str, steps: Sequence[int]) -> tuple[Array, Array, Array]:
    """A test's means by adaptation step, and the ends of their intervals; of one episode there is none."""
    middle = np.array([metrics[f"{source}/{kind}@{step}"] for step in steps])
    half = np.array([metrics.get(f"{source}/{kind}_ci95@{step}", 0.0) for step in steps])
    half = np.where(np.isfinite(half), half, 0.0)
    with np.errstate(over="ignore"):
        return middle, middle - half, middle + half


def _lows(baselines: Sequence[tuple[str, float, float]]) -> Array:
    return np.array([value - half for _, value, half in baselines])


def _curve(axis: Any, steps: NDArray[Any], values: NDArray[Any], name: str, color: str) -> list[float]:
    """A curve as it is, and where it is long light with its medians in front; gives the values that set the scale."""
    if len(steps) <= DRAWN:
        marker = "o" if len(steps) <= 40 else None
        axis.plot(steps, values, color=color, marker=marker, markersize=4, linewidth=1.6, label=style.words(name))
        return [float(value) for value in values]
    bins = np.array_split(np.arange(len(steps)), DRAWN)
    middle = np.array([np.median(values[part]) for part in bins])
    places = np.array([np.median(steps[part]) for part in bins])
    stride = -(-len(steps) // (10 * DRAWN))
    axis.plot(steps[::stride], values[::stride], color=color, alpha=0.2, linewidth=0.6)
    axis.plot(
        places, middle, color=color, linewidth=1.6, label=style.words(f"{name} (medians of {len(bins[0])} steps)")
    )
    return [float(value) for value in middle]


def _curves(reports: Sequence[tuple[int, Mapping[str, float]]]) -> dict[str, tuple[NDArray[Any], NDArray[Any]]]:
    """Each metric's outer steps and finite values; the test is no curve."""
    series: dict[str, list[tuple[int, float]]] = {}
    for step, metrics in reports:
        for name, value in metrics.items():
            if not name.startswith(("test", "normalization/")) and np.isfinite(value):
                series.setdefault(name, []).append((step, value))
    arrays = {name: np.array(points, dtype=float) for name, points in series.items()}
    return {name: (points[:, 0], points[:, 1]) for name, points in arrays.items()}


def _baselines(kind: str, metrics: Mapping[str, float]) -> list[tuple[str, float, float]]:
    found = []
    for name, value in metrics.items():
        match = _BASELINE.fullmatch(name)
        if match and match["kind"] == kind and match["source"] == "test":
            half = metrics.get(f"{name}_ci95", 0.0)
            found.append((match["name"].replace("_", " "), value, half if np.isfinite(half) else 0.0))
    return found


def _called(source: str) -> str:
    """`test` as what it is: the main test; `test/20w1s` another distribution; `test-support` another policy."""
    kind, _, name = source.partition("/")
    policy = kind.partition("-")[2]
    words = [name or "test tasks", *([f"{policy} statistics"] if policy else [])]
    return ", ".join(words)


def _chance(history: History) -> float | None:
    if history.chance is not None or not history.exhibit:
        return history.chance
    answers = [history.exhibit[part]["y"] for part in ("support", "query")]
    if answers[0].is_floating_point():
        return None
    shown = 1 + max(int(y.max()) for y in answers)  # a network may have more outputs than there are classes
    return 1.0 / max(2, min(shown, int(history.exhibit["predictions"].shape[-1])))


def _has_test(metrics: Mapping[str, float]) -> bool:
    return any(name.startswith("test") for name in metrics)
