"""What may a user's object say of itself beside what is asked of it? Optional attributes, each with a default."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Traits:
    """The optional attributes of one kind of object, to be read off one of them: `TaskTraits(tasks).scaling`.

    A subclass names each as a `Trait`, with its default; nothing else in the library asks an object what it can. An
    attribute is looked up when it is read, not before: it may be a property that has work to do.
    """

    of: Any


class Trait(Generic[T]):
    """An optional attribute: what the object says, else the default."""

    def __init__(self, default: T) -> None:
        self._default = default
        self._name = ""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, traits: Traits, owner: type) -> T:
        found: T = getattr(traits.of, self._name, self._default)
        return found
