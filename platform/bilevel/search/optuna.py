"""Where do Optuna's samplers look next (TPE, GP, NSGA-II)? They are stateless here: a fresh one for every question."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bilevel.errors import BadInput
from bilevel.search.loop import start
from bilevel.search.port import Problem, Searcher

# Optuna itself is imported when a search is opened: it takes half a second, and who only reads a study can do without.


@dataclass(frozen=True)
class TPE:
    """Tree-structured Parzen estimators (Bergstra et al. 2011; Watanabe 2023), by Optuna.

    Draws from a density of the good points and takes the draw that is rarest among the others. The density is joint
    over the values that are always there, and over those below each option of a choice; of several objectives each
    value has its own. Trials that are still out count as not good, so that parallel ones spread; those that break a
    limit come after all others, failed ones last. Where trials are stopped early, they are compared at the last step
    that at least `startup` have reached, and one in three is drawn at random (Falkner et al. 2018).

    Args:
        startup: so many trials are told before anything is modelled; until then points are drawn at random.
        candidates: draws to choose from.
        window: the model sees the best 25 trials of all and the newest of the others, so many in all; the time to ask
            stays the same however long the study. What is left out are old trials that were not good, which hardly
            count in TPE anyway: its weights fall with age.
    """

    startup: int = 10
    candidates: int = 24
    window: int = 1000

    start = start

    def __post_init__(self) -> None:
        _check(self, startup=1, candidates=1, window=50)

    def open(self, problem: Problem) -> Searcher:
        """A search for this problem."""
        from bilevel.search import models

        return models.tpe(problem, startup=self.startup, candidates=self.candidates, window=self.window)


@dataclass(frozen=True)
class GP:
    """A Gaussian process and the point of the greatest expected improvement, by Optuna: few, dear trials.

    An ask takes about a tenth of a second after 100 trials, and grows no more after `window` trials. Trials that are
    still out are taken into account; failed ones count as worse than three quarters, stopped ones as no better. Values
    worse than the median are drawn near to it, by their logarithm, so that one that is far off does not hide the rest.

    Args:
        startup: so many trials are told before anything is modelled; until then points are drawn at random.
        window: the model sees the best quarter of so many trials, of all, and the newest of the others.
    """

    startup: int = 10
    window: int = 200

    start = start

    def __post_init__(self) -> None:
        _check(self, startup=1, window=20)

    def open(self, problem: Problem) -> Searcher:
        """A search for this problem.

        Raises:
            BadInput: the space has values that are there only under a condition.
        """
        depends = next((parameter for parameter in problem.parameters if parameter.when), None)
        if depends is not None:
            name, label = depends.when[-1]
            raise BadInput(
                f"GP: {depends.name} is only there where {name} is {label}, and a Gaussian process needs every value in"
                " every trial; use TPE(), or search each option in a study of its own"
            )
        from bilevel.search import models

        return models.gp(problem, startup=self.startup, window=self.window)


@dataclass(frozen=True)
class NSGA2:
    """NSGA-II (Deb et al. 2002), by Optuna: a population for several objectives and many trials.

    A generation is over when `population` trials have been told since the last one; the parents of the next are the
    best of these and of their parents. Trials that break a limit come after all others, failed ones last.
    """

    population: int = 50

    start = start

    def __post_init__(self) -> None:
        _check(self, population=2)

    def open(self, problem: Problem) -> Searcher:
        """A search for this problem."""
        from bilevel.search import models

        return models.nsga2(problem, population=self.population)


def _check(search: Any, **least: int) -> None:
    for name, low in least.items():
        value = vars(search)[name]
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise BadInput(f"{type(search).__name__}: {name}={value!r}; it takes a whole number from {low} on")
