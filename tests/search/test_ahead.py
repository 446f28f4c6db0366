"""Is a search that is asked ahead told the same, in the same order, as one that is not?"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from bilevel.search.ahead import PENDING, Ahead
from bilevel.search.port import Point, Told
from bilevel.space.dimensions import Parameter, Uniform

X = Parameter("x", "x", Uniform(0.0, 1.0))


class Slow:
    """A search that thinks until it is let, and notes all that is said to it."""

    done = False

    def __init__(self) -> None:
        self.let = threading.Event()
        self.calls: list[tuple[Any, ...]] = []

    def ask(self, number: int) -> Point:
        before = len(self.calls)
        assert self.let.wait(10.0)
        assert len(self.calls) == before, "it was told something while it was thinking"
        return {"x": number / 10}

    def asked(self, number: int, point: Point) -> None:
        self.calls.append(("asked", number))

    def tell(self, number: int, point: Point, told: Told) -> None:
        self.calls.append(("tell", number))

    def grow(self, parameters: tuple[Parameter, ...]) -> None:
        self.calls.append(("grow", len(parameters)))


@pytest.fixture
def search() -> Iterator[tuple[Slow, Ahead]]:
    slow = Slow()
    ahead = Ahead(slow)
    yield slow, ahead
    slow.let.set()
    ahead.close()


def test_what_it_is_told_while_it_thinks_comes_afterwards_and_in_order(search: tuple[Slow, Ahead]) -> None:
    slow, ahead = search
    ahead.asked(0, {"x": 0.0})
    assert slow.calls == [("asked", 0)]
    ahead.prepare(1)
    assert ahead.ask(1, wait=False) is PENDING
    ahead.tell(0, {"x": 0.0}, Told((1.0,)))
    ahead.grow((X,))
    ahead.asked(7, {"x": 0.7})
    assert slow.calls == [("asked", 0)]
    slow.let.set()
    assert ahead.ask(1, wait=True) == {"x": 0.1}
    assert slow.calls == [("asked", 0), ("tell", 0), ("grow", 1), ("asked", 7)]
    ahead.tell(7, {"x": 0.7}, Told(None))
    assert slow.calls[-1] == ("tell", 7)


def test_an_answer_for_another_trial_is_dropped(search: tuple[Slow, Ahead]) -> None:
    slow, ahead = search
    slow.let.set()
    ahead.prepare(1)
    assert ahead.ask(2, wait=True) == {"x": 0.2}


def test_what_a_search_raises_in_its_thread_is_raised_where_it_is_asked() -> None:
    class Broken(Slow):
        def ask(self, number: int) -> Point:
            raise RuntimeError("no")

    ahead = Ahead(Broken())
    ahead.prepare(1)
    with pytest.raises(RuntimeError, match="no"):
        ahead.ask(1, wait=True)
    ahead.close()
