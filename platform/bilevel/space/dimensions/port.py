"""What does a search know of a searched value?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeGuard

from bilevel.traits import Trait, Traits


class Dimension(Protocol):
    """A set of values laid out over the unit interval; equal lengths are equally likely before anything is known."""

    @property
    def size(self) -> int | None:
        """How many values there are; None: a continuum."""
        ...

    @property
    def ordered(self) -> bool:
        """Whether near places hold like values."""
        ...

    @property
    def log(self) -> bool:
        """Whether the values are laid out (and to be drawn) on a logarithmic scale."""
        ...

    @property
    def middle(self) -> Any:
        """The value to start from if nothing is known: a user's own guess, else the one in the middle."""
        ...

    def decode(self, place: float) -> Any:
        """The value at a place in [0, 1]."""
        ...

    def encode(self, value: Any) -> float:
        """The place of a value: of one of several that share an interval, its middle."""
        ...

    def contains(self, value: Any) -> bool:
        """Whether the value is one of those."""
        ...


class DimensionTraits(Traits):
    """What a dimension may have beside that."""

    center = Trait[Any](None)
    """The value that the user guesses: where a search starts."""
    step = Trait[float | None](None)
    """The distance of neighbouring values."""


def guessed(dimension: Dimension) -> bool:
    """Whether the user has said where to start."""
    return DimensionTraits(dimension).center is not None


@dataclass(frozen=True)
class Parameter:
    """A searched value of a space.

    Args:
        name: unique in the space, such as `lr`, `rule.init.by.lr` or, below a choice of spaces, `opt[Adam].lr`.
        path: where its value lies in a configuration, such as `opt.lr`.
        dimension: what it is chosen from.
        when: `(name of a choice, label of its option)` that must hold for it to be there, outermost first.
        shapes: another value may change the shape of what is learned (it is an argument of a `Learned` factory).
    """

    name: str
    path: str
    dimension: Dimension
    when: tuple[tuple[str, Any], ...] = ()
    shapes: bool = False

    def active(self, point: Mapping[str, Any]) -> bool:
        """Whether a point, or the part of it that is chosen, has this parameter."""
        return all(same(point.get(name), label) for name, label in self.when)


def same(left: Any, right: Any) -> bool:
    """Equal, and of one kind: 1 is not True."""
    return bool(left == right) and isinstance(left, bool) == isinstance(right, bool)


def is_dimension(value: Any) -> TypeGuard[Dimension]:
    """Whether a value is a dimension, a user's own included: told by its type's methods, which costs nothing."""
    return all(hasattr(type(value), method) for method in ("decode", "encode", "contains"))


def short(dimension: Any) -> str:
    """A dimension as one writes it: what has its default is left out."""
    shown = []
    for field in dataclasses.fields(dimension):
        value = vars(dimension)[field.name]
        if field.default is dataclasses.MISSING:
            shown.append(repr(value))
        elif value != field.default:
            shown.append(f"{field.name}={value!r}")
    return f"{type(dimension).__name__}({', '.join(shown)})"


def index_of(place: float, count: int) -> int:
    """Which of `count` equal parts of the unit interval a place lies in."""
    return min(max(int(place * count), 0), count - 1)
