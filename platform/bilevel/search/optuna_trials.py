"""What do Optuna's samplers see of what was asked and told?"""

from __future__ import annotations

import copy
import math
from bisect import insort
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from bilevel.search.port import Told
from bilevel.space.dimensions import Dimension, LogInt

_STUDY = "told"
_FEW = 64
"""Values of which each is weighed by itself, which costs TPE much time; and steps at which trials are compared."""


@dataclass(frozen=True)
class Axis:
    """A dimension as one of Optuna's distributions, and the way there and back.

    A few values are the indices of them, unless their scale is logarithmic; many values and a continuum are the unit
    interval, where all of ours are flat.
    """

    dimension: Dimension
    distribution: BaseDistribution

    def inside(self, value: Any) -> Any:
        """The value as the distribution has it."""
        place = self.dimension.encode(value)
        if isinstance(self.distribution, FloatDistribution):
            return place
        if isinstance(self.dimension, LogInt):
            return min(max(value, self.dimension.low), self.dimension.high)  # the range may have changed (`grow`)
        size = self.dimension.size or 1
        return min(int(place * size), size - 1)

    def outside(self, inside: Any) -> Any:
        """The value that the user knows, a plain one."""
        if isinstance(self.distribution, FloatDistribution):
            return self.dimension.decode(float(inside))
        if isinstance(self.dimension, LogInt):
            return int(inside)
        return self.dimension.decode((int(inside) + 0.5) / (self.dimension.size or 1))


def axis(dimension: Dimension) -> Axis:
    """How Optuna is to see a dimension."""
    size = dimension.size
    if size is not None and not dimension.ordered:
        return Axis(dimension, CategoricalDistribution(tuple(range(size))))
    if size is None or size > _FEW:
        return Axis(dimension, FloatDistribution(0.0, 1.0))
    if isinstance(dimension, LogInt):
        return Axis(dimension, IntDistribution(dimension.low, dimension.high, log=True))
    return Axis(dimension, FloatDistribution(0.0, 1.0) if dimension.log else IntDistribution(0, size - 1))


@contextmanager
def quiet() -> Iterator[None]:
    """Optuna logs nothing but errors: a study that begins, a search that has converged are no news here."""
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        yield
    finally:
        optuna.logging.set_verbosity(level)


class View(optuna.storages.InMemoryStorage):  # type: ignore[misc]
    """A store of trials that holds what it is handed; what samplers write into it is forgotten."""

    def __init__(self, objectives: int) -> None:
        super().__init__()
        self._handed: Sequence[FrozenTrial] = ()
        with quiet():
            self.create_new_study([StudyDirection.MINIMIZE] * objectives, _STUDY)

    def study(self, sampler: BaseSampler, trials: Sequence[FrozenTrial]) -> optuna.Study:
        """A study in which these are the trials."""
        self._handed = trials
        return optuna.load_study(study_name=_STUDY, storage=self, sampler=sampler)

    def get_all_trials(self, *_: Any, states: Container[TrialState] | None = None, **__: Any) -> list[FrozenTrial]:
        """Those that it was handed."""
        return [trial for trial in self._handed if states is None or trial.state in states]

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Nothing is kept."""


# -- which trials ------------------------------------------------------------------------------------------------------


def rank(told: Told) -> tuple[float, ...]:
    """How good a trial is, ascending: complete ones by value, then stopped ones, the farthest first, then the rest."""
    if told.values is None:
        return (3,)
    if told.violation > 0:
        return 2, told.violation
    return (1, -told.step, told.values[0]) if told.stopped else (0, told.values[0])


class Best:
    """The `most` best trials of one objective."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._ranked: list[tuple[tuple[float, ...], int, FrozenTrial]] = []

    def add(self, told: Told, trial: FrozenTrial) -> list[FrozenTrial]:
        """Takes a trial in; who has no room is given back."""
        insort(self._ranked, (rank(told), trial.number, trial))
        return [self._ranked.pop()[2]] if len(self._ranked) > self._most else []

    @property
    def trials(self) -> list[FrozenTrial]:
        """The best first."""
        return [trial for _, _, trial in self._ranked]


class Front:
    """Trials that no other is better than in all of several objectives; of more than `most` the newest."""

    def __init__(self, most: int) -> None:
        self._most = most
        self.trials: list[FrozenTrial] = []

    def add(self, told: Told, trial: FrozenTrial) -> list[FrozenTrial]:
        """Takes a trial in; who is beaten or has no room is given back."""
        values = told.values
        if values is None or told.violation > 0 or any(_beats(known.values, values) for known in self.trials):
            return [trial]
        stay = [known for known in self.trials if not _beats(values, known.values)]
        gone = [known for known in self.trials if known not in stay]
        self.trials = [*stay, trial][-self._most :]
        return gone + stay[: len(stay) + 1 - len(self.trials)]


def _beats(left: Sequence[float], right: Sequence[float]) -> bool:
    return all(a <= b for a, b in zip(left, right, strict=True)) and tuple(left) != tuple(right)


class Trials(Protocol):
    """Keeps what a sampler is to see."""

    def out(self, number: int, trial: FrozenTrial) -> None:
        """A trial is out."""
        ...

    def end(self, number: int, told: Told, trial: FrozenTrial) -> None:
        """It is told."""
        ...

    @property
    def trials(self) -> list[FrozenTrial]:
        """What is to be seen."""
        ...


class Memory:
    """What a model of fixed size sees: all trials that are out, the best of those told, and the newest of the others.

    Its order is that in which trials were asked for.
    """

    def __init__(self, best: Best | Front, newest: int) -> None:
        self._best = best
        self._newest: deque[FrozenTrial] = deque(maxlen=newest)
        self._out: dict[int, FrozenTrial] = {}

    def out(self, number: int, trial: FrozenTrial) -> None:
        """A trial is out."""
        self._out[number] = trial

    def end(self, number: int, told: Told, trial: FrozenTrial) -> None:
        """It is told."""
        self._out.pop(number, None)
        self._newest.extend(self._best.add(told, trial))

    @property
    def trials(self) -> list[FrozenTrial]:
        """All of them."""
        return sorted(chain(self._best.trials, self._newest, self._out.values()), key=lambda trial: trial.number)


class Rungs:
    """Of trials some of which are stopped early, those that reached one step, with their values there.

    Values of different steps are not compared (Falkner et al. 2018): it is the last step of all that at least `least`
    have reached, of those at which trials were stopped, and the end.
    """

    def __init__(self, make: Callable[[], Memory], least: int) -> None:
        self._make = make
        self._least = least
        self._rungs: dict[float, Memory] = {}
        self._reached: dict[float, int] = {}
        self._failed: deque[FrozenTrial] = deque(maxlen=_FEW)
        self._out: dict[int, FrozenTrial] = {}

    def out(self, number: int, trial: FrozenTrial) -> None:
        """A trial is out."""
        self._out[number] = trial

    def end(self, number: int, told: Told, trial: FrozenTrial) -> None:
        """It is told."""
        self._out.pop(number, None)
        if told.values is None:
            self._failed.append(trial)
            return
        last = told.step if told.stopped else math.inf
        if last not in self._rungs and len(self._rungs) < _FEW:
            self._rungs[last] = self._make()
            self._reached[last] = 0
        seen: dict[float, float] = {**dict(told.curve), last: told.values[0]}
        for step, memory in self._rungs.items():
            if step in seen:
                there = copy.copy(trial)
                there.state, there.values = TrialState.COMPLETE, [seen[step]]
                memory.end(number, Told((seen[step],), violation=told.violation), there)
                self._reached[step] += 1

    @property
    def trials(self) -> list[FrozenTrial]:
        """Those that reached this step, that are out, and that failed; none as long as too few have reached any."""
        far = [step for step, count in self._reached.items() if count >= self._least]
        if not far:
            return []
        reached = self._rungs[max(far)].trials
        return sorted(chain(reached, self._failed, self._out.values()), key=lambda trial: trial.number)


class Generations:
    """The parents of a population: the best of the newest `size` trials told and of their own parents."""

    def __init__(self, size: int, elite: Callable[[list[FrozenTrial]], list[FrozenTrial]]) -> None:
        self._size = size
        self._elite = elite
        self._told: list[FrozenTrial] = []
        self.trials: list[FrozenTrial] = []

    def out(self, number: int, trial: FrozenTrial) -> None:
        """A trial that is out is nobody's parent."""

    def end(self, number: int, told: Told, trial: FrozenTrial) -> None:  # noqa: ARG002
        """It is told."""
        self._told.append(trial)
        if len(self._told) == self._size:
            self.trials = self._elite(self._told + self.trials)
            self._told = []
