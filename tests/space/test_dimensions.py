"""Do dimensions lay their values out over the unit interval as they say, and refuse what makes no sense?"""

from __future__ import annotations

import enum
import json
import math
import sys
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna._transform import _SearchSpaceTransform

from bilevel import SGD
from bilevel.errors import BadInput
from bilevel.nets import conv4, mlp
from bilevel.space import Learned, Space
from bilevel.space.dimensions import (
    Int,
    Log,
    LogInt,
    LogNormal,
    Normal,
    OneOf,
    Parameter,
    Uniform,
    is_dimension,
    label,
    same,
)

PLACES = st.floats(0.0, 1.0)
CENTERS = [(k + 0.5) / 10_000 for k in range(10_000)]
"""The middles of equal parts: exact shares, without chance."""


class Color(enum.Enum):
    RED = 1
    BLUE = 2


@dataclass(frozen=True)
class Sgd:
    lr: float = 0.1
    act: Any = None


def floats(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(low, high, allow_subnormal=False)


@st.composite
def ranges(draw: st.DrawFn, low: float, high: float) -> tuple[float, float]:
    a, b = sorted((draw(floats(low, high)), draw(floats(low, high))))
    return (a, b) if b - a > 1e-6 * abs(a) + 1e-9 else (a, a + abs(a) + 1.0)


CONTINUOUS = st.one_of(
    st.builds(lambda r: Uniform(*r), ranges(-1e6, 1e6)),
    st.builds(lambda r: Log(*r), ranges(1e-9, 1e9)),
    st.builds(Normal, floats(-1e3, 1e3), floats(1e-3, 1e3)),
    st.builds(LogNormal, floats(-10, 10), floats(1e-3, 5)),
)
WHOLE = st.one_of(
    st.builds(
        lambda low, n, step: Int(low, low + n * step, step=step),
        st.integers(-999, 999),
        st.integers(1, 200),
        st.integers(1, 9),
    ),
    st.builds(lambda low, more: LogInt(low, low + more), st.integers(1, 500), st.integers(0, 999)),
)
STEPPED = st.one_of(
    st.builds(
        lambda low, n, step: Uniform(low, low + n * step, step=step),
        floats(-10, 10),
        st.integers(1, 99),
        floats(0.01, 5),
    ),
    st.builds(
        lambda low, n, step: Log(low, low + n * step, step=step), floats(0.1, 10), st.integers(1, 99), floats(0.01, 5)
    ),
)
PLAIN = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(max_size=5))
CHOICES = st.lists(PLAIN, min_size=1, max_size=6, unique_by=lambda v: (isinstance(v, bool), v)).map(
    lambda options: OneOf(*options)
)


# -- there and back ----------------------------------------------------------------------------------------------------


@given(st.one_of(WHOLE, STEPPED, CHOICES), PLACES)
def test_a_value_of_a_finite_dimension_comes_back_from_its_place(dimension: Any, place: float) -> None:
    value = dimension.decode(place)
    assert dimension.contains(value)
    assert 0.0 <= dimension.encode(value) <= 1.0
    assert same(dimension.decode(dimension.encode(value)), value)


@given(CONTINUOUS, floats(0.001, 0.999))
def test_a_place_of_a_continuum_comes_back_from_its_value(dimension: Any, place: float) -> None:
    value = dimension.decode(place)
    assert dimension.contains(value)
    assert dimension.encode(value) == pytest.approx(place, abs=1e-4)


@given(st.one_of(CONTINUOUS, STEPPED, WHOLE), PLACES, PLACES)
def test_numbers_ascend_with_their_places(dimension: Any, left: float, right: float) -> None:
    low, high = sorted((left, right))
    assert dimension.ordered
    assert dimension.decode(low) <= dimension.decode(high)


@given(st.one_of(CONTINUOUS, STEPPED, WHOLE, CHOICES), PLACES)
def test_values_are_pythons_own_and_survive_json(dimension: Any, place: float) -> None:
    value = dimension.decode(np.float64(place))
    assert type(value) in (float, int, str, bool, type(None))
    assert same(json.loads(json.dumps(value)), value)
    assert dimension.contains(dimension.middle)


@given(st.one_of(CONTINUOUS, STEPPED, WHOLE))
def test_the_ends_of_the_unit_interval_hold_the_ends_of_the_range(dimension: Any) -> None:
    if not isinstance(dimension, Normal | LogNormal):
        assert dimension.decode(0.0) == dimension.low
        assert dimension.decode(1.0) == pytest.approx(dimension.high, rel=1e-9, abs=1e-9)
        assert dimension.low <= dimension.decode(0.5) <= dimension.high


# -- how likely each value is ------------------------------------------------------------------------------------------


def shares(dimension: Any) -> dict[Any, float]:
    counts = Counter(dimension.decode(place) for place in CENTERS)
    return {value: count / len(CENTERS) for value, count in counts.items()}


@pytest.mark.parametrize(
    "dimension",
    [
        Int(0, 9),
        Int(-3, 17, step=5),
        OneOf("a", "b", "c", "d"),
        OneOf(True, False),
        Uniform(0.0, 1.0, step=0.1),
        Uniform(0.0, 1.0, step=0.3),
    ],
)
def test_each_value_of_a_finite_dimension_is_equally_likely(dimension: Any) -> None:
    found = shares(dimension)
    assert len(found) == dimension.size
    assert all(share == pytest.approx(1 / dimension.size, abs=2e-4) for share in found.values())


def test_a_range_in_steps_ends_at_the_last_whole_step() -> None:
    assert sorted(shares(Uniform(0.0, 1.0, step=0.3))) == [0.0, 0.3, 0.6, 0.9]
    assert sorted(shares(Int(-3, 17, step=6))) == [-3, 3, 9, 15]
    assert max(shares(Log(1.0, 10.0, step=4.0))) == 9.0


def test_whole_numbers_on_a_logarithmic_scale_are_as_likely_as_in_optuna() -> None:
    transform = _SearchSpaceTransform({"n": optuna.distributions.IntDistribution(2, 300, log=True)}, transform_0_1=True)
    dimension = LogInt(2, 300)
    assert [transform.untransform(np.array([place]))["n"] for place in CENTERS] == [
        dimension.decode(place) for place in CENTERS
    ]
    for value in (2, 17, 300):
        assert transform.transform({"n": value})[0] == pytest.approx(dimension.encode(value))


def test_decades_of_a_logarithmic_scale_are_equally_likely() -> None:
    values = [Log(1e-4, 1.0).decode(place) for place in CENTERS]
    for decade in range(-4, 0):
        assert sum(10**decade <= value < 10 ** (decade + 1) for value in values) == pytest.approx(2500, abs=2)


def test_a_logarithmic_scale_in_steps_gives_each_value_its_part_of_the_scale() -> None:
    found = shares(Log(1.0, 8.0, step=1.0))
    whole = math.log(8.5 / 0.5)
    for value in range(1, 9):
        assert found[float(value)] == pytest.approx(math.log((value + 0.5) / (value - 0.5)) / whole, abs=2e-4)


def test_normal_places_are_its_quantiles() -> None:
    values = np.array([Normal(3.0, 2.0).decode(place) for place in CENTERS])
    assert values.mean() == pytest.approx(3.0, abs=1e-3)
    assert values.std() == pytest.approx(2.0, abs=1e-2)
    assert Normal(3.0, 2.0).decode(0.8413447460685429) == pytest.approx(5.0)
    logs = np.log([LogNormal(-2.0, 0.5).decode(place) for place in CENTERS])
    assert (logs.mean(), logs.std()) == (pytest.approx(-2.0, abs=1e-3), pytest.approx(0.5, abs=1e-2))
    assert {Normal(0.0, 1.0, step=0.1).decode(place) for place in (0.5, 0.6)} == {0.0, 0.3}
    assert math.isfinite(Normal(0.0, 1.0).decode(0.0))
    assert math.isfinite(LogNormal(100.0, 50.0).decode(1.0))


# -- what a dimension says of itself -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dimension", "text", "middle"),
    [
        (Uniform(0, 1), "Uniform(0, 1)", 0.5),
        (Uniform(0, 1, step=0.25, center=0.75), "Uniform(0, 1, step=0.25, center=0.75)", 0.75),
        (Log(1e-4, 1.0), "Log(0.0001, 1.0)", pytest.approx(1e-2)),
        (Int(1, 9), "Int(1, 9)", 5),
        (Int(0, 8, step=2, center=0), "Int(0, 8, step=2, center=0)", 0),
        (LogInt(1, 100), "LogInt(1, 100)", 7),
        (Normal(1.0, 2.0), "Normal(1.0, 2.0)", 1.0),
        (LogNormal(0.0, 2.0), "LogNormal(0.0, 2.0)", 1.0),
        (OneOf("relu", "gelu"), "OneOf('relu', 'gelu')", "relu"),
        (OneOf(16, 32, 64, ordered=True), "OneOf(16, 32, 64, ordered=True)", 32),
        (OneOf("a", "b", center="b"), "OneOf('a', 'b', center='b')", "b"),
        (OneOf(conv4, mlp), "OneOf(conv4, mlp)", "conv4"),
        (OneOf(None, Log(1e-3, 1.0)), "OneOf(None, Log(0.001, 1.0))", None),
    ],
)
def test_a_dimension_reads_as_it_is_written(dimension: Any, text: str, middle: Any) -> None:
    assert repr(dimension) == text
    assert dimension.middle == middle
    assert is_dimension(dimension)
    assert not is_dimension(type(dimension))


def test_a_users_own_dimension_is_one_too() -> None:
    class Weekday:
        size, ordered, log, middle = 7, False, False, "mon"

        def decode(self, place: float) -> str: ...

        def encode(self, value: str) -> float: ...

        def contains(self, value: Any) -> bool: ...

    assert is_dimension(Weekday())
    assert not any(is_dimension(value) for value in ("text", b"bytes", 1.0, None, Weekday))


@pytest.mark.parametrize(
    ("thing", "called"),
    [
        (3, 3),
        (True, True),
        (None, None),
        ("relu", "relu"),
        ((8, 8), "[8, 8]"),
        ([8, "x"], "[8, 'x']"),
        ({"depth": 3}, "{depth: 3}"),
        (mlp, "mlp"),
        (Sgd, "Sgd"),
        (Sgd(), "Sgd"),
        (Sgd(0.5, act=mlp), "Sgd(lr=0.5, act=mlp)"),
        (Space(Sgd, lr=0.5), "Sgd"),
        (Color.RED, "Color.RED"),
        (object(), "object"),
        (np.float64(0.5), 0.5),
    ],
)
def test_options_have_labels_that_no_process_changes(thing: Any, called: Any) -> None:
    assert same(label(thing), called)
    assert same(OneOf(thing, "another").labels[0], called)


def test_numbers_of_numpy_become_pythons_own() -> None:
    choice = OneOf(*np.array([16, 32]), *np.array([0.5]))
    assert [type(option) for option in choice.options] == [int, int, float]


def test_one_and_true_are_two_options() -> None:
    choice = OneOf(True, 1, False, 0)
    assert [choice.encode(value) for value in (True, 1, False, 0)] == [0.125, 0.375, 0.625, 0.875]
    assert choice.option(1) is not True


def test_a_parameter_is_there_when_its_choices_are_made() -> None:
    parameter = Parameter("opt[Adam].lr", "opt.lr", Log(1e-3, 1), (("deep", True), ("opt", "Adam")))
    assert parameter.active({"deep": True, "opt": "Adam"})
    assert not parameter.active({"deep": 1, "opt": "Adam"})
    assert not parameter.active({"deep": True})


# -- what makes no sense -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Uniform(1, 0), r"Uniform\(1, 0\): the lower bound is above the upper one"),
        (lambda: Uniform(1, 1), r"Uniform\(1, 1\): nothing to choose; write the constant 1 instead"),
        (lambda: Uniform(0, math.inf), r"Uniform\(0, inf\): bounds are finite numbers"),
        (lambda: Uniform("0", 1), r"Uniform\('0', 1\): bounds are finite numbers"),
        (lambda: Uniform(-1e308, 1e308), "the range is too wide for floats"),
        (lambda: Int(0, 10**400), r"Int: high is a whole number of 401 digits, which no float can hold"),
        (lambda: Int(-(10**5000), 0), r"Int: low is a whole number of 5001 digits"),
        (lambda: Int(-(10**308), 10**308), "the range is too wide for floats"),
        (lambda: Int(0, 9, step=10**400), "Int: step is a whole number of 401 digits"),
        (lambda: Int(0, 9, center=10**400), "Int: center is a whole number of 401 digits"),
        (lambda: LogInt(1, 10**400), "LogInt: high is a whole number of 401 digits"),
        (lambda: Uniform(0, 10**400), r"Uniform\(0, a whole number of 401 digits\): bounds are finite numbers"),
        (lambda: Uniform(0, 1, step=10**400), r"step=a whole number of 401 digits; it takes a positive number"),
        (lambda: Log(1, 9, center=10**400), r"center=a whole number of 401 digits is not one of its values"),
        (lambda: Normal(10**400, 1), r"Normal\(a whole number of 401 digits, 1\): give a finite mean"),
        (lambda: Normal(0, 10**400), r"Normal\(0, a whole number of 401 digits\): give a finite mean"),
        (lambda: LogNormal(0, 1e308), "they are those of the logarithm"),
        (lambda: Uniform(0, 1, step=2), "Uniform: step=2; it takes a positive number up to 1"),
        (lambda: Uniform(0, 1, step=0), "Uniform: step=0; it takes a positive number up to 1"),
        (lambda: Uniform(0, 1, center=2), "Uniform: center=2 is not one of its values, 0 to 1"),
        (lambda: Uniform(0, 1, step=0.5, center=0.3), "center=0.3 is not one of its values, 0 to 1 in steps of 0.5"),
        (lambda: Log(0, 1), r"Log\(0, 1\): a logarithmic scale has positive bounds"),
        (lambda: Int(0.5, 3), "Int: low=0.5; it takes a whole number"),
        (lambda: Int(True, 3), "Int: low=True; it takes a whole number"),
        (lambda: Int(0, 8, step=2, center=3), "Int: center=3 is not one of its values, 0 to 8 in steps of 2"),
        (lambda: LogInt(0, 3), r"LogInt\(0, 3\): a logarithmic scale has positive bounds"),
        (lambda: Normal(0, 0), r"Normal\(0, 0\): give a finite mean and a positive deviation"),
        (lambda: Normal(0, 1, step=-1), "Normal: step=-1; it takes a positive number"),
        (lambda: LogNormal(1e4, 1), "they are those of the logarithm; take smaller ones"),
        (lambda: OneOf(), "nothing to choose from; give it some values"),
        (lambda: OneOf([1, 2]), r"one option, which is a list; for its values write OneOf\(\*values\)"),
        (lambda: OneOf("a", "b", "a"), "OneOf: 'a' is there twice; options are told apart by value, objects by name"),
        (lambda: OneOf(1, 1.0), "OneOf: 1.0 is there twice"),
        (lambda: OneOf(lambda: 1, lambda: 2), "OneOf: '<lambda>' is there twice"),
        (
            lambda: OneOf(Space(Sgd, lr=0.1), Space(Sgd, lr=0.2)),
            "OneOf: 'Sgd' is there twice; .* give each a word of its own: OneOf\\({'kind': 'a', ...}, {'kind'",
        ),
        (lambda: OneOf(Space(Sgd), Sgd(0.3)), "may be the same value; make them one option"),
        (lambda: OneOf(0.5, Uniform(0, 1)), r"Uniform\(0, 1\) and 0.5 may be the same value; make them one option"),
        (lambda: OneOf(0, OneOf(None, 1)), r"OneOf\(None, 1\) is a choice itself; put its options beside the others"),
        (lambda: OneOf(0.5, math.nan), r"an option is not a number \(NaN\); leave it out"),
        (lambda: OneOf("a", "b", center="c"), "OneOf: center='c' is none of its options: a, b"),
        (lambda: OneOf("a", "b").option("c"), "OneOf: no option 'c'; it has a, b"),
    ],
)
def test_what_makes_no_sense_is_refused_with_value_and_cure(make: Any, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        make()


@pytest.mark.parametrize(
    ("dimension", "value"),
    [
        (Uniform(0, 1), 1.5),
        (Uniform(0, 1), True),
        (Uniform(0, 1), math.nan),
        (Uniform(0, 1), "0.5"),
        (Uniform(0, 1, step=0.5), 0.25),
        (Log(1, 10, step=2), 2.0),
        (Int(0, 8, step=2), 3),
        (Int(0, 8), 3.0),
        (Int(0, 8), True),
        (LogInt(1, 8), 9),
        (Normal(0, 1), math.inf),
        (LogNormal(0, 1), 0.0),
        (OneOf(1, 2), True),
        (OneOf(1, 2), 3),
    ],
)
def test_a_dimension_knows_what_is_none_of_its_values(dimension: Any, value: Any) -> None:
    assert not dimension.contains(value)


def test_learned_is_an_option_called_by_its_start() -> None:
    choice = OneOf(0.1, Learned(0.1, by=SGD()))
    assert choice.labels == (0.1, "Learned(0.1)")


# -- numbers that are large beside their step, or near the limits of floats --------------------------------------------


@pytest.mark.parametrize(
    ("dimension", "values"),
    [
        (Uniform(1e15, 1e15 + 10, step=0.5), [1e15 + k / 2 for k in range(21)]),
        (Uniform(-1e15, -1e15 + 3, step=0.25), [-1e15 + k / 4 for k in range(13)]),
        (Uniform(1e16, 1e16 + 10, step=2.0), [1e16 + 2 * k for k in range(6)]),
        (Uniform(0.1, 0.1 + 1e-10, step=1e-11), [float(f"0.1000000000{k}") for k in range(10)] + [0.1000000001]),
        (Uniform(1.0, 1.0 + 1e-13, step=1e-14), [float(f"1.0000000000000{k}") for k in range(10)] + [1.0000000000001]),
        (Uniform(1e-320, 5e-320, step=1e-320), [k * 1e-320 for k in range(1, 6)]),
        (Log(1e15, 1e15 + 10, step=0.5), [1e15 + k / 2 for k in range(21)]),
        (Log(5e-324, 4e-323, step=5e-324), [k * 5e-324 for k in range(1, 9)]),
        (Int(10**17, 10**17 + 10, step=5), [10**17, 10**17 + 5, 10**17 + 10]),
        (LogInt(10**17, 10**17 + 10), [10**17 + k for k in range(11)]),
        (LogInt(2**53 - 2, 2**53 + 2), [2**53 + k for k in range(-2, 3)]),
    ],
    ids=repr,
)
def test_each_value_of_a_far_grid_is_there_once(dimension: Any, values: list[Any]) -> None:
    found = [dimension.decode(place) for place in CENTERS]
    assert sorted(set(found)) == values
    assert dimension.size == len(values)
    for value in values:
        assert dimension.contains(value)
        assert dimension.decode(dimension.encode(value)) == value


@pytest.mark.parametrize(
    "dimension",
    [
        Uniform(-8e307, 8e307),
        Uniform(0.0, 5e-323),
        Log(5e-324, sys.float_info.max),
        Log(1.0, sys.float_info.max),
        Log(1e16, 1e16 + 4),
        LogInt(1, 10**300),
        LogInt(1, int(sys.float_info.max)),
        Int(-(10**300), 10**300),
        Normal(0.0, 1e300),
        Normal(1e15, 2.0, step=0.5),
        LogNormal(0.0, 80.0),
    ],
    ids=repr,
)
def test_places_and_values_go_together_up_to_the_limits(dimension: Any) -> None:
    before = -math.inf
    for place in (0.0, 1e-9, *(k / 97 for k in range(1, 97)), 1 - 1e-9, 1.0):
        value = dimension.decode(place)
        assert before <= value
        assert dimension.contains(value)
        assert math.isfinite(value)
        assert 0.0 <= dimension.encode(value) <= 1.0
        assert dimension.decode(dimension.encode(value)) == pytest.approx(value, rel=1e-6)
        before = value


def test_a_normal_in_steps_has_all_steps_where_it_is_far() -> None:
    assert len({Normal(1e15, 2.0, step=0.5).decode(place) for place in CENTERS}) > 25


def test_decimals_are_as_they_were() -> None:
    assert [Uniform(0.0, 1.0, step=0.1).decode((k + 0.5) / 11) for k in range(11)] == [k / 10 for k in range(11)]
    assert Uniform(0.05, 0.95, step=0.3).decode(0.3) == 0.35


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Uniform(1e16, 1e16 + 10, step=0.5), "floats as large as .* are 2 apart; take a larger step"),
        (lambda: Normal(0.0, 1e308), "its values are too large for floats"),
        (lambda: Normal(0.0, 1e300, step=1e-10), "step=1e-10 is too small beside values up to"),
        (lambda: Int(0, 10**400), "which no float can hold"),
        (lambda: LogInt(1, 10**400), "which no float can hold"),
    ],
)
def test_what_floats_cannot_tell_apart_is_refused(make: Any, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        make()
