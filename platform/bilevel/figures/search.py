"""What are the views of a search drawn from? Its history with times, places and curves, read from a journal."""

from __future__ import annotations

import bisect
import math
from array import array
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bilevel.figures import inferred
from bilevel.space.dimensions import Parameter
from bilevel.study.events import (
    Asked,
    Begun,
    Ended,
    Event,
    Fault,
    Finished,
    Moved,
    Opened,
    Reported,
    Started,
    Steered,
    Tagged,
)
from bilevel.study.history import History, Trial, copy

Array = NDArray[np.float64]

AFTER = {"lost": "lost", "failed": "failed", "resumed": "interrupted", "paused": "paused", "moved": "moved"}
"""What became of an attempt, by why there was another one."""


@dataclass(frozen=True)
class Attempt:
    """A trial's stay on a worker; `fate` is running, completed, stopped, failed, lost, interrupted, paused or moved."""

    worker: str
    began: float  # unix time [s]
    ended: float | None = None
    step: int = 0
    fate: str = "running"


@dataclass(frozen=True, eq=False)
class Track:
    """What the history does not keep of a trial: when and where it ran, and its values on the way.

    Args:
        asked, ended: unix times [s].
        attempts: its stays on workers.
        point: its searched values when it was asked for; a member of a population changes them.
        moves: from whom it went on, if it is such a member.
        curve: [reports, 2]: step and objective (of several the first); where it went on from another one, a row of
            NaN and that one's last.
        others: the same of each other objective, by its name.
    """

    asked: float
    point: Mapping[str, Any]
    ended: float | None = None
    attempts: tuple[Attempt, ...] = ()
    moves: tuple[Moved, ...] = ()
    curve: Array = field(default_factory=lambda: np.empty((0, 2)))
    others: Mapping[str, Array] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """At work so far, on all its workers [s]."""
        return sum((stay.ended or stay.began) - stay.began for stay in self.attempts)


@dataclass(frozen=True, eq=False)
class Search:
    """A search as every view shows it.

    Args:
        history: who was tried, what came of it, and who is best.
        parameters: what is searched.
        tracks: of each trial, by number.
        sessions: unix times [s] at which drivers went to work, and of the last thing that each wrote down.
        started, opened: which run it is; what it runs on (the last driver).
        faults: how many of each kind were survived.
    """

    history: History
    parameters: tuple[Parameter, ...] = ()
    tracks: Mapping[int, Track] = field(default_factory=dict)
    sessions: tuple[tuple[float, float], ...] = ()
    started: Started | None = None
    opened: Opened | None = None
    faults: Mapping[str, int] = field(default_factory=dict)

    @property
    def trials(self) -> list[Trial]:
        """All, by number."""
        return [self.history.trials[number] for number in sorted(self.history.trials)]

    @property
    def metric(self) -> str:
        """The objective; of several the leading one."""
        return self.history.metric

    @property
    def sign(self) -> int:
        """What makes the (first) objective one to be minimized."""
        return 1 if self.history.minimize else -1

    def valued(self) -> list[Trial]:
        """Trials that ended with a finite objective, in the order in which they ended."""
        found = [t for t in self.trials if t.state in ("completed", "stopped") and _finite(t.objective)]
        return sorted(found, key=lambda t: (self.tracks[t.number].ended or 0.0, t.number))

    def clock(self, time: float) -> float:
        """Seconds at work up to a unix time: pauses between drivers do not count."""
        at_work, starts = 0.0, [start for start, _ in self.sessions]
        current = max(bisect.bisect_right(starts, time) - 1, 0)
        for start, end in self.sessions[:current]:
            at_work += end - start
        if not self.sessions:
            return 0.0
        start, end = self.sessions[current]
        return at_work + min(max(time - start, 0.0), end - start)

    @property
    def seconds(self) -> float:
        """Seconds at work."""
        return sum(end - start for start, end in self.sessions)

    @property
    def fingerprint(self) -> str | None:
        """That of the result, where the run is finished."""
        found = (self.history.result or {}).get("fingerprint")
        return None if found is None else str(found)


def search_history(entries: Iterable[tuple[float, Event]], parameters: Sequence[Parameter] | None = None) -> Search:
    """The search that a journal tells of.

    Args:
        entries: `(unix time [s], event)` in their order.
        parameters: those of the study's space; what is not among them (a run whose study is gone, values that were
            found by running) is guessed from what was tried.
    """
    reader = Reader()
    for time, event in entries:
        reader.take(time, event)
    return reader.search(parameters)


@dataclass
class _Open:
    """A track while it is read."""

    asked: float
    point: Mapping[str, Any]
    ended: float | None = None
    attempts: list[Attempt] = field(default_factory=list)
    moves: list[Moved] = field(default_factory=list)
    curves: dict[str, array[float]] = field(default_factory=lambda: defaultdict(lambda: array("d")))
    """Of each objective."""


class Reader:
    """A search that is told event by event, and can be had at any time."""

    def __init__(self) -> None:
        self.history = History()
        self.open: dict[int, _Open] = {}
        self.sessions: list[tuple[float, float]] = []
        self.started: Started | None = None
        self.opened: Opened | None = None
        self.faults: dict[str, int] = {}

    def take(self, time: float, event: Event) -> None:
        """One more event, and its unix time [s]."""
        # Figures are drawn before the end is on record, and words may come while no driver is at work.
        if not isinstance(event, Finished | Steered | Tagged):
            self._session(time, isinstance(event, Opened) and self.opened is not None)
        self.history.take(event)
        match event:
            case Started():
                self.started = event
            case Opened():
                self.opened = event
            case Fault():
                self.faults[event.kind] = self.faults.get(event.kind, 0) + 1
            case Asked():
                self.open[event.trial] = _Open(time, event.point)
            case Begun():
                attempts = self.open[event.trial].attempts
                self._close(attempts, time, AFTER.get(event.why, "lost"))
                attempts.append(Attempt(event.worker, time, step=event.step))
            case Moved():
                self.open[event.trial].moves.append(event)
                for name, donor in self.open[event.donor].curves.items():
                    self.open[event.trial].curves[name].extend((math.nan, math.nan, *donor[-2:]))
            case Reported():
                for name in self.history.objectives:
                    value = event.metrics.get(name)
                    if value is None:
                        continue
                    curve = self.open[event.trial].curves[name]
                    if curve and event.step <= curve[-2]:  # a retry: its curve begins anew
                        curve.extend((math.nan, math.nan))
                    curve.extend((event.step, value))
            case Ended():
                track = self.open[event.trial]
                if event.undone and track.moves:
                    track.moves.pop()
                    for curve in track.curves.values():
                        del curve[-4:]
                track.attempts = track.attempts or [Attempt("", track.asked)]
                self._close(track.attempts, time, event.state)
                track.ended = time
            case _:
                pass

    def _session(self, time: float, another: bool) -> None:
        if another or not self.sessions:
            self.sessions.append((time, time))
        else:
            self.sessions[-1] = (self.sessions[-1][0], max(time, self.sessions[-1][1]))

    def _close(self, attempts: list[Attempt], time: float, fate: str) -> None:
        """The last attempt has ended; one that was interrupted did so when its driver fell silent."""
        if not attempts or attempts[-1].ended is not None:
            return
        last = attempts[-1]
        if fate == "interrupted":
            ends = [end for start, end in self.sessions if start <= last.began]
            time = max(last.began, ends[-1] if ends else last.began)
        attempts[-1] = Attempt(last.worker, last.began, time, last.step, fate)

    def search(self, parameters: Sequence[Parameter] | None = None) -> Search:
        """The search as it stands; what is taken later does not change it."""
        known = tuple(parameters or ())
        names = {parameter.name for parameter in known}
        points = [trial.point for trial in self.history.trials.values()]
        log = self.started.log if self.started is not None else ()
        rest = tuple(p for p in inferred.parameters(points, log) if p.name not in names)
        tracks = {
            number: Track(
                track.asked,
                track.point,
                track.ended,
                tuple(track.attempts),
                tuple(track.moves),
                _rows(track.curves[self.history.metric]),
                {name: _rows(track.curves[name]) for name in list(self.history.objectives)[1:]},
            )
            for number, track in self.open.items()
        }
        history = copy(self.history)
        sessions, faults = tuple(self.sessions), dict(self.faults)
        return Search(history, known + rest, tracks, sessions, self.started, self.opened, faults)


def _rows(curve: array[float]) -> Array:
    return np.array(curve, dtype=np.float64).reshape(-1, 2)


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
