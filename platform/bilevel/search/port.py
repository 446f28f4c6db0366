"""How does a study talk to a search? Ask where to look next, tell what came of it; the search's state is that talk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from bilevel.episodes import Key
from bilevel.space.dimensions import Parameter
from bilevel.traits import Trait, Traits

DEFAULT_TRIALS = 50
"""Trials of a search that does not say how many."""
Point = Mapping[str, Any]
"""Searched values by the name of their parameter, of the parameters that are active (conditions hold)."""


@dataclass(frozen=True)
class Problem:
    """What is searched.

    Args:
        parameters: the searched values, parents before those that depend on them.
        key: of the search's randomness; an ask of trial n uses `key.child(n)`, never a long-lived generator.
        objectives: how many values are minimized at once.
        trials: how many will be asked for, if that is known.
        fidelity: the last step of a trial, if trials may be stopped early.
        constrained: whether results may be infeasible (`Told.violation`).
    """

    parameters: tuple[Parameter, ...]
    key: Key
    objectives: int = 1
    trials: int | None = None
    fidelity: int | None = None
    constrained: bool = False


@dataclass(frozen=True)
class Told:
    """What came of a point. Values are minimized and finite; None: the trial failed.

    Args:
        values: one for each objective; of a stopped trial its last ones.
        step: the fidelity at which `values` were seen.
        stopped: it was stopped before its end, so `values` are not comparable with those of complete trials.
        violation: by how much constraints on the result are broken, summed; 0: feasible.
        curve: `(step, value)` of the first objective on the way, ascending.
    """

    values: tuple[float, ...] | None
    step: int = 0
    stopped: bool = False
    violation: float = 0.0
    curve: tuple[tuple[int, float], ...] = field(default=())


class Searcher(Protocol):
    """A search at work. Its state is a function of the calls of `asked` and `tell`, in their order, and of the problem.

    So it is rebuilt from a journal, bit for bit, by the same calls; `ask` changes nothing that a later answer depends
    on.
    """

    def ask(self, number: int) -> Point | None:
        """The point to try as trial `number`; None: none now (a grid is done, or it waits for what is still out)."""
        ...

    def asked(self, number: int, point: Point) -> None:
        """The point is tried as trial `number`: what `ask` gave, or one that somebody else chose."""
        ...

    def tell(self, number: int, point: Point, told: Told) -> None:
        """What came of it. A number that was never asked is history of another run (negative numbers)."""
        ...

    @property
    def done(self) -> bool:
        """Nothing is left to ask for, ever (a grid, a population that is complete)."""
        ...


@dataclass(frozen=True)
class Move:
    """A member of a population goes on from the last checkpoint of `donor`, with the values of `point`."""

    donor: int
    point: Point


class Population(Searcher, Protocol):
    """A search whose trials run side by side and learn from each other at every turn (PBT).

    Turn r (from 0) comes when every member has reached `every * (r + 1)` or has ended.
    """

    @property
    def members(self) -> int:
        """How many trials there are."""
        ...

    @property
    def every(self) -> int:
        """The length of a turn, in steps, or in what the metric `by` counts."""
        ...

    @property
    def by(self) -> str | None:
        """A metric that counts what a member has spent (`adaptations`), or None: its steps."""
        ...

    def turn(self, number: int, values: Mapping[int, float], points: Mapping[int, Point]) -> Mapping[int, Move]:
        """Who goes on from whom: a pure function of the turn's number and of how the members stand.

        Args:
            number: the turn, from 0.
            values: of each member that can go on or has a checkpoint to give, the last value, minimized; NaN where it
                diverged.
            points: the present point of each member.
        """
        ...


class Search(Protocol):
    """The declaration of a search, a frozen dataclass such as `TPE()`: options checked, nothing begun."""

    def open(self, problem: Problem) -> Searcher:
        """A search for this problem, with nothing told yet.

        Raises:
            BadInput: it cannot search such a space or so many objectives; the message names the field and the cure.
        """
        ...


class SearchTraits(Traits):
    """What a search's declaration may say beside that."""

    members = Trait[int | None](None)
    """Of a population: how many trials run side by side and learn from each other."""
    trials = Trait[int | None](DEFAULT_TRIALS)
    """How many it asks for if the study does not say; None: as many as it has (a grid)."""


class SearcherTraits(Traits):
    """What a search at work may do beside that."""

    turn = Trait[Callable[[int, Mapping[int, float], Mapping[int, Point]], Mapping[int, Move]] | None](None)
    """Of a population: see `Population.turn`."""
    grow = Trait[Callable[[tuple[Parameter, ...]], None] | None](None)
    """Learn of values that the objective has asked for on the way."""
