"""What is the search asked and told? Starting points, refusals, repeats and curves, in the journal's order."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, cast

from bilevel import space as spaces
from bilevel.errors import BadInput, described
from bilevel.search.ahead import Ahead, Pending
from bilevel.search.choose import choose
from bilevel.search.plain import Grid
from bilevel.search.port import Point, Population, Search, Searcher, SearcherTraits, Told
from bilevel.space.conversion.text import read
from bilevel.space.dimensions import Parameter, guessed
from bilevel.study.events import Asked, Reported
from bilevel.study.history import History, Trial, mean
from bilevel.study.outcome import anonymous, failure
from bilevel.study.study import Study

CURVE = 1000
"""Points of a trial's curve that the search is told at most; of more every other one is left out."""
SLOW = 0.05
"""Seconds to ask, from which on a search is asked ahead."""
REFUSALS = 1000
"""So many proposals in a row that `where` refuses mean that it refuses all."""


class Asking:
    """What a study's search is asked and told; without a search it only counts.

    Args:
        study: whose search.
        history: what `asked`, `reported` and `ended` are told of has been folded into it before.
        warm: points of earlier runs and what came of them, which the search is told first.
        window: of a deterministic study its slots, otherwise 0.
    """

    def __init__(
        self, study: Study, history: History, *, warm: Sequence[tuple[Point, Told]] = (), window: int = 0
    ) -> None:
        self.study = study
        self.history = history
        self.window = window
        self.why = ""
        """Why this search, if it was chosen for the user."""
        self.search: Search | None = None
        self.best = math.inf
        """The best feasible value that the search was told (minimized), of complete trials or of such as compare."""
        self.fruitless = 0
        """Configurations since then."""
        self.alike = 0
        """How many trials, from the first one on, have failed with one and the same error."""
        self.failure = ""
        """That error."""
        self.exhausted = ""
        """Why the search has nothing more to propose, if that is so."""
        self._known = [point for point, _ in warm]
        self._searcher = self._open()
        self.population = _population(self._searcher)
        self._ahead: Ahead | None = None
        self._ask_seconds = 0.0
        self._found: dict[str, Any] = {}  # values that the objective asked for by itself: their dimensions
        self._starts = self._first_points()
        self._serials: dict[int, int] = {}  # of configurations not told yet: first trial -> the search's number
        self._candidates = self._given = 0
        self._wanted: list[Point] = []
        self._others = False  # whether a trial has ended in another way than the first one's failure
        self._next_serial = 0
        self._refused: list[Point] = []  # proposals ruled out since the last candidate; the search knows them
        self._ended: dict[int, list[Trial]] = {}
        self._ready: dict[int, list[Trial]] = {}  # whole groups, to be told when their time comes
        self._curves: dict[int, list[tuple[int, float]]] = {}
        if self._searcher is not None:
            for number, (point, told) in enumerate(warm, 1):
                self._searcher.tell(-number, point, told)

    @property
    def silent(self) -> bool:
        """There is no search."""
        return self._searcher is None

    def _open(self) -> Searcher | None:
        study = self.study
        if not study.searches:
            return None
        problem = study.problem(len(self._known))
        search = study.search
        if search is None:
            search, self.why = choose(problem)
        self.search = search
        return search.open(problem)

    def _first_points(self) -> list[dict[str, Any]]:
        study = self.study
        points = [spaces.complete(study.space, point) for point in study.points]
        for given, point in zip(study.points, points, strict=True):
            if not self.allowed(point):
                raise BadInput(
                    f"Study {study.name}: points: where refuses {dict(given)}; leave it out, or change where"
                )
        has_guess = any(guessed(parameter.dimension) for parameter in study.parameters)
        middle = spaces.complete(study.space, {})
        if has_guess and self.population is None and middle not in self._known and self.allowed(middle):
            points.insert(0, middle)
        return [dict(point) for index, point in enumerate(points) if point not in points[:index]]

    @property
    def _listener(self) -> Searcher | Ahead | None:
        """Who is told: the search, by way of its thread if it has one."""
        return self._ahead or self._searcher

    # -- what happened -------------------------------------------------------------------------------------------------

    def asked(self, event: Asked) -> None:
        """A configuration is tried."""
        self._flush(event.trial)
        for point in event.refused[len(self._refused) :]:
            self._refuse(point)
        self._refused.clear()
        if self._listener is not None:
            self._listener.asked(self._next_serial, event.point)
        self._serials[event.trial] = self._next_serial
        self._next_serial += 1
        self._candidates += 1
        if self._wanted and dict(event.point) == dict(self._wanted[0]):
            del self._wanted[0]
            self._given += 1

    def steered(self, points: Sequence[Point]) -> None:
        """Somebody wants these tried next."""
        self._wanted += points

    @property
    def wanted(self) -> int:
        """How many of these are left."""
        return len(self._wanted)

    def reported(self, event: Reported) -> None:
        """A trial has come to a step."""
        if event.found:
            self._grow(event.found)
        value = event.metrics.get(self.study.metric)
        if value is not None and math.isfinite(value) and self._searcher is not None:
            curve = self._curves.setdefault(event.trial, [])
            while curve and curve[-1][0] >= event.step:  # of an attempt that raised
                curve.pop()
            curve.append((event.step, self.study.sign * value))
            if len(curve) > CURVE:
                del curve[1::2]

    def ended(self, trial: Trial) -> None:
        """A trial has ended, and maybe the last one of its configuration."""
        if trial.confirms:
            return
        group = self._ended.setdefault(trial.group, [])
        group.append(trial)
        if len(group) == self.study.repeats:
            self._ready[trial.group] = self._ended.pop(trial.group)
            if not self.window:
                self._flush(None)

    def _refuse(self, point: Point) -> None:
        """The search learns that a proposal of its own is not allowed."""
        self._refused.append(point)
        if self._listener is not None:
            self._listener.asked(self._next_serial, point)
            self._listener.tell(self._next_serial, point, Told(None))
        self._next_serial += 1

    def _grow(self, found: Mapping[str, Any]) -> None:
        """The objective asked for values of its own (`define_by_run`): the search learns that they are there."""
        new = {name: said["dimension"] for name, said in found.items() if self._found.get(name) != said["dimension"]}
        self._found |= new
        if new and self._listener is not None and SearcherTraits(self._searcher).grow is not None:
            declared = {parameter.name: parameter for parameter in self.study.parameters}
            own = {name: Parameter(name, name, read(described)) for name, described in self._found.items()}
            self._listener.grow(tuple({**own, **declared}.values()))  # type: ignore[union-attr]

    def _flush(self, before: int | None) -> None:
        """Tell the search of whole groups: now, or of a deterministic study those that trial `before` may know."""
        known = math.inf if before is None else before - self.window
        for first in sorted(self._ready):
            trials = self._ready[first]
            if max(trial.number for trial in trials) > known:
                return
            del self._ready[first]
            self._tell(first, trials)

    def _tell(self, first: int, trials: list[Trial]) -> None:
        study = self.study
        self._compare(trials)
        ways = [1 if minimize else -1 for minimize in study.objectives.values()]
        good = [trial for trial in trials if trial.state != "failed" and trial.objective is not None]
        if 2 * sum(trial.state == "failed" for trial in trials) > len(trials):  # so has the configuration
            good = []
        if len(ways) > 1:  # one that was stopped may not have reported all of them
            good = [trial for trial in good if len(trial.values) == len(ways)]
        curve = [point for trial in trials for point in self._curves.pop(trial.number, [])]
        told = Told(None, step=max(trial.step for trial in trials))
        if any(trial.state == "stopped" for trial in good):  # those that were not saw another fidelity
            good = [trial for trial in good if trial.state == "stopped"]
        if good:
            rows = [trial.values or (float(trial.objective or 0.0),) for trial in good]
            values = tuple(way * mean(column) for way, column in zip(ways, zip(*rows, strict=True), strict=True))
            told = Told(
                values,
                step=max(trial.step for trial in good),
                stopped=any(trial.state == "stopped" for trial in good),
                violation=sum(trial.violation for trial in good) / len(good),
                curve=tuple(sorted(curve)) if len(trials) == 1 else (),
            )
        if self._listener is not None:
            self._listener.tell(self._serials.pop(first), trials[0].point, told)
        whole = not told.stopped or self.history.equal
        better = told.values is not None and not told.violation and whole and told.values[0] < self.best
        self.fruitless = 0 if better else self.fruitless + 1
        if better and told.values is not None:
            self.best = told.values[0]

    def _compare(self, trials: list[Trial]) -> None:
        """Whether all trials so far have failed alike."""
        for trial in trials:
            error = failure(trial)
            self._others |= not error or bool(self.failure and anonymous(error) != anonymous(self.failure))
            if not self._others:
                self.alike, self.failure = self.alike + 1, self.failure or error
            else:
                self.alike, self.failure = 0, ""

    # -- what to try ---------------------------------------------------------------------------------------------------

    def propose(self, number: int) -> tuple[Point, tuple[Point, ...]] | None:
        """The point of trial `number`, of the user's own while there are any, and those that `where` refused before."""
        self._flush(number if self.window else None)
        searcher = self._searcher
        if searcher is None:
            return None
        if self._wanted:
            return dict(self._wanted[0]), tuple(self._refused)
        begun = self._candidates - self._given
        if begun < len(self._starts):
            return self._starts[begun], tuple(self._refused)
        grid = isinstance(self.search, Grid)  # it ends by itself
        while grid or len(self._refused) < REFUSALS:
            point = self._question(searcher)
            if point is None:
                if grid and not self._candidates:
                    raise self._all_refused()
                return None
            if self.allowed(point):
                return dict(point), tuple(self._refused)
            self._refuse(dict(point))
        if not self._candidates:
            raise self._all_refused()
        self.exhausted = f"where refused the last {REFUSALS} configurations that it proposed"
        return None

    def _all_refused(self) -> BadInput:
        return BadInput(
            f"Study {self.study.name}: where refused {len(self._refused)} configurations in a row, the last"
            f" {self._refused[-1]}; make it less strict, or the space smaller"
        )

    def _question(self, searcher: Searcher) -> Point | None:
        """What the search would try next; None also while it is thinking and others run."""
        if (self._ahead or searcher).done:
            return None
        if self._ahead is not None:
            answer = self._ahead.ask(self._next_serial, wait=not self.history.running)
            return None if isinstance(answer, Pending) else answer
        began = time.monotonic()
        point = searcher.ask(self._next_serial)
        self._ask_seconds = time.monotonic() - began
        return point

    def allowed(self, point: Point) -> bool:
        """Whether the study's own condition holds; a configuration that cannot be made is left to fail as a trial."""
        where = self.study.where
        if where is None:
            return True
        try:
            config = self.study.build(point)
        except Exception:  # noqa: BLE001 the user's class refuses these values; its trial will say why
            return True
        try:
            return bool(where(config))
        except Exception as error:
            raise BadInput(
                f"Study {self.study.name}: where raised {described(error)}, for {dict(point)};"
                " it takes a configuration and gives True or False"
            ) from error

    def think_ahead(self) -> None:
        """Where asking is slow, the next answer is ready when a place is."""
        if self._searcher is None or self.population is not None or self._ask_seconds < SLOW:
            return
        if self._ahead is None:
            self._ahead = Ahead(self._searcher)
        if self._candidates - self._given >= len(self._starts) and not self._wanted:
            self._ahead.prepare(self._next_serial)

    def close(self) -> None:
        """Let go of what thinks ahead."""
        if self._ahead is not None:
            self._ahead.close()


def _population(searcher: Searcher | None) -> Population | None:
    return cast(Population, searcher) if SearcherTraits(searcher).turn is not None else None
