"""What every rule that stops trials promises to a study."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilevel.search.stop import ASHA, Hyperband, Median, Stop, Stopper

RULES: dict[str, Stop] = {
    "asha": ASHA(last=27),
    "asha-late": ASHA(first=3, factor=2, last=20),
    "hyperband": Hyperband(last=27),
    "median": Median(),
    "median-late": Median(warmup_trials=2, warmup_steps=4, last=27),
}
pytestmark = pytest.mark.parametrize("name", RULES)
STEPS = 27
REPORTS = st.lists(
    st.tuples(st.integers(0, 9), st.integers(1, 4), st.floats(), st.none() | st.integers(-1, 9)), max_size=80
)


def decisions(stopper: Stopper, reports: list[tuple[int, int, float, int | None]]) -> list[bool]:
    steps = dict.fromkeys(range(10), 0)
    answers = []
    for trial, ahead, value, upto in reports:
        steps[trial] += ahead
        answers.append(stopper.report(trial, steps[trial], value, upto=upto))
    return answers


@given(reports=REPORTS)
def test_the_same_reports_give_the_same_decisions(name: str, reports: list[tuple[int, int, float, int | None]]) -> None:
    rule = RULES[name]
    assert decisions(rule.open(), reports) == decisions(dataclasses.replace(rule).open(), reports)  # type: ignore[type-var]


@given(values=st.permutations(range(12)), later=st.integers(1, 3))
def test_the_best_trial_is_never_stopped(name: str, values: list[int], later: int) -> None:
    """Trials side by side, each at its own pace; one is better than all others at every step."""
    stopper = RULES[name].open()
    gone: set[int] = set()
    for turn in range(STEPS * 3):
        for trial, value in enumerate(values):
            step = turn - trial * later + 1
            if trial not in gone and 1 <= step <= STEPS and stopper.report(trial, step, value + 1 / step):
                gone.add(trial)
    assert values.index(0) not in gone


def test_bad_trials_are_stopped_before_their_end(name: str) -> None:
    stopper, draws, spent = RULES[name].open(), random.Random(0), 0
    for trial in range(100):
        value = draws.random()
        for step in range(1, STEPS + 1):
            spent += 1
            if stopper.report(trial, step, value):
                break
    assert spent < 0.8 * 100 * STEPS


def test_a_trial_alone_goes_on_to_its_end(name: str) -> None:
    stopper = RULES[name].open()
    assert not any(stopper.report(0, step, 1.0) for step in range(1, STEPS + 1))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_value_that_is_no_number_stops_and_hurts_nobody_else(name: str, value: float) -> None:
    rule = RULES[name]
    stopper = rule.open()
    numbers = [n for n in range(40) if not isinstance(rule, Hyperband) or rule.brackets[rule.bracket(n)]]  # has a rung
    assert any(stopper.report(numbers[0], step, value) for step in range(1, STEPS + 1))
    for number in numbers[1:20]:
        assert not any(stopper.report(number, step, 1.0) for step in range(1, STEPS + 1))


def test_with_upto_decisions_do_not_depend_on_the_order_in_which_trials_run(name: str) -> None:
    """Four at once: trial n begins when n - 4 has ended, and may know no later one; any interleaving is as good."""

    def run(seed: int) -> list[list[int]]:
        draws, stopper = random.Random(seed), RULES[name].open()
        steps: dict[int, int] = {}
        ended: dict[int, list[int]] = {}
        while len(ended) < 40:
            running = [n for n in range(40) if n not in ended and all(m in ended for m in range(n - 3))]
            trial = draws.choice(running)
            step = steps[trial] = steps.get(trial, 0) + 1
            value = random.Random(trial).random() + random.Random(1000 * trial + step).random()
            if stopper.report(trial, step, value, upto=trial - 4) or step == STEPS:
                ended[trial] = [trial, step]
        return [ended[trial] for trial in range(40)]

    first = run(0)
    assert any(step < STEPS for _, step in first)
    assert all(run(seed) == first for seed in range(1, 5))


def test_the_last_step_is_told_if_it_is_known(name: str) -> None:
    assert RULES[name].last in (27, 20, None)


def test_a_rule_is_a_value(name: str) -> None:
    rule = RULES[name]
    assert rule == dataclasses.replace(rule)  # type: ignore[type-var]
    with pytest.raises(dataclasses.FrozenInstanceError):
        rule.last = 3  # type: ignore[misc]
