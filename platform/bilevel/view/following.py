"""How does a run stand while it grows? What a page has not seen yet of it, from its journal read as it is written."""

from __future__ import annotations

import json
import secrets
import threading
import time
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from bilevel.errors import BadInput, RecordDamaged
from bilevel.figures import Search, beside, charts, views
from bilevel.figures.chart import Chart
from bilevel.figures.gallery import attempt
from bilevel.figures.importance import Importance, importance
from bilevel.figures.search import Reader
from bilevel.figures.values import ordered
from bilevel.record import journal
from bilevel.record.folder import RunFolder
from bilevel.record.tail import Tail
from bilevel.study.events import Asked, Begun, Ended, Event, Kept, Left, Moved, Reported, Tagged
from bilevel.study.history import ENDED
from bilevel.view import live

SHARE = 10.0  # a picture is drawn again after so many times the seconds that it took: trials need the machine, too
DEAR = 30.0  # the same of importance, whose forests take seconds of many trials
STANDING = 2.0  # seconds between looks at whether a driver is at work
OF_TRIAL = Asked | Begun | Moved | Reported | Tagged | Left | Kept | Ended


class Pace:
    """Does again what is dear, but only so often that it takes a small share of the time."""

    def __init__(self, share: float) -> None:
        self.share = share
        self.done: Any = None
        self._cost = 0.0
        self._at = -float("inf")

    def due(self, what: Any, *, soon: bool = False) -> bool:
        """Whether it is to be done for this (any value that changes when the outcome may); `soon`: at any cost."""
        return bool(what != self.done) and (soon or time.monotonic() - self._at >= self.share * self._cost)

    def do(self, what: Any, make: Callable[[], Any]) -> Any:
        """Do it, whatever its pace."""
        began = time.monotonic()
        made = make()
        self._at = time.monotonic()
        self._cost, self.done = self._at - began, what
        return made


@dataclass
class _Known:
    """What was made of the events so far; `changed`: at which tick a trial changed last."""

    reader: Reader = field(default_factory=Reader)
    epoch: str = field(default_factory=lambda: secrets.token_hex(4))
    tick: int = 0
    changed: dict[int, int] = field(default_factory=dict)
    curves: dict[int, dict[str, array[float]]] = field(default_factory=dict)
    names: dict[str, None] = field(default_factory=dict)
    pictures: dict[str, tuple[int, str]] = field(default_factory=dict)
    drawn: int = 0
    order: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    broken: str = ""

    def take(self, when: float, event: Event) -> None:
        """One more event."""
        self.reader.take(when, event)
        self.tick += 1
        if not isinstance(event, OF_TRIAL):
            return
        self.changed[event.trial] = self.tick
        if isinstance(event, Asked | Moved):
            self.names |= dict.fromkeys(event.point)
        elif isinstance(event, Reported):
            self.names |= dict.fromkeys(event.found)
            for name, value in event.metrics.items():
                curve = self.curves.setdefault(event.trial, {}).setdefault(name, array("d"))
                if curve and event.step <= curve[-2]:  # a retry: its curve begins anew
                    curve.extend((float("nan"), float("nan")))
                curve.extend((event.step, value))


class Following:
    """A run that is followed; any thread may ask, one (`draw`) draws.

    Args:
        folder: the run's.
        share: see `SHARE`; 0: everything is done at once, whatever it takes.
    """

    def __init__(self, folder: RunFolder, share: float = SHARE) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._known = _Known()
        self._tail = Tail(folder.journal)
        self._problem = self._short = ""
        self._standing = ("", -float("inf"))
        self._heading: dict[str, Any] = {}
        self._heads, self._draws, self._matters = Pace(share), Pace(share), Pace(share and DEAR)
        self._importance: Importance | None = None
        self.search: Search | None = None
        """As it was last drawn."""

    # -- what a page asks ----------------------------------------------------------------------------------------------

    def said(self, at: str) -> dict[str, Any]:
        """What is new since a position that an earlier answer gave; all of it, where there is none such."""
        with self._lock:
            self._look()
            known = self._known
            epoch, tick, drawn = _position(at)
            whole = epoch != known.epoch
            tick, drawn = (0, 0) if whole else (tick, drawn)
            running = self._stands() == "running"
            rows = [
                live.row(known.reader.history.trials[number], known.reader.open[number].attempts, running)
                for number, when in known.changed.items()
                if when > tick
            ]
            pictures = {name: json.loads(text) for name, (when, text) in known.pictures.items() if when > drawn}
            return {
                "run": self.folder.run_id,
                "at": f"{known.epoch}-{known.tick}-{known.drawn}",
                "whole": whole,
                "problem": self._problem or self._short,
                "head": self._head(),
                "names": list(known.names),
                "rows": rows,
                "order": known.order,
                "pictures": pictures,
                "failed": known.failed,
                "drawing": self._draws.done != self._what(),
                "more": self._draws.done is None,
            }

    def trial(self, number: int, have: int | None) -> dict[str, Any]:
        """All of a trial; `have`: bytes of its log that the page has seen.

        Raises:
            BadInput: there is none such.
        """
        with self._lock:
            self._look()
            known = self._known
            history = known.reader.history
            if number not in history.trials:
                raise BadInput(f"{self.folder.run_id}: no trial {number}")
            track, trial, running = known.reader.open[number], history.trials[number], self._stands() == "running"
            now = time.time() if running else known.reader.sessions[-1][1]
            curves = known.curves.get(number, {})
            said = live.detail(history, trial, track.attempts, track.moves, curves, now)
            if trial.state == "running" and not running:
                said["state"] = "left off"
        raised, _ = live.tail(self.folder.error_of(number))
        return said | {"error": raised, "log": live.log(self.folder.log_of(number), have)}

    # -- what is known -------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Take in what was written since."""
        begun = self._known.reader.started is not None
        news = self._tail.news()
        if news.anew:
            self._known, self._importance, self.search = _Known(), None, None
            for pace in (self._heads, self._draws, self._matters):
                pace.done = None
        for when, event in news.entries:
            if self._known.broken:
                break
            try:
                self._known.take(when, event)
            except Exception as error:  # noqa: BLE001 - said on the page, which goes on showing what came before
                self._known.broken = f"{self.folder.journal}: cannot be followed: {type(error).__name__}: {error}"
        self._problem = news.problem or self._known.broken
        if news.anew or (news.entries and not begun):
            self._short = journal.lost(self.folder.journal)

    def _stands(self) -> str:
        """The run's status; where no event says so, looked up every few seconds."""
        status = self._known.reader.history.status
        if status in ENDED:
            return str(status)
        state, when = self._standing
        if time.monotonic() - when > STANDING:
            state = self.folder.standing(self._known.reader.history)
            if state != self._standing[0]:  # the lines of trials that have not ended say another thing now
                self._known.tick += 1
                self._known.changed |= dict.fromkeys(self._known.reader.history.running, self._known.tick)
            self._standing = (state, time.monotonic())
        return state

    def _what(self) -> Any:
        """What decides how all looks."""
        return self._known.epoch, self._known.tick, self._stands()

    def _head(self) -> dict[str, Any]:
        pace, what = self._heads, self._what()
        now, state = time.time(), self._stands()
        if pace.due(what):
            self._heading = pace.do(what, lambda: live.heading(self._known.reader, state, now))
        return self._heading | {"seconds": live.seconds(self._known.reader, state, now)}

    # -- pictures ------------------------------------------------------------------------------------------------------

    def draw(self) -> bool:
        """Draw what is due, and whether anything was; for one thread, while others ask."""
        pace = self._draws
        with self._lock:
            self._look()
            what, epoch = self._what(), self._known.epoch
            ended = sum(self._known.reader.history.ended.values())
            late = bool(self._known.drawn) and self._matters.due(ended, soon=self._stands() != "running")
            if not pace.due(what) and not late:  # what matters may have been left for later, and nothing new come
                return False
            search, running = self._known.reader.search(), self._stands() == "running"
            only = next(iter(search.history.trials)) if len(search.history.trials) == 1 else None
            curves = {} if only is None else {n: c[:] for n, c in self._known.curves.get(only, {}).items()}
            first = pace.share > 0 and not self._known.drawn
        if first:  # what matters takes seconds: what does not need it comes at once, all of it with the next look
            made, failed = self._first(search, running)
        else:
            made, failed = pace.do(what, lambda: self._drawn(search, running, curves))
        found = [parameter.name for parameter in ordered(search, self._importance)]
        with self._lock:
            known = self._known
            if known.epoch != epoch:
                return True
            self.search = search
            known.drawn += 1
            for name, chart in made.items():
                text = json.dumps(live.chart(chart), separators=(",", ":"), allow_nan=False)
                if known.pictures.get(name, (0, ""))[1] != text:
                    known.pictures[name] = (known.drawn, text)
            known.order, known.failed = list(made), failed
            known.names = dict.fromkeys(found) | known.names
        return True

    @staticmethod
    def _first(search: Search, running: bool) -> tuple[dict[str, Chart], dict[str, str]]:
        """What is drawn in no time."""
        several = len(search.history.trials) > 1
        makers = [views.best_so_far, views.pareto_front, views.learning_curves] if several else []
        makers = [*([beside.running_curves] if running else []), *makers]
        drawn = [attempt(make.__name__, partial(make, search), lambda *_: None) for make in makers]  # it is tried again
        return {chart.name: chart for chart in drawn if chart is not None}, {}

    def _drawn(self, search: Search, running: bool, curves: live.Curves) -> tuple[dict[str, Chart], dict[str, str]]:
        failed: dict[str, str] = {}

        def fail(name: str, error: Exception) -> None:
            failed[name] = f"{type(error).__name__}: {error}"

        pace, what = self._matters, sum(search.history.ended.values())
        if pace.due(what, soon=not running):
            self._importance = pace.do(what, lambda: attempt("parameter_importance", lambda: importance(search), fail))
        made: list[Chart] = charts(search, self._importance, fail)
        now = attempt("running", lambda: beside.running_curves(search), fail) if running else None
        more = attempt("metrics", lambda: live.metrics(search.history, curves), fail)
        return {chart.name: chart for chart in (now, *made, more) if chart is not None}, failed


def _position(at: str) -> tuple[str, int, int]:
    epoch, _, rest = at.partition("-")
    tick, _, drawn = rest.partition("-")
    if not (tick.isascii() and tick.isdigit() and drawn.isascii() and drawn.isdigit()):
        return "", 0, 0
    return epoch, int(tick[:18]), int(drawn[:18])


class Together:
    """Several runs that are followed, and what is said of them together."""

    def __init__(self, runs: Sequence[Following]) -> None:
        self.runs = runs
        self._beside: tuple[int, dict[str, Any] | None] = (0, None)  # when it was drawn, and as what

    def said(self, at: Sequence[str], drawn: int) -> dict[str, Any]:
        """What is new since these positions, one for each run, and since that picture of all of them."""
        places = [*at, *[""] * len(self.runs)]
        said = [run.said(place) for run, place in zip(self.runs, places, strict=False)]
        answer: dict[str, Any] = {"now": time.time(), "runs": said, "beside": self._beside[0]}
        if len(self.runs) > 1 and drawn != self._beside[0]:
            answer |= {"picture": self._beside[1]}
        if len(self.runs) > 1 and not drawn:
            answer |= {"differences": live.differences([_document(run.folder) for run in self.runs])}
        return answer

    def draw(self) -> None:
        """Draw what is due."""
        changed = [run.draw() for run in self.runs]
        if len(self.runs) < 2 or not any(changed):
            return
        names = [run.folder.run_id for run in self.runs]
        searches = {name: run.search for name, run in zip(names, self.runs, strict=True) if run.search is not None}
        picture = beside.studies(searches)
        self._beside = (time.time_ns() // 1_000_000, None if picture is None else live.chart(picture))


def _document(folder: RunFolder) -> Mapping[str, Any]:
    """study.json; empty where it is damaged: what it would say is left out then."""
    try:
        return folder.document()
    except RecordDamaged:
        return {}
