"""Which search fits a space and a budget, where the user did not say?"""

from __future__ import annotations

from bilevel.outer.optuna import TPE
from bilevel.outer.search import Problem, Search


def choose(problem: Problem) -> tuple[Search, str]:
    """A search for this problem, and in a few words why this one."""
    return TPE(), f"{len(problem.parameters)} searched values"
