"""What comes next in a study? A function of its journal: the same events, in the same order, the same decisions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bilevel.errors import BadInput
from bilevel.search.port import Point, Population, Told
from bilevel.study.asking import Asking
from bilevel.study.events import Asked, Ended, Event, Moved, Reported, Steered, Turned
from bilevel.study.history import History, Trial
from bilevel.study.study import Study

LEADERS = 3
"""Configurations that are confirmed."""
BY_HAND = "stopped by hand"


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
    """The study's mind: its history, its search and its rules.

    `take` is the one place where they are told of an event, in the order that they stand on each other: the history,
    then the rules, which read it, and with these the search.

    Args:
        study: whose decisions.
        warm: points of earlier runs and what came of them, which the search is told first.
        window: of a deterministic study its slots, otherwise 0.
    """

    def __init__(self, study: Study, *, warm: Sequence[tuple[Point, Told]] = (), window: int = 0) -> None:
        self.study = study
        self.history = History()
        self.window = window
        self.asking = Asking(study, self.history, warm=warm, window=window)
        self._population = self.asking.population
        self._stopper = study.stop.open() if study.stop is not None else None
        self._searched = 0  # trials asked for so far, confirmations left out
        self._stopping: dict[int, int] = {}
        self._held: set[int] = set()
        self._diverged: set[int] = set()
        self._turn = 0
        self._steered: set[str] = set()
        self._more = 0  # configurations that somebody gave on top
        self._halted: set[int] = set()

    # -- what happened -------------------------------------------------------------------------------------------------

    def take(self, event: Event) -> None:
        """One more event has happened."""
        self.history.take(event)
        match event:
            case Asked():
                self._asked(event)
            case Reported():
                self._reported(event)
            case Ended():
                self._held.discard(event.trial)
                self._diverged.discard(event.trial)
                self._stopping.pop(event.trial, None)
                self._halted.discard(event.trial)
                if not self.history.trials[event.trial].confirms:
                    self.asking.ended(self.history.trials[event.trial])
            case Steered():
                self._steered.add(event.request)
                self._more += event.trials
                self._halted.update(event.stop)
                self.asking.steered(event.points)
            case Moved():
                self._held.add(event.trial)  # it waits for the turn's end
            case Turned():
                self._turn = event.turn + 1
                self._held.clear()
                self._diverged.clear()
            case _:
                pass

    def _asked(self, event: Asked) -> None:
        if not event.confirms:
            self._searched += 1
            if event.of is None:
                self.asking.asked(event)

    def _reported(self, event: Reported) -> None:
        trial = self.history.trials[event.trial]
        if trial.confirms:
            return
        self.asking.reported(event)
        value = event.metrics.get(self.study.metric)
        if value is not None and self._stopper is not None:
            upto = event.trial - self.window if self.window else None
            if self._stopper.report(event.trial, event.step, self.study.sign * value, upto=upto):
                self._stopping.setdefault(event.trial, event.step)
        if value is not None and self._population is not None and self._reached(trial):
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

    def halted(self, number: int) -> bool:
        """Whether somebody wants a running trial to be stopped."""
        return number in self._halted

    def heeded(self, request: str) -> bool:
        """Whether a request was answered."""
        return request in self._steered

    def waits(self, number: int) -> bool:
        """Whether a running member waits for the others, with all that they may need of it on disk."""
        trial = self.history.trials[number]
        return number in self._held and (trial.step in trial.kept or trial.moved is not None)

    def diverged(self, number: int) -> bool:
        """A running trial has raised: whether it waits for its population's turn, to go on from another member."""
        population = self._population
        if population is None:
            return False
        others = any(other != number and other not in self._diverged for other in self.history.running)
        if others or self._searched < population.members:
            self._diverged.add(number)
        return number in self._diverged

    @property
    def words(self) -> str:
        """The search and the rule that stops trials."""
        return ", ".join(repr(part) for part in (self.asking.search, self.study.stop) if part is not None)

    @property
    def attended(self) -> bool:
        """Whether each report of a trial may decide about it."""
        return self._stopper is not None or self._population is not None

    @property
    def populates(self) -> bool:
        """Whether the trials are members of a population."""
        return self._population is not None

    # -- what comes next -----------------------------------------------------------------------------------------------

    def next(self, slots: int) -> list[Command]:
        """The trials to begin now, given `slots` places for running ones; moves in a population; or the end."""
        running = self.history.running
        if self._halted:
            return [Halt(number, BY_HAND) for number in sorted(self._halted)]
        if self._at_target and not self.window:  # with one it would be a matter of timing how far each has come
            searched = [number for number in running if not self.history.trials[number].confirms]
            if searched:
                return [Halt(number, "the target is reached") for number in searched]
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
            if not self.asking.silent:
                break  # the search must know of this one first
        if not commands and all(self.history.trials[number].confirms for number in running):
            commands += self._confirmations()[: max(room, 0)]
        if commands or running:
            if room <= 0 and slots > 1 and not self.window and not self._spent():
                self.asking.think_ahead()
            return commands
        return [Finish("completed" if self.history.best() is not None else "failed")]

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
            point = dict(move.point) if self.asking.allowed(move.point) else dict(donor.point)
            if trials[number].moved is None:  # else it moved before an earlier driver died in the middle of this turn
                commands.append(Moved(number, donor.step, move.donor, self.study.config(point), point))
        return [*commands, Turned(self._turn)]

    def _ask(self, number: int, ahead: int) -> Asked | None:
        """The trial of this number, if it is its time."""
        study, searched = self.study, self._searched + ahead
        seed = study.seed_of(number)
        if self.window and min(self.history.running, default=number) <= number - self.window:
            return None
        if self._at_target:
            return None
        if searched % study.repeats:
            if searched % study.repeats <= ahead:  # its first trial is among the commands just given
                return None
            newest = next(trial for trial in reversed(self.history.trials.values()) if not trial.confirms)
            return Asked(number, newest.config, seed, newest.point, of=newest.group)
        if self._spent(ahead) or self.over:
            return None
        if self.asking.silent:
            return Asked(number, study.config({}), seed)
        proposed = self.asking.propose(number)
        if proposed is None:
            return None
        point, refused = proposed
        return Asked(number, study.config(point), seed, point, refused=refused)

    @property
    def over(self) -> str:
        """Why nothing more is asked for, however many trials there may be; empty: something is."""
        study = self.study
        if self._at_target:
            return f"its target, {study.target:g}, is reached"
        if study.give_up is not None and self.asking.alike >= study.give_up:
            return (
                f"its first {self.asking.alike} trials have all failed with one and the same error (give_up):"
                f" {self.asking.failure}"
            )
        if study.plateau is not None and self.asking.fruitless >= study.plateau:
            return f"its last {study.plateau} configurations brought nothing better (plateau)"
        return self.asking.exhausted

    @property
    def _at_target(self) -> bool:
        return self.study.target is not None and self.asking.best <= self.study.sign * self.study.target

    @property
    def budget(self) -> int | None:
        """How many configurations are asked for, with those that were given on top; None: as many as the search has."""
        return None if self.study.budget is None else self.study.budget + self._more

    @property
    def left(self) -> int | None:
        """How many of them nothing is known of yet."""
        asked = -(-self._searched // self.study.repeats)
        return None if self.budget is None else max(0, self.budget - asked - self.asking.wanted)

    def _spent(self, ahead: int = 0) -> bool:
        """Whether all configurations that there may be are asked for, with `ahead` trials more."""
        return self.budget is not None and self._searched + ahead >= self.budget * self.study.repeats

    def _confirmations(self) -> list[Command]:
        """What is missing: each leader of the search is tried so often again."""
        if not self.study.confirm:
            return []
        done = Counter(trial.group for trial in self.history.trials.values() if trial.confirms)
        number = len(self.history.trials)
        commands: list[Command] = []
        for leader in self.history.contenders(LEADERS):
            trial = leader.trial
            for _ in range(self.study.confirm - done[trial.group]):
                seed = self.study.seed_of(number)
                commands.append(Asked(number, trial.config, seed, trial.point, of=trial.group, confirms=True))
                number += 1
        return commands
