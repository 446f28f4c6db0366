"""What do Optuna's samplers see of a study, and how is a point drawn from them?"""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler, TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from bilevel.dimensions import Dimension, LogInt, Parameter
from bilevel.outer.finite import Tried, decode
from bilevel.outer.search import Point, Problem, Told

_STUDY = "told"
_REDRAWS = 10
_FAILED = 1e300
"""The violation of a trial that failed: more than any other's."""


# -- values as Optuna knows them ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Axis:
    """A dimension as one of Optuna's distributions, and the way there and back.

    Finite ones are the indices of their values, unless their scale is logarithmic; a continuum is the unit interval,
    where all of ours are flat.
    """

    dimension: Dimension
    distribution: BaseDistribution

    def inside(self, value: Any) -> Any:
        """The value as the distribution has it."""
        dimension = self.dimension
        if isinstance(dimension, LogInt):
            return value
        place = dimension.encode(value)
        if isinstance(self.distribution, FloatDistribution):
            return place
        size = dimension.size or 1
        return min(int(place * size), size - 1)

    def outside(self, inside: Any) -> Any:
        """The value that the user knows, a plain one."""
        if isinstance(self.dimension, LogInt):
            return int(inside)
        if isinstance(self.distribution, FloatDistribution):
            return self.dimension.decode(float(inside))
        return self.dimension.decode((int(inside) + 0.5) / (self.dimension.size or 1))


def axis(dimension: Dimension) -> Axis:
    """How Optuna is to see a dimension."""
    size = dimension.size
    if isinstance(dimension, LogInt):
        return Axis(dimension, IntDistribution(dimension.low, dimension.high, log=True))
    if size is not None and not dimension.ordered:
        return Axis(dimension, CategoricalDistribution(tuple(range(size))))
    if size is not None and not dimension.log:
        return Axis(dimension, IntDistribution(0, size - 1))
    return Axis(dimension, FloatDistribution(0.0, 1.0))


# -- the history -------------------------------------------------------------------------------------------------------


class View(optuna.storages.InMemoryStorage):  # type: ignore[misc]
    """A store of trials that holds what it is handed; what samplers write into it is forgotten."""

    def __init__(self, objectives: int) -> None:
        super().__init__()
        self.trials: Sequence[FrozenTrial] = ()
        level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # a new study is news to Optuna
        self.create_new_study([StudyDirection.MINIMIZE] * objectives, _STUDY)
        optuna.logging.set_verbosity(level)

    def study(self, sampler: BaseSampler, trials: Sequence[FrozenTrial]) -> optuna.Study:
        """A study in which these are the trials."""
        self.trials = trials
        return optuna.load_study(study_name=_STUDY, storage=self, sampler=sampler)

    def get_all_trials(self, *_: Any, states: Container[TrialState] | None = None, **__: Any) -> list[FrozenTrial]:
        """Those that it was handed."""
        return [trial for trial in self.trials if states is None or trial.state in states]

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Nothing is kept."""


Rank = tuple[float, ...]


def rank(told: Told) -> Rank:
    """How good a trial is, ascending: complete ones by value, then stopped ones, the farthest first, then the rest."""
    if told.values is None:
        return (3,)
    if told.violation > 0:
        return (2, told.violation)
    return (1, -told.step, told.values[0]) if told.stopped else (0, told.values[0])


class Memory:
    """The trials that a model sees: all that are out, the best of all that were told, and the newest of the others."""

    def __init__(self, best: int, newest: int) -> None:
        self._most = best
        self._best: list[tuple[Rank, int, FrozenTrial]] = []
        self._newest: deque[FrozenTrial] = deque(maxlen=newest)
        self._out: dict[int, FrozenTrial] = {}
        self._seen = 0

    def place(self, number: int) -> int:
        """Where a trial stands in the order of trials."""
        if number in self._out:
            return int(self._out[number].number)
        self._seen += 1
        return self._seen

    def out(self, number: int, trial: FrozenTrial) -> None:
        """A trial is out."""
        self._out[number] = trial

    def end(self, number: int, told: Told, trial: FrozenTrial) -> None:
        """It is told."""
        self._out.pop(number, None)
        insort(self._best, (rank(told), trial.number, trial))
        if len(self._best) > self._most:
            self._newest.append(self._best.pop()[2])

    @property
    def trials(self) -> list[FrozenTrial]:
        """All of them, in their order."""
        best = (trial for _, _, trial in self._best)
        return sorted(chain(best, self._newest, self._out.values()), key=lambda trial: trial.number)


# -- a search ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """Values that are there together and are drawn together."""

    axes: dict[str, Axis]

    @property
    def space(self) -> dict[str, BaseDistribution]:
        """As samplers want it."""
        return {name: axis.distribution for name, axis in self.axes.items()}


def groups(parameters: Sequence[Parameter], *, apart: bool) -> list[Group]:
    """Parameters with the same conditions together, parents first; `apart`: each alone."""
    found: dict[Any, dict[str, Axis]] = {}
    for parameter in parameters:
        if parameter.dimension.size != 1:
            key = parameter.name if apart else parameter.when
            found.setdefault(key, {})[parameter.name] = axis(parameter.dimension)
    return [Group(axes) for axes in found.values()]


class Modelled:
    """A search whose next point a sampler of Optuna's draws from what was told; before that points are random.

    Args:
        problem: what is searched.
        make: a sampler from a seed.
        memory: what it sees.
        startup: so many trials are told first.
        apart: whether every value is drawn alone.
    """

    done = False

    def __init__(
        self, problem: Problem, make: Callable[[int], BaseSampler], memory: Memory, *, startup: int, apart: bool
    ) -> None:
        self._key = problem.key
        self._objectives = problem.objectives
        self._make = make
        self._memory = memory
        self._view = View(problem.objectives)
        self._startup = startup
        self._apart = apart
        self._told = 0
        self._set(problem.parameters)

    def _set(self, parameters: tuple[Parameter, ...]) -> None:
        self._parameters = parameters
        self._groups = groups(parameters, apart=self._apart)
        self._axes = {name: axis for group in self._groups for name, axis in group.axes.items()}
        self._tried = Tried(parameters)

    def grow(self, parameters: tuple[Parameter, ...]) -> None:
        """From now on these are searched, the old ones among them, each alone."""
        self._apart = True
        self._set(parameters)

    def ask(self, number: int) -> Point:
        """What the sampler of this trial draws."""
        return self._tried.novel(self._draws(number), self._key.child(number, "untried"))

    def asked(self, number: int, point: Point) -> None:
        """The trial is out."""
        self._tried.add(point)
        self._memory.out(number, self._trial(number, point, state=TrialState.RUNNING))

    def tell(self, number: int, point: Point, told: Told) -> None:
        """Optuna calls a stopped trial pruned; a failed one it would forget, so it counts as far from allowed."""
        self._told += told.values is not None
        if told.values is None:
            trial = self._trial(number, point, values=[0.0] * self._objectives, constraints={"failed": _FAILED})
        elif told.stopped:
            seen = {told.step: told.values[0]}
            trial = self._trial(number, point, state=TrialState.PRUNED, intermediate_values=seen)
        else:
            trial = self._trial(number, point, values=told.values)
        if told.violation > 0:
            trial.constraints["violation"] = told.violation
        self._memory.end(number, told, trial)

    def _trial(self, number: int, point: Point, **known: Any) -> FrozenTrial:
        axes = {name: self._axes[name] for name in point if name in self._axes}
        trial = create_trial(
            params={name: axis.inside(point[name]) for name, axis in axes.items()},
            distributions={name: axis.distribution for name, axis in axes.items()},
            **known,
        )
        trial.number = self._memory.place(number)
        return trial

    def _draws(self, number: int) -> Iterator[Point]:
        key = self._key.child(number)
        generator = key.numpy()
        if self._told >= self._startup:
            sampler = self._make(key.integer() % 2**32)
            for _ in range(_REDRAWS):
                yield self._drawn(sampler, generator.random(len(self._parameters)).tolist())
        while True:
            yield decode(self._parameters, generator.random(len(self._parameters)).tolist())

    def _drawn(self, sampler: BaseSampler, places: Sequence[float]) -> Point:
        """A point as the sampler has it, and where it has no opinion, at these places."""
        trials = self._memory.trials
        study = self._view.study(sampler, trials)
        asked = create_trial(state=TrialState.RUNNING)
        asked.number = 0
        point: dict[str, Any] = {}
        found: dict[str, Any] = {}
        by_name = {name: group for group in self._groups for name in group.axes}
        for parameter, place in zip(self._parameters, places, strict=True):
            if not parameter.active(point):
                continue
            group = by_name.get(parameter.name)
            if group is not None and parameter.name not in found:
                found |= dict.fromkeys(group.axes) | sampler.sample_relative(study, asked, group.space)
            inside = found.get(parameter.name)
            if group is None or inside is None:
                point[parameter.name] = parameter.dimension.decode(place)
            else:
                point[parameter.name] = self._axes[parameter.name].outside(inside)
        return point


def tpe(options: Any, problem: Problem) -> Modelled:
    """A search of `TPE(...)`."""

    def make(seed: int) -> BaseSampler:
        return TPESampler(
            seed=seed, n_startup_trials=options.startup, n_ei_candidates=options.candidates, multivariate=True
        )

    several = problem.objectives > 1
    memory = Memory(25, options.window - 25)
    return Modelled(problem, make, memory, startup=options.startup, apart=several)
