"""How is a point drawn from a sampler of Optuna's, given what was asked and told?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from bilevel.dimensions import Parameter
from bilevel.outer.finite import Tried, decode
from bilevel.outer.history import Axis, Best, Front, Generations, Memory, Rungs, View, axis, quiet
from bilevel.outer.optuna import GP, NSGA2, TPE
from bilevel.outer.search import Point, Problem, Told

_BROKEN = "violation"
_FAILED = 1e300
"""The violation of a trial that failed: more than any other's."""
_REDRAWS = 10
_BEST = 25
"""Good trials that TPE models at most, of one objective (Optuna's default)."""


class _Trials(Protocol):
    """Which trials a sampler sees; see `history`."""

    def out(self, number: int, trial: FrozenTrial) -> None: ...
    def end(self, number: int, told: Told, trial: FrozenTrial) -> None: ...
    @property
    def trials(self) -> list[FrozenTrial]: ...


class Modelled:
    """A search whose points a sampler draws from what was told.

    Args:
        problem: what is searched.
        make: a sampler from a seed and the trials that it will see.
        history: which trials it sees.
        startup: so many trials are told first; until then points are drawn at random.
        key: parameters for which it is equal are drawn together.
        ready: what is made of the trials before the sampler sees them.
        fill: the value of a parameter that a trial does not have; without it the sampler has to do without.
    """

    done = False

    def __init__(
        self,
        problem: Problem,
        make: Callable[[int, list[FrozenTrial]], BaseSampler],
        history: _Trials,
        *,
        startup: int = 0,
        key: Callable[[Parameter], Any] = lambda _: None,
        ready: Callable[[list[FrozenTrial]], list[FrozenTrial]] = lambda trials: trials,
        fill: Callable[[FrozenTrial, Parameter], Any] | None = None,
    ) -> None:
        self._problem = problem
        self._make = make
        self._history = history
        self._startup = startup
        self._group = key
        self._ready = ready
        self._fill = fill
        self._view = View(problem.objectives)
        self._places: dict[int, int] = {}
        self._seen = 0
        self._told = 0
        self._set(problem.parameters)

    def _set(self, parameters: tuple[Parameter, ...]) -> None:
        self._parameters = parameters
        self._axes = {p.name: axis(p.dimension) for p in parameters if p.dimension.size != 1}
        groups: dict[Any, dict[str, BaseDistribution]] = {}
        self._groups: dict[str, dict[str, BaseDistribution]] = {}
        for parameter in parameters:
            if known := self._axes.get(parameter.name):
                self._groups[parameter.name] = groups.setdefault(self._group(parameter), {})
                self._groups[parameter.name][parameter.name] = known.distribution
        self._tried = Tried(parameters)

    def grow(self, parameters: tuple[Parameter, ...]) -> None:
        """From now on these are searched, the old ones among them, each alone."""
        self._group = lambda parameter: parameter.name
        self._set(parameters)

    # -- asking --------------------------------------------------------------------------------------------------------

    def ask(self, number: int) -> Point:
        """What the sampler of this trial draws."""
        with quiet():
            return self._tried.novel(self._draws(number), self._problem.key.child(number, "untried"))

    def _draws(self, number: int) -> Iterator[Point]:
        key = self._problem.key.child(number)
        generator, width = key.numpy(), len(self._parameters)
        if self._told >= self._startup:
            trials = [self._whole(trial) for trial in self._ready(self._history.trials)]
            sampler = self._make(key.integer() % 2**32, trials)
            study = self._view.study(sampler, trials)
            for _ in range(_REDRAWS):
                yield self._drawn(sampler, study, generator.random(width).tolist())
        while True:
            yield decode(self._parameters, generator.random(width).tolist())

    def _whole(self, trial: FrozenTrial) -> FrozenTrial:
        """The trial with all parameters."""
        missing = [] if self._fill is None else [p for p in self._parameters if p.name not in trial.params]
        missing = [p for p in missing if p.name in self._axes]
        if not missing or self._fill is None:
            return trial
        whole = copy.copy(trial)
        whole.params = trial.params | {p.name: self._axes[p.name].inside(self._fill(trial, p)) for p in missing}
        whole.distributions = trial.distributions | {p.name: self._axes[p.name].distribution for p in missing}
        return whole

    def _drawn(self, sampler: BaseSampler, study: optuna.Study, places: Sequence[float]) -> Point:
        """A point as the sampler has it, and where it has no opinion, at these places."""
        asked = create_trial(state=TrialState.RUNNING)
        asked.number = 0
        point: dict[str, Any] = {}
        found: dict[str, Any] = {}
        for parameter, place in zip(self._parameters, places, strict=True):
            name = parameter.name
            if not parameter.active(point):
                continue
            if name in self._groups and name not in found:
                group = self._groups[name]
                found |= dict.fromkeys(group) | sampler.sample_relative(study, asked, group)
            inside = found.get(name)
            point[name] = parameter.dimension.decode(place) if inside is None else self._axes[name].outside(inside)
        return point

    # -- told ----------------------------------------------------------------------------------------------------------

    def asked(self, number: int, point: Point) -> None:
        """The trial is out."""
        self._tried.add(point)
        self._history.out(number, self._trial(number, point, state=TrialState.RUNNING))

    def tell(self, number: int, point: Point, told: Told) -> None:
        """Optuna calls a stopped trial pruned; a failed one it would forget, so here it breaks a limit by far."""
        self._told += told.values is not None
        known: dict[str, Any] = {"values": told.values, "constraints": {_BROKEN: told.violation}}
        if told.values is None:
            known = {"values": [0.0] * self._problem.objectives, "constraints": {_BROKEN: _FAILED}}
        elif told.stopped:
            known = {
                "state": TrialState.PRUNED,
                "intermediate_values": {told.step: told.values[0]},
                "constraints": {_BROKEN: told.violation},
            }
        self._history.end(number, told, self._trial(number, point, **known))
        self._places.pop(number, None)

    def _trial(self, number: int, point: Point, **known: Any) -> FrozenTrial:
        axes: dict[str, Axis] = {name: self._axes[name] for name in point if name in self._axes}
        trial = create_trial(
            params={name: axis.inside(point[name]) for name, axis in axes.items()},
            distributions={name: axis.distribution for name, axis in axes.items()},
            **known,
        )
        if number not in self._places:
            self._seen += 1
            self._places[number] = self._seen
        trial.number = self._places[number]
        return trial


def tpe(options: TPE, problem: Problem) -> Modelled:
    """A search of `TPE`."""

    def make(seed: int, _: list[FrozenTrial]) -> BaseSampler:
        return TPESampler(
            seed=seed, n_startup_trials=options.startup, n_ei_candidates=options.candidates, multivariate=True
        )

    if problem.objectives > 1:
        most = options.window // 4
        front = Memory(Front(most), options.window - most)
        return Modelled(problem, make, front, startup=options.startup, key=lambda parameter: parameter.name)

    def memory() -> Memory:
        return Memory(Best(_BEST), options.window - _BEST)

    history: _Trials = memory() if problem.fidelity is None else Rungs(memory, options.startup)
    return Modelled(problem, make, history, startup=options.startup, key=lambda parameter: parameter.when)


def gp(options: GP, problem: Problem) -> Modelled:
    """A search of `GP`."""

    def make(seed: int, _: list[FrozenTrial]) -> BaseSampler:
        return GPSampler(seed=seed, n_startup_trials=options.startup, warn_independent_sampling=False)

    def ready(trials: list[FrozenTrial]) -> list[FrozenTrial]:
        return _valued(trials, problem)

    def fill(trial: FrozenTrial, parameter: Parameter) -> Any:  # noqa: ARG001
        return parameter.dimension.middle

    most = options.window // 4
    best = Best(most) if problem.objectives == 1 else Front(most)
    history = Memory(best, options.window - most)
    return Modelled(problem, make, history, startup=options.startup, ready=ready, fill=fill)


def _valued(trials: list[FrozenTrial], problem: Problem) -> list[FrozenTrial]:
    """Every trial with a value: failed ones are among the worse (the worst may be far off), stopped ones no better."""
    known = [t for t in trials if t.state == TrialState.COMPLETE and t.constraints[_BROKEN] < _FAILED]
    columns = [sorted(column) for column in zip(*(t.values for t in known), strict=True)]
    bad = [column[len(column) * 3 // 4] for column in columns] or [0.0] * problem.objectives
    most = max((t.constraints[_BROKEN] for t in known), default=0.0)
    valued = []
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            valued.append(trial)
            continue
        values, violation = trial.values, trial.constraints[_BROKEN]
        if violation >= _FAILED:
            values, violation = bad, most
        elif trial.state == TrialState.PRUNED:
            values = [max(bad[0], *trial.intermediate_values.values())]
        limit = {"constraints": {_BROKEN: violation}} if problem.constrained else {}
        valued.append(create_trial(values=values, params=trial.params, distributions=trial.distributions, **limit))
    return valued


class _Parents(NSGAIISampler):  # type: ignore[misc]
    """Children of given parents; without any, none."""

    def __init__(self, parents: list[FrozenTrial], size: int, seed: int = 0) -> None:
        super().__init__(population_size=size, seed=seed)
        self._given = parents

    def get_trial_generation(self, study: optuna.Study, trial: FrozenTrial) -> int:  # noqa: ARG002
        return 1

    def get_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:  # noqa: ARG002
        return []

    def get_parent_population(self, study: optuna.Study, generation: int) -> list[FrozenTrial]:  # noqa: ARG002
        return self._given


def nsga2(options: NSGA2, problem: Problem) -> Modelled:
    """A search of `NSGA2`."""
    view = View(problem.objectives)

    def make(seed: int, parents: list[FrozenTrial]) -> BaseSampler:
        return _Parents(parents, options.population, seed)

    def elite(trials: list[FrozenTrial]) -> list[FrozenTrial]:
        sampler = _Parents([_finished(trial) for trial in trials], options.population)
        best: list[FrozenTrial] = sampler.select_parent(view.study(sampler, ()), 1)
        return best

    def fill(trial: FrozenTrial, parameter: Parameter) -> Any:
        key = problem.key.child("genes", trial.number, parameter.name)
        return parameter.dimension.decode(float(key.numpy().random()))

    return Modelled(problem, make, Generations(options.population, elite), fill=fill)


def _finished(trial: FrozenTrial) -> FrozenTrial:
    """A stopped trial as one that breaks a limit, the more the sooner it was stopped."""
    if trial.state != TrialState.PRUNED:
        return trial
    ((step, value),) = trial.intermediate_values.items()
    return create_trial(
        values=[value],
        params=trial.params,
        distributions=trial.distributions,
        constraints={_BROKEN: max(trial.constraints[_BROKEN], 1 / (1 + step))},
    )
