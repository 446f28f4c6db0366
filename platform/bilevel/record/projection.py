"""What of a journal goes into which MLflow run? A pure fold, so that the record can be written again from anywhere."""

from __future__ import annotations

import hashlib
import heapq
import json
import math
import posixpath
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

from bilevel.record.journal import Entry

LONGEST_NAME = 250  # characters, MLflow's limit for the key of a metric, parameter or tag
LONGEST_PARAM = 6000
LONGEST_TAG = 8000
STATUS = {"completed": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
NAMES = 4096  # whose written form is remembered: a study has few, and writes each thousands of times
COMPARED = 10  # trials named in the link that compares them; of more the link fills a screen
MOVES = 50  # of a member of a population, that its tag names
_LOGARITHMIC = {"Log", "LogInt", "LogNormal"}
_CHOICE = re.compile(r"\[[^]]*]")
_REFUSED = re.compile(r"[^/\w.\- :]")
_OURS = re.compile(r"objective|violation|config/.*|.* by adaptation step", re.DOTALL)  # names of our own metrics
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
    files: set[str] = field(default_factory=set)
    """Of a trial: those that are to be uploaded."""
    source: bool = False
    """The study's source is to be uploaded."""
    result: Mapping[str, Any] | None = None
    """The study's result; the model is to be uploaded with it."""


@dataclass
class _Open:
    """What is remembered of a run that has not ended."""

    born: int
    identity: dict[str, str]
    curves: dict[str, float] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    """The searched values that are numbers, by path."""
    before: dict[str, float] = field(default_factory=dict)
    """Those before its last move."""
    moves: list[str] = field(default_factory=list)


class Projection:
    """Collects pages from journal entries: `None` is the study's (the parent), a number is a trial's (a child)."""

    def __init__(self) -> None:
        self.study = ""
        self.run_id = ""
        self.minimize = True
        self.ended = False
        """Whether the study has ended, and was not extended since."""
        self.objectives: list[str] = []
        """What MLflow calls them, the leading one first."""
        self._metric = ""
        self._searched: Counter[str] = Counter()
        self.pages: dict[int | None, Page] = {}
        self._open: dict[int | None, _Open] = {}
        self._leaders: list[tuple[tuple[float, float, int], int]] = []  # a heap, the worst of them first
        self._log: frozenset[str] = frozenset()
        self._best: set[str] = set()
        self._population = False
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

    def leaders(self) -> list[int]:
        """The trials that did best so far, at most `COMPARED`, the best first."""
        return [trial for _, trial in sorted(self._leaders, reverse=True)]

    def searched(self) -> list[str]:
        """What MLflow calls the searched values that every trial has; on a logarithmic scale their logarithms."""
        most = max(self._searched.values(), default=0)
        return [name for name, count in self._searched.items() if count == most]

    # -- one method per event: the study -------------------------------------------------------------------------------

    def _started(self, event: dict[str, Any], now: int) -> None:
        self.study, self.run_id, self.minimize = event["study"], event["run_id"], event["minimize"]
        self._metric = event["metric"]
        self._log = frozenset(event.get("log", ()))
        self._open[None] = _Open(now, {"bilevel.kind": "study", "bilevel.run_id": self.run_id})
        ways = event.get("objectives") or {event["metric"]: "minimize" if self.minimize else "maximize"}
        self.objectives = ["objective", *(metric(name, self._metric) for name in list(ways)[1:])]
        page = self._page(None)
        page.tags["bilevel.seed"] = str(event["seed"])
        for way in ("minimize", "maximize"):
            names = [name for name, wanted in ways.items() if wanted == way]
            page.tags |= {f"bilevel.{way}": text(", ".join(names))} if names else {}

    def _opened(self, event: dict[str, Any], _: int) -> None:
        page = self._page(None)
        page.source = True
        page.tags |= {allowed(f"bilevel.version.{name}"): str(version) for name, version in event["versions"].items()}
        page.tags |= {"bilevel.hardware": str(event["hardware"]), "bilevel.code": str(event["code"])}
        page.tags["bilevel.workers"] = str(event["workers"])
        git = event.get("git")
        if git is not None:
            page.tags |= {"mlflow.source.git.commit": str(git.get("commit")), "bilevel.git.commit": str(git["commit"])}
            page.tags["bilevel.git.dirty"] = json.dumps(bool(git.get("dirty")))
        self._leave("RUNNING", None)  # those still open: after an interruption they are at work again

    def _fault(self, event: dict[str, Any], _: int) -> None:
        self._faults += 1
        self._page(None).tags |= {"bilevel.faults": str(self._faults), "bilevel.last_fault": text(event, 500)}

    def _interrupted(self, event: dict[str, Any], now: int) -> None:
        self._leave("KILLED", now)
        self._page(None).tags["bilevel.status"] = text(f"interrupted: {event['reason']}; can be resumed")

    def _finished(self, event: dict[str, Any], now: int) -> None:
        self._leave("KILLED", now)  # nothing stays RUNNING
        page, result, self.ended = self._page(None), event["result"], True
        page.status, page.since, page.result = STATUS[event["status"]], now, result
        trials = sum(result.get("trials", {}).values())
        numbers = {name: value for name, value in result.get("metrics", {}).items() if value is not None}
        points = [Point(metric(name, self._metric), float(value), now, trials) for name, value in numbers.items()]
        page.points += [point for point in points if point.name != "objective"]  # of the best, which is given below
        page.points += curves(numbers, now)
        page.tags["bilevel.status"] = event["status"]
        if result.get("fingerprint"):
            page.tags["bilevel.fingerprint"] = str(result["fingerprint"])
        best = result.get("best")
        if best:
            tags = {allowed(f"bilevel.best.{path}"): text(value) for path, value in best["config"].items()}
            page.tags |= dict.fromkeys(self._best - tags.keys(), "") | tags  # an extended study may have another best
            page.tags["bilevel.best_trial"] = str(best["trial"])
            self._best = set(tags)
            if best["objective"] is not None:
                page.points.append(Point("objective", float(best["objective"]), now, trials))

    # -- its trials ----------------------------------------------------------------------------------------------------

    def _asked(self, event: dict[str, Any], now: int) -> None:
        trial, self.ended = event["trial"], False
        numbers = _numbers(event["config"], event.get("point", {}))
        self._open[trial] = _Open(now, _identity(trial), numbers=numbers)
        page = self._page(trial)
        for path, value in event["config"].items():
            page.params |= _params(path, value, path in self._log and path in numbers, event["config"])
        for path in paths(event.get("point", {})):
            self._count(path, page)
        page.tags["bilevel.seed"] = str(event["seed"])
        if event.get("of") is not None:
            page.tags["bilevel.confirms" if event.get("confirms") else "bilevel.repeats"] = str(event["of"])
        if self._population:
            self._chart(trial, numbers, now, 0)

    def _begun(self, event: dict[str, Any], _: int) -> None:
        page = self._page(event["trial"])
        page.status, page.since = "RUNNING", None
        page.tags |= {"bilevel.attempt": str(event["attempt"]), "bilevel.worker": text(event["worker"], 500)}
        if event.get("why"):
            why = ": ".join(part for part in (event["why"], event.get("detail")) if part)
            page.tags["bilevel.attempt_why"] = text(why, 500)

    def _moved(self, event: dict[str, Any], now: int) -> None:
        """A param cannot change in MLflow: what a member's values were is a chart of metrics and a tag."""
        self._turned(event, now)
        trial, step = event["trial"], event["step"]
        own = self._open[trial]
        own.before = before = own.numbers
        own.numbers = _numbers(event["config"], event["point"])
        changed = {path: value for path, value in own.numbers.items() if value != before.get(path)}
        self._chart(
            trial, {path: before[path] for path in changed if path in before}, now - 1, step
        )  # a step, no slope
        self._chart(trial, changed, now, step)
        own.moves.append(f"step {step} from trial {event['donor']}")
        self._page(trial).tags["bilevel.moved"] = text("; ".join(own.moves[-MOVES:]))

    def _turned(self, _: dict[str, Any], __: int) -> None:
        """The study is a population: its charts begin where its members did."""
        if not self._population:
            self._population = True
            for trial, own in self._open.items():
                if trial is not None:
                    self._chart(trial, own.numbers, own.born, 0)

    def _reported(self, event: dict[str, Any], now: int) -> None:
        page = self._page(event["trial"])
        for name, value in event["metrics"].items():
            page.points.append(Point(metric(name, self._metric), float(value), now, event["step"]))
            if _BY_STEP.fullmatch(name):
                self._open[event["trial"]].curves[name] = float(value)
        for name, said in event.get("found", {}).items():
            log = bool(_LOGARITHMIC & {*said["dimension"]})
            page.params |= _params(name, said["value"], log, event["found"])
            self._count(name, page)

    def _tagged(self, event: dict[str, Any], _: int) -> None:
        tags = {tag(name): text(word) for name, word in event["tags"].items()}
        self._page(event["trial"]).tags |= tags

    def _left(self, event: dict[str, Any], _: int) -> None:
        self._page(event["trial"]).files |= {name for name, sha256 in event["files"].items() if sha256}

    def _ended(self, event: dict[str, Any], now: int) -> None:
        trial, step = event["trial"], event["step"]
        page, own = self._page(trial), self._open.pop(trial)
        if event.get("undone"):
            own.numbers = own.before
            page.tags["bilevel.moved"] = text("; ".join(own.moves[:-1][-MOVES:]))
        page.status, page.since = STATUS[event["state"]], now
        page.tags["bilevel.state"] = event["state"]
        page.tags |= {f"bilevel.{name}": text(event[name]) for name in ("reason", "learned") if event.get(name)}
        violation = float(event.get("violation") or 0.0)
        if violation:
            page.points.append(Point("violation", violation, now, step))
        if event["objective"] is not None:
            objective = float(event["objective"])
            page.points.append(Point("objective", objective, now, step))
            if event["state"] != "failed":
                self._rank(trial, violation, objective)
        page.points += curves(own.curves, now)
        if self._population:
            page.points += _chart(own.numbers, now, step)

    # -- what they share -----------------------------------------------------------------------------------------------

    def _page(self, run: int | None) -> Page:
        if run not in self.pages:
            own = self._open.get(run) or _Open(0, _identity(run))  # a trial that has ended is there already
            name = self.run_id if run is None else f"trial {run}"
            self.pages[run] = Page(name=name, identity=own.identity, born=own.born)
        return self.pages[run]

    def _leave(self, status: str, since: int | None) -> None:
        """Give all that has not ended a status."""
        for run in self._open:
            page = self._page(run)
            page.status, page.since = status, since

    def _count(self, path: str, page: Page) -> None:
        """A trial has this value; where it has its logarithm, too, that is what an axis shows."""
        names = [name for name in (allowed(path, "log10_"), allowed(path)) if name in page.params]
        self._searched.update(names[:1])

    def _chart(self, trial: int, numbers: Mapping[str, float], now: int, step: int) -> None:
        self._page(trial).points += _chart(numbers, now, step)

    def _rank(self, trial: int, violation: float, objective: float) -> None:
        key = (-violation, -objective if self.minimize else objective, -trial)
        heapq.heappush(self._leaders, (key, trial))
        if len(self._leaders) > COMPARED:
            heapq.heappop(self._leaders)


def _identity(trial: int | None) -> dict[str, str]:
    return {"bilevel.kind": "trial", "bilevel.trial": str(trial)}


def _params(path: str, value: Any, log: bool, others: Iterable[str]) -> dict[str, str]:
    """A value as a param; one on a logarithmic scale also as its logarithm, for the dashboard's axes are linear.

    Unless one of the others is called so.
    """
    params = {allowed(path): text(value, LONGEST_PARAM)}
    if log and value > 0 and f"log10_{path}" not in others:
        params[allowed(path, "log10_")] = f"{math.log10(value):.6g}"
    return params


def _chart(numbers: Mapping[str, float], now: int, step: int) -> list[Point]:
    return [Point(allowed(path, "config/"), float(value), now, step) for path, value in numbers.items()]


def _numbers(config: Mapping[str, Any], point: Mapping[str, Any]) -> dict[str, float]:
    """The searched values of a configuration that are numbers, by path."""
    values = {path: config.get(path) for path in paths(point)}
    return {path: value for path, value in values.items() if isinstance(value, int | float) and type(value) is not bool}


def paths(point: Mapping[str, Any]) -> list[str]:
    """Where searched values lie in a configuration; a parameter `opt[Adam].lr` lies at `opt.lr`."""
    return [_CHOICE.sub("", name) for name in point]


@lru_cache(NAMES)
def metric(name: str, objective: str) -> str:
    """What a metric of the user's is called: not as one of ours; `objective` is ours unless it is the study's own."""
    if _OURS.fullmatch(name) and not name == objective == "objective":
        return _marked(_readable(name), name)
    return allowed(name)


@lru_cache(NAMES)
def allowed(name: str, before: str = "") -> str:
    """A name that MLflow takes, still readable, and no other's: `test/accuracy@3` becomes `test/accuracy at 3`.

    What cannot be read back from what is written ends in a mark: `m<` becomes `m_-...`. It depends on the name alone,
    and not on what is put `before` it, so that a run that goes on, or a reader, finds the same.
    """
    written = _readable(before + name)
    return written if written.replace(" at ", "@") == before + name else _marked(written, name)


@lru_cache(NAMES)
def tag(name: str) -> str:
    """What a tag of the user's own is called: a note is what MLflow shows as such, and none is one of ours."""
    if name == "note":
        return "mlflow.note.content"
    return allowed(name, "tag." if name.startswith(("mlflow.", "bilevel.")) else "")


def _readable(name: str) -> str:
    name = _REFUSED.sub("_", name.replace("@", " at "))[:LONGEST_NAME].strip()
    if posixpath.normpath(name) != name or name.startswith(("..", "/")) or name == ".":
        name = name.replace("/", "_").replace(".", "_") or "_"  # MLflow refuses names that are no plain path
    return name


def _marked(written: str, name: str) -> str:
    mark = "-" + hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:8]
    return written[: LONGEST_NAME - len(mark)] + mark


def curves(metrics: Mapping[str, float], now: int) -> list[Point]:
    """`test/accuracy@k` for all k as one metric over the adaptation step, so that the dashboard draws the curve."""
    found = ((_BY_STEP.fullmatch(name), value) for name, value in metrics.items())
    return [
        Point(allowed(f"{match['curve']} by adaptation step"), float(value), now, int(match["step"]))
        for match, value in found
        if match
    ]


def text(value: Any, longest: int = LONGEST_TAG) -> str:
    """A value as text that every database takes: no lone surrogates, no NUL."""
    words = value if isinstance(value, str) else json.dumps(value)
    words = words.encode(errors="replace").decode().replace("\0", "?")
    return words if len(words) <= longest else words[: longest - 1] + "…"
