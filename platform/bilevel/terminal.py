"""What does a person see while a study runs, and at its end? Live on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from bilevel.history import Trial
from bilevel.progress import Progress

LINE_EVERY = 10.0  # seconds between plain lines


class Screen:
    """A watch for people: a live panel on a terminal, a line now and then elsewhere; all of it on standard error."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._line_at = -math.inf
        self._rate = _Rate()

    def __enter__(self) -> Screen:
        if self.console.is_terminal:
            self._live = Live(console=self.console, refresh_per_second=4, transient=True)
            self._live.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        if self._live is not None:
            self._live.__exit__(None, None, None)
            self._live = None

    def progress(self, progress: Progress) -> None:
        """Show where the study stands."""
        rows = [self._row(progress, number, config) for number, config in progress.running.items()]
        if self._live is not None:
            self._live.update(Group(*(_panel(row) for row in rows)))
        elif time.monotonic() - self._line_at >= LINE_EVERY and rows:
            self._line_at = time.monotonic()
            for row in rows:
                self.console.print(" · ".join(text for text in row.values() if text and not isinstance(text, float)))

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, style="yellow", markup=False)

    def _row(self, progress: Progress, number: int, config: Any) -> dict[str, Any]:
        trial: Trial = progress.history.trials[number]
        steps, episodes = getattr(config, "steps", None), getattr(config, "episodes", None)
        rate = self._rate.of(number, trial.step)
        left = (steps - trial.step) / rate if isinstance(steps, int) and rate > 0 else None
        workers = f"{progress.alive} workers" if progress.alive else ("in this process" if trial.step else "starting")
        return {
            "trial": f"trial {number}" if len(progress.history.trials) > 1 else "",
            "step": f"step {trial.step}" + (f"/{steps}" if isinstance(steps, int) else ""),
            "done": trial.step / steps if isinstance(steps, int) and steps else 0.0,
            "metrics": "  ".join(f"{name} {value:.4g}" for name, value in _shown(trial.metrics).items()),
            "rate": f"{rate * episodes:.0f} episodes/s" if isinstance(episodes, int) and rate else "",
            "left": f"{_time(left)} left" if left is not None else "",
            "workers": workers,
            "faults": f"{progress.faults} faults survived" if progress.faults else "",
        }


class _Rate:
    """Steps per second over about the last half minute."""

    def __init__(self) -> None:
        self._seen: dict[int, list[tuple[float, int]]] = {}

    def of(self, trial: int, step: int) -> float:
        now = time.monotonic()
        seen = self._seen.setdefault(trial, [])
        if not seen or step > seen[-1][1]:
            seen.append((now, step))
        while len(seen) > 2 and now - seen[0][0] > 30:
            seen.pop(0)
        return (seen[-1][1] - seen[0][1]) / (now - seen[0][0]) if len(seen) > 1 and now > seen[0][0] else 0.0


def _panel(row: Mapping[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row(
        Text(f"{row['trial']} {row['step']}".strip(), style="bold"),
        ProgressBar(total=1.0, completed=row["done"], width=30),
        Text(row["left"], style="cyan"),
    )
    outer = Table.grid()
    outer.add_row(table)
    outer.add_row(Text(row["metrics"]))
    outer.add_row(Text("  ".join(t for t in (row["rate"], row["workers"], row["faults"]) if t), style="dim"))
    return outer


def _shown(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if not name.startswith("test")}


def results(document: Mapping[str, Any]) -> Group:
    """The small table at the end: before and after adaptation, with 95 % intervals, beside baselines."""
    parts: list[Any] = [_headline(document)]
    metrics = document["metrics"]
    tables = _distributions(metrics)
    for prefix, title in tables.items():
        parts.append(_adaptation(metrics, prefix, title))
    if not tables and metrics:
        parts.append(_plain(metrics))
    return Group(*parts)


def _headline(document: Mapping[str, Any]) -> Text:
    counts = ", ".join(f"{n} {state}" for state, n in document["trials"].items() if n)
    best = document["best"]
    line = f"{document['study']}: {document['status']} ({counts or 'no trial ended'}) in {_time(document['seconds'])}"
    if document["episodes_per_second"]:
        line += f", {document['episodes_per_second']:.0f} episodes/s"
    if best is not None:
        line += f"; best trial {best['trial']}, objective {best['objective']:.5g}"
    good = document["status"] == "completed"
    return Text(line, style="bold green" if good else "bold yellow")


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


def _adaptation(metrics: Mapping[str, Any], prefix: str, title: str) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="italic", header_style="bold", box=None, padding=(0, 2)
    )
    kinds = sorted({m[1] for name in metrics if (m := re.fullmatch(re.escape(prefix) + r"/(\w+?)@\d+", name))})
    kinds = [kind for kind in kinds if not kind.endswith("_ci95")]
    steps = sorted({int(name.rpartition("@")[2]) for name in metrics if name.startswith(prefix + "/") and "@" in name})
    table.add_column("after")
    for kind in kinds:
        table.add_column(f"{kind} (± 95 %)", justify="right")
    for step in steps:
        cells = [_value(kind, metrics, f"{prefix}/{kind}@{step}", f"{prefix}/{kind}_ci95@{step}") for kind in kinds]
        name = {0: "no adaptation", 1: "1 step"}.get(step, f"{step} steps")
        table.add_row(name, *cells, style="bold" if step == steps[-1] else "")
    plain = [n for n in metrics if n.startswith(prefix + "/") and "@" not in n and n.rpartition("/")[0] == prefix]
    for name in sorted(n for n in plain if not n.endswith("_ci95")):
        label = name.rpartition("/")[2]
        kind = next((k for k in kinds if label.endswith("_" + k)), None)
        if kind is not None:
            cells = [_value(k, metrics, name, f"{name}_ci95") if k == kind else "" for k in kinds]
            table.add_row(label.removesuffix("_" + kind).replace("_", " "), *cells, style="dim")
    return table


def _value(kind: str, metrics: Mapping[str, Any], name: str, half: str) -> str:
    value, width = metrics.get(name), metrics.get(half)
    if value is None:
        return "not finite"
    spread = "" if width is None else (f" ± {100 * width:.1f}" if kind == "accuracy" else f" ± {width:.3g}")
    return f"{100 * value:.1f}{spread} %" if kind == "accuracy" else f"{value:.4g}{spread}"


def _plain(metrics: Mapping[str, Any]) -> Table:
    table = Table(header_style="bold", box=None, padding=(0, 2))
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in sorted(metrics.items()):
        table.add_row(name, "not finite" if value is None else f"{value:.5g}")
    return table


def _time(seconds: float) -> str:
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
