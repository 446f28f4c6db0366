"""What does a page that follows a run need to know? Plain values for JSON, of what the record holds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bilevel.figures import summary, web
from bilevel.figures.beside import thinned, whole
from bilevel.figures.chart import Axis, Chart, Layer, Panel, number, shown
from bilevel.figures.search import Array, Attempt, Reader
from bilevel.study import telling
from bilevel.study.events import Moved
from bilevel.study.history import ENDED, History, Trial

LONGEST = 300  # characters of a reason or a value in the table
TAIL = 48_000  # bytes of a log that are shown, from its end
FRONT = 2000  # trials of a front that are marked
PANELS = 6  # metrics of a trial with a curve of their own
WORDS = {
    "running": "running",
    "interrupted": "interrupted; it goes on with bilevel resume",
    "completed": "completed",
    "stopped": "stopped",
    "failed": "failed",
}
_ESCAPE = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-_])")
_CONTROL = {code: 0x2400 + code for code in range(32) if chr(code) not in "\n\t"} | {0x7F: 0x2421}

Curves = Mapping[str, Sequence[float]]
"""Of a trial: steps and values of each metric by turns, as they were reported."""


# -- a run -------------------------------------------------------------------------------------------------------------


def heading(reader: Reader, state: str, now: float) -> dict[str, Any]:
    """How a run stands: what is best, and what became of its trials."""
    history = reader.history
    names = history.objectives or ({history.metric: history.minimize} if history.metric else {})
    counts = {**history.ended, "running": len(history.running) if state == "running" else 0}
    counts["left off"] = len(history.running) - counts["running"]
    several = len(names) > 1
    return {
        "study": reader.started.study if reader.started is not None else "",
        "seed": reader.started.seed if reader.started is not None else None,
        "state": state,
        "words": WORDS.get(state, state) if reader.started is not None else "nothing has been written down yet",
        "over": state in ENDED,
        "seconds": seconds(reader, state, now),
        "last": reader.sessions[-1][1] if reader.sessions else None,
        "trials": len(history.trials),
        "counts": counts,
        "objectives": [{"name": name, "minimize": way} for name, way in names.items()],
        "best": _best(history),
        "rule": history.rule,
        "passed": telling.passed(history),
        "front": [t.number for t in history.pareto()][:FRONT] if several else [],
        "faults": sum(reader.faults.values()),
        "failures": _failures(history),
        "facts": _facts(reader),
    }


def seconds(reader: Reader, state: str, now: float) -> float:
    """Seconds at work: to the last thing that was written down, and while it runs to now."""
    at_work = sum(end - start for start, end in reader.sessions)
    if state == "running" and reader.sessions:
        at_work += max(0.0, now - reader.sessions[-1][1])
    return round(at_work, 1)


def _best(history: History) -> dict[str, Any] | None:
    leader = next(iter(history.leaders(1)), None)
    if leader is None:
        return None
    trial, alone = leader.trial, leader.counted[0]
    early = history.value == "best" and leader.runs < 2 and alone.best_step not in (None, alone.step)
    return {
        "trial": trial.number,
        "value": _finite(leader.mean),
        "text": f"{leader.mean:.5g}" + (f" ± {leader.half:.2g}" if leader.half is not None else ""),
        "seeds": leader.runs,
        "confirmed": [one.number for one in leader.counted] if alone.confirms else [],
        "metric": history.metric,
        "way": "lowest" if history.minimize else "highest",
        "step": alone.best_step if early else alone.step,
        "of": alone.step if early else None,
        "state": alone.state,
        "breaks": bool(trial.violation),
        "config": [[path, shown(value)] for path, value in trial.point.items()],
    }


def _failures(history: History) -> list[dict[str, Any]]:
    failed = [trial for trial in history.trials.values() if trial.state == "failed"] if history.ended["failed"] else []
    return [
        {"reason": failure.reason[:LONGEST], "count": len(failure.trials), "trials": summary.numbers(failure.trials)}
        for failure in summary.grouped(failed)[:10]
    ]


def _facts(reader: Reader) -> list[list[str]]:
    rows = []
    if reader.started is not None:
        rows += [["run", reader.started.run_id], ["seed", str(reader.started.seed)]]
    if reader.opened is not None:
        workers = reader.opened.workers
        where = "in one process" if workers == 0 else "all of its cluster" if workers is None else str(workers)
        rows += [["workers", where], ["hardware", reader.opened.hardware]]
        rows += [[f"{name} version", version] for name, version in reader.opened.versions.items()]
    rows += [[f"fault survived: {kind}", str(count)] for kind, count in reader.faults.items()]
    return rows


def row(trial: Trial, stays: Sequence[Attempt], running: bool) -> dict[str, Any]:
    """A trial's line in the table; `since`: when its stay that goes on began (unix time [s])."""
    open_ = stays[-1].began if running and stays and stays[-1].ended is None else None
    known = trial.objective if trial.state != "running" else trial.best
    values = list(trial.values) if trial.values else ([] if known is None else [known])
    return {
        "n": trial.number,
        "state": trial.state if trial.state != "running" or running else "left off",
        "step": trial.step,
        "values": [_finite(value) for value in values],
        "seconds": round(sum((stay.ended or stay.began) - stay.began for stay in stays), 2),
        "since": open_,
        "of": trial.of,
        "confirms": trial.confirms,
        "reason": (trial.reason or "")[:LONGEST],
        "tags": {name: word[:LONGEST] for name, word in trial.tags.items()},
        "breaks": _finite(trial.violation) if trial.violation else None,
        "point": {name: _plain(value) for name, value in trial.point.items()},
    }


# -- charts ------------------------------------------------------------------------------------------------------------


def chart(drawn: Chart) -> dict[str, Any]:
    """A chart as plotly.js draws it, with its words and its legend."""
    scale = drawn.scale
    return {
        "title": drawn.title,
        "caption": drawn.caption,
        "wide": drawn.wide or len(drawn.panels) == 1,
        "legend": [list(entry) for entry in web.legend(drawn)],
        "scale": None if scale is None else [scale.title, scale.low, scale.high],
        "panels": web.panels(drawn),
    }


# -- a trial -----------------------------------------------------------------------------------------------------------


def detail(
    history: History, trial: Trial, stays: Sequence[Attempt], moves: Sequence[Moved], curves: Curves, now: float
) -> dict[str, Any]:
    """All that the journal tells of a trial: configuration, metrics, curves, where it ran.

    Args:
        history, trial: of whom.
        stays, moves: where it ran; from whom it went on.
        curves: of its metrics.
        now: until when a stay lasts that has not ended (unix time [s]).
    """
    names = list(history.objectives) or [history.metric]
    return {
        "n": trial.number,
        "state": trial.state,
        "step": trial.step,
        "seed": trial.seed,
        "reason": trial.reason or "",
        "repeats": "" if trial.of is None else f"{'confirms' if trial.confirms else 'repeats'} trial {trial.of}",
        "breaks": number(trial.violation) if trial.violation else "",
        "objectives": [[n, f"{v:.6g}"] for n, v in zip(names, trial.values or _known(trial), strict=False)],
        "searched": [[path, shown(value)] for path, value in trial.point.items()],
        "config": [[path, shown(value)] for path, value in trial.config.items()],
        "metrics": [[name, f"{value:.6g}"] for name, value in sorted(trial.metrics.items())],
        "tags": [[name, word] for name, word in trial.tags.items()],
        "files": sorted(trial.files),
        "attempts": [
            [s.worker or "this process", s.step, s.fate, summary.duration(max(0.0, (s.ended or now) - s.began))]
            for s in stays
        ],
        "moves": [[m.step, m.donor, ", ".join(f"{n}={shown(v)}" for n, v in m.point.items())] for m in moves],
        "charts": [chart(drawn) for drawn in _metric_charts(history, curves)],
    }


def _known(trial: Trial) -> tuple[float, ...]:
    return () if trial.objective is None else (trial.objective,)


def _metric_charts(history: History, curves: Curves) -> list[Chart]:
    """A curve of each metric, the objectives first."""
    return [Chart(panel.y.title, panel.y.title, "", (panel,)) for panel in _metric_panels(history, curves)]


def metrics(history: History, curves: Curves) -> Chart | None:
    """Of a run of one trial, all its metrics but the objective, which has a chart of its own; None without any."""
    rest = {name: curve for name, curve in curves.items() if name != history.metric}
    panels = _metric_panels(history, rest)
    caption = f"The first {PANELS} of {len(rest)} by name; the others are in the trial's sheet as last reported."
    return Chart("metrics", "Metrics", caption if len(rest) > PANELS else "", tuple(panels)) if panels else None


def _metric_panels(history: History, curves: Curves) -> list[Panel]:
    first = [name for name in history.objectives if name in curves]
    names = [*first, *(name for name in sorted(curves) if name not in first)]
    made: list[Panel] = []
    for name in names:
        curve: Array = np.array(curves[name], dtype=np.float64).reshape(-1, 2)
        if np.isfinite(curve).all(axis=1).sum() < 2 or len(made) == PANELS:
            continue
        curve = thinned(curve)
        axis = whole(name, curve[:, 1])
        layer = Layer("line", curve[:, 0], axis.places(curve[:, 1]), trials=np.zeros(len(curve)))
        made.append(Panel(Axis("step", whole=True), axis, (layer,), height=0.6))
    return made


def log(path: Path, have: int | None) -> dict[str, Any]:
    """The end of what a trial printed; without its text where it is as long as what the page has already."""
    try:
        size = path.stat().st_size
    except OSError:
        return {"size": 0, "text": "", "cut": False}
    if size == have:
        return {"size": size}
    text, cut = tail(path)
    return {"size": size, "text": text, "cut": cut}


def tail(path: Path, most: int = TAIL) -> tuple[str, bool]:
    """The end of a file as it reads on a terminal, without colors; whether something is missing before it."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(0, size - most))
            data = file.read(most)
    except OSError:  # nothing was printed, or it was deleted
        return "", False
    if size > most:
        data = data.partition(b"\n")[2] or data
    text = _ESCAPE.sub("", data.decode("utf-8", errors="replace")).replace("\r\n", "\n")
    lines = [line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n")]  # a bar that is drawn over itself
    return "\n".join(lines).translate(_CONTROL), size > most


# -- several runs ------------------------------------------------------------------------------------------------------


def differences(documents: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """`[what, value of the first run, of the second, ...]` for each setting that is not the same in all."""
    settings = [_settings(document) for document in documents]
    names = dict.fromkeys(name for each in settings for name in each)
    rows = [[name, *(each.get(name, "–") for each in settings)] for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]


def _settings(document: Mapping[str, Any]) -> dict[str, str]:
    """What a run was begun with, in words."""
    settings = dict(document.get("settings") or {})
    found = {"study": str(document.get("name", "")), "file": Path(str(document.get("file") or "–")).name}
    found |= {name: shown(value) for name, value in settings.items() if name != "config"}
    found |= {str(path): shown(value)[:LONGEST] for path, value in dict(settings.get("config") or {}).items()}
    if document.get("sha256"):
        found["its source"] = str(document["sha256"])[:8]
    if document.get("arguments"):
        found["arguments"] = " ".join(map(str, document["arguments"]))
    return found


# -- values ------------------------------------------------------------------------------------------------------------


def _finite(value: float) -> float | None:
    return float(f"{value:.6g}") if math.isfinite(value) else None


def _plain(value: Any) -> Any:
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, int) and abs(value) < 1 << 53:
        return value
    if isinstance(value, float) and math.isfinite(value):
        return float(f"{value:.6g}")
    return shown(value)[:LONGEST]
