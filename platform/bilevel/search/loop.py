"""How does a user's own loop use a search: ask for a configuration, try it, tell what came of it?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bilevel import space as spaces
from bilevel.episodes import Key
from bilevel.errors import BadInput
from bilevel.search.port import Problem, Search, Searcher, SearcherTraits, Told
from bilevel.space import Space
from bilevel.space.dimensions import guessed


@dataclass(frozen=True)
class Trial:
    """A configuration to try: `config` is what the space describes, `point` its searched values.

    `values` is what was told of it, None before that, and also if it failed. `donor` is the member of a population that
    it goes on from, if it has moved.
    """

    number: int
    config: Any
    point: Mapping[str, Any]
    values: tuple[float, ...] | None = None
    donor: int | None = None

    @property
    def value(self) -> float | None:
        """What was told of it, of several objectives the first."""
        return None if self.values is None else self.values[0]


def start(
    self: Search,
    space: Space,
    *,
    seed: int = 0,
    minimize: bool | Sequence[bool] = True,
    trials: int | None = None,
    points: Sequence[Mapping[str, Any]] = (),
) -> Loop:
    """The search at work in your own loop: `while trial := loop.ask(): loop.tell(trial, train(trial.config))`.

    Args:
        space: what is searched.
        seed: the same seed and the same answers give the same questions.
        minimize: whether the value told is to be small; of several objectives one for each.
        trials: how many will be asked for; then `ask` gives None. By default there is no end.
        points: configurations to begin with, by dotted path; what they leave out starts in the middle.

    Raises:
        BadInput: the search cannot search this space; the message names the field and the cure.
    """
    return Loop(self, space, seed=seed, minimize=minimize, trials=trials, points=points)


class Loop:
    """A search at work in a user's own loop; several trials may be out at a time. See `start`."""

    def __init__(
        self,
        search: Search,
        space: Space,
        *,
        seed: int = 0,
        minimize: bool | Sequence[bool] = True,
        trials: int | None = None,
        points: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._space = space
        self._minimize = (minimize,) if isinstance(minimize, bool) else tuple(minimize)
        self._name = type(search).__name__
        parameters = spaces.parameters(space)
        if not parameters:
            raise BadInput(f"{self._name}.start: nothing is searched; write a dimension such as lr=Log(1e-4, 1e-1)")
        problem = Problem(parameters, Key((seed,)).child("search"), objectives=len(self._minimize), trials=trials)
        self._searcher: Searcher = search.open(problem)
        self._turn = 0
        self._first = [spaces.complete(space, point) for point in points]
        if any(guessed(parameter.dimension) for parameter in parameters):
            self._first.insert(0, spaces.complete(space, {}))
        self._limit = math.inf if trials is None else trials
        self._trials: list[Trial] = []
        self._out: set[int] = set()

    @property
    def trials(self) -> tuple[Trial, ...]:
        """All that were asked for."""
        return tuple(self._trials)

    def ask(self) -> Trial | None:
        """A configuration to try; None: all are asked for, or the search waits for what is out."""
        number = len(self._trials)
        if number >= self._limit:
            return None
        point = self._first[number] if number < len(self._first) else self._searcher.ask(number)
        if point is None:
            return None
        trial = Trial(number, spaces.build(spaces.settle(self._space, point)), point)
        self._searcher.asked(number, point)
        self._trials.append(trial)
        self._out.add(number)
        return trial

    def tell(self, trial: Trial | int, value: float | Sequence[float] | None) -> None:
        """What came of a trial (or the trial of this number): its value or values; None, NaN or infinity: it failed.

        Raises:
            BadInput: this trial is not out, or there are more or fewer values than objectives.
        """
        number = trial if isinstance(trial, int) else trial.number
        if number not in self._out:
            state = "has been told" if 0 <= number < len(self._trials) else "was never asked for"
            raise BadInput(f"{self._name}.tell: trial {number} {state}; tell each trial once")
        values = self._checked(value)
        self._out.remove(number)
        known = replace(self._trials[number], values=values)
        self._trials[number] = known
        inside = None if values is None else tuple(v if m else -v for v, m in zip(values, self._minimize, strict=True))
        self._searcher.tell(number, known.point, Told(inside))

    def turn(self, values: Mapping[int, float]) -> dict[int, Trial]:
        """Of a population (PBT): its members have trained for a turn; who goes on from whom, with which configuration?

        Args:
            values: of each member that is out, how it stands; NaN where it has diverged.

        Returns:
            The members that move: number -> its trial, with another `config` and the `donor` whose weights it takes.
            The others go on as they are.

        Raises:
            BadInput: this search has no turns, or a member that is out was left out.
        """
        take_turn = SearcherTraits(self._searcher).turn
        if take_turn is None:
            raise BadInput(f"{self._name}.turn: only a population has turns (PBT); tell each trial's value instead")
        if values.keys() != self._out:
            raise BadInput(
                f"{self._name}.turn: values of {sorted(values)}, but the members that are out are {sorted(self._out)}"
            )
        (minimize,) = self._minimize
        standing = {number: float(value) if minimize else -float(value) for number, value in values.items()}
        moves = take_turn(self._turn, standing, {number: self._trials[number].point for number in values})
        self._turn += 1
        moved = {
            number: Trial(number, spaces.build(spaces.settle(self._space, move.point)), move.point, donor=move.donor)
            for number, move in moves.items()
        }
        for number, trial in moved.items():
            self._trials[number] = trial
        return moved

    @property
    def best(self) -> Trial | None:
        """The trial with the best value; of several objectives one that no other is better than (see `front`)."""
        front = self.front
        return front[0] if front else None

    @property
    def front(self) -> tuple[Trial, ...]:
        """The trials that no other is better than: as good in every objective and better in one."""
        costs = {t.number: self._costs(t) for t in self._trials if t.values is not None}
        found = [n for n, cost in costs.items() if not any(_dominates(other, cost) for other in costs.values())]
        return tuple(self._trials[n] for n in sorted(found, key=lambda n: (costs[n], n)))

    def _costs(self, trial: Trial) -> tuple[float, ...]:
        return tuple(v if m else -v for v, m in zip(trial.values or (), self._minimize, strict=True))

    def _checked(self, value: float | Sequence[float] | None) -> tuple[float, ...] | None:
        if value is None:
            return None
        values = tuple(map(float, value)) if isinstance(value, Sequence) else (float(value),)
        if len(values) != len(self._minimize):
            raise BadInput(f"{self._name}.tell: {len(values)} values for {len(self._minimize)} objectives")
        return values if all(map(math.isfinite, values)) else None


def _dominates(left: tuple[float, ...], right: tuple[float, ...]) -> bool:
    return left != right and all(a <= b for a, b in zip(left, right, strict=True))
