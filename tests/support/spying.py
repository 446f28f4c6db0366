"""A search that writes down how it is talked to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bilevel import Random
from bilevel.search.port import Point, Problem, Searcher, Told


@dataclass(frozen=True)
class Spy:
    """A search that writes down how it is talked to; a list for each time that it was opened."""

    search: Any = field(default_factory=Random)
    talks: list[list[tuple[Any, ...]]] = field(default_factory=list, compare=False)

    def open(self, problem: Problem) -> Searcher:
        talk: list[tuple[Any, ...]] = []
        self.talks.append(talk)
        return _Spying(self.search.open(problem), talk)

    @property
    def told(self) -> dict[int, Told]:
        """What the last one was told, by its own numbers."""
        return {number: told for kind, number, _, told in self.talks[-1] if kind == "tell"}


class _Spying:
    def __init__(self, searcher: Searcher, talk: list[tuple[Any, ...]]) -> None:
        self._searcher, self._talk = searcher, talk

    @property
    def done(self) -> bool:
        return self._searcher.done

    def ask(self, number: int) -> Point | None:
        return self._searcher.ask(number)

    def asked(self, number: int, point: Point) -> None:
        self._talk.append(("asked", number, dict(point), None))
        self._searcher.asked(number, point)

    def tell(self, number: int, point: Point, told: Told) -> None:
        self._talk.append(("tell", number, dict(point), told))
        self._searcher.tell(number, point, told)
