"""Where does a normal distribution look that learns its shape from the ranks of its draws (CMA-ES, on `cma`)?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from bilevel.errors import BadInput
from bilevel.search.cmaes_run import CmaRun, Plan, Rank, rank, restart
from bilevel.search.finite import Tried, same
from bilevel.search.loop import start
from bilevel.search.port import Point, Problem, Told
from bilevel.search.quadratic import Array
from bilevel.space.dimensions import Dimension

# cma itself is imported when a search is opened: it takes a second.


@dataclass(frozen=True)
class CMAES:
    """CMA-ES (Hansen 2016), by `cma`, with restarts: for tens to thousands of trials of up to a hundred numbers.

    Searches the unit cube into which dimensions lay their values, from the middle on. Draws that leave the cube are
    drawn again. Whole numbers and steps keep a deviation of a fifth of a step, so that they do not freeze. Beside the
    draws of a generation one trial is where a quadratic through the trials near the best has its minimum (after Hansen
    2019); the distribution learns of it only if it is the best so far.

    A generation ends when `population` of its trials are told. Never waits: with more trials in flight, more are drawn
    from the same distribution, and those told late count in the generation that is then open. Stopped trials come
    after all complete ones, then those that break a limit, then failed ones.

    Args:
        sigma: standard deviation at the start, as part of the range of each dimension.
        restarts: `bipop` (Hansen 2009): in turn, runs with a population that doubles and runs with a small one and a
            small sigma; `ipop` (Auger and Hansen 2005): only the former; None: one run.
        population: trials of a generation of the first run; None: 4 + 3 ln(number of searched values).
    """

    sigma: float = 0.2
    restarts: Literal["bipop", "ipop"] | None = "bipop"
    population: int | None = None

    start = start

    def __post_init__(self) -> None:
        if not isinstance(self.sigma, int | float) or isinstance(self.sigma, bool) or not 0 < self.sigma <= 1:
            raise BadInput(f"CMAES: sigma={self.sigma!r}; it takes a part of the range, above 0 and up to 1")
        if self.restarts not in ("bipop", "ipop", None):
            raise BadInput(f"CMAES: restarts={self.restarts!r}; it takes 'bipop', 'ipop' or None")
        size = self.population
        if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 4):
            raise BadInput(f"CMAES: population={size!r}; it takes a whole number from 4 on, or None")

    def open(self, problem: Problem) -> _Searcher:
        """A search for this problem.

        Raises:
            BadInput: there are several objectives, or values without an order, or that are there only at times.
        """
        if problem.objectives > 1:
            raise BadInput(f"CMAES: {problem.objectives} objectives, and it minimizes one; use NSGA2() or TPE()")
        if all(parameter.dimension.size == 1 for parameter in problem.parameters):
            raise BadInput("CMAES: nothing to search: each value has one option; run the configuration alone")
        for parameter in problem.parameters:
            size = parameter.dimension.size
            if parameter.when:
                name, label = parameter.when[-1]
                raise BadInput(
                    f"CMAES: {parameter.name} is only there where {name} is {label}, and a normal distribution needs"
                    " every value in every trial; use TPE(), or search each option in a study of its own"
                )
            if not parameter.dimension.ordered and (size is None or size > 2):
                raise BadInput(
                    f"CMAES: {parameter.name} chooses among {size} values without an order; give OneOf(...,"
                    " ordered=True) if neighbors are alike, or use TPE()"
                )
        return _Searcher(self, problem)


# -- the search --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Trial:
    """What was given out: by which run, when, and whether it is a draw from its distribution."""

    run: CmaRun
    generation: int
    place: Array
    drawn: bool


class _Searcher:
    """One run after another. Nothing but `asked` and `tell` changes what it answers."""

    done = False

    def __init__(self, options: CMAES, problem: Problem) -> None:
        import cma

        self._make = cma.CMAEvolutionStrategy
        self._restarts, self._key = options.restarts, problem.key
        self._parameters = problem.parameters
        self._free = [parameter for parameter in problem.parameters if parameter.dimension.size != 1]
        population = options.population or 4 + int(3 * math.log(len(self._free)))
        self._first = Plan(population, options.sigma)
        self._tried = Tried(problem.parameters)
        self._asked = 0
        self._past: list[tuple[Plan, int]] = []
        self._floor = math.inf
        self._before: list[tuple[Rank, Array]] = []
        self._run: CmaRun | None = None
        self._out: dict[int, _Trial] = {}
        self._next: tuple[Point, Array] | None = None

    def ask(self, number: int) -> Point:  # noqa: ARG002
        """The next point of the open generation."""
        return dict(self._proposal()[0])

    def asked(self, number: int, point: Point) -> None:
        """It is tried. What was not given out here only counts as tried."""
        mine, place = self._proposal()
        if same(mine) == same(point):
            run = self._run = self._run or self._begin()
            self._out[number] = _Trial(run, run.generation, place, drawn=place is not run.guess)
            run.given += 1
        self._asked += 1
        self._tried.add(point)
        self._next = None

    def tell(self, number: int, point: Point, told: Told) -> None:
        """What came of it. What is known before the first run begins says where it begins."""
        order, seen = rank(told), self._encode(point)
        trial, run = self._out.pop(number, None), self._run
        self._next = None
        if number < 0:
            self._tried.add(point)
        if run is None:
            self._before.append((order, seen))
        elif trial is None:
            run.learn(seen, order, seen, drawn=False, late=True)
        elif trial.run is run:
            run.learn(trial.place, order, seen, drawn=trial.drawn, late=trial.generation != run.generation)
        if run is not None and run.ended and self._restarts:
            self._past.append((run.plan, run.spent))
            self._floor = min(self._floor, run.best)
            self._run = self._again()

    def _begin(self) -> CmaRun:
        """The first run: from the best point that is known, else from the middle."""
        known = [(rank[1], place) for rank, place in self._before if rank[0] == 0]
        middle = self._encode({p.name: p.dimension.middle for p in self._free})
        mean = min(known, key=lambda pair: pair[0])[1] if known else middle
        return self._make_run(self._first, mean, known)

    def _again(self) -> CmaRun:
        draws = self._key.child("restart", len(self._past)).numpy().random(2 + len(self._free))
        plan = restart(self._first, self._past, self._restarts == "bipop", (float(draws[0]), float(draws[1])))
        return self._make_run(plan, draws[2:])

    def _make_run(self, plan: Plan, mean: Array, seen: Sequence[tuple[float, Array]] = ()) -> CmaRun:
        return CmaRun(self._make, plan, mean, self._key.child(len(self._past)), self._cells, self._floor, seen)

    def _proposal(self) -> tuple[Point, Array]:
        """The next point and the place in the cube that it was read off."""
        if self._next is None:
            run, last = self._run or self._begin(), np.empty(0)

            def points() -> Iterator[Point]:
                nonlocal last
                for place in run.draws():
                    last = place
                    yield self._decode(place)

            point = self._tried.novel(points(), self._key.child("untried", self._asked))
            self._next = point, last if self._decode(last) == point else self._encode(point)
        return self._next

    def _decode(self, place: Array) -> Point:
        free = iter(place.tolist())
        dimensions = [(p.name, p.dimension) for p in self._parameters]
        return {name: d.decode(0.5 if d.size == 1 else next(free)) for name, d in dimensions}

    def _encode(self, point: Point) -> Array:
        return np.array([p.dimension.encode(point[p.name]) for p in self._free])

    def _cells(self, place: Array) -> Array:
        return np.array([_cell(p.dimension, u) for p, u in zip(self._free, place.tolist(), strict=True)])


def _cell(dimension: Dimension, place: float) -> float:
    """The length of the step that a place is on; 0 where there are none."""
    if dimension.size is None:
        return 0.0
    value, ends = dimension.decode(place), []
    for end in (0.0, 1.0):
        within, beyond = place, end
        for _ in range(20):
            middle = (within + beyond) / 2
            within, beyond = (middle, beyond) if dimension.decode(middle) == value else (within, middle)
        ends.append(end if dimension.decode(end) == value else within)
    return ends[1] - ends[0]
