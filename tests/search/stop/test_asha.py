"""Does successive halving let those trials go on that its definition names?"""

from __future__ import annotations

import math
import random
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilevel.errors import BadInput
from bilevel.search.stop import ASHA

VALUES = st.one_of(st.integers(-3, 3).map(float), st.floats(allow_nan=True, allow_infinity=True))


class Naive:
    """The rule as it is written down, from lists of all that was reported."""

    def __init__(self, rule: ASHA) -> None:
        self.rule = rule
        self.met: dict[int, dict[int, float]] = {}

    def report(self, trial: int, step: int, value: float, *, upto: int | None = None) -> bool:
        reached, rung = None, self.rule.first
        while rung < self.rule.last:
            if rung <= step:
                reached = rung
            rung *= self.rule.factor
        if reached is None or trial in self.met.setdefault(reached, {}):
            return False
        others = [v for number, v in self.met[reached].items() if upto is None or number <= upto]
        self.met[reached][trial] = value if math.isfinite(value) else math.inf
        if not math.isfinite(value):
            return True
        best = sorted([*others, value])[: max(1, (len(others) + 1) // self.rule.factor)]
        return value > best[-1]


@given(
    reports=st.lists(st.tuples(st.integers(0, 12), st.integers(1, 12), VALUES, st.none() | st.integers(-1, 12))),
    first=st.integers(1, 3),
    factor=st.integers(2, 4),
    last=st.integers(4, 40),
)
def test_decisions_are_those_of_the_definition(
    reports: list[tuple[int, int, float, int | None]], first: int, factor: int, last: int
) -> None:
    rule = ASHA(first=first, factor=factor, last=last)
    ours, naive, steps = rule.open(), Naive(rule), dict.fromkeys(range(13), 0)
    for trial, ahead, value, upto in reports:
        steps[trial] += ahead
        wanted = naive.report(trial, steps[trial], value, upto=upto)
        assert ours.report(trial, steps[trial], value, upto=upto) == wanted


def test_rungs_are_those_of_the_paper() -> None:
    assert ASHA(first=1, last=81).rungs == (1, 3, 9, 27)
    assert ASHA(first=4, factor=4, last=256).rungs == (4, 16, 64)
    assert ASHA(first=5, last=16).rungs == (5, 15)
    assert ASHA(first=5, last=15).rungs == (5,)


def test_the_first_rung_is_a_ninth_of_the_way_unless_it_is_said() -> None:
    assert ASHA(last=27).rungs == (3, 9)
    assert ASHA(last=1000).rungs == (111, 333, 999)
    assert ASHA(last=7).rungs == (1, 3)
    assert repr(ASHA(last=27)) == "ASHA(first=3, factor=3, last=27)"
    assert ASHA(last=27) == ASHA(first=3, last=27)


def test_one_in_factor_goes_on_at_each_rung() -> None:
    """Li et al. 2020, figure 1, with more trials; those that come in any order are judged by those before them.

    So at upper rungs, where few have come yet, more go on than in the end should have.
    """
    rule, reached = ASHA(first=1, last=81), dict.fromkeys((1, 3, 9), 0)
    draws = random.Random(0)
    for _ in range(10):
        stopper = rule.open()
        for trial, value in enumerate(draws.sample(range(729), 729)):
            for step in range(1, 82):
                if step in reached:
                    reached[step] += 1
                if stopper.report(trial, step, value):
                    break
    shares = [reached[3 * rung] / reached[rung] for rung in (1, 3)]
    assert shares == pytest.approx([1 / 3] * 2, abs=0.03)


def test_the_first_at_a_rung_goes_on_and_then_only_the_best_until_there_are_enough() -> None:
    stopper = ASHA(first=1, factor=3, last=9).open()
    values = [5.0, 6.0, 4.0, 4.5, 4.2, 4.1, 4.05]
    stopped = [stopper.report(trial, 1, value) for trial, value in enumerate(values)]
    assert stopped == [False, True, False, True, True, False, False]  # from the sixth on two of them go on


def test_equals_go_on_together() -> None:
    stopper = ASHA(last=9).open()
    assert [stopper.report(trial, 1, 1.0) for trial in range(5)] == [False] * 5


def test_who_reports_seldom_meets_a_rung_once_at_the_first_report_beyond_it() -> None:
    assert {step for step in range(5, 81, 5) if stops_at(step)} == {5, 10, 30}


def stops_at(step: int) -> bool:
    """Whether a worse trial, good until then, is stopped at this step, beside one that always has 1."""
    stopper = ASHA(first=1, last=81).open()
    for before in range(5, 81, 5):
        stopper.report(0, before, 1.0)
    for before in range(5, step, 5):
        stopper.report(1, before, 0.0)
    return stopper.report(1, step, 2.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_stops_at_a_rung_even_the_first(value: float) -> None:
    stopper = ASHA(first=2, last=9).open()
    assert not stopper.report(0, 1, value)
    assert stopper.report(0, 2, value)
    assert not stopper.report(1, 2, 1e300)  # it is better than that


def test_with_upto_later_trials_are_not_looked_at() -> None:
    stopper = ASHA(last=9).open()
    assert not stopper.report(0, 1, 2.0)
    assert not stopper.report(9, 1, 1.0)
    assert not stopper.report(5, 1, 1.5, upto=4)
    assert stopper.report(6, 1, 1.9, upto=5)


def test_ten_thousand_trials_cost_microseconds_each() -> None:
    stopper, draws = ASHA(first=1, last=81).open(), random.Random(1)
    began, reports = time.perf_counter(), 0
    for trial in range(10_000):
        for step in range(1, 82):
            reports += 1
            if stopper.report(trial, step, draws.random(), upto=trial - 16):
                break
    assert (time.perf_counter() - began) / reports < 100e-6


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"last": 9, "first": 0}, "first=0"),
        ({"last": 9, "factor": 1}, "factor=1"),
        ({"last": 9, "factor": 2.5}, "factor=2.5"),
        ({"last": True}, "last=True"),
        ({"last": "27"}, "last='27'"),
        ({"last": 1}, "last=1 is not beyond first=1"),
        ({"last": 3, "first": 3}, "last=3 is not beyond first=3"),
    ],
)
def test_bad_options_are_named(options: dict[str, int], named: str) -> None:
    with pytest.raises(BadInput, match=f"ASHA: {named}"):
        ASHA(**options)
