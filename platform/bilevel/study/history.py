"""What has become of a study's trials, as its journal tells?"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bilevel.study.events import (
    Asked,
    Begun,
    Ended,
    Event,
    Finished,
    Interrupted,
    Kept,
    Left,
    Moved,
    Opened,
    Reported,
    Started,
    Steered,
    Tagged,
)

INHERITED = ("step", "metrics", "best", "best_step", "best_metrics")
"""What a member of a population takes over from another."""
STAYS = ("attempts", "failures", "deaths", "worker", "tags", "files")
"""What it keeps of its time as another when it counts as what it was before."""


ENDED = ("completed", "failed", "stopped")
"""How a run may stand that is over; any other can be resumed."""


@dataclass(frozen=True)
class Trial:
    """What the journal says of a trial: `state` is running, completed, stopped or failed."""

    number: int
    config: Mapping[str, Any]
    seed: int
    point: Mapping[str, Any] = field(default_factory=dict)
    of: int | None = None
    """The trial whose configuration it repeats, if it does."""
    confirms: bool = False
    """It runs a leader again, after the search."""
    state: str = "running"
    step: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The last value of each metric."""
    best: float | None = None
    best_step: int | None = None
    best_metrics: Mapping[str, float] = field(default_factory=dict)
    """The values of all metrics at that step."""
    objective: float | None = None
    values: tuple[float, ...] = ()
    """Of several objectives, all of them, as the user names them."""
    violation: float = 0.0
    """By how much its result breaks the study's limits; 0: feasible."""
    reason: str | None = None
    learned: str | None = None
    kept: Mapping[int, str] = field(default_factory=dict)
    """Checkpoints: step -> SHA-256 of the manifest."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Words about it, by name."""
    files: Mapping[str, str] = field(default_factory=dict)
    """What it left in `Run.folder`: name -> SHA-256."""
    attempts: int = 0
    failures: int = 0
    """Attempts that raised."""
    deaths: int = 0
    """Attempts that were lost with their worker, one after the other, without a new report in between."""
    worker: str = ""
    since: int = 0
    """The step from which on its configuration is this one: of a member of a population, where it last moved."""
    moved: tuple[int, int] | None = None
    """The donor and step of a checkpoint that it goes on from, until it has one of its own."""
    before: Trial | None = None
    """What it was before it moved, until it has gone a step as what it has become."""

    @property
    def group(self) -> int:
        """The first trial of this configuration."""
        return self.number if self.of is None else self.of


@dataclass(frozen=True)
class Leader:
    """A configuration and what its trials say: mean and half-width of the 95 % interval over `runs` seeds.

    `trial` is the first one of it, `counted` are those that it counts by: its confirmations, if it has any.
    """

    trial: Trial
    mean: float
    half: float | None
    counted: tuple[Trial, ...]

    @property
    def runs(self) -> int:
        """How many count."""
        return len(self.counted)


@dataclass
class History:
    """All that was decided and happened, as far as decisions depend on it."""

    metric: str = ""
    minimize: bool = True
    value: str = ""
    """Which of a trial's values is its objective: "last" or "best"; "" where the run began before that was recorded."""
    equal: bool = False
    """Stopped trials are ranked with completed ones."""
    objectives: Mapping[str, bool] = field(default_factory=dict)
    """All objectives, the first one too: name -> whether it is minimized."""
    trials: dict[int, Trial] = field(default_factory=dict)
    running: dict[int, None] = field(default_factory=dict)
    """Numbers of the trials that have not ended, in order."""
    ended: dict[str, int] = field(default_factory=lambda: {"completed": 0, "stopped": 0, "failed": 0})
    status: str | None = None
    result: Mapping[str, Any] | None = None
    workers: int | None = None
    """Of the last driver; 0: it computes in its own process, None: as many as its cluster gives."""

    def take(self, event: Event) -> None:
        """One more event, in place."""
        match event:
            case Started():
                self.metric, self.minimize = event.metric, event.minimize
                self.value, self.equal = event.value, event.equal
                self.objectives = {name: way == "minimize" for name, way in event.objectives.items()} or {
                    event.metric: event.minimize
                }
            case Opened():
                self.workers = event.workers
            case Asked():
                self._put(Trial(event.trial, event.config, event.seed, event.point, event.of, event.confirms))
                self.running[event.trial] = None
                self.status = self.result = None  # a finished study that is extended goes on
            case Begun() | Moved() | Reported() | Tagged() | Left() | Kept() | Ended():
                self._put(self._after(self.trials[event.trial], event))
            case Steered():
                if event.trials or event.seconds or event.points:  # so does one that is given more to do
                    self.status = self.result = None
            case Finished():
                self.status, self.result = event.status, event.result
            case Interrupted():
                self.status = "interrupted"
            case _:
                pass

    def _put(self, trial: Trial) -> None:
        self.trials[trial.number] = trial

    def _after(self, trial: Trial, event: Begun | Moved | Reported | Tagged | Left | Kept | Ended) -> Trial:
        match event:
            case Reported():
                return self._reported(trial, event)
            case Tagged():
                return dataclasses.replace(trial, tags=_without_empty(trial.tags, event.tags))
            case Left():
                return dataclasses.replace(trial, files=_without_empty(trial.files, event.files))
            case Kept():
                return dataclasses.replace(trial, kept={**trial.kept, event.step: event.manifest}, moved=None)
            case Begun():
                failures, deaths = trial.failures + (event.why == "failed"), trial.deaths + (event.why == "lost")
                return dataclasses.replace(
                    trial, attempts=event.attempt, worker=event.worker, failures=failures, deaths=deaths
                )
            case Moved():
                donor = self.trials[event.donor]
                inherited = {name: getattr(donor, name) for name in INHERITED}
                moved = (event.donor, donor.step)
                return dataclasses.replace(
                    trial,
                    config=event.config,
                    point=event.point,
                    kept={},
                    moved=moved,
                    since=donor.step,
                    before=trial.before or trial,
                    **inherited,
                )
            case Ended():
                self.running.pop(event.trial, None)
                self.ended[event.state] = self.ended.get(event.state, 0) + 1
                fate = ("state", "step", "objective", "reason", "learned", "violation")
                changes = {name: getattr(event, name) for name in fate}
                if event.undone and trial.before is not None:  # its checkpoints have given way to the donor's
                    stays = {name: getattr(trial, name) for name in STAYS}
                    trial = dataclasses.replace(trial.before, kept={}, **stays)
                return dataclasses.replace(trial, values=tuple(event.values), before=None, **changes)

    def _reported(self, trial: Trial, event: Reported) -> Trial:
        value = event.metrics.get(self.metric)
        metrics = {**trial.metrics, **event.metrics} if trial.metrics.keys() - event.metrics.keys() else event.metrics
        changes: dict[str, Any] = {"step": event.step, "metrics": metrics, "deaths": 0, "before": None}
        if value is not None and math.isfinite(value):
            sign = 1 if self.minimize else -1
            again = trial.best_step is not None and trial.best_step >= event.step  # a retry, and the best was not hers
            if trial.best is None or again or sign * value < sign * trial.best:
                changes |= {"best": value, "best_step": event.step, "best_metrics": metrics}
        if event.found:
            chosen = {name: said["value"] for name, said in event.found.items()}
            changes |= {"config": {**trial.config, **chosen}, "point": {**trial.point, **chosen}}
        return dataclasses.replace(trial, **changes)

    # -- who is best ---------------------------------------------------------------------------------------------------

    def best(self) -> Trial | None:
        """The best configuration's first trial that ended with an objective; of equals, the first."""
        leaders = self.leaders(1)
        return leaders[0].trial if leaders else None

    def champion(self) -> Trial | None:
        """The trial whose state, files and metrics are those of the best configuration: its first confirmation, which
        went to its end, or if it has none its first trial.
        """
        leader = next(iter(self.leaders(1)), None)
        return None if leader is None else leader.counted[0]

    def leaders(self, count: int | None = None, *, confirmed: bool = True, equal: bool | None = None) -> list[Leader]:
        """Configurations from the best on: those without a failed seed first, then feasible, confirmed, complete ones.

        A configuration with several seeds counts by their mean; a confirmed one by its confirmations alone, for the
        value that made it a leader was lucky. Without `confirmed`: as if none had been yet. Where the study says that
        values compare (or `equal` does), stopped ones are ranked with the complete.
        """
        equal = self.equal if equal is None else equal
        groups: dict[int, list[Trial]] = {}
        for trial in self.trials.values():
            if trial.objective is not None and trial.state != "failed" and (confirmed or not trial.confirms):
                groups.setdefault(trial.group, []).append(trial)
        flawed = self.flawed(confirmed=confirmed)
        sign = 1 if self.minimize else -1
        ranked: list[tuple[tuple[int, float, bool, bool, float, int], Leader]] = []
        for trials in groups.values():
            again = [trial for trial in trials if trial.confirms]
            counting = again or trials
            middle, half = _interval([float(trial.objective or 0.0) for trial in counting])
            violation = sum(trial.violation for trial in counting) / len(counting)
            stopped = not equal and any(trial.state == "stopped" for trial in counting)
            key = (flawed.get(trials[0].group, 0), violation, not again, stopped, sign * middle, trials[0].number)
            ranked.append((key, Leader(trials[0], middle, half, tuple(counting))))
        ranked.sort(key=lambda item: item[0])
        return [leader for _, leader in ranked[:count]]

    def contenders(self, count: int) -> list[Leader]:
        """Who is worth a confirmation: the leader of the search, then the best by their values, stopped ones too."""
        first = self.leaders(1, confirmed=False)
        if not self.value:  # begun before stopped ones were confirmed
            return self.leaders(count, confirmed=False)
        others = self.leaders(count, confirmed=False, equal=True)
        return [*first, *(leader for leader in others if leader.trial is not first[0].trial)][:count]

    def passed_over(self) -> Leader | None:
        """A stopped trial that had reached more than the best one has, but comes after it as it was not completed."""
        first, other = self.leaders(1), self.leaders(1, equal=True)
        if not first or other[0].trial is first[0].trial or any(t.confirms for t in self.trials.values()):
            return None
        return other[0]

    @property
    def rule(self) -> str:
        """By which values trials are compared, in words; "" where that is not recorded."""
        if not self.value or len(self.objectives) > 1:
            return ""
        order = ", stopped ones too" if self.equal else ", completed ones first"
        sure = ", confirmed ones first" if any(trial.confirms for trial in self.trials.values()) else ""
        return f"by their {self.value} {self.metric}{sure}{order if self.ended['stopped'] else ''}"

    def flawed(self, *, confirmed: bool = True) -> dict[int, int]:
        """How many seeds failed, of configurations of which any did; of one that is confirmed its confirmations."""
        again = {trial.group for trial in self.trials.values() if trial.confirms and confirmed}
        counted = (t.group for t in self.trials.values() if t.state == "failed" and t.confirms == (t.group in again))
        return dict(Counter(counted))

    def pareto(self) -> list[Trial]:
        """Of several objectives: the feasible trials that no other one beats in all of them, by number.

        Of a configuration with several seeds it is the first trial, with the means as values.
        """
        ways = [1 if minimize else -1 for minimize in self.objectives.values()]
        groups: dict[int, list[Trial]] = {}
        for trial in self.trials.values():
            if trial.values and trial.state != "failed":
                groups.setdefault(trial.group, []).append(trial)
        feasible = [_averaged(trials) for trials in groups.values() if not any(trial.violation for trial in trials)]
        ordered = sorted(feasible, key=lambda t: [w * v for w, v in zip(ways, t.values, strict=True)])
        front: list[tuple[list[float], Trial]] = []
        for trial in ordered:
            values = [way * value for way, value in zip(ways, trial.values, strict=True)]
            beaten = any(
                all(a <= b for a, b in zip(other, values, strict=True)) and other != values for other, _ in front
            )
            if not beaten:
                front.append((values, trial))
        return sorted((trial for _, trial in front), key=lambda t: t.number)


def fold(history: History, event: Event) -> History:
    """The history after one more event; the given one stays as it is."""
    after = copy(history)
    after.take(event)
    return after


def copy(history: History) -> History:
    """The same, which events that the other one takes do not change."""
    return dataclasses.replace(
        history, trials=dict(history.trials), running=dict(history.running), ended=dict(history.ended)
    )


def replay(events: Iterable[Event]) -> History:
    """The history that these events make."""
    history = History()
    for event in events:
        history.take(event)
    return history


def mean(values: Sequence[float]) -> float:
    """Their mean, up to the largest floats there are."""
    total = sum(values)
    return total / len(values) if math.isfinite(total) else sum(value / len(values) for value in values)


def _without_empty(before: Mapping[str, str], news: Mapping[str, str]) -> dict[str, str]:
    """What was there, with the news; an empty word takes its name away."""
    return {name: word for name, word in {**before, **news}.items() if word}


def _averaged(trials: list[Trial]) -> Trial:
    """The first of several trials of a configuration, with the mean of each value."""
    means = tuple(mean(column) for column in zip(*(trial.values for trial in trials), strict=True))
    return dataclasses.replace(trials[0], values=means)


def _interval(values: list[float]) -> tuple[float, float | None]:
    """Mean, and the half-width of its 95 % interval (Student's t) where there are several."""
    if len(values) < 2:
        return values[0], None
    from scipy.special import stdtrit

    middle = mean(values)
    deviation = math.hypot(*(value - middle for value in values)) / math.sqrt(len(values) - 1)
    return middle, float(stdtrit(len(values) - 1, 0.975)) * deviation / math.sqrt(len(values))
