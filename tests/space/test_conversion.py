"""Do spaces of Optuna, of Ray Tune and of files become ours, value for value, and is the rest refused by name?"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import warnings
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from ray import tune

from bilevel import SGD, Adam, Learned, Space
from bilevel.errors import BadInput
from bilevel.inner import GradientDescent
from bilevel.nets import mlp
from bilevel.space import build, complete, flatten, parameters, settle
from bilevel.space.conversion import (
    describe,
    distribution,
    from_json,
    from_optuna,
    from_tune,
    inward,
    outward,
    read,
    to_json,
    to_optuna,
)
from bilevel.space.dimensions import Int, Log, LogInt, LogNormal, Normal, OneOf, Uniform, same

DIMENSIONS = [
    Uniform(0, 1),
    Uniform(-1.0, 1.0, step=0.1),
    Uniform(0.1, 0.95, step=0.2),
    Uniform(1 / 3, 2.0, step=1 / 7),
    Log(1e-5, 1e-1),
    Log(1.0, 9.5, step=0.5),
    Int(-3, 9),
    Int(0, 10, step=3),
    LogInt(1, 300),
    Normal(3.0, 2.0),
    LogNormal(0.0, 1.0),
    OneOf("relu", "tanh", None),
    OneOf(1, True, 0, False),
    OneOf(16, 32, 64, ordered=True),
    OneOf(mlp, (8, 8)),
]


@dataclass(frozen=True)
class Sgd:
    lr: float
    decay: Any = None


@dataclass(frozen=True)
class Net:
    width: int
    opt: Any = None
    hidden: tuple[int, ...] = (8,)


# -- Optuna ------------------------------------------------------------------------------------------------------------


def test_distributions_become_dimensions() -> None:
    space = from_optuna(
        {
            "lr": FloatDistribution(1e-5, 1e-1, log=True),
            "momentum": FloatDistribution(0.0, 0.9, step=0.1),
            "drop": FloatDistribution(0.0, 0.5),
            "layers": IntDistribution(1, 9, step=2),
            "units.first": IntDistribution(4, 512, log=True),
            "act": CategoricalDistribution(["relu", "tanh"]),
            "fixed": FloatDistribution(0.5, 0.5),
            "one": CategoricalDistribution(["only"]),
        }
    )
    assert {parameter.name: parameter.dimension for parameter in parameters(space)} == {
        "lr": Log(1e-5, 1e-1),
        "momentum": Uniform(0.0, 0.9, step=0.1),
        "drop": Uniform(0.0, 0.5),
        "layers": Int(1, 9, step=2),
        "units.first": LogInt(4, 512),
        "act": OneOf("relu", "tanh"),
    }
    config = build(settle(space, complete(space, {"units.first": 8})))
    assert (config["fixed"], config["one"], config["units.first"]) == (0.5, "only", 8)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        (CategoricalDistribution([1, 1.0]), "x: OneOf: 1.0 is there twice"),
        (object(), "x: a object is none of Optuna's distributions"),
        (Uniform(0, 1), "x: a Uniform is none of Optuna's distributions"),
    ],
)
def test_what_optuna_has_and_we_have_not_is_refused_by_name(given: Any, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        from_optuna({"lr": FloatDistribution(0.0, 1.0), "x": given})


@pytest.mark.parametrize("dimension", DIMENSIONS, ids=repr)
def test_values_go_to_optuna_and_come_back(dimension: Any) -> None:
    theirs = distribution(dimension)
    for place in np.linspace(0, 1, 41):
        value = dimension.decode(place)
        outside = outward(dimension, value)
        assert theirs._contains(theirs.to_internal_repr(outside))
        assert type(outside) in (int, float, str, bool, type(None))
        back = inward(dimension, outside)
        assert same(back, value) or back == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("dimension", DIMENSIONS, ids=repr)
def test_optunas_random_sampler_finds_every_value_of_a_dimension(dimension: Any) -> None:
    theirs = to_optuna(parameters(Space(dict, x=dimension)))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [inward(dimension, study.ask(theirs).params["x"]) for _ in range(300)]
    assert all(dimension.contains(value) for value in found)
    if dimension.size is not None and dimension.size < 20 and not dimension.log:
        counts = Counter(map(repr, found))
        assert len(counts) == dimension.size
        assert min(counts.values()) > 300 / dimension.size / 3
    else:
        places = sorted(dimension.encode(value) for value in found)
        assert np.abs(np.array(places) - np.linspace(0, 1, 300)).max() < 0.15


def test_conditional_parameters_have_a_distribution_each() -> None:
    space = Space(dict, opt=OneOf(Space(Sgd, lr=Log(1e-3, 1.0)), "none"))
    theirs = to_optuna(parameters(space))
    assert theirs["opt"] == CategoricalDistribution(["Sgd", "none"])
    assert theirs["opt[Sgd].lr"] == FloatDistribution(1e-3, 1.0, log=True)


# -- Ray Tune ----------------------------------------------------------------------------------------------------------


def test_a_tune_dictionary_becomes_a_space_over_a_dict() -> None:
    space = from_tune(
        {
            "uniform": tune.uniform(0, 1),
            "quniform": tune.quniform(0, 1, 0.25),
            "loguniform": tune.loguniform(1e-4, 1e-1),
            "qloguniform": tune.qloguniform(0.5, 8, 0.5),
            "randn": tune.randn(1, 2),
            "qrandn": tune.qrandn(0, 2, 0.5),
            "randint": tune.randint(1, 9),
            "qrandint": tune.qrandint(0, 12, 3),
            "lograndint": tune.lograndint(1, 1000),
            "choice": tune.choice(["a", "b"]),
            "one": tune.choice(["a"]),
            "grid": tune.grid_search([16, 32]),
            "nested": {"deep": {"lr": tune.uniform(1, 2)}, "const": [1, 2]},
            "const": 3,
        }
    )
    assert {parameter.path: parameter.dimension for parameter in parameters(space)} == {
        "uniform": Uniform(0, 1),
        "quniform": Uniform(0, 1, step=0.25),
        "loguniform": Log(1e-4, 1e-1),
        "qloguniform": Log(0.5, 8, step=0.5),
        "randn": Normal(1, 2),
        "qrandn": Normal(0, 2, step=0.5),
        "randint": Int(1, 8),
        "qrandint": Int(0, 12, step=3),
        "lograndint": LogInt(1, 999),
        "choice": OneOf("a", "b"),
        "grid": OneOf(16, 32),
        "nested.deep.lr": Uniform(1, 2),
    }
    config = build(settle(space, complete(space, {"nested.deep.lr": 1.5})))
    assert config["nested"] == {"deep": {"lr": 1.5}, "const": [1, 2]}
    assert (config["const"], config["one"]) == (3, "a")


@pytest.mark.parametrize(
    "domain",
    [
        tune.randint(0, 7),
        tune.qrandint(1, 20, 4),
        tune.qrandint(1, 6, 1),
        tune.lograndint(2, 40),
        tune.quniform(-1, 1, 0.5),
        tune.qloguniform(1, 8, 1),
    ],
    ids=lambda domain: re.sub(
        " object at 0x[0-9a-f]+", "", f"{type(domain).__name__}{domain.domain_str}{domain.sampler}"
    ),
)
def test_the_values_are_those_that_tune_draws(domain: Any) -> None:
    dimension: Any = parameters(from_tune({"x": domain}))[0].dimension
    assert set(domain.sample(size=2000, random_state=0)) == {dimension.decode(u) for u in np.linspace(0, 1, 2000)}


def test_choices_of_tune_may_hold_domains_and_dictionaries() -> None:
    space = from_tune(
        {
            "drop": tune.choice([None, tune.uniform(0, 1)]),
            "opt": tune.choice([{"kind": "sgd", "momentum": tune.uniform(0, 0.9)}, {"kind": "adam"}]),
        }
    )
    point = complete(space, {"drop": 0.25, "opt.momentum": 0.5})
    assert build(settle(space, point)) == {"drop": 0.25, "opt": {"kind": "sgd", "momentum": 0.5}}
    assert build(settle(space, complete(space, {"opt": {"kind": "adam"}})))["opt"] == {"kind": "adam"}


@pytest.mark.parametrize(
    ("config", "match"),
    [
        ({"a": {"b": tune.sample_from(lambda: 1)}}, "a.b: sample_from computes its value; give a range"),
        ({"a": tune.qlograndint(1, 100, 5)}, "a: whole numbers on a logarithmic scale have no step here"),
        ({"a": tune.choice([tune.uniform(0, 1), tune.uniform(2, 3)])}, "a: OneOf: .* may be the same value"),
        ({"a": tune.choice([tune.choice([1, 2]), 3])}, r"a: OneOf: OneOf\(1, 2\) is a choice itself"),
        ({"a": tune.choice([1, 1, 2])}, "a: OneOf: 1 is there twice"),
        ({"a": {"b": tune.uniform(1, 1)}}, r"a.b: Uniform\(1, 1\): nothing to choose"),
        ({"a": [tune.uniform(0, 1)]}, "dict.a: values inside a list have no path"),
    ],
)
def test_what_tune_has_and_we_have_not_is_refused_by_name(config: Any, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        from_tune(config)


def test_conversion_imports_neither_ray_nor_optuna() -> None:
    script = "import bilevel.space.conversion, sys; print([name for name in ('ray', 'optuna') if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"


# -- JSON --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dimension", [d for d in DIMENSIONS if d != OneOf(mlp, (8, 8))], ids=repr)
def test_a_dimension_is_read_as_it_was_described(dimension: Any) -> None:
    assert read(json.loads(json.dumps(describe(dimension)))) == dimension


def test_a_space_is_read_as_it_was_written() -> None:
    space = Space(
        Net,
        width=LogInt(4, 512, center=32),
        hidden=OneOf((8,), (8, 8), center=(8, 8)),
        opt=OneOf(
            None,
            Space(Sgd, lr=Log(1e-3, 1.0), decay={"final": Uniform(0, 1), "steps": [1, 2]}),
            Net(3, opt=Sgd(0.5)),
            0.5,
        ),
    )
    again = from_json(to_json(space))
    assert flatten(again) == flatten(space)
    assert repr(parameters(again)) == repr(parameters(space))
    point = complete(space, {"opt": "Sgd"})
    assert build(settle(again, point)) == build(settle(space, point))
    assert build(settle(again, complete(again, {"opt": Net(3, opt=Sgd(0.5))}))).opt == Net(3, opt=Sgd(0.5))
    assert to_json(again) == to_json(space)


def test_a_learned_number_and_who_moves_it_can_be_written() -> None:
    space = Space(dict, rate=Learned(Log(0.1, 1.0), by=Space(Adam, lr=Log(1e-3, 1.0))), fixed=Learned(0.5, by=SGD()))
    assert flatten(from_json(to_json(space))) == flatten(space)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(st.lists(inner), st.lists(inner).map(tuple), st.dictionaries(st.text(), inner)),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), JSON))
def test_plain_values_come_back_whatever_their_names(values: dict[str, Any]) -> None:
    assert build(from_json(to_json(Space(dict, **values)))) == values


@pytest.mark.parametrize(
    ("space", "match"),
    [
        (
            Space(GradientDescent, init=Learned(mlp, by=Adam())),
            "init.value: <function mlp .* cannot be written as JSON",
        ),
        (Space(mlp), "space: mlp cannot be written as JSON; dataclasses at the top of a module can"),
        (Space(dict, a={"b": {1, 2}}), "a.b: {1, 2} cannot be written as JSON"),
        (Space(dict, a=OneOf("x", mlp)), r"a\[mlp\]: <function mlp .* cannot be written"),
        (Space(dict, a={1: 2}), "a: {1: 2} cannot be written as JSON"),
        (Space(dict, a=math.inf), "a: inf cannot be written as JSON"),
    ],
)
def test_what_cannot_be_written_is_named(space: Space, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        to_json(space)


def test_a_class_inside_a_function_cannot_be_written() -> None:
    @dataclass
    class Local:
        lr: float

    with pytest.raises(BadInput, match="Local cannot be written as JSON; dataclasses at the top of a module can"):
        to_json(Space(dict, a=Space(Local, lr=0.1)))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("{", "this is not JSON"),
        ("3", "this describes a int; give what to_json wrote of a Space"),
        ('{"Log": {"low": 1, "high": 2}}', "this describes a Log"),
        ('{"Spade": "dict"}', "{'Spade': 'dict'} is none of Space, object, dict, tuple, OneOf, Uniform"),
        ('{"Space": "os.system", "values": {"command": "true"}}', "os.system is not a dataclass"),
        ('{"Space": "subprocess.Popen", "values": {"args": "true"}}', "subprocess.Popen is not a dataclass"),
        ('{"object": "builtins.eval", "values": {}}', "builtins.eval is not a dataclass"),
        (
            '{"Space": "no.such.module.Net"}',
            r"no.such.module.Net is not imported for a text to have it; .* allow=\['no'\]",
        ),
        ('{"Space": "bilevel.search.NoSuch"}', "bilevel.search.NoSuch is not a dataclass"),
        ('{"Space": "bilevel.no.such.Net"}', "bilevel.no.such.Net cannot be imported .*; install what it comes from"),
        ('{"Space": "Net"}', "Net names no module"),
        ('{"Space": "dict", "values": {"a": NaN}}', "nan is no value of a space"),
        ("[" * 100_000, "this is not JSON"),
        ('{"Space": "dict", "values": {"a": ' + "9" * 5000 + "}}", "this is not JSON"),
        ('{"Space": "dict", "Log": {"low": 1, "high": 2}}', "is none of Space"),
        ('{"Space": "dict", "values": {"a": {"OneOf": "ab"}}}', "OneOf: options 'ab', ordered False; a list"),
        ('{"Space": 3}', "Space: .*; give what to_json wrote"),
        ('{"Space": "dict", "values": {"a": {"Log": {"low": 1}}}}', "Log: .* missing .* give what to_json wrote"),
        ('{"Space": "dict", "values": {"a": {"Log": {"low": 2, "high": 1}}}}', "lower bound is above the upper one"),
        (
            '{"object": "bilevel.meta.movers.gradient.SGD", "values": {"x": 1}}',
            "object: .* unexpected keyword argument",
        ),
    ],
)
def test_text_that_is_no_space_is_refused_and_nothing_is_called(text: str, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        from_json(text)


def test_far_grids_are_the_same_in_optuna() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    dimension = Uniform(1e15, 1e15 + 10, step=0.5)
    asked = [study.ask({"x": distribution(dimension)}).params["x"] for _ in range(40)]
    assert all(dimension.contains(inward(dimension, value)) for value in asked)
    assert len(set(asked)) > 10


def test_a_text_imports_nothing_that_was_not_allowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = tmp_path / "made"
    text = "from dataclasses import dataclass\nfrom pathlib import Path\n"
    text += f"Path({str(made)!r}).touch()\n@dataclass\nclass Net:\n    lr: float = 0.1\n"
    (tmp_path / "bilevel_test_chosen.py").write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    said = '{"Space": "bilevel_test_chosen.Net", "values": {"lr": 0.5}}'
    with pytest.raises(BadInput, match="allow it: from_json"):
        from_json(said)
    assert not made.exists()
    assert build(from_json(said, allow=["bilevel_test_chosen"])).lr == 0.5
    assert made.exists()
    assert build(from_json(said)).lr == 0.5  # it is there now
    monkeypatch.delitem(sys.modules, "bilevel_test_chosen")
