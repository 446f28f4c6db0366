"""Does importance tell what matters, and when it cannot?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from bilevel.figures.importance import Importance, comparable, importance
from bilevel.space.dimensions import Log, OneOf, Parameter, Uniform
from support import searches

CUBE = tuple(Parameter(f"x{i}", f"x{i}", Uniform(0, 1)) for i in range(5))


def found(
    loss: Callable[[Mapping[str, Any]], float], count: int, parameters: Sequence[Parameter] = CUBE
) -> Importance | None:
    events = searches.study(count, parameters, loss, rungs=(), steps=12, fails=lambda point: False)
    return importance(searches.search(events, parameters))


def shares(result: Importance | None) -> dict[str, float]:
    assert result is not None
    return {share.parameter.name: share.value for share in result.shares}


def test_shares_are_those_of_an_additive_function() -> None:
    result = found(lambda p: 2.0 * p["x1"] + 1.0 * p["x3"], 400)
    told = shares(result)
    assert list(told)[:2] == ["x1", "x3"]
    assert told["x1"] == pytest.approx(0.8, abs=0.08)  # 4 / (4 + 1) of the variance
    assert told["x3"] == pytest.approx(0.2, abs=0.08)
    assert max(told[name] for name in ("x0", "x2", "x4")) < 0.02
    assert result is not None
    assert result.telling
    assert result.explained > 0.8
    assert all(share.low <= share.value <= share.high for share in result.shares)


def test_twenty_trials_show_the_one_that_matters() -> None:
    told = shares(found(lambda p: (p["x2"] - 0.3) ** 2, 20))
    assert next(iter(told)) == "x2"


def test_noise_tells_nothing() -> None:
    rng = np.random.default_rng(1)
    result = found(lambda p: 1.0 + float(rng.random()), 60)
    assert result is not None
    assert not result.telling


def test_ten_trials_are_the_least() -> None:
    assert found(lambda p: p["x0"], 9) is None
    assert found(lambda p: p["x0"], 10) is not None


def test_a_value_that_only_some_have_matters_among_them() -> None:
    space = (
        Parameter("opt", "opt", OneOf("A", "B")),
        Parameter("opt[A].lr", "opt.lr", Log(1e-4, 1), when=(("opt", "A"),)),
        Parameter("opt[B].lr", "opt.lr", Log(1e-4, 1), when=(("opt", "B"),)),
    )
    told = shares(found(lambda p: abs(np.log10(p.get("opt[A].lr", 1e-1)) + 2), 200, space))
    assert told["opt[A].lr"] > 0.5
    assert told["opt[B].lr"] < 0.05


def test_unordered_choices_count_as_a_whole() -> None:
    space = (*CUBE[:2], Parameter("act", "act", OneOf("a", "b", "c", "d")))
    told = shares(found(lambda p: {"a": 0.0, "b": 1.0, "c": 0.0, "d": 1.0}[p["act"]] + 0.05 * p["x0"], 120, space))
    assert next(iter(told)) == "act"


def test_stopped_trials_are_compared_at_a_step_that_many_reached() -> None:
    search = searches.search(searches.study(40))
    trials, values, step = comparable(search)
    assert step in (1, 3, 9)
    assert len(trials) >= 20
    for trial, value in zip(trials, values, strict=True):
        curve = search.tracks[trial.number].curve
        assert value == curve[curve[:, 0] == step, 1][0]


def test_complete_trials_are_compared_at_their_ends() -> None:
    search = searches.search(searches.study(40, rungs=()))
    trials, values, step = comparable(search)
    assert step is None
    assert [trial.objective for trial in trials] == values.tolist()


def test_the_same_trials_give_the_same_shares() -> None:
    search = searches.search(searches.study(40))
    assert importance(search) == importance(search)
