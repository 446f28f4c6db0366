"""How does a search that thinks for long not keep the trials waiting? It is asked ahead, in a thread."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Final

from bilevel.search.port import Point, Searcher, Told
from bilevel.space.dimensions import Parameter


class Pending:
    """The search is still thinking."""


PENDING: Final = Pending()


class Ahead:
    """A search that may be asked before there is a place for the answer.

    While it thinks, what it is told waits, so that its state is the same function of the calls as without a thread.
    """

    def __init__(self, searcher: Searcher) -> None:
        self._searcher = searcher
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="bilevel-ask")
        self._question: tuple[int, Future[Point | None]] | None = None
        self._later: list[tuple[Callable[..., Any], tuple[Any, ...]]] = []

    @property
    def done(self) -> bool:
        """Nothing is left to ask for."""
        return self._question is None and self._searcher.done

    def prepare(self, number: int) -> None:
        """Begin to think about trial `number`."""
        if self._question is None:
            self._question = number, self._thread.submit(self._searcher.ask, number)

    def ask(self, number: int, *, wait: bool) -> Point | Pending | None:
        """The point to try; with `wait`, however long it takes."""
        if self._question is not None and self._question[0] != number:
            self._settle()  # somebody else chose what that number is
        self.prepare(number)
        if self._question is not None and not wait and not self._question[1].done():
            return PENDING
        return self._settle()

    def asked(self, number: int, point: Point) -> None:
        """As the search's, now or when it has thought."""
        self._call(self._searcher.asked, number, point)

    def tell(self, number: int, point: Point, told: Told) -> None:
        """As the search's, now or when it has thought."""
        self._call(self._searcher.tell, number, point, told)

    def grow(self, parameters: tuple[Parameter, ...]) -> None:
        """As the search's, now or when it has thought."""
        self._call(self._searcher.grow, parameters)  # type: ignore[attr-defined]

    def close(self) -> None:
        """Let the thread end."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _call(self, function: Callable[..., Any], *arguments: Any) -> None:
        if self._question is None:
            function(*arguments)
        else:
            self._later.append((function, arguments))

    def _settle(self) -> Point | None:
        if self._question is None:
            return None
        point = self._question[1].result()
        self._question = None
        later, self._later = self._later, []
        for function, arguments in later:
            function(*arguments)
        return point
