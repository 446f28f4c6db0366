"""What comes next in a study? A function of its journal: the same events, in the same order, the same decisions."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bilevel import space as spaces
from bilevel.conversion.text import read
from bilevel.dimensions import Parameter
from bilevel.errors import BadInput
from bilevel.events import Asked, Ended, Event, Moved, Reported, Turned
from bilevel.history import History, Trial
from bilevel.outer.ahead import Ahead, Pending
from bilevel.outer.search import Point, Population, Search, Searcher, Told
from bilevel.study import Study

SLOW = 0.05
"""Seconds to ask, from which on a search is asked ahead."""
CURVE = 1000
"""Points of a trial's curve that the search is told at most; of more every other one is left out."""
LEADERS = 3
"""Configurations that are confirmed."""
REFUSALS = 1000
"""So many proposals in a row that `where` refuses mean that it refuses all."""
WORST = 1e9
"""The violation of a limit on a metric that is not known."""


@dataclass(frozen=True)
class Finish:
    """Nothing is left to do; the study ends with this status."""

    status: str


@dataclass(frozen=True)
class Halt:
    """A running trial is to be stopped."""

    trial: int
    reason: str


Command = Asked | Moved | Turned | Halt | Finish
Verdict = Literal["go", "stop", "hold"]


class Decisions:
    """The study's mind: its search and its rules, told every event right after the history is.

    Args:
        study: whose decisions.
        history: of all events that `take` was given.
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
        self._searcher = self._open()
        self._ahead: Ahead | None = None
        self._ask_seconds = 0.0
        self._found: dict[str, Any] = {}  # values that the objective asked for by itself: their dimensions
        self._population: Population | None = self._searcher if hasattr(self._searcher, "turn") else None  # type: ignore[assignment]
        self._stopper = study.stop.open() if study.stop is not None else None
        self._starts = self._first_points()
        self._serials: dict[int, int] = {}  # of configurations not told yet: first trial -> the search's number
        self._candidates = 0
        self._next_serial = 0
        self._refused: list[Point] = []  # proposals ruled out since the last candidate; the search knows them
        self._searched = 0  # trials asked for so far, confirmations left out
        self._ended: dict[int, list[Trial]] = {}
        self._ready: dict[int, list[Trial]] = {}  # whole groups, to be told when their time comes
        self._curves: dict[int, list[tuple[int, float]]] = {}
        self._stopping: dict[int, int] = {}
        self._held: set[int] = set()
        self._diverged: set[int] = set()
        self._turn = 0
        self._best = math.inf
        self._fruitless = 0
        if self._searcher is not None:
            for number, (point, told) in enumerate(warm, 1):
                self._searcher.tell(-number, point, told)

    def _open(self) -> Searcher | None:
        study = self.study
        if not study.searches:
            return None
        problem = study.problem()
        search = study.search
        if search is None:
            from bilevel.outer.choose import choose

            search, self.why = choose(problem)
        self.search = search
        return search.open(problem)

    def _first_points(self) -> list[dict[str, Any]]:
        study = self.study
        points = [spaces.complete(study.space, point) for point in study.points]
        for given, point in zip(study.points, points, strict=True):
            if not self._allowed(point):
                raise BadInput(
                    f"Study {study.name}: points: where refuses {dict(given)}; leave it out, or change where"
                )
        guessed = any(getattr(parameter.dimension, "center", None) is not None for parameter in study.parameters)
        middle = spaces.complete(study.space, {})
        if guessed and self._population is None and self._allowed(middle):
            points.insert(0, middle)
        return [dict(point) for index, point in enumerate(points) if point not in points[:index]]

    @property
    def _listener(self) -> Searcher | Ahead | None:
        """Who is told: the search, by way of its thread if it has one."""
        return self._ahead or self._searcher

    # -- what happened -------------------------------------------------------------------------------------------------

    def take(self, event: Event) -> None:
        """One more event, which the history has taken already."""
        match event:
            case Asked():
                self._asked(event)
            case Reported():
                self._reported(event)
            case Ended():
                self._held.discard(event.trial)
                self._diverged.discard(event.trial)
                self._stopping.pop(event.trial, None)
                self._ends(self.history.trials[event.trial])
            case Moved():
                self._held.add(event.trial)  # it waits for the turn's end
            case Turned():
                self._turn = event.turn + 1
                self._held.clear()
                self._diverged.clear()
            case _:
                pass

    def _asked(self, event: Asked) -> None:
        if event.confirms:
            return
        self._searched += 1
        if event.of is not None:
            return
        self._flush(event.trial)
        for point in event.refused[len(self._refused) :]:
            self._refuse(point)
        self._refused.clear()
        if self._listener is not None:
            self._listener.asked(self._next_serial, event.point)
        self._serials[event.trial] = self._next_serial
        self._next_serial += 1
        self._candidates += 1

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
        grow = getattr(self._searcher, "grow", None)
        if new and grow is not None:
            declared = {parameter.name: parameter for parameter in self.study.parameters}
            own = {name: Parameter(name, name, read(described)) for name, described in self._found.items()}
            grow(tuple({**own, **declared}.values()))

    def _reported(self, event: Reported) -> None:
        if event.found:
            self._grow(event.found)
        value = event.metrics.get(self.study.metric)
        if value is None:
            return
        value = self.study.sign * value
        if math.isfinite(value) and self._searcher is not None:
            curve = self._curves.setdefault(event.trial, [])
            curve.append((event.step, value))
            if len(curve) > CURVE:
                del curve[1::2]
        trial = self.history.trials[event.trial]
        if self._stopper is not None and not trial.confirms:
            upto = event.trial - self.window if self.window else None
            if self._stopper.report(event.trial, event.step, value, upto=upto):
                self._stopping.setdefault(event.trial, event.step)
        if self._population is not None and self._reached(trial):
            self._held.add(event.trial)

    def _reached(self, trial: Trial) -> bool:
        """Whether a member has come to the end of its turn; one that has done all its steps goes on to its end."""
        population = self._population
        if population is None or trial.confirms:
            return False
        if population.by is not None and population.by not in trial.metrics:
            known = ", ".join(sorted(trial.metrics))
            raise BadInput(
                f"PBT: by={population.by!r} is not reported; trial {trial.number} reports {known}"
                + ("; set MetaTraining(adaptations=...)" if population.by == "adaptations" else "")
            )
        done = float(trial.step) if population.by is None else trial.metrics[population.by]
        ends = {"steps": float(trial.step), population.by or "": done}
        if any(isinstance(last := trial.config.get(name), int) and at >= last for name, at in ends.items()):
            return False
        return done >= population.every * (self._turn + 1)

    def _ends(self, trial: Trial) -> None:
        if trial.confirms:
            return
        group = self._ended.setdefault(trial.group, [])
        group.append(trial)
        if len(group) == self.study.repeats:
            self._ready[trial.group] = self._ended.pop(trial.group)
            if not self.window:
                self._flush(None)

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
        ways = [1 if minimize else -1 for minimize in study.objectives.values()]
        good = [trial for trial in trials if trial.state != "failed" and trial.objective is not None]
        curve = [point for trial in trials for point in self._curves.pop(trial.number, [])]
        told = Told(None, step=max(trial.step for trial in trials))
        if any(trial.state == "stopped" for trial in good):  # those that were not saw another fidelity
            good = [trial for trial in good if trial.state == "stopped"]
        if good:
            rows = [trial.values or (float(trial.objective or 0.0),) for trial in good]
            values = tuple(
                way * sum(column) / len(column) for way, column in zip(ways, zip(*rows, strict=True), strict=True)
            )
            told = Told(
                values,
                step=max(trial.step for trial in good),
                stopped=any(trial.state == "stopped" for trial in good),
                violation=sum(trial.violation for trial in good) / len(good),
                curve=tuple(sorted(curve)) if len(trials) == 1 else (),
            )
        if self._listener is not None:
            self._listener.tell(self._serials.pop(first), trials[0].point, told)
        better = told.values is not None and not told.violation and not told.stopped and told.values[0] < self._best
        self._fruitless = 0 if better else self._fruitless + 1
        if better and told.values is not None:
            self._best = told.values[0]

    # -- what to do with a running trial -------------------------------------------------------------------------------

    def verdict(self, number: int, step: int) -> Verdict:
        """Whether a trial that has reported this step goes on, is stopped, or waits for the end of its turn."""
        if step >= self._stopping.get(number, math.inf):
            return "stop"
        trial = self.history.trials[number]
        return "hold" if number in self._held and step >= trial.step else "go"

    def stopping(self, number: int) -> bool:
        """Whether a running trial is to be stopped (its driver died before it could)."""
        return number in self._stopping

    def waits(self, number: int) -> bool:
        """Whether a running member waits for the others, with all that they may need of it on disk."""
        trial = self.history.trials[number]
        return number in self._held and (trial.step in trial.kept or trial.moved is not None)

    def diverged(self, number: int) -> bool:
        """A running trial has raised: whether it waits for its population's turn, to go on from another member."""
        if self._population is None or not self._population_open(number):
            return False
        self._diverged.add(number)
        return True

    def _population_open(self, number: int) -> bool:
        return any(other != number and other not in self._diverged for other in self.history.running)

    @property
    def words(self) -> str:
        """The search and the rule that stops trials."""
        return ", ".join(repr(part) for part in (self.search, self.study.stop) if part is not None)

    @property
    def attended(self) -> bool:
        """Whether each report of a trial may decide about it."""
        return self._stopper is not None or self._population is not None

    @property
    def populates(self) -> bool:
        """Whether the trials are members of a population."""
        return self._population is not None

    @property
    def members(self) -> int:
        """Of a population, its trials; otherwise 0."""
        return 0 if self._population is None else self._population.members

    # -- what comes next -----------------------------------------------------------------------------------------------

    def next(self, slots: int) -> list[Command]:
        """The trials to begin now, given `slots` places for running ones; moves in a population; or the end."""
        study, running = self.study, self.history.running
        if study.target is not None and self._best <= study.sign * study.target:
            if self.window and running:  # how far each has come is a matter of timing, so they come to their ends
                return []
            halts: list[Command] = [Halt(number, "the target is reached") for number in running]
            return halts or [Finish("completed")]
        if self._population is not None and self._searched >= self._population.members and running and self._all_wait():
            return self._turn_over(self._population)
        room = slots - len(running) + len(self._held | self._diverged)
        commands: list[Command] = []
        while len(commands) < room:
            number = len(self.history.trials) + len(commands)
            asked = self._ask(number, len(commands))
            if asked is None:
                break
            commands.append(asked)
            if self._searcher is not None:
                break  # the search must know of this one first
        if not commands and all(self.history.trials[number].confirms for number in running):
            commands += self._confirmations()[: max(room, 0)]
        if commands or running:
            if room <= 0 and slots > 1 and not self.window:
                self._think_ahead()
            return commands
        return [Finish("completed" if self.history.best() is not None else "failed")]

    def _think_ahead(self) -> None:
        """Where asking is slow, the next answer is ready when a place is."""
        if self._searcher is None or self._population is not None or self._ask_seconds < SLOW:
            return
        if self._ahead is None:
            self._ahead = Ahead(self._searcher)
        budget = self.study.budget
        if budget is None or self._searched < budget * self.study.repeats:
            self._ahead.prepare(self._next_serial)

    def _all_wait(self) -> bool:
        return all(self.waits(number) or number in self._diverged for number in self.history.running)

    def _turn_over(self, population: Population) -> list[Command]:
        trials = {number: self.history.trials[number] for number in self.history.running}
        sign, metric = self.study.sign, self.study.metric
        values = {
            number: math.nan if number in self._diverged or trial.moved else sign * trial.metrics.get(metric, math.nan)
            for number, trial in trials.items()
        }
        moves = population.turn(self._turn, values, {number: trial.point for number, trial in trials.items()})
        commands: list[Command] = []
        for number, move in sorted(moves.items()):
            donor = trials[move.donor]
            point = dict(move.point) if self._allowed(move.point) else dict(donor.point)
            if trials[number].moved is None:  # else it moved before an earlier driver died in the middle of this turn
                commands.append(Moved(number, donor.step, move.donor, self.study.config(point), point))
        return [*commands, Turned(self._turn)]

    def _ask(self, number: int, ahead: int) -> Asked | None:
        """The trial of this number, if it is its time."""
        study, budget = self.study, self.study.budget
        searched = self._searched + ahead
        seed = study.key.child("trial", number).integer()
        if self.window and min(self.history.running, default=number) <= number - self.window:
            return None
        if searched % study.repeats:
            first = number - searched % study.repeats
            if first not in self.history.trials:  # it is among the commands just given
                return None
            trial = self.history.trials[first]
            return Asked(number, trial.config, seed, trial.point, of=first)
        if budget is not None and searched >= budget * study.repeats:
            return None
        if study.plateau is not None and self._fruitless >= study.plateau:
            return None
        if self._searcher is None:
            return Asked(number, study.config({}), seed)
        self._flush(number if self.window else None)
        point = self._propose()
        if point is None:
            return None
        return Asked(number, study.config(point), seed, dict(point), refused=tuple(self._refused))

    def _propose(self) -> Point | None:
        """The next point: one of the user's own, else the search's; those that `where` refuses are collected."""
        searcher = self._searcher
        if searcher is None:
            return None
        if self._candidates < len(self._starts):
            return self._starts[self._candidates]
        while len(self._refused) < REFUSALS:
            point = self._question(searcher)
            if point is None or self._allowed(point):
                return point
            self._refuse(dict(point))
        raise BadInput(
            f"Study {self.study.name}: where refused {REFUSALS} configurations in a row, the last {self._refused[-1]};"
            " make it less strict, or the space smaller"
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

    def close(self) -> None:
        """Let go of what thinks ahead."""
        if self._ahead is not None:
            self._ahead.close()

    def _allowed(self, point: Point) -> bool:
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
                f"Study {self.study.name}: where raised {type(error).__name__}: {error}, for {dict(point)};"
                " it takes a configuration and gives True or False"
            ) from error

    def _confirmations(self) -> list[Command]:
        """What is missing: each leader of the search is tried so often again."""
        if not self.study.confirm:
            return []
        done = Counter(trial.group for trial in self.history.trials.values() if trial.confirms)
        number = len(self.history.trials)
        commands: list[Command] = []
        for leader in self.history.leaders(LEADERS, confirmed=False):
            trial = leader.trial
            for _ in range(self.study.confirm - done[trial.group]):
                seed = self.study.key.child("trial", number).integer()
                commands.append(Asked(number, trial.config, seed, trial.point, of=trial.group, confirms=True))
                number += 1
        return commands


def end(study: Study, trial: Trial, state: str, learned: str | None, reason: str | None = None) -> Ended:
    """How a trial ends; one that never reported an objective, or one that is not finite, has failed."""
    metrics: Mapping[str, float] = trial.metrics
    values: list[float | None] = [metrics.get(name) for name in study.objectives]
    if study.value == "best" and trial.best is not None:
        values[0] = trial.best
    for name, value in zip(study.objectives, values, strict=True):
        if state == "completed" and value is None:
            known = ", ".join(sorted(metrics)) or "nothing"
            state, reason = "failed", f"never reported {name!r}; it reported {known}"
        elif value is not None and not math.isfinite(value):
            state, reason = "failed", reason or f"step {trial.step}: {name} is {value}"
    if state == "failed":
        return Ended(trial.number, state, trial.step, None, reason, learned)
    missing = next((name for name in study.limits if name not in metrics), None)
    if missing is not None and state == "completed":
        known = ", ".join(sorted(metrics)) or "nothing"
        return Ended(
            trial.number, "failed", trial.step, None, f"never reported {missing!r}; it reported {known}", learned
        )
    several = tuple(float(value) for value in values if value is not None) if len(values) > 1 else ()
    several = several if len(several) == len(values) else ()
    return Ended(
        trial.number, state, trial.step, values[0], reason, learned, several, min(excess(study, metrics), WORST)
    )


def excess(study: Study, metrics: Mapping[str, float]) -> float:
    """By how much results break the study's limits, summed; infinite if one that is limited is not known."""
    over = (metrics.get(name, math.nan) - bound for name, bound in study.limits.items())
    return sum((math.inf if math.isnan(by) else max(0.0, by) for by in over), 0.0)
