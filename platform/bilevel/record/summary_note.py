"""What does somebody read first who opens a study in MLflow's dashboard? Its result, in Markdown."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bilevel.record.projection import LONGEST_TAG, paths
from bilevel.study import telling
from bilevel.study.history import History, Trial

LEADERS = 10  # rows of the table
FRONT = 20  # trials of a Pareto set that are shown
COLUMNS = 8  # values of a configuration that are shown


def note(run_id: str, result: Mapping[str, Any], history: History) -> str:
    """The study's page: what came out, who leads with which values, and how it did on test data."""
    best = result.get("best")
    trials = ", ".join(f"{count} {state}" for state, count in result.get("trials", {}).items() if count)
    tried = telling.tried(history)
    trials = f"{trials} ({tried})" if tried else trials
    lines = [f"**{result.get('study', run_id)}**: {result.get('status')}; trials: {trials or 'none'}"]
    if best:
        several = f" ± {_shown(best['ci95'])} over {best['runs']} seeds" if best.get("ci95") is not None else ""
        lines.append(f"Best: trial {best['trial']}, {_named(history)} {_shown(best['objective'])}{several}")
        if best.get("runs"):
            lines.append(f"The other metrics of this page are of trial {best['trial']} alone.")
    lines += [passed] if (passed := telling.passed(history)) else []
    found = _pareto(history) if len(history.objectives) > 1 else _leaders(history)
    for table in (found, _tests(result.get("metrics", {}))):
        if table:
            lines += ["", *table]
    while len("\n".join(lines)) > LONGEST_TAG:
        lines.pop()  # whole rows: half a table is read as none
    return "\n".join(lines)


def _named(history: History) -> str:
    """What a trial is the best by."""
    name = history.metric if history.metric == "objective" else f"objective ({history.metric})"
    return f"leading {name}" if len(history.objectives) > 1 else name


def _leaders(history: History) -> list[str]:
    """A table of the configurations that did best."""
    leaders = history.leaders(LEADERS)
    columns = _searched(leader.trial for leader in leaders)
    if len(leaders) < 2 or not columns:
        return []
    rows = [
        [
            str(leader.trial.number),
            _shown(leader.mean) if leader.half is None else f"{_shown(leader.mean)} ± {_shown(leader.half)}",
            *([str(leader.runs)] if any(other.runs > 1 for other in leaders) else []),
            *(_shown(leader.trial.config.get(path)) for path in columns),
        ]
        for leader in leaders
    ]
    runs = ["runs"] if any(leader.runs > 1 for leader in leaders) else []
    way = "smallest" if history.minimize else "largest"
    return _table(["trial", f"{history.metric} ({way} first)", *runs, *columns], rows)


def _pareto(history: History) -> list[str]:
    """A table of the trials that no other one beats in all objectives."""
    front = history.pareto()
    if not front:
        return []
    shown = sorted(front, key=lambda trial: trial.values[0], reverse=not history.minimize)[:FRONT]
    columns = _searched(shown)
    ways = [f"{name} ({'min' if minimize else 'max'})" for name, minimize in history.objectives.items()]
    rows = [[str(t.number), *map(_shown, t.values), *(_shown(t.config.get(path)) for path in columns)] for t in shown]
    more = f", {len(shown)} of them here" if len(shown) < len(front) else ""
    return [f"Pareto set: {len(front)} trials{more}", "", *_table(["trial", *ways, *columns], rows)]


def _tests(metrics: Mapping[str, Any]) -> list[str]:
    """A table of what was measured over test episodes."""
    rows = []
    for name, value in metrics.items():
        stem, at, step = name.partition("@")
        if stem.endswith("_ci95") or not name.startswith("test"):
            continue
        half = metrics.get(f"{stem}_ci95{at}{step}")
        rows.append([name, _shown(value), "" if half is None else f"± {_shown(half)}"])
    return _table(["over the test episodes", "value", "95 % interval"], rows[:100]) if rows else []


def _searched(trials: Iterable[Trial]) -> list[str]:
    """Paths of the searched values of some trials."""
    return list(dict.fromkeys(path for trial in trials for path in paths(trial.point)))[:COLUMNS]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in ([_escaped(cell) for cell in head], ["---"] * len(head), *rows)]


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if math.isfinite(value) else str(value)
    if value is None:
        return ""
    return _escaped(value if isinstance(value, str) else json.dumps(value))[:60]


def _escaped(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
