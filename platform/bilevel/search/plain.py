"""Where does a search look that does not learn from what it saw: anywhere, evenly, or everywhere in turn?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from bilevel.errors import BadInput
from bilevel.search.finite import Tried, decode, grid, same
from bilevel.search.loop import start
from bilevel.search.port import Point, Problem, Searcher, Told
from bilevel.space.dimensions import Parameter

_BLOCK = 64
_MOST = 21201
"""Dimensions of scipy's Sobol' sequence."""


@dataclass(frozen=True)
class Random:
    """Points drawn at random, each alone; in a finite space no point twice before all have been tried."""

    start = start

    def open(self, problem: Problem) -> Searcher:
        """A search for this problem."""
        return _Drawn(problem)


@dataclass(frozen=True)
class Sobol:
    """Points of a scrambled Sobol' sequence, which fills the space more evenly than chance does."""

    start = start

    def open(self, problem: Problem) -> Searcher:
        """A search for this problem.

        Raises:
            BadInput: more searched values than the sequence has dimensions.
        """
        if len(problem.parameters) > _MOST:
            raise BadInput(f"Sobol: {len(problem.parameters)} searched values, more than {_MOST}; use Random()")
        return _Even(problem)


@dataclass(frozen=True)
class Grid:
    """Every point of a grid in turn, the last searched value changing fastest; then it is done.

    A range of floats, and one of more than `points` whole numbers, gets `points` evenly spaced values in its own
    scale, ends included; choices and shorter ranges have all of theirs.
    """

    points: int = 5

    start = start

    def __post_init__(self) -> None:
        if not isinstance(self.points, int) or isinstance(self.points, bool) or self.points < 2:
            raise BadInput(f"Grid: points={self.points!r}; it takes a whole number from 2 on")

    @property
    def trials(self) -> None:
        """A study that does not say how many tries all."""
        return

    def open(self, problem: Problem) -> Searcher:
        """A search for this problem."""
        return _Grid(problem, self.points)


class _Drawn:
    """A point of trial n is a function of n and, where the space is finite, of what has been tried."""

    done = False

    def __init__(self, problem: Problem) -> None:
        self._parameters = problem.parameters
        self._key = problem.key
        self._tried = Tried(problem.parameters)

    def grow(self, parameters: tuple[Parameter, ...]) -> None:
        """From now on these are searched, the old ones among them."""
        self._parameters = parameters
        self._tried = Tried(parameters)

    def ask(self, number: int) -> Point:
        """A point drawn for this trial alone."""
        return self._tried.novel(self._draws(number), self._key.child(number, "untried"))

    def asked(self, number: int, point: Point) -> None:  # noqa: ARG002
        """It is tried."""
        self._tried.add(point)

    def tell(self, number: int, point: Point, told: Told) -> None:  # noqa: ARG002
        """Nothing is learned from it; what an earlier run has tried counts as tried."""
        if number < 0:
            self._tried.add(point)

    def _draws(self, number: int) -> Iterator[Point]:
        generator = self._key.child(number).numpy()
        while True:
            yield decode(self._parameters, generator.random(len(self._parameters)).tolist())


class _Even(_Drawn):
    """The point of trial n is the n-th of the sequence."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self._restart()

    def grow(self, parameters: tuple[Parameter, ...]) -> None:
        """From now on these are searched: a sequence of more dimensions begins."""
        super().grow(parameters)
        self._restart()

    def _restart(self) -> None:
        from scipy.stats import qmc

        width = max(len(self._parameters), 1)
        self._sequence = qmc.Sobol(width, scramble=True, rng=self._key.child("sobol", width).numpy())
        self._places: list[list[float]] = []

    def _draws(self, number: int) -> Iterator[Point]:
        while len(self._places) <= number:
            self._places += self._sequence.random(_BLOCK).tolist()
        yield decode(self._parameters, self._places[number][: len(self._parameters)])
        yield from super()._draws(number)


class _Grid:
    """Points are given out in the grid's order; one that somebody else asked for is not given out again."""

    def __init__(self, problem: Problem, points: int) -> None:
        self._rest = grid(problem.parameters, points)
        self._next = next(self._rest, None)
        self._tried: set[Any] = set()

    @property
    def done(self) -> bool:
        """Whether every point has been asked for."""
        while self._next is not None and same(self._next) in self._tried:
            self._next = next(self._rest, None)
        return self._next is None

    def ask(self, number: int) -> Point | None:  # noqa: ARG002
        """The next point of the grid."""
        return None if self.done else self._next

    def asked(self, number: int, point: Point) -> None:  # noqa: ARG002
        """It is tried."""
        self._tried.add(same(point))

    def tell(self, number: int, point: Point, told: Told) -> None:
        """Nothing is learned from it."""
