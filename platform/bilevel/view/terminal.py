"""What does a person see while a study runs, and at its end? Live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bilevel.drive.progress import Progress, Standing
from bilevel.figures.comparison import verdict
from bilevel.figures.summary import duration
from bilevel.study.history import Trial
from bilevel.view.paper import paper, plain
from bilevel.view.tables import brief

LINE_EVERY = 10.0  # seconds between plain lines
TRIALS = 8  # running trials of a search that are listed
TELLING = 0.02  # of a search; before that it does not know how long it will take
LINE = 240  # characters of what is said of a trial
WINDOW = 30.0  # seconds over which a pace is measured


class Panel(Protocol):
    """What shows one thing, and then another in its place."""

    def update(self, shown: RenderableType, /) -> None:
        """Show this."""
        ...


class Screen:
    """A watch for people: a live panel on a terminal, a line now and then elsewhere; all of it on standard error."""

    def __init__(self, console: Console | None = None, live: Panel | None = None) -> None:
        self.console = console or paper(error=True)
        self._live: Panel | None = live
        self._line_at = -math.inf
        self._rate = _Rate()
        self._manned = False

    def __enter__(self) -> Screen:
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True).__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if isinstance(self._live, Live):
            self._live.__exit__(None, None, None)
            self._live = None

    def progress(self, progress: Progress) -> None:
        """Show where the study stands."""
        if progress.standing is not None:
            search = self._search(progress, progress.standing)
            self._show([search], lambda: _search_panel(progress, progress.standing or Standing(), search))
            return
        rows = [self._row(progress, number, config) for number, config in progress.running.items()]
        self._show(rows, lambda: Group(*(_panel(row) for row in rows)))

    def _show(self, rows: Sequence[Mapping[str, Any]], panel: Callable[[], RenderableType]) -> None:
        if self._live is not None:
            self._live.update(panel())
        elif time.monotonic() - self._line_at >= LINE_EVERY and rows:
            self._line_at = time.monotonic()
            for row in rows:
                line = " · ".join(text for text in row.values() if text and not isinstance(text, float))
                self.console.print(plain(line))

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(plain(_line(text) if text.startswith("trial ") else text), style="yellow")

    def _row(self, progress: Progress, number: int, config: Any) -> dict[str, Any]:
        trial: Trial = progress.history.trials[number]
        steps, episodes = getattr(config, "steps", None), getattr(config, "episodes", None)
        rate = self._rate.of(f"trial {number}", trial.step)
        left = (steps - trial.step) / rate if isinstance(steps, int) and rate > 0 else None
        return {
            "trial": f"trial {number}" if len(progress.history.trials) > 1 else "",
            "step": f"step {trial.step}" + (f"/{steps}" if isinstance(steps, int) else ""),
            "done": trial.step / steps if isinstance(steps, int) and steps else 0.0,
            "metrics": "  ".join(f"{name} {value:.4g}" for name, value in _shown(trial.metrics).items()),
            "rate": f"{rate * episodes:.0f} episodes/s" if isinstance(episodes, int) and rate else "",
            "left": f"{duration(left)} left" if left is not None else "",
            "workers": self._workers(progress),
            "faults": f"{progress.faults} faults survived" if progress.faults else "",
        }

    def _search(self, progress: Progress, standing: Standing) -> dict[str, Any]:
        """A search as a line; the panel shows the same and the running trials below it."""
        ended = sum(progress.history.ended.values())
        done = ended + sum(_part(progress, standing, number) for number in progress.history.running)
        pace, course = self._rate.of("ended", ended), self._rate.of("done", done)
        counts = {"running": len(progress.history.running), **progress.history.ended}
        return {
            "trials": _counted(standing, ended),
            "done": min(1.0, done / standing.trials) if standing.trials else 0.0,
            "best": _best(progress, standing),
            "counts": ", ".join(f"{count} {state}" for state, count in counts.items() if count or state == "failed"),
            "pace": "" if not pace else f"{pace:.3g} trials/s" if pace >= 0.1 else f"{60 * pace:.2g} trials/min",
            "left": _left(progress, standing, done, course),
            "workers": self._workers(progress),
            "faults": f"{progress.faults} faults survived" if progress.faults else "",
        }

    def _workers(self, progress: Progress) -> str:
        """Who computes; where all workers have died there are none, which is not how it starts."""
        if progress.history.workers == 0:
            return "in this process"
        self._manned = self._manned or progress.alive > 0
        return f"{progress.alive} workers" if self._manned else "starting"


class _Rate:
    """How fast things grow, per second over about the last half minute."""

    def __init__(self) -> None:
        self._seen: dict[str, list[tuple[float, float]]] = {}

    def of(self, name: str, value: float) -> float:
        now = time.monotonic()
        seen = self._seen.setdefault(name, [])
        if not seen or value > seen[-1][1]:
            seen.append((now, value))
        while len(seen) > 2 and now - seen[0][0] > WINDOW:
            seen.pop(0)
        return (seen[-1][1] - seen[0][1]) / (now - seen[0][0]) if len(seen) > 1 and now > seen[0][0] else 0.0


def _panel(row: Mapping[str, Any]) -> Table:
    outer = Table.grid()
    outer.add_row(_bar(f"{row['trial']} {row['step']}".strip(), row))
    outer.add_row(plain(row["metrics"]))
    outer.add_row(plain("  ".join(t for t in (row["rate"], row["workers"], row["faults"]) if t), style="dim"))
    return outer


def _bar(title: str, row: Mapping[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row(
        plain(title, style="bold"),
        ProgressBar(total=1.0, completed=row["done"], width=30),
        plain(row["left"], style="cyan", no_wrap=True, overflow="ellipsis"),
    )
    return table


def _shown(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("test")}


def _line(text: str) -> str:
    """The beginning of the first line: an exception may be pages, and all of it is in `bilevel show RUN --trial N`."""
    whole = text.removesuffix("; trying again")
    ending = text[len(whole) :]
    shown = whole.partition("\n")[0][:LINE].rstrip()
    return shown + ("" if shown == whole.rstrip() else " …") + ending


# -- a search ----------------------------------------------------------------------------------------------------------


def _search_panel(progress: Progress, standing: Standing, row: Mapping[str, Any]) -> Table:
    outer = Table.grid()
    outer.add_row(_bar(row["trials"], row))
    if row["best"]:
        outer.add_row(plain(row["best"], style="green", no_wrap=True, overflow="ellipsis"))
    outer.add_row(plain("  ".join(t for t in (row["counts"], row["pace"], row["workers"], row["faults"]) if t)))
    numbers = list(progress.history.running)
    table = Table.grid(padding=(0, 2))
    for number in numbers[:TRIALS]:
        trial, last = progress.history.trials[number], _last(progress, standing, number)
        value = trial.metrics.get(progress.history.metric)
        step = f"step {trial.step}" + (f"/{last}" if last else "")
        shown = "" if value is None else f"{progress.history.metric} {value:.4g}"
        table.add_row(
            f"trial {number}",
            step,
            plain(shown),
            plain(brief(trial.point, 60), style="dim", no_wrap=True, overflow="ellipsis"),
        )
    if len(numbers) > TRIALS:
        table.add_row(f"and {len(numbers) - TRIALS} more")
    outer.add_row(table)
    if standing.search:
        outer.add_row(plain(standing.search, style="dim"))
    return outer


def _counted(standing: Standing, ended: int) -> str:
    """`24/60 trials`, as the user wrote them; with several seeds `12/25 configurations, 24/50 trials`."""
    done = ended - standing.confirming
    wanted = f"/{standing.trials}" if standing.trials is not None else ""
    text = f"{done}{wanted} trials"
    if standing.repeats > 1:
        of = f"/{standing.trials // standing.repeats}" if standing.trials is not None else ""
        text = f"{done // standing.repeats}{of} configurations, {text}"
    return text + (f", {standing.confirming} that confirm the leaders" if standing.confirming else "")


def _best(progress: Progress, standing: Standing) -> str:
    if standing.best is None:
        return ""
    trial = standing.best.trial
    half = f" ± {standing.best.half:.2g}" if standing.best.half is not None else ""
    text = f"best {progress.history.metric} {standing.best.mean:.5g}{half} (trial {trial.number}"
    text += f": {brief(trial.point)})" if trial.point else ")"
    return text + (f", {standing.front} on the Pareto front" if standing.front else "")


def _last(progress: Progress, standing: Standing, number: int) -> int | None:
    """The step at which a trial ends, if that is known."""
    steps = getattr(progress.running.get(number), "steps", None)
    return steps if isinstance(steps, int) else standing.last


def _part(progress: Progress, standing: Standing, number: int) -> float:
    """How much of a running trial is done."""
    last = _last(progress, standing, number)
    return min(1.0, progress.history.trials[number].step / last) if last else 0.0


def _left(progress: Progress, standing: Standing, done: float, course: float) -> str:
    """Until the last trial has ended or time is up, whichever comes first."""
    ways = []
    if standing.trials is not None and course > 0 and done >= min(1.0, TELLING * standing.trials):
        ways.append(((standing.trials - done) / course, "left"))
    if standing.limit is not None:
        ways.append((max(0.0, standing.limit - progress.seconds), "until the time limit"))
    if not ways:
        return ""
    seconds, words = min(ways)
    return f"{duration(seconds)} {words}"


# -- the end -----------------------------------------------------------------------------------------------------------


def results(
    document: Mapping[str, Any],
    point: Mapping[str, Any] | None = None,
    metric: str = "objective",
    tried: str = "",
) -> Group:
    """The small table at the end: before and after adaptation, with 95 % intervals, beside baselines.

    `point` are the searched values of the best trial, `metric` is what it is the best by, `tried` says how many
    configurations there were, where these are not the trials.
    """
    parts: list[Any] = [_headline(document, metric, tried)]
    if point:
        parts.append(plain(brief(point, 240)))
    metrics = document["metrics"]
    tables = _distributions(metrics)
    for prefix, title in tables.items():
        parts.append(_adaptation(metrics, prefix, title))
    if said := _normalization(metrics):
        parts.append(plain(said, "dim"))
    if not tables and metrics:
        best = document["best"] or {}
        whose = best.get("confirmed") or [best.get("trial")]
        alone = f"of trial {whose[0]} alone" if best.get("runs") else ""
        parts.append(_plain(metrics, alone))
    simpler = verdict(metrics)
    if simpler is not None:
        parts.append(plain(simpler, "yellow"))
    return Group(*parts)


def _headline(document: Mapping[str, Any], metric: str, tried: str) -> Text:
    counts = ", ".join(f"{n} {state}" for state, n in document["trials"].items() if n)
    counts = f"{tried}: {counts}" if tried and counts else counts
    best = document["best"]
    line = (
        f"{document['study']}: {document['status']} ({counts or 'no trial ended'}) in {duration(document['seconds'])}"
    )
    if document["episodes_per_second"]:
        line += f", {document['episodes_per_second']:.0f} episodes/s"
    if best is not None:
        half = f" ± {best['ci95']:.2g} over {best['runs']} seeds" if best.get("ci95") is not None else ""
        line += f"; best trial {best['trial']}, {metric} {best['objective']:.5g}{half}"
        line += " (the leading objective)" if document.get("pareto") else ""
        line += _which(best, early=bool(document["trials"].get("stopped")))
    if document.get("pareto"):
        count = len(document["pareto"])
        line += f"; {count} {'trial' if count == 1 else 'trials'} on the Pareto front"
    good = document["status"] == "completed"
    return plain(line, style="bold green" if good else "bold yellow")


def _which(best: Mapping[str, Any], *, early: bool) -> str:
    """Which value of the best trial counts: where trials are stopped `early`, or it is not its last, or confirmed."""
    confirmed, step, value = best.get("confirmed", []), best.get("step"), best.get("value", "best")
    trials = "trials" if len(confirmed) > 1 else "trial"
    said = [f"confirmed by {trials} {', '.join(map(str, confirmed))}"] if confirmed else []
    if step is not None and (early or value == "best"):
        said.append(f"its {value}, at step {step}")
    return f" ({'; '.join(said)})" if said else ""


def _distributions(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Prefixes of test metrics, and what each is called."""
    found: dict[str, str] = {}
    for name in metrics:
        prefix = name.rpartition("/")[0]
        if name.endswith("@0") and prefix.startswith("test") and prefix not in found:
            kind, _, rest = prefix.partition("/")
            policy = {"test": "", "test-support": "normalised by the support set", "test-batch": "by the query batch"}
            found[prefix] = ", ".join(part for part in ("test tasks", rest, policy.get(kind, kind)) if part)
    return found


_STATISTICS = {"batch": "the query batch", "support": "the support set", "frozen": "training data, frozen in eval mode"}


def _normalization(metrics: Mapping[str, Any]) -> str:
    """Which statistics the normalisations over the batch used in the main test."""
    counts = {whose: metrics.get(f"normalization/{policy}") for policy, whose in _STATISTICS.items()}
    said = [f"{count:.0f} by {whose}" for whose, count in counts.items() if count]
    return f"normalisation layers: {', '.join(said)}" if said else ""


def _adaptation(metrics: Mapping[str, Any], prefix: str, title: str) -> Table:
    table = Table(title=plain(title, "italic"), title_justify="left", header_style="bold", box=None, padding=(0, 2))
    kinds = sorted({m[1] for name in metrics if (m := re.fullmatch(re.escape(prefix) + r"/(\w+?)@\d+", name))})
    kinds = [kind for kind in kinds if not kind.endswith("_ci95") and not _same_as_accuracy(metrics, prefix, kind)]
    steps = sorted({int(name.rpartition("@")[2]) for name in metrics if name.startswith(prefix + "/") and "@" in name})
    table.add_column("after")
    widths = any(value is not None for name, value in metrics.items() if name.startswith(prefix) and "_ci95" in name)
    for kind in kinds:
        table.add_column(plain(kind.replace("_", " ") + (" (± 95 %)" if widths else "")), justify="right")
    for step in steps:
        cells = [_value(kind, metrics, f"{prefix}/{kind}@{step}", f"{prefix}/{kind}_ci95@{step}") for kind in kinds]
        name = {0: "no adaptation", 1: "1 step"}.get(step, f"{step} steps")
        table.add_row(name, *cells, style="bold" if step == steps[-1] else "")
    for label in _baselines(metrics, prefix):
        names = [f"{prefix}/{label}_{kind}" for kind in kinds]
        cells = [_value(k, metrics, name, f"{name}_ci95") for k, name in zip(kinds, names, strict=True)]
        table.add_row(plain(label.replace("_", " ")), *cells, style="dim")
    return table


def _baselines(metrics: Mapping[str, Any], prefix: str) -> list[str]:
    """Names of what was compared with, as far as it has one of the metrics that ours has."""
    pattern = re.compile(re.escape(prefix) + r"/([^/@]+?)_(balanced_accuracy|accuracy|auc|mae|loss)")
    return sorted({m[1] for name in metrics if (m := pattern.fullmatch(name))})


def _same_as_accuracy(metrics: Mapping[str, Any], prefix: str, kind: str) -> bool:
    """Whether a column would only repeat another one: where each query has as many of each class."""
    pairs = [
        (value, metrics.get(name.replace("balanced_accuracy", "accuracy")))
        for name, value in metrics.items()
        if name.startswith(prefix + "/") and "balanced_accuracy" in name and "_ci95" not in name
    ]
    return kind == "balanced_accuracy" and all(a is not None and b is not None and abs(a - b) < 1e-6 for a, b in pairs)


def _value(kind: str, metrics: Mapping[str, Any], name: str, half: str) -> str:
    if name not in metrics:
        return ""
    value, width = metrics[name], metrics.get(half)
    if value is None:
        return "not finite"
    share = kind in ("accuracy", "balanced_accuracy")
    spread = "" if width is None else (f" ± {100 * width:.1f}" if share else f" ± {width:.3g}")
    return f"{100 * value:.1f}{spread} %" if share else f"{value:.4g}{spread}"


def _plain(metrics: Mapping[str, Any], alone: str) -> Table:
    table = Table(header_style="bold", box=None, padding=(0, 2))
    table.add_column(plain(f"metric {alone}".rstrip()))
    table.add_column("value", justify="right")
    for name, value in sorted(metrics.items()):
        table.add_row(plain(name), "not finite" if value is None else f"{value:.5g}")
    return table
