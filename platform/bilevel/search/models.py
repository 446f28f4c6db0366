"""What do TPE, a Gaussian process and NSGA-II make of the trials that they are told?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.samplers import BaseSampler, GPSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from bilevel.search.optuna_trials import Best, Front, Generations, Memory, Rungs, Trials, View
from bilevel.search.port import Problem
from bilevel.search.samplers import BROKEN, FAILED, Modelled
from bilevel.space.dimensions import Parameter

_CHANCE = 3
"""Where trials are stopped early, one in so many is drawn at random (Falkner et al. 2018): who is good early on may not
be at the end."""
_BEST = 25
"""Good trials that TPE models at most, of one objective (Optuna's default)."""


def tpe(problem: Problem, *, startup: int, candidates: int, window: int) -> Modelled:
    """A search of `TPE`."""

    def make(seed: int, _: list[FrozenTrial]) -> BaseSampler:
        return TPESampler(seed=seed, n_startup_trials=startup, n_ei_candidates=candidates, multivariate=True)

    if problem.objectives > 1:
        most = window // 4
        front = Memory(Front(most), window - most)
        return Modelled(problem, make, front, startup=startup, key=lambda parameter: parameter.name)

    def memory() -> Memory:
        return Memory(Best(_BEST), window - _BEST)

    early = problem.fidelity is not None
    history: Trials = Rungs(memory, startup) if early else memory()
    return Modelled(
        problem,
        make,
        history,
        startup=startup,
        chance=_CHANCE if early else 0,
        key=lambda parameter: parameter.when,
    )


def gp(problem: Problem, *, startup: int, window: int) -> Modelled:
    """A search of `GP`."""

    def make(seed: int, _: list[FrozenTrial]) -> BaseSampler:
        return GPSampler(seed=seed, n_startup_trials=startup, warn_independent_sampling=False)

    def ready(trials: list[FrozenTrial]) -> list[FrozenTrial]:
        return _valued(trials, problem)

    def fill(trial: FrozenTrial, parameter: Parameter) -> Any:  # noqa: ARG001
        return parameter.dimension.middle

    most = window // 4
    best = Best(most) if problem.objectives == 1 else Front(most)
    history = Memory(best, window - most)
    return Modelled(problem, make, history, startup=startup, ready=ready, fill=fill)


def _valued(trials: list[FrozenTrial], problem: Problem) -> list[FrozenTrial]:
    """Every trial with a value: failed ones are among the worse (the worst may be far off), stopped ones no better.

    What is worse than the median is drawn near to it, logarithmically: one value far off would be all that is seen.
    """
    known = [t for t in trials if t.state == TrialState.COMPLETE and t.constraints[BROKEN] < FAILED]
    columns = [sorted(column) for column in zip(*(t.values for t in known), strict=True)]
    bad = [column[len(column) * 3 // 4] for column in columns] or [0.0] * problem.objectives
    most = max((t.constraints[BROKEN] for t in known), default=0.0)
    valued = []
    for trial in trials:
        if trial.state == TrialState.RUNNING:
            valued.append(trial)
            continue
        values, violation = trial.values, trial.constraints[BROKEN]
        if violation >= FAILED:
            values, violation = bad, most
        elif trial.state == TrialState.PRUNED:
            values = [max(bad[0], *trial.intermediate_values.values())]
        values = [_near(value, column) for value, column in zip(values, columns, strict=True)] if columns else values
        limit = {"constraints": {BROKEN: violation}} if problem.constrained else {}
        valued.append(create_trial(values=values, params=trial.params, distributions=trial.distributions, **limit))
    return valued


def _near(value: float, known: Sequence[float]) -> float:
    """A value beyond the median of the sorted known ones, in units of the better half's width, by its logarithm."""
    middle = known[len(known) // 2]
    width = middle - known[0]
    return value if value <= middle or width <= 0 else middle + width * math.log1p((value - middle) / width)


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


def nsga2(problem: Problem, *, population: int) -> Modelled:
    """A search of `NSGA2`."""
    view = View(problem.objectives)

    def make(seed: int, parents: list[FrozenTrial]) -> BaseSampler:
        return _Parents(parents, population, seed)

    def elite(trials: list[FrozenTrial]) -> list[FrozenTrial]:
        sampler = _Parents([_finished(trial) for trial in trials], population)
        best: list[FrozenTrial] = sampler.select_parent(view.study(sampler, ()), 1)
        return best

    def fill(trial: FrozenTrial, parameter: Parameter) -> Any:
        key = problem.key.child("genes", trial.number, parameter.name)
        return parameter.dimension.decode(float(key.numpy().random()))

    return Modelled(problem, make, Generations(population, elite), fill=fill)


def _finished(trial: FrozenTrial) -> FrozenTrial:
    """A stopped trial as one that breaks a limit, the more the sooner it was stopped."""
    if trial.state != TrialState.PRUNED:
        return trial
    ((step, value),) = trial.intermediate_values.items()
    return create_trial(
        values=[value],
        params=trial.params,
        distributions=trial.distributions,
        constraints={BROKEN: max(trial.constraints[BROKEN], 1 / (1 + step))},
    )
