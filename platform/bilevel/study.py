"""What is a study, what has become of it, and what comes next? Pure: it decides, only the driver acts."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from bilevel import space as spaces
from bilevel.episodes import Key
from bilevel.errors import BadInput
from bilevel.events import Asked, Ended, Event, Finished, Interrupted, Kept, Reported, Started
from bilevel.space import Space


@dataclass(frozen=True, kw_only=True)
class Study:
    """An objective, the space of its configurations, and what to look for.

    Args:
        name: a short name; the MLflow experiment is called so.
        objective: `(config, run) -> reports`, a generator (or a function that calls `run.report`).
        space: where each value of the configuration comes from.
        minimize, maximize: the metric that is the objective; one of the two.
        seed: of all randomness; the same study and seed give the same result, bit for bit.
        trials: how many; those of a study without searched values differ in their seeds alone.
        value: a trial's objective is its "last" reported value, or its "best".
        threads: CPU threads of a unit of work; the bits depend on it, so it belongs to the study.
    """

    name: str
    objective: Callable[..., Any]
    space: Space
    minimize: str | None = None
    maximize: str | None = None
    seed: int = 0
    trials: int = 1
    value: Literal["last", "best"] = "last"
    threads: int = 1

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", self.name):
            raise BadInput(
                f"Study: name {self.name!r}; use up to 64 letters, digits, '-', '_' or '.', starting with a letter"
            )
        if (self.minimize is None) == (self.maximize is None):
            raise BadInput(f"Study {self.name}: name one metric, minimize='...' or maximize='...'")
        if not callable(self.objective):
            raise BadInput(f"Study {self.name}: objective {self.objective!r} cannot be called")
        if not isinstance(self.space, Space):
            raise BadInput(f"Study {self.name}: space is a {type(self.space).__name__}; write Space(Config, ...)")
        for name, low in (("seed", 0), ("trials", 1), ("threads", 1)):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise BadInput(f"Study {self.name}: {name} is {value!r}; it takes a whole number from {low} on")
        if self.value not in ("last", "best"):
            raise BadInput(f"Study {self.name}: value is {self.value!r}; it takes 'last' or 'best'")
        allowed = getattr(self.objective, "learns", ())
        for path, _ in spaces.learned(self.space):
            if path.partition(".")[0] not in allowed:
                able = f"it learns what is under {', '.join(allowed)}" if allowed else "it learns nothing by gradient"
                raise BadInput(
                    f"Study {self.name}: {path} is Learned, but {_name(self.objective)} cannot learn it; {able}"
                )

    @property
    def metric(self) -> str:
        """The metric that is the objective."""
        return self.minimize or self.maximize or ""

    @property
    def key(self) -> Key:
        """Of all the study's randomness."""
        return Key((self.seed,))

    def set(self, path: str, value: Any) -> Study:
        """The same study with the value at a dotted path replaced (a constant, a `Space` or `Learned`).

        Raises:
            BadInput: no such path, or a value that does not fit.
        """
        return dataclasses.replace(self, space=spaces.assign(self.space, path, value))

    def config(self) -> dict[str, Any]:
        """The configuration by dotted path; that of every trial, as no value is searched."""
        return spaces.flatten(self.space)


# -- what has become of it ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Trial:
    """What the journal says of a trial: `state` is running, completed, stopped or failed."""

    number: int
    config: Mapping[str, Any]
    seed: int
    state: str = "running"
    step: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    """The last value of each metric."""
    best: float | None = None
    best_step: int | None = None
    objective: float | None = None
    reason: str | None = None
    learned: str | None = None
    kept: Mapping[int, str] = field(default_factory=dict)
    """Checkpoints: step -> SHA-256 of the manifest."""


@dataclass(frozen=True)
class History:
    """All that was decided and happened, as far as decisions depend on it."""

    metric: str = ""
    minimize: bool = True
    trials: Mapping[int, Trial] = field(default_factory=dict)
    status: str | None = None
    result: Mapping[str, Any] | None = None

    def best(self) -> Trial | None:
        """The best trial that ended with an objective; of equals, the first."""
        ended = [t for t in self.trials.values() if t.objective is not None and t.state != "failed"]
        sign = 1 if self.minimize else -1
        return min(ended, key=lambda t: (sign * float(t.objective or 0.0), t.number), default=None)


def fold(history: History, event: Event) -> History:
    """The history after one more event."""
    match event:
        case Started():
            return dataclasses.replace(history, metric=event.metric, minimize=event.minimize)
        case Asked():
            return _with(history, Trial(event.trial, event.config, event.seed))
        case Reported():
            return _with(history, _reported(history, history.trials[event.trial], event))
        case Kept():
            trial = history.trials[event.trial]
            return _with(history, dataclasses.replace(trial, kept={**trial.kept, event.step: event.manifest}))
        case Ended():
            trial = history.trials[event.trial]
            fate = {name: getattr(event, name) for name in ("state", "step", "objective", "reason", "learned")}
            return _with(history, dataclasses.replace(trial, **fate))
        case Finished():
            return dataclasses.replace(history, status=event.status, result=event.result)
        case Interrupted():
            return dataclasses.replace(history, status="interrupted")
        case _:
            return history


def replay(events: Iterable[Event]) -> History:
    """The history that these events make."""
    history = History()
    for event in events:
        history = fold(history, event)
    return history


def _with(history: History, trial: Trial) -> History:
    return dataclasses.replace(history, trials={**history.trials, trial.number: trial})


def _reported(history: History, trial: Trial, event: Reported) -> Trial:
    value = event.metrics.get(history.metric)
    best, best_step = trial.best, trial.best_step
    if value is not None and math.isfinite(value):
        sign = 1 if history.minimize else -1
        if best is None or sign * value < sign * best:
            best, best_step = value, event.step
    metrics = {**trial.metrics, **event.metrics}
    return dataclasses.replace(trial, step=event.step, metrics=metrics, best=best, best_step=best_step)


# -- what comes next ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Finish:
    """Nothing is left to do; the study ends with this status."""

    status: str


def decide(study: Study, history: History, slots: int) -> list[Asked | Finish]:
    """The trials to begin now, given `slots` places for running ones; or the end."""
    running = sum(trial.state == "running" for trial in history.trials.values())
    asked = len(history.trials)
    room = min(slots - running, study.trials - asked)
    if room > 0:
        return [ask(study, number) for number in range(asked, asked + room)]
    if running == 0:
        return [Finish("completed" if history.best() is not None else "failed")]
    return []


def ask(study: Study, number: int) -> Asked:
    """The trial of this number."""
    return Asked(number, study.config(), study.key.child("trial", number).integer())


def end(study: Study, trial: Trial, state: str, learned: str | None, reason: str | None = None) -> Ended:
    """How a trial ends; one that never reported its metric, or one that is not finite, has failed."""
    value = trial.metrics.get(study.metric)
    if study.value == "best" and trial.best is not None:
        value = trial.best
    if state == "completed" and value is None:
        known = ", ".join(sorted(trial.metrics)) or "nothing"
        state, reason = "failed", f"never reported {study.metric!r}; it reported {known}"
    elif value is not None and not math.isfinite(value):
        state, reason, value = "failed", reason or f"step {trial.step}: {study.metric} is {value}", None
    return Ended(trial.number, state, trial.step, value if state != "failed" else None, reason, learned)


def _name(value: Any) -> str:
    return str(getattr(value, "__qualname__", type(value).__name__))
