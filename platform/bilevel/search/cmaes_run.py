"""How does one run of CMA-ES go: what does it draw, what does it learn from what it is told, and when is it over?"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from bilevel.episodes import Key
from bilevel.search import quadratic
from bilevel.search.port import Told
from bilevel.search.quadratic import Array

_DRAWS = 30
"""A draw outside the unit cube is drawn again, so often at most; then the last one is moved to the cube's face."""
_WIDEST = 1 / 3
"""Standard deviation at most, of a cube of side 1: wider, and most draws are outside."""
_CELL = 0.2
"""Standard deviation at least where a dimension has steps, of the step around the mean (Marty et al. 2024)."""
_LARGEST = 1e300
"""Of values beyond, only that they are so large is known."""
_SAME = 1e-13
"""Values that differ by less than this part of their size are the same."""
_HOPELESS = 0.1
"""A run has settled when its values differ by less than this part of the way to the best of earlier runs."""
_AGREED = 3
"""A run has settled when its model has foreseen the value at its minimum, no better than the best, so often running."""
_FLAT = 5
"""A run has settled after so many generations in which the best three quarters were alike."""


@dataclass(frozen=True)
class Plan:
    """A run: its population, its sigma, how many trials it may take (if it does not find better ones than all before).

    `large`: it is one of a doubled population.
    """

    population: int
    sigma: float
    trials: float = math.inf
    large: bool = False


def restart(first: Plan, past: Sequence[tuple[Plan, int]], bipop: bool, draw: tuple[float, float]) -> Plan:
    """The next run, given all runs before it with the trials that they took, and two numbers between 0 and 1.

    The population of large runs doubles (Auger and Hansen 2005). With `bipop` a small run comes whenever small ones
    have taken fewer trials than large ones, the first run counting as small: its population is between the first one
    and half of the last large one, its sigma down to a hundredth, and it may take half of what the large ones took
    (Hansen 2009).
    """
    doublings = sum(plan.large for plan, _ in past)
    spent = {large: sum(trials for plan, trials in past if plan.large == large) for large in (False, True)}
    if not bipop or spent[False] >= spent[True]:
        return Plan(first.population * 2 ** (doublings + 1), first.sigma, large=True)
    population = int(first.population * (2 ** (doublings - 1)) ** (draw[0] ** 2))
    return Plan(population, first.sigma * 0.01 ** draw[1], spent[True] / 2)


Rank = tuple[int, float, float]


def rank(told: Told) -> Rank:
    """Smaller is better; of complete trials the second entry is the value."""
    if told.values is None:
        return 3, 0.0, 0.0
    if told.violation > 0:
        return 2, told.violation, 0.0
    value = min(max(told.values[0], -_LARGEST), _LARGEST)
    return (1, -told.step, value) if told.stopped else (0, value, 0.0)


def heights(ranks: Sequence[Rank]) -> list[float]:
    """Finite numbers in the order of the ranks: values of complete trials as they are, the others above them."""
    values = [rank[1] for rank in ranks if rank[0] == 0] or [0.0]
    step = max(max(values) - min(values), abs(max(values)), 1.0 / _LARGEST)
    others = sorted({rank for rank in ranks if rank[0] > 0})
    above = {rank: max(values) + step * (i + 1) for i, rank in enumerate(others)}
    return [above.get(rank, rank[1]) for rank in ranks]


@cache
def _libraries() -> Any:
    from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

    return ThreadpoolController().select(user_api="blas")


def _one_thread() -> AbstractContextManager[Any]:
    """Small matrices by one thread: two that wait for each other on busy cores take ten times as long.

    And the bits do not depend on the number of cores.
    """
    found: AbstractContextManager[Any] = _libraries().limit(limits=1)
    return found


class CmaRun:
    """One run of CMA-ES: a function of its arguments and of the calls of `learn`.

    Args:
        make: `cma.CMAEvolutionStrategy`.
        plan: its population, sigma and budget.
        mean: where it starts.
        key: of its draws.
        cells: the lengths of the steps around a place, 0 where there are none.
        floor: the best value of earlier runs.
        seen: places in the unit cube whose values are known.
    """

    def __init__(
        self,
        make: Callable[..., Any],
        plan: Plan,
        mean: Array,
        key: Key,
        cells: Callable[[Array], Array],
        floor: float,
        seen: Sequence[tuple[float, Array]] = (),
    ) -> None:
        limits = {"minstd": _CELL * cells(mean), "maxstd": _WIDEST} if len(mean) > 1 else {}
        options = {
            **limits,
            **{"popsize": plan.population, "CMA_mirrors": 0, "conditioncov_alleviate": False},
            **{"tolx": 1e-12, "tolfun": 0.0, "tolflatfitness": _FLAT},
            **{"randn": lambda *shape: np.zeros(shape), "seed": math.nan, "verbose": -9, "signals_filename": False},
        }
        self._es = make(mean, min(plan.sigma, _WIDEST), options)
        self.plan, self._key, self._cells, self._floor = plan, key, cells, floor
        self._seen = deque(seen, maxlen=3 * max(quadratic.wanted(len(mean)), plan.population))
        self.best = min((value for value, _ in seen), default=math.inf)
        self._agreed, self._failed = 0, math.inf
        self.spent = 0
        self.ended = False
        self._open()

    def _open(self) -> None:
        with _one_thread():
            self._prepare()

    def _prepare(self) -> None:
        self._bound()
        self._es.ask()  # brings the axes of the distribution up to date; what it draws is not used
        self._told: list[tuple[Rank, Array]] = []
        self.generation, self.given = int(self._es.countiter), 0
        self.guess, self._expected = self._model()

    def draws(self) -> Iterator[Array]:
        """Places for the next trial, without end; the first is the one to take."""
        if self.given == 0 and self.guess is not None:
            yield self.guess
        generator = self._key.child(self.generation, self.given).numpy()
        while True:
            places = self._outside(generator.standard_normal((_DRAWS, self._es.N)))
            inside = np.flatnonzero(((places >= 0) & (places <= 1)).all(axis=1))
            yield places[inside[0]] if len(inside) else np.clip(places[-1], 0.0, 1.0)

    def learn(self, place: Array, rank: Rank, seen: Array, *, drawn: bool, late: bool) -> None:
        """What came of a place.

        Args:
            place: it, or where it is in the unit cube.
            rank: how good it is.
            seen: the place that stands for all with the same values.
            drawn: it is a draw from the distribution; any other place counts only if it is the best so far.
            late: it is not of the open generation.
        """
        self.spent += 1
        value, before = (rank[1] if rank[0] == 0 else math.inf), self.best
        if rank[0] == 0:
            self._seen.append((value, seen))
            self.best = min(before, value)
        if place is self.guess:
            self._judge(value, before)
        if self.ended or not (drawn or value < before):
            return
        if late or not drawn:
            place = self._nearer(place)
        self._told.append((rank, place))
        if len(self._told) == self.plan.population:
            self._close()

    def _judge(self, value: float, before: float) -> None:
        """Was it foreseen what came of the guess? Where a trial fails, the model knows nothing."""
        self._failed = before if math.isinf(value) else math.inf
        close = self._tolerance(abs(value))
        foreseen = math.isfinite(value) and abs(value - self._expected) <= close and before - value <= close
        self._agreed = self._agreed + 1 if foreseen else 0

    def _close(self) -> None:
        ranks, places = zip(*self._told, strict=True)
        levels = heights(ranks)
        with _one_thread():
            self._es.tell(list(places), levels, check_points=False)
        self._es.opts["tolfunhist"] = self._tolerance(max(map(abs, levels)))
        spent = self.spent >= self.plan.trials and self.best >= self._floor  # one that leads goes on
        self.ended = bool(self._es.stop()) or self._agreed >= _AGREED or spent
        if not self.ended:
            self._open()

    def _bound(self) -> None:
        """Neither wider than the cube nor narrower than steps allow."""
        es, least = self._es, _CELL * self._cells(self._es.mean)
        if es.N > 1:
            es.opts["minstd"] = least
        else:  # cma cannot
            es.sigma *= float(np.clip(es.stds[0], least[0], _WIDEST) / es.stds[0])

    def _tolerance(self, size: float) -> float:
        """Values of this size that differ by no more are as good as the same."""
        above = self.best - self._floor
        return _SAME * size + (_HOPELESS * max(above, 0.0) if math.isfinite(above) else 0.0)

    # -- coordinates in which the distribution is a standard one ---------------------------------------------------

    def _outside(self, inner: Array) -> Array:
        sm = self._es.sm
        found: Array = self._es.mean + self._es.sigma * self._es.sigma_vec.scaling * ((inner * sm.D) @ sm.B.T)
        return found

    def _inside(self, places: Array) -> Array:
        sm = self._es.sm
        found: Array = (places - self._es.mean) / (self._es.sigma * self._es.sigma_vec.scaling) @ sm.B / sm.D
        return found

    def _nearer(self, place: Array) -> Array:
        """A place that is not a draw, moved to where draws are (Hansen 2011)."""
        inner = self._inside(place)
        return self._outside(inner * min(1.0, self._radius / float(np.linalg.norm(inner) or 1.0)))

    @property
    def _radius(self) -> float:
        size = self._es.N
        return float(math.sqrt(size) + 2 * size / (size + 2))

    def _model(self) -> tuple[Array | None, float]:
        """Where a quadratic through the newest trials has its minimum near the best of them; its value there."""
        if not self._seen or self.best == self._failed:
            return None, 0.0
        values, places = (np.array(column) for column in zip(*self._seen, strict=True))
        inner = self._inside(places)
        best = inner[np.argmin(values)]
        found = quadratic.minimum(inner - best, values, self._radius, least=self.plan.population)
        if found is None:
            return None, 0.0
        guess = np.clip(self._outside(best + found[0]), 0.0, 1.0)
        return (None, 0.0) if (places == guess).all(axis=1).any() else (guess, found[1])
