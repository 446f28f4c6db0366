"""Which search fits a space and a budget, where the user did not say?"""

from __future__ import annotations

from bilevel.search.cmaes import CMAES
from bilevel.search.optuna import GP, NSGA2, TPE
from bilevel.search.port import Problem, Search

FEW = 200
"""Trials up to which a model of all of them is worth its time."""
EACH = 100
"""Trials for each searched number from which on CMA-ES gets further than TPE (on BBOB, and beyond it ever more)."""
FINE = 10
"""Values of a range from which on it is like a continuum."""
MANY = 2000
"""Trials of several objectives from which on a population beats a model."""
DIMENSIONS = 20
"""Searched values up to which a Gaussian process finds its way."""


def choose(problem: Problem) -> tuple[Search, str]:
    """A search for this problem, and in a few words why this one."""
    values, trials = len(problem.parameters), problem.trials
    depends = next((parameter for parameter in problem.parameters if parameter.when), None)
    if problem.objectives > 1:
        if trials is not None and trials >= MANY:
            return NSGA2(), f"{problem.objectives} objectives and {trials} trials"
        return TPE(), f"{problem.objectives} objectives"
    if not problem.parameters:
        return TPE(), "the objective suggests its own values, which it gets to know on the way"
    if depends is not None:
        return TPE(), f"{depends.name} depends on {depends.when[-1][0]}"
    if problem.fidelity is not None:
        return TPE(), "trials are stopped early, and it compares them at the same step"
    if trials is None:
        return TPE(), "the number of trials is open"
    if trials > FEW:
        numbers = all(p.dimension.ordered and (p.dimension.size or FINE) >= FINE for p in problem.parameters)
        if numbers and trials >= EACH * values:
            return CMAES(), f"{trials} trials of {values} number{'s' * (values > 1)}"
        return TPE(), f"{trials} trials"
    if values > DIMENSIONS:
        return TPE(), f"{values} searched values"
    return GP(), f"{trials} trials of {values} searched value{'s' * (values > 1)}"
