"""Does the median rule compare what it says: the best so far with the others' running averages?"""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilevel.errors import BadInput
from bilevel.search.stop import Median


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(-4, 4), st.none() | st.integers(0, 9)), max_size=60),
    st.integers(1, 4),
    st.integers(1, 4),
)
def test_decisions_are_those_of_the_definition(
    reports: list[tuple[int, int, int | None]], warmup_trials: int, warmup_steps: int
) -> None:
    stopper = Median(warmup_trials=warmup_trials, warmup_steps=warmup_steps).open()
    curves: dict[int, list[float]] = {}
    for trial, value, upto in reports:
        curve = curves.setdefault(trial, [])
        curve.append(float(value))
        step = len(curve)
        others = [
            statistics.mean(other[:step])
            for number, other in curves.items()
            if number != trial and len(other) >= step and (upto is None or number <= upto)
        ]
        wanted = step >= warmup_steps and len(others) >= warmup_trials
        wanted = wanted and min(curve) > statistics.median_high(others)
        assert stopper.report(trial, step, float(value), upto=upto) == wanted


def test_the_example_of_the_paper_holds() -> None:
    """The best so far counts, not the last: a trial that was good once and is bad now goes on."""
    stopper = Median(warmup_trials=1).open()
    for step, value in enumerate([3.0, 3.0, 3.0], 1):
        assert not stopper.report(0, step, value)
    for step, value in enumerate([2.0, 9.0, 9.0], 1):
        assert not stopper.report(1, step, value)
    assert stopper.report(2, 1, 4.0)


def test_what_is_not_finite_stops_after_the_warmup() -> None:
    stopper = Median(warmup_steps=2).open()
    assert not stopper.report(0, 1, math.nan)
    assert stopper.report(0, 2, math.nan)


def test_averages_of_those_that_diverged_are_the_worst() -> None:
    stopper = Median(warmup_trials=2).open()
    for trial in range(3):
        stopper.report(trial, 1, math.nan)
    assert not stopper.report(3, 1, 1e9)


@pytest.mark.parametrize(
    ("options", "named"),
    [({"warmup_trials": 0}, "warmup_trials=0"), ({"warmup_steps": -1}, "warmup_steps=-1"), ({"last": 1}, "last=1")],
)
def test_bad_options_are_named(options: dict[str, int], named: str) -> None:
    with pytest.raises(BadInput, match=f"Median: {named}"):
        Median(**options)
