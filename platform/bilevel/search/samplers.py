"""How is a point drawn from a sampler of Optuna's, given what was asked and told?"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from bilevel.search.finite import Tried, decode
from bilevel.search.optuna_trials import Axis, Trials, View, axis, quiet
from bilevel.search.port import Point, Problem, Told
from bilevel.space.dimensions import Parameter

BROKEN = "violation"
LARGEST = 1e100
"""What a model is told of larger values."""
FAILED = 1e300
"""The violation of a trial that failed: more than any other's."""
_REDRAWS = 10
_FEW = 5
"""Trials of this run from which on those of earlier runs are compared with them by rank."""


class Modelled:
    """A search whose points a sampler draws from what was told.

    Args:
        problem: what is searched.
        make: a sampler from a seed and the trials that it will see.
        history: which trials it sees.
        startup: so many trials are told first; until then points are drawn at random.
        chance: every so many trials one is drawn at random all the same; 0: none.
        key: parameters for which it is equal are drawn together.
        ready: what is made of the trials before the sampler sees them.
        fill: the value of a parameter that a trial does not have; without it the sampler has to do without.
    """

    done = False

    def __init__(
        self,
        problem: Problem,
        make: Callable[[int, list[FrozenTrial]], BaseSampler],
        history: Trials,
        *,
        startup: int = 0,
        chance: int = 0,
        key: Callable[[Parameter], Any] = lambda _: None,
        ready: Callable[[list[FrozenTrial]], list[FrozenTrial]] = lambda trials: trials,
        fill: Callable[[FrozenTrial, Parameter], Any] | None = None,
    ) -> None:
        self._problem = problem
        self._make = make
        self._history = history
        self._startup = startup
        self._chance = chance
        self._group = key
        self._ready = ready
        self._fill = fill
        self._view = View(problem.objectives)
        self._places: dict[int, int] = {}
        self._earlier: set[int] = set()
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
        if self._told >= self._startup and not (self._chance and number % self._chance == 0):
            trials = [self._whole(trial) for trial in self._ready(aligned(self._history.trials, self._earlier))]
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
        """Optuna calls a stopped trial pruned; a failed one it would forget, so here it breaks a limit by far.

        Of several objectives a stopped trial (the time was over) stays as if it were out: what it came to on the way is
        no point of the front.
        """
        told = bounded(told)
        if number < 0:
            self._tried.add(point)
        if told.stopped and self._problem.objectives > 1:
            return
        self._told += told.values is not None
        known: dict[str, Any] = {"values": told.values, "constraints": {BROKEN: told.violation}}
        if told.values is None:
            known = {"values": [0.0] * self._problem.objectives, "constraints": {BROKEN: FAILED}}
        elif told.stopped:
            known = {
                "state": TrialState.PRUNED,
                "intermediate_values": {told.step: told.values[0]},
                "constraints": {BROKEN: told.violation},
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
        if number < 0:
            self._earlier.add(trial.number)
        return trial


def aligned(trials: list[FrozenTrial], earlier: set[int]) -> list[FrozenTrial]:
    """The same trials, those of earlier runs with values of this run: of the same rank, each among its own.

    On other data losses have another scale: as they are, all of the earlier trials might look better than any of this
    run, which so would never count. On the same data little is lost (`tests/benchmarks/warm.py` measures both).
    """
    if not earlier:
        return trials
    known = [t for t in trials if t.state == TrialState.COMPLETE and t.constraints[BROKEN] < FAILED]
    before = [trial for trial in known if trial.number in earlier]
    own = np.sort([trial.values for trial in known if trial.number not in earlier], axis=0)  # [trials, objectives]
    if not before or len(own) < _FEW:
        return trials
    there = np.array([trial.values for trial in before])
    middles = (np.arange(len(own)) + 0.5) / len(own)
    columns = []
    for theirs, ours in zip(there.T, own.T, strict=True):
        ordered = np.sort(theirs)
        ranks = (np.searchsorted(ordered, theirs) + np.searchsorted(ordered, theirs, side="right")) / (2 * len(before))
        columns.append(np.interp(ranks, middles, ours))
    values = dict(zip((trial.number for trial in before), np.stack(columns, axis=1).tolist(), strict=True))
    return [_with(trial, values[trial.number]) if trial.number in values else trial for trial in trials]


def _with(trial: FrozenTrial, values: list[float]) -> FrozenTrial:
    other = copy.copy(trial)
    other.values = values
    return other


def bounded(told: Told) -> Told:
    """With values that a model can add and square: larger ones are cut, which floats near their limits survive."""
    cut = [*(told.values or ()), *(value for _, value in told.curve)]
    if not any(abs(value) > LARGEST for value in cut):
        return told
    values = None if told.values is None else tuple(map(_cut, told.values))
    return replace(told, values=values, curve=tuple((step, _cut(value)) for step, value in told.curve))


def _cut(value: float) -> float:
    return min(max(value, -LARGEST), LARGEST)
