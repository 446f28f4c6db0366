"""Which members of a population go on from whom, and with which values (population-based training)?"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from bilevel.errors import BadInput
from bilevel.search.loop import start
from bilevel.search.port import Move, Point, Problem, Told
from bilevel.space.dimensions import Dimension, Parameter, same
from bilevel.space.dimensions.port import DimensionTraits, guessed


@dataclass(frozen=True, kw_only=True)
class PBT:
    """Population-based training (Jaderberg et al. 2017), in turns, so that who is faster does not matter.

    At a turn each of the worst members goes on from the checkpoint of one of the best, with values near to it; so does
    one that diverged. Every parameter is then, each by itself,
    - with probability `resample` drawn anew, otherwise
    - on a logarithmic scale multiplied by one of `factors`, on a linear one moved by half its logarithm of the whole
      range (0.8 and 1.25: by 11 % of it), and kept within its bounds;
    - of whole numbers, steps and ordered choices, moved by one (logarithmic ones by the factor, at least by one);
    - of other choices, left as it is.

    A member that has moved begins again with its new configuration and the donor's `run.state`. An optimiser that is
    restored from there brings the donor's rate along: set the new one after `load_state_dict` (`meta_train` does).

    Some values only travel with the weights, from who has them: those in `fixed`, and choices on which other parameters
    depend. What changes the shapes of what is learned (a width inside `Learned`) must be in `fixed`: each member draws
    its own, trains weights of that shape, and both are inherited together.

    Args:
        members: trials side by side; all of them run at once.
        every: the length of a turn, in steps, or in what `by` counts.
        by: a metric that counts what a member has spent, such as `adaptations`; None: its steps.
        quantile: the part of the population that is replaced, and the part that it goes on from; at least one member.
        resample: how likely a value is drawn anew.
        factors: what a value on a logarithmic scale is multiplied by.
        fixed: names of parameters that are never explored.

    Raises:
        BadInput: an option that cannot work.
    """

    members: int = 4
    every: int
    by: str | None = None
    quantile: float = 0.25
    resample: float = 0.25
    factors: tuple[float, ...] = (0.8, 1.25)
    fixed: tuple[str, ...] = ()

    start = start

    def __post_init__(self) -> None:
        for name, low in (("members", 2), ("every", 1)):
            value = vars(self)[name]
            if not isinstance(value, int) or isinstance(value, bool) or value < low:
                raise BadInput(f"PBT: {name}={value!r}; it takes a whole number from {low} on")
        if self.by is not None and (not isinstance(self.by, str) or not self.by):
            raise BadInput(f"PBT: by={self.by!r}; it takes the name of a metric that counts, or None for steps")
        if not 0 < self.quantile <= 0.5:
            raise BadInput(f"PBT: quantile={self.quantile!r}; it takes a number above 0, up to 0.5")
        if not 0 <= self.resample <= 1:
            raise BadInput(f"PBT: resample={self.resample!r}; it takes a probability, from 0 to 1")
        if isinstance(self.factors, int | float) or not self.factors or not all(map(_is_factor, self.factors)):
            raise BadInput(f"PBT: factors={self.factors!r}; it takes positive numbers other than 1, as (0.8, 1.25)")
        if isinstance(self.fixed, str):
            raise BadInput(f"PBT: fixed={self.fixed!r}; it takes names, as ({self.fixed!r},)")

    @property
    def trials(self) -> int:
        """How many trials a study has that does not say."""
        return self.members

    def open(self, problem: Problem) -> _Population:
        """A population for this problem, of which nobody has begun.

        Raises:
            BadInput: it cannot search this; the message names the field and the cure.
        """
        _check(self, problem)
        return _Population(self, problem)


class _Population:
    def __init__(self, options: PBT, problem: Problem) -> None:
        self._options = options
        self._problem = problem
        self._out = 0
        parents = {name for parameter in problem.parameters for name, _ in parameter.when}
        self._travel = parents | set(options.fixed)
        self._centered = any(guessed(p.dimension) for p in problem.parameters)
        self._places = self._spread(options.members - self._centered)

    def _spread(self, count: int) -> np.ndarray[Any, Any]:
        """[count, parameters] places, one of each parameter in each of `count` parts (a Latin hypercube)."""
        draws = self._problem.key.child("start").numpy()
        parts = np.tile(np.arange(count)[:, None], (1, len(self._problem.parameters)))
        return (draws.permuted(parts, axis=0) + draws.random(parts.shape)) / count

    # -- the search's port ---------------------------------------------------------------------------------------------

    @property
    def members(self) -> int:
        return self._options.members

    @property
    def every(self) -> int:
        return self._options.every

    @property
    def by(self) -> str | None:
        return self._options.by

    @property
    def done(self) -> bool:
        return self._out >= self.members

    def ask(self, number: int) -> Point | None:
        """The middle first if the user gave a good guess, then points that are well spread."""
        if self.done:
            return None
        point: dict[str, Any] = {}
        row = number - self._centered
        inside = 0 <= row < len(self._places)
        draws = self._problem.key.child(number).numpy().random(len(self._problem.parameters))
        for parameter, place in zip(self._problem.parameters, self._places[row] if inside else draws, strict=True):
            if parameter.active(point):
                dimension = parameter.dimension
                point[parameter.name] = dimension.middle if row < 0 else dimension.decode(float(place))
        return point

    def asked(self, number: int, point: Point) -> None:  # noqa: ARG002
        self._out += 1

    def tell(self, number: int, point: Point, told: Told) -> None:  # noqa: ARG002
        """Who never began (its configuration was refused) leaves its place to another."""
        if number >= 0 and told.values is None and told.step == 0:
            self._out -= 1

    # -- turns ---------------------------------------------------------------------------------------------------------

    def turn(self, number: int, values: Mapping[int, float], points: Mapping[int, Point]) -> Mapping[int, Move]:
        """Truncation selection: the worst go on from one of the best, chosen by lot, if that one is better."""
        ranked = sorted(values, key=lambda member: (_cost(values[member]), member))
        many = min(max(1, int(self._options.quantile * len(ranked))), len(ranked) // 2)
        best = [member for member in ranked[:many] if math.isfinite(values[member])]
        worst = [
            member for i, member in enumerate(ranked) if i >= len(ranked) - many or not math.isfinite(values[member])
        ]
        moves = {}
        for member in sorted(worst):
            draws = self._problem.key.child("turn", number, member).numpy()
            donor = best[int(draws.integers(len(best)))] if best else member
            if _cost(values[donor]) < _cost(values[member]):
                moves[member] = Move(donor, self._explore(points[donor], draws))
        return moves

    def _explore(self, point: Point, draws: np.random.Generator) -> Point:
        """A point near to another one; the same parameters are active."""
        explored = dict(point)
        for parameter in self._problem.parameters:
            if parameter.name in point and parameter.name not in self._travel:
                place, lot, chance = draws.random(3)
                if chance < self._options.resample:
                    explored[parameter.name] = parameter.dimension.decode(float(place))
                else:
                    factor = self._options.factors[int(lot * len(self._options.factors))]
                    explored[parameter.name] = perturbed(parameter.dimension, point[parameter.name], factor)
        return explored


def perturbed(dimension: Dimension, value: Any, factor: float) -> Any:
    """A value near to another one: above it for a factor above 1, otherwise below; unordered ones have none."""
    if not dimension.ordered:
        return value
    if dimension.log:
        return _multiplied(dimension, value, factor)
    shift = math.log(factor) / 2 if dimension.size is None else math.copysign(1 / dimension.size, math.log(factor))
    return dimension.decode(_within(dimension.encode(value) + shift, 0.0, 1.0))


def _multiplied(dimension: Dimension, value: Any, factor: float) -> Any:
    low, high = dimension.decode(0.0), dimension.decode(1.0)
    target = _within(value * factor, low, high)
    if dimension.size is None:
        return target
    found = dimension.decode(dimension.encode(target))
    if not same(found, value):
        return found
    step = DimensionTraits(dimension).step or 1
    return dimension.decode(dimension.encode(_within(value + math.copysign(step, math.log(factor)), low, high)))


def _within(value: float, low: float, high: float) -> float:
    return min(max(value, low), high)


def _cost(value: float) -> float:
    return value if math.isfinite(value) else math.inf


def _is_factor(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value < math.inf and value != 1


def _check(options: PBT, problem: Problem) -> None:
    if problem.objectives > 1:
        raise BadInput(f"PBT: it ranks members by one objective, not {problem.objectives}; keep one, or use NSGA2()")
    if problem.constrained:
        raise BadInput("PBT: it ranks members by the objective alone; leave limits out, or use TPE()")
    if problem.trials is not None and problem.trials != options.members:
        raise BadInput(
            f"PBT: trials={problem.trials}, but its trials are its members={options.members}; leave trials out, or "
            f"write members={problem.trials}"
        )
    known: dict[str, Parameter] = {parameter.name: parameter for parameter in problem.parameters}
    for name in options.fixed:
        if name not in known:
            raise BadInput(f"PBT: fixed={name!r} is not searched; searched are {', '.join(known) or 'no values'}")
    for name, parameter in known.items():
        if parameter.shapes and name not in options.fixed:
            raise BadInput(
                f"PBT: {name} changes the shapes of what is learned, and weights of other shapes cannot go on; give it "
                f"a value, search it with TPE(), or write fixed=({name!r},): drawn once for each member, and inherited "
                "with the weights"
            )
