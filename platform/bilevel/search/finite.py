"""Which points does a space have, how many are they, and which have been tried?"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from bilevel.episodes import Key
from bilevel.search.port import Point
from bilevel.space.dimensions import Dimension, LogNormal, Normal, OneOf, Parameter
from bilevel.space.dimensions.port import DimensionTraits

_DRAWS = 100
_LISTED = 10_000
"""Points of a space of which the untried ones are listed where chance no longer finds them."""


def decode(parameters: Sequence[Parameter], places: Sequence[float]) -> dict[str, Any]:
    """The point at a place in the unit cube; coordinates of inactive parameters are left out."""
    point: dict[str, Any] = {}
    for parameter, place in zip(parameters, places, strict=True):
        if parameter.active(point):
            point[parameter.name] = parameter.dimension.decode(place)
    return point


def count(parameters: Sequence[Parameter], most: float = math.inf) -> int | None:
    """How many points there are, those with the same active values being one; None: a continuum.

    `most`: values of a range, as in `grid`.
    """
    below: dict[tuple[str, Any], list[Parameter]] = {}
    for parameter in parameters:
        if parameter.when:
            below.setdefault(parameter.when[-1], []).append(parameter)

    def points(group: Sequence[Parameter]) -> int | None:
        sizes = [branches(parameter) for parameter in group]
        return None if None in sizes else math.prod(size for size in sizes if size is not None)

    def branches(parameter: Parameter) -> int | None:
        size, leaf = parameter.dimension.size, not any(name == parameter.name for name, _ in below)
        if leaf and size is not None and size <= most:  # not listed: there may be billions
            return size
        own = values(parameter.dimension, most)
        if own is None:
            return None
        if leaf:
            return len(own)
        sizes = [points(below.get((parameter.name, value), ())) for value in own]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    return points([parameter for parameter in parameters if not parameter.when])


def grid(parameters: Sequence[Parameter], most: float = math.inf) -> Iterator[dict[str, Any]]:
    """Every point with values of `values`, the last parameter changing fastest."""

    def below(index: int, point: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if index == len(parameters):
            yield dict(point)
            return
        parameter = parameters[index]
        if not parameter.active(point):
            yield from below(index + 1, point)
            return
        for value in values(parameter.dimension, most) or ():
            yield from below(index + 1, {**point, parameter.name: value})

    return below(0, {})


def values(dimension: Dimension, most: float = math.inf) -> Sequence[Any] | None:
    """All values of a dimension, or of a range that has more than `most`, so many evenly spaced; None: a continuum."""
    size = dimension.size
    if size is not None and (size <= most or isinstance(dimension, OneOf)):
        return _all(dimension, size)
    if math.isinf(most):
        return None
    number = int(most)
    if isinstance(dimension, Normal | LogNormal):  # without ends
        places = [(i + 0.5) / number for i in range(number)]
    else:
        places = [i / (number - 1) for i in range(number)]
    return list(dict.fromkeys(map(dimension.decode, places)))


def _all(dimension: Any, size: int) -> Sequence[Any]:
    if not dimension.log:
        return [dimension.decode((i + 0.5) / size) for i in range(size)]
    step = DimensionTraits(dimension).step or 1
    return [dimension.decode(dimension.encode(dimension.low + i * step)) for i in range(size)]


class Tried:
    """Which points of a finite space have been tried; of a continuum nothing is kept."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self._parameters = parameters
        self._count = None if any(p.dimension.size is None for p in parameters) else count(parameters)
        self._seen: set[Any] = set()

    def add(self, point: Point) -> None:
        """It is tried."""
        if self._count is not None:
            self._seen.add(same(point))

    def has(self, point: Point) -> bool:
        """Whether it has been tried."""
        return same(point) in self._seen

    def novel(self, draws: Iterator[Point], key: Key) -> Point:
        """The first of the draws that has not been tried, else one of the rest, at random; if there is none, any."""
        first = next(draws)
        if self._count is None or len(self._seen) >= self._count:
            return first
        if not self.has(first):
            return first
        for point in islice(draws, _DRAWS):
            if not self.has(point):
                return point
        if self._count > _LISTED:
            return first
        rest = [point for point in grid(self._parameters) if not self.has(point)]
        return rest[int(key.numpy().integers(len(rest)))] if rest else first


def same(point: Point) -> frozenset[Any]:
    """What equal points share."""
    return frozenset((name, isinstance(value, bool), value) for name, value in point.items())
