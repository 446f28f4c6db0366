"""Where do Optuna's samplers look next (TPE, GP, NSGA-II)? They are stateless here: a fresh one for every question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bilevel.errors import BadInput
from bilevel.outer.loop import start
from bilevel.outer.search import Problem, Searcher


@dataclass(frozen=True)
class TPE:
    """Tree-structured Parzen estimators (Bergstra et al. 2011; Watanabe 2023), by Optuna.

    Draws from a density of the good points and takes the draw that is rarest among the others. The density is joint
    over the values that are always there, and over those below each option of a choice. Trials that are still running
    count as not good, so that parallel ones spread; failed ones and those that break a limit come last; stopped ones
    after all complete ones.

    Args:
        startup: so many trials are told before anything is modelled; until then points are drawn at random.
        candidates: draws to choose from.
        window: the model sees the best 25 trials of all and the newest so many others; the time to ask stays the same
            however long the study. What is left out are old trials that were not good; they hardly count in TPE
            anyway, whose weights fall with age.
    """

    startup: int = 10
    candidates: int = 24
    window: int = 1000

    start = start

    def __post_init__(self) -> None:
        _check(self, startup=1, candidates=1, window=50)

    def open(self, problem: Problem) -> Searcher:
        """A search for this problem."""
        from bilevel.outer import samplers

        return samplers.tpe(self, problem)


def _check(search: Any, **least: int) -> None:
    for name, low in least.items():
        value = getattr(search, name)
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise BadInput(f"{type(search).__name__}: {name}={value!r}; it takes a whole number from {low} on")
