"""Which of several things is it, and what do records call them?"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import singledispatch
from typing import Any

from bilevel.errors import BadInput
from bilevel.space.dimensions.port import Dimension, index_of, is_dimension, same

_LONGEST = 60
"""Characters of an object's own description up to which it is its label."""


@dataclass(frozen=True, init=False, repr=False)
class OneOf:
    """One of several values: numbers, words, booleans, objects, or `Space`s (then what is below them depends on it).

    `ordered=True`: neighbours are alike (batch sizes, depths), and searches may use that. `center`: a good guess.
    Records name an option by its label: a plain value is its own, an object or space is called by its name.
    """

    options: tuple[Any, ...]
    ordered: bool
    center: Any

    labels: tuple[Any, ...] = dataclasses.field(init=False, compare=False)
    """What records call the options, in their order."""

    def __init__(self, *options: Any, ordered: bool = False, center: Any = None) -> None:
        options = tuple(_plain(option) for option in options)
        if not options:
            raise BadInput("OneOf(): nothing to choose from; give it some values")
        if len(options) == 1 and isinstance(options[0], list | tuple | set | range):
            raise BadInput(f"OneOf({options[0]!r}): one option, which is a list; for its values write OneOf(*values)")
        object.__setattr__(self, "options", options)
        object.__setattr__(self, "ordered", ordered)
        object.__setattr__(self, "labels", tuple(label(option) for option in options))
        _check(self)
        object.__setattr__(self, "center", center if self.contains(center) else label(center))
        if center is not None and not self.contains(self.center):
            raise BadInput(f"OneOf: center={center!r} is none of its options: {', '.join(map(str, self.labels))}")

    def __hash__(self) -> int:
        return hash((tuple(map(str, self.labels)), self.ordered))

    def __repr__(self) -> str:
        shown = [_shown(option) for option in self.options]
        shown += ["ordered=True"] * self.ordered
        shown += [f"center={self.center!r}"] * (self.center is not None)
        return f"OneOf({', '.join(shown)})"

    log = False

    @property
    def size(self) -> int:
        """How many options there are."""
        return len(self.options)

    @property
    def middle(self) -> Any:
        """The label to start from: of an unordered choice the first."""
        if self.center is not None:
            return self.center
        return self.labels[(len(self.options) - 1) // 2 if self.ordered else 0]

    def option(self, label: Any) -> Any:
        """The option that is called so."""
        return self.options[self._index(label)]

    def decode(self, place: float) -> Any:
        """The label at a place."""
        return self.labels[index_of(place, len(self.options))]

    def encode(self, value: Any) -> float:
        """The place of a label."""
        return (self._index(value) + 0.5) / len(self.options)

    def contains(self, value: Any) -> bool:
        """Whether an option is called so."""
        return any(same(value, known) for known in self.labels)

    def _index(self, value: Any) -> int:
        for index, known in enumerate(self.labels):
            if same(value, known):
                return index
        raise BadInput(f"OneOf: no option {value!r}; it has {', '.join(map(str, self.labels))}")


def admit(dimension: Dimension, value: Any) -> tuple[Any, ...]:
    """The value as the dimension has it (Python's own, 3 for 3.0, an option's label) in a tuple; () if it has not.

    An option of a choice may be given itself; a value of an option that is a dimension stands for that option.
    """
    value = _plain(value)
    if isinstance(dimension, OneOf):
        called = label(value)
        for known, option in zip(dimension.labels, dimension.options, strict=True):
            if same(known, called) or (is_dimension(option) and admit(option, value)):
                return (known,)
        return ()
    if isinstance(value, float) and isinstance(dimension.middle, int) and value.is_integer():
        value = int(value)
    if not dimension.contains(value):
        return ()
    return (float(value) if isinstance(dimension.middle, float) else value,)


@singledispatch
def label(thing: Any) -> Any:
    """What records call a thing: a plain value is its own, all else is called by a name that no process changes."""
    if thing is None or (isinstance(thing, bool | int | float | str) and not isinstance(thing, enum.Enum)):
        return thing
    if isinstance(thing, enum.Enum):
        return f"{type(thing).__qualname__}.{thing.name}".rpartition("<locals>.")[2]
    if isinstance(thing, tuple | list):
        return f"[{', '.join(map(_shown, thing))}]"
    if isinstance(thing, Mapping):
        plain = {name: value for name, value in thing.items() if not is_dimension(value)}
        return f"{{{', '.join(f'{name}: {_shown(value)}' for name, value in plain.items())}}}"
    if is_dimension(thing):
        return repr(thing)
    if hasattr(thing, "__qualname__"):
        return str(thing.__qualname__).rpartition("<locals>.")[2]
    kind = type(thing).__qualname__.rpartition("<locals>.")[2]
    if dataclasses.is_dataclass(thing):
        changed = [f"{f.name}={_shown(vars(thing)[f.name])}" for f in dataclasses.fields(thing) if _own(thing, f)]
        return f"{kind}({', '.join(changed)})" if changed else kind
    said = repr(thing)
    return kind if " at 0x" in said or "\n" in said or len(said) > _LONGEST else said


def _shown(thing: Any) -> str:
    called = label(thing)
    return repr(called) if called is thing else str(called)


def _own(thing: Any, field: dataclasses.Field[Any]) -> bool:
    """Whether a field of a dataclass has another value than its default."""
    default = field.default
    if field.default_factory is not dataclasses.MISSING:
        default = field.default_factory()
    return field.init and label(vars(thing)[field.name]) != label(default)


def _check(choice: OneOf) -> None:
    """Whether each option can be told from the others, by its label and by its values in a configuration."""
    seen: set[tuple[bool, Any]] = set()
    for known, option in zip(choice.labels, choice.options, strict=True):
        if (isinstance(known, bool), known) in seen:
            spaces = isinstance(option, Mapping) or hasattr(option, "target")
            cure = "; give each a word of its own: OneOf({'kind': 'a', ...}, {'kind': 'b', ...})" if spaces else ""
            raise BadInput(f"OneOf: {known!r} is there twice; options are told apart by value, objects by name{cure}")
        seen.add((isinstance(known, bool), known))
    if any(isinstance(known, float) and math.isnan(known) for known in choice.labels):
        raise BadInput("OneOf: an option is not a number (NaN); leave it out")
    for option in choice.options:
        if isinstance(option, OneOf):
            raise BadInput(f"OneOf: {option!r} is a choice itself; put its options beside the others")
        for other in choice.options if _spans(option) else ():
            if other is not option and _may_be(option, other):
                shown = f"{_shown(option)} and {_shown(other)}"
                raise BadInput(f"OneOf: {shown} may be the same value; make them one option")


def _spans(option: Any) -> bool:
    """Whether a configuration says less of an option than its label: a dimension, a record."""
    return is_dimension(option) or (dataclasses.is_dataclass(option) and not isinstance(option, type))


def _may_be(option: Any, other: Any) -> bool:
    if is_dimension(option):
        return is_dimension(other) or bool(option.contains(label(other)))
    return same(label(other), label(type(option)))


def _plain(option: Any) -> Any:
    """Without numpy: a scalar of an array as Python's own number."""
    return option.item() if hasattr(option, "item") and getattr(option, "shape", None) == () else option
