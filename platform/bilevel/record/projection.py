"""What of a journal goes into which MLflow run? A pure fold, so that the record can be written again from anywhere."""

from __future__ import annotations

import json
import math
import posixpath
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from bilevel.record.journal import Entry

LONGEST_NAME = 250  # characters, MLflow's limit for the key of a metric, parameter or tag
LONGEST_PARAM = 6000
LONGEST_TAG = 8000
STATUS = {"completed": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
_REFUSED = re.compile(r"[^/\w.\- :]")
_BY_STEP = re.compile(r"(?P<curve>test.*)@(?P<step>\d+)")


class Point(NamedTuple):
    """A metric's value; hashable, and the same each time that the journal is read."""

    name: str
    value: float
    milliseconds: int
    step: int


@dataclass
class Page:
    """What one MLflow run is to be given. Writing a page twice is the same as writing it once."""

    name: str
    tags: dict[str, str] = field(default_factory=dict)
    params: dict[str, str] = field(default_factory=dict)
    points: list[Point] = field(default_factory=list)
    status: str | None = None
    """The status to leave the run in, or None for as it is."""
    since: int | None = None
    """Unix time [ms] at which the run began or, with a status other than RUNNING, ended."""
    identity: dict[str, str] = field(default_factory=dict)
    """Tags by which the run is found again, set when it is created."""
    born: int = 0
    """Unix time [ms] of creation."""
    source: bool = False
    """The study's source is to be uploaded."""
    result: Mapping[str, Any] | None = None
    """The study's result; figures and model are to be uploaded with it."""


class Projection:
    """Collects pages from journal entries: `None` is the study's (the parent), a number is a trial's (a child)."""

    def __init__(self) -> None:
        self.study = ""
        self.run_id = ""
        self.minimize = True
        self.pages: dict[int | None, Page] = {}
        self._born: dict[int | None, tuple[int, dict[str, str]]] = {}
        self._curves: dict[int, dict[str, float]] = {}
        self._faults = 0

    def turn(self) -> dict[int | None, Page]:
        """The pages collected since the last call, the parent's first."""
        pages, self.pages = self.pages, {}
        return dict(sorted(pages.items(), key=lambda item: -1 if item[0] is None else item[0]))

    def take(self, entry: Entry) -> None:
        """Collect what an entry says; events that MLflow need not know are passed over."""
        act = getattr(self, f"_{entry.event['event']}", None)
        if act is not None:
            act(entry.event, round(entry.t * 1000))

    # -- one method per event ------------------------------------------------------------------------------------------

    def _started(self, event: dict[str, Any], now: int) -> None:
        self.study, self.run_id, self.minimize = event["study"], event["run_id"], event["minimize"]
        self._born[None] = (now, {"bilevel.kind": "study", "bilevel.run_id": self.run_id})
        direction = "minimize" if self.minimize else "maximize"
        self._page(None).tags |= {"bilevel.seed": str(event["seed"]), f"bilevel.{direction}": event["metric"]}

    def _opened(self, event: dict[str, Any], _: int) -> None:
        page = self._page(None)
        page.source = True
        page.tags |= {f"bilevel.version.{name}": str(version) for name, version in event["versions"].items()}
        page.tags |= {"bilevel.hardware": str(event["hardware"]), "bilevel.code": str(event["code"])}
        page.tags["bilevel.workers"] = str(event["workers"])
        git = event.get("git")
        if git is not None:
            page.tags |= {"mlflow.source.git.commit": str(git.get("commit")), "bilevel.git.commit": str(git["commit"])}
            page.tags["bilevel.git.dirty"] = json.dumps(bool(git.get("dirty")))
        for run in self._born:  # those still open: after an interruption they are at work again
            self._page(run).status, self._page(run).since = "RUNNING", None

    def _asked(self, event: dict[str, Any], now: int) -> None:
        trial = event["trial"]
        self._born.setdefault(trial, (now, {"bilevel.kind": "trial", "bilevel.trial": str(trial)}))
        page = self._page(trial)
        page.params |= {allowed(path): _text(value, LONGEST_PARAM) for path, value in event["config"].items()}
        page.tags["bilevel.seed"] = str(event["seed"])

    def _reported(self, event: dict[str, Any], now: int) -> None:
        page = self._page(event["trial"])
        for name, value in event["metrics"].items():
            page.points.append(Point(allowed(name), float(value), now, event["step"]))
            if _BY_STEP.fullmatch(name):
                self._curves.setdefault(event["trial"], {})[name] = float(value)

    def _fault(self, event: dict[str, Any], _: int) -> None:
        self._faults += 1
        self._page(None).tags |= {"bilevel.faults": str(self._faults), "bilevel.last_fault": _text(event, 500)}

    def _ended(self, event: dict[str, Any], now: int) -> None:
        trial = event["trial"]
        page = self._page(trial)
        page.status, page.since = STATUS[event["state"]], now
        page.tags["bilevel.state"] = event["state"]
        page.tags |= {f"bilevel.{name}": _text(event[name]) for name in ("reason", "learned") if event.get(name)}
        if event["objective"] is not None:
            page.points.append(Point("objective", float(event["objective"]), now, event["step"]))
        page.points += curves(self._curves.pop(trial, {}), now)
        del self._born[trial]

    def _interrupted(self, event: dict[str, Any], now: int) -> None:
        for run in self._born:
            self._page(run).status, self._page(run).since = "KILLED", now
        self._page(None).tags["bilevel.status"] = f"interrupted: {event['reason']}; can be resumed"

    def _finished(self, event: dict[str, Any], now: int) -> None:
        page, result = self._page(None), event["result"]
        page.status, page.since, page.result = STATUS[event["status"]], now, result
        trials = sum(result.get("trials", {}).values())
        numbers = {name: value for name, value in result.get("metrics", {}).items() if value is not None}
        page.points += [Point(allowed(name), float(value), now, trials) for name, value in numbers.items()]
        page.points += curves(numbers, now)
        page.tags |= {"bilevel.status": event["status"], "mlflow.note.content": note(self.run_id, result)}
        if result.get("fingerprint"):
            page.tags["bilevel.fingerprint"] = str(result["fingerprint"])
        best = result.get("best")
        if best:
            page.tags |= {f"bilevel.best.{allowed(path)}": _text(value) for path, value in best["config"].items()}
            page.tags["bilevel.best_trial"] = str(best["trial"])
            if best["objective"] is not None:
                page.points.append(Point("objective", float(best["objective"]), now, trials))

    def _page(self, run: int | None) -> Page:
        if run not in self.pages:
            born, identity = self._born[run]
            name = self.run_id if run is None else f"trial {run}"
            self.pages[run] = Page(name=name, identity=identity, born=born)
        return self.pages[run]


def allowed(name: str) -> str:
    """A name that MLflow takes, still readable: `test/accuracy@3` becomes `test/accuracy at 3`."""
    name = _REFUSED.sub("_", name.replace("@", " at "))[:LONGEST_NAME].strip()
    if posixpath.normpath(name) != name or name.startswith(("..", "/")) or name == ".":
        name = name.replace("/", "_").replace(".", "_") or "_"  # MLflow refuses names that are no plain path
    return name


def curves(metrics: Mapping[str, float], now: int) -> list[Point]:
    """`test/accuracy@k` for all k as one metric over the adaptation step, so that the dashboard draws the curve."""
    found = ((_BY_STEP.fullmatch(name), value) for name, value in metrics.items())
    return [
        Point(allowed(f"{match['curve']} by adaptation step"), float(value), now, int(match["step"]))
        for match, value in found
        if match
    ]


def note(run_id: str, result: Mapping[str, Any]) -> str:
    """The study's page in Markdown: what came out, for somebody who opens the run in the dashboard."""
    best = result.get("best")
    trials = ", ".join(f"{count} {state}" for state, count in result.get("trials", {}).items() if count)
    lines = [f"**{result.get('study', run_id)}**: {result.get('status')}; trials: {trials or 'none'}"]
    if best:
        lines.append(f"Best: trial {best['trial']}, objective {_number(best['objective'])}")
    metrics = result.get("metrics", {})
    rows = []
    for name, value in metrics.items():
        stem, at, step = name.partition("@")
        if stem.endswith("_ci95") or not name.startswith("test"):
            continue
        half = metrics.get(f"{stem}_ci95{at}{step}")
        rows.append(f"| {name} | {_number(value)} | {'' if half is None else '± ' + _number(half)} |")
    if rows:
        lines += ["", "| over the test episodes | value | 95 % interval |", "|---|---|---|", *rows[:100]]
    return "\n".join(lines)[:LONGEST_TAG]


def _number(value: float | None) -> str:
    return "none" if value is None or not math.isfinite(value) else f"{value:.4g}"


def _text(value: Any, longest: int = LONGEST_TAG) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= longest else text[: longest - 1] + "…"
