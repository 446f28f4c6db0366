"""Does every point of a space make a configuration, and every configuration its point?"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bilevel import SGD, Adam, Learned, Space, Study
from bilevel.errors import BadInput
from bilevel.inner import GradientDescent
from bilevel.nets import conv4, mlp
from bilevel.space import assign, build, complete, flatten, learned, parameters, point_of, settle
from bilevel.space.dimensions import Int, Log, LogInt, LogNormal, Normal, OneOf, Parameter, Uniform


@dataclass(frozen=True)
class Cosine:
    final: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Momentum:
    lr: float
    momentum: float = 0.9
    schedule: Cosine | None = None


@dataclass(frozen=True, kw_only=True)
class Plain:
    lr: float


@dataclass(frozen=True, kw_only=True)
class Mlp:
    lr: float = 0.1
    width: int = 8
    act: Literal["relu", "tanh"] = "relu"
    hidden: tuple[int, ...] = (8, 8)
    drop: float | None = None
    bias: bool = True
    opt: Any = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def conditional() -> Space:
    """Choices below choices: which schedule of which optimizer."""
    schedule = OneOf(None, Space(Cosine, final=Uniform(0, 1)))
    momentum = Space(Momentum, lr=Log(1e-4, 1.0), momentum=Uniform(0, 0.99), schedule=schedule)
    return Space(Mlp, lr=0.5, opt=OneOf(Space(Plain, lr=Log(1e-3, 1.0)), momentum))


def hybrid() -> Space:
    """Dimensions at every place that a learned value has."""
    factory = OneOf(Space(mlp, hidden=OneOf((4,), (8, 8))), conv4)
    mover = OneOf(Space(Adam, lr=Log(1e-4, 1e-1)), Space(SGD, lr=Log(1e-3, 1.0), momentum=Uniform(0, 1)))
    rate = Learned(Log(1e-2, 1.0), by=SGD(0.01), per=OneOf("one", "tensor"))
    return Space(GradientDescent, init=Learned(factory, by=mover), lr=rate, steps=Int(1, 5))


def names(space: Space) -> list[str]:
    return [parameter.name for parameter in parameters(space)]


# -- parameters --------------------------------------------------------------------------------------------------------


def test_a_choice_of_spaces_names_what_is_below_its_options() -> None:
    found = {parameter.name: parameter for parameter in parameters(conditional())}
    assert list(found) == [
        "opt",
        "opt[Plain].lr",
        "opt[Momentum].lr",
        "opt[Momentum].momentum",
        "opt[Momentum].schedule",
        "opt[Momentum].schedule[Cosine].final",
    ]
    deepest = found["opt[Momentum].schedule[Cosine].final"]
    when = (("opt", "Momentum"), ("opt[Momentum].schedule", "Cosine"))
    assert deepest == Parameter(deepest.name, "opt.schedule.final", Uniform(0, 1), when)
    assert found["opt[Plain].lr"].path == found["opt[Momentum].lr"].path == "opt.lr"


def test_arguments_of_a_learned_factory_may_change_shapes_and_rates_do_not() -> None:
    assert {parameter.name: parameter.shapes for parameter in parameters(hybrid())} == {
        "init": True,
        "init[mlp].hidden": True,
        "init.by": False,
        "init.by[Adam].lr": False,
        "init.by[SGD].lr": False,
        "init.by[SGD].momentum": False,
        "lr": False,
        "lr.per": False,
        "steps": False,
    }


def test_dicts_records_and_defaults_may_hold_dimensions() -> None:
    @dataclass(frozen=True)
    class Defaults:
        lr: float = Log(1e-3, 1.0)  # type: ignore[assignment]
        deep: Any = Plain(lr=Uniform(0, 1))  # type: ignore[arg-type]

    space = Space(Mlp, opt=Space(Defaults), extra={"a": Int(1, 3), "b": {"c": OneOf(True, False)}})
    assert names(space) == ["opt.lr", "opt.deep.lr", "extra.a", "extra.b.c"]
    point = {"opt.lr": 0.5, "opt.deep.lr": 0.25, "extra.a": 2, "extra.b.c": False}
    config = build(settle(space, point))
    assert config.opt == Defaults(0.5, Plain(lr=0.25))
    assert config.extra == {"a": 2, "b": {"c": False}}
    assert point_of(space, flatten(settle(space, point))) == point


def test_an_option_may_be_a_dimension_itself() -> None:
    space = Space(Mlp, drop=OneOf(None, Uniform(0, 1)))
    assert names(space) == ["drop", "drop[Uniform(0, 1)]"]
    point = {"drop": "Uniform(0, 1)", "drop[Uniform(0, 1)]": 0.25}
    assert build(settle(space, point)).drop == 0.25
    assert flatten(settle(space, point))["drop"] == 0.25
    assert complete(space, {"drop": 0.25}) == point
    assert complete(space, {"drop": None}) == complete(space, {}) == {"drop": None}
    assert point_of(space, {**flatten(space), "drop": 0.25}) == point


def test_learned_values_of_options_are_found() -> None:
    space = Space(Mlp, opt=OneOf(0.1, Learned(0.1, by=SGD()), Space(GradientDescent, init=Learned(mlp, by=Adam()))))
    assert [path for path, _ in learned(space)] == ["opt", "opt.init"]
    for label in ("Learned(0.1)", 0.1, "GradientDescent"):
        assert point_of(space, flatten(settle(space, {"opt": label}))) == {"opt": label}


# -- settle and build --------------------------------------------------------------------------------------------------


def test_a_point_makes_the_record_that_it_says() -> None:
    point = {
        "opt": "Momentum",
        "opt[Momentum].lr": 0.25,
        "opt[Momentum].momentum": 0.5,
        "opt[Momentum].schedule": "Cosine",
        "opt[Momentum].schedule[Cosine].final": 0.125,
    }
    settled = settle(conditional(), point)
    assert build(settled) == Mlp(lr=0.5, opt=Momentum(lr=0.25, momentum=0.5, schedule=Cosine(0.125)))
    assert flatten(settled) == {
        **flatten(Space(Mlp, lr=0.5)),
        "opt": "Momentum",
        "opt.lr": 0.25,
        "opt.momentum": 0.5,
        "opt.schedule": "Cosine",
        "opt.schedule.final": 0.125,
    }
    assert parameters(settled) == ()
    assert settle(settled, {}) is settled
    assert build(settle(conditional(), {"opt": "Plain", "opt[Plain].lr": 1.0})).opt == Plain(lr=1.0)


def test_a_float_field_gets_pythons_own_float() -> None:
    space = Space(Mlp, lr=Int(1, 3), drop=OneOf(None, 0, 0.5), width=Int(1, 9), extra={"n": Int(1, 3)})
    point = {"lr": np.int64(2), "drop": np.float64(0.0), "width": 3.0, "extra.n": 2}
    config = build(settle(space, point))
    values = (config.lr, config.drop, config.width, config.extra["n"])
    assert values == (2.0, 0.0, 3, 2)
    assert [type(value) for value in values] == [float, float, int, int]
    assert point_of(space, flatten(settle(space, point))) == {"lr": 2, "drop": 0, "width": 3, "extra.n": 2}


def test_options_may_be_classes_functions_and_records() -> None:
    space = Space(Mlp, opt=OneOf(Plain(lr=0.1), Plain(lr=0.2), Momentum, mlp, (1, 2), {"a": 1}, {"a": 2}))
    labels = ["Plain(lr=0.1)", "Plain(lr=0.2)", "Momentum", "mlp", "[1, 2]", "{a: 1}", "{a: 2}"]
    for label, option in zip(labels, parameters(space)[0].dimension.options, strict=True):  # type: ignore[attr-defined]
        settled = settle(space, {"opt": label})
        assert build(settled).opt == option
        assert point_of(space, json.loads(json.dumps(flatten(settled)))) == {"opt": label}


def test_a_learned_value_is_settled_with_who_moves_it() -> None:
    point = {
        "init": "mlp",
        "init[mlp].hidden": "[8, 8]",
        "init.by": "SGD",
        "init.by[SGD].lr": 0.5,
        "init.by[SGD].momentum": 0.25,
        "lr": 0.125,
        "lr.per": "tensor",
        "steps": 3,
    }
    rule = build(settle(hybrid(), point))
    assert rule.init.by == SGD(0.5, momentum=0.25)
    assert rule.init.value.target is mlp
    assert rule.init.value.values == {"hidden": (8, 8)}
    assert (rule.lr.value, rule.lr.per, rule.steps) == (0.125, "tensor", 3)
    assert flatten(settle(hybrid(), point))["init.hidden"] == [8, 8]


@pytest.mark.parametrize(
    ("point", "match"),
    [
        ({}, r"opt: the point has no value for it; it is one of OneOf\(Plain, Momentum\)"),
        ({"opt": "Plain"}, r"opt\[Plain\].lr: the point has no value for it; it is one of Log\(0.001, 1.0\)"),
        ({"opt": "Adam"}, r"opt: 'Adam' is none of its values, OneOf\(Plain, Momentum\)"),
        ({"opt": "Plain", "opt[Plain].lr": 2.0}, r"opt\[Plain\].lr: 2.0 is none of its values, Log\(0.001, 1.0\)"),
        ({"opt": "Plain", "opt[Plain].lr": "big"}, r"opt\[Plain\].lr: 'big' is none of its values"),
    ],
)
def test_a_point_that_does_not_fit_is_refused(point: dict[str, Any], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        settle(conditional(), point)


def test_a_space_without_a_point_cannot_be_built() -> None:
    with pytest.raises(BadInput, match=r"Log\(0.001, 1.0\) has no value yet; give the space a point first"):
        build(Space(Plain, lr=Log(1e-3, 1.0)))


# -- flatten, unsettled ------------------------------------------------------------------------------------------------


def test_an_unsettled_space_shows_its_dimensions_as_text() -> None:
    flat = flatten(conditional())
    assert flat["opt"] == "OneOf(Plain, Momentum)"
    assert flat["opt[Plain]"] == "Plain"
    assert flat["opt[Plain].lr"] == "Log(0.001, 1.0)"
    assert flat["opt[Momentum].schedule"] == "OneOf(None, Cosine)"
    assert flat["opt[Momentum].schedule[Cosine].final"] == "Uniform(0, 1)"
    assert flat["lr"] == 0.5
    assert json.loads(json.dumps(flat)) == flat


def test_a_constant_within_an_option_belongs_to_what_a_study_is() -> None:
    one = Space(Mlp, opt=OneOf(None, Space(Momentum, lr=Log(0.1, 1.0), momentum=0.5)))
    other = Space(Mlp, opt=OneOf(None, Space(Momentum, lr=Log(0.1, 1.0), momentum=0.25)))
    assert flatten(one) != flatten(other)


# -- the way back ------------------------------------------------------------------------------------------------------


def test_a_config_of_another_space_has_no_point() -> None:
    space = Space(Mlp, lr=Log(1e-3, 1.0), width=Int(1, 9), opt=OneOf(None, Space(Plain, lr=Uniform(0, 1))))
    good = {"lr": 0.1, "width": 3, "opt": "Plain", "opt.lr": 0.5}
    assert point_of(space, good) == {"lr": 0.1, "width": 3, "opt": "Plain", "opt[Plain].lr": 0.5}
    for changed in ({"lr": 2.0}, {"lr": "0.1"}, {"width": 3.5}, {"width": True}, {"opt": "Momentum"}, {"opt.lr": 2.0}):
        assert point_of(space, {**good, **changed}) is None
    assert all(point_of(space, {p: v for p, v in good.items() if p != left}) is None for left in good)


def test_a_config_with_other_constants_still_has_its_point() -> None:
    space = Space(Mlp, lr=Log(1e-3, 1.0), opt=OneOf(Space(Momentum, lr=Uniform(0, 1), momentum=0.5), None))
    config = {"lr": 0.1, "width": 99, "opt": "Momentum", "opt.lr": 0.5, "opt.momentum": 0.75, "opt.schedule": None}
    assert point_of(space, config) == {"lr": 0.1, "opt": "Momentum", "opt[Momentum].lr": 0.5}


PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-9, 9),
    st.floats(-9, 9).map(lambda v: v + 0.5),
    st.sampled_from(["relu", "tanh", "", "a.b", "[x]"]),
    st.lists(st.integers(0, 9), min_size=1, max_size=3).map(tuple),
    st.sampled_from([mlp, conv4, Cosine(0.5), Cosine(0.25), Plain(lr=1.0), {"k": 1}, {"k": 2}]),
)
NUMBERS = st.sampled_from(
    [
        Uniform(0, 1),
        Uniform(-1, 1, step=0.1),
        Log(1e-6, 10.0),
        Log(0.1, 9.7, step=0.3),
        Int(-3, 12, step=3),
        LogInt(1, 500),
        Normal(0.0, 2.0),
        Normal(1.0, 2.0, step=0.1),
        LogNormal(-1.0, 1.0),
    ]
)


def network(inside: Any = None) -> Any:
    return inside


@st.composite
def choices(draw: st.DrawFn, inner: st.SearchStrategy[Any]) -> Any:
    options = draw(st.lists(inner, min_size=2, max_size=4))
    try:
        return OneOf(*options)
    except BadInput:  # two of them are alike
        return options[0]


def grown(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Sources one level deeper: records, dicts, learned values and choices of `inner` ones."""
    return st.one_of(
        st.builds(lambda a, b: Space(dict, a=a, b=b), inner, inner),
        st.builds(lambda a: Space(Mlp, opt=a, width=LogInt(1, 9)), inner),
        st.builds(lambda a: {"first": a, "second": {"third": a}}, inner),
        st.builds(lambda a: Learned(Space(network, inside=a), by=OneOf(SGD(), Space(Adam, lr=Log(0.1, 1.0)))), inner),
        choices(inner),
        choices(inner),
    )


SOURCES = st.recursive(st.one_of(PLAIN, NUMBERS), grown, max_leaves=12)


@settings(max_examples=300)
@given(st.builds(lambda a, b: Space(dict, a=a, b=b), SOURCES, SOURCES), st.randoms(use_true_random=False))
def test_every_point_comes_back_from_its_config_as_json(space: Space, random: Any) -> None:
    point: dict[str, Any] = {}
    for parameter in parameters(space):
        if parameter.active(point):
            point[parameter.name] = parameter.dimension.decode(random.random())
    settled = settle(space, json.loads(json.dumps(point)))
    config = json.loads(json.dumps(flatten(settled)))
    assert point_of(space, config) == point
    assert flatten(settle(space, point_of(space, config) or {})) == flatten(settled)
    assert complete(space, point) == point
    assert parameters(settled) == ()
    build(settled)


# -- complete ----------------------------------------------------------------------------------------------------------


def test_missing_values_get_their_middle() -> None:
    assert complete(conditional(), {}) == {"opt": "Plain", "opt[Plain].lr": pytest.approx(10**-1.5)}
    point = complete(conditional(), {"opt": "Momentum", "opt.lr": 0.5, "opt[Momentum].schedule": "Cosine"})
    assert point == {
        "opt": "Momentum",
        "opt[Momentum].lr": 0.5,
        "opt[Momentum].momentum": pytest.approx(0.495),
        "opt[Momentum].schedule": "Cosine",
        "opt[Momentum].schedule[Cosine].final": 0.5,
    }
    assert build(settle(conditional(), point)).opt.lr == 0.5


def test_an_option_may_be_given_itself() -> None:
    space = Space(Mlp, hidden=OneOf((8,), (8, 8)), opt=OneOf(mlp, Space(Plain, lr=1.0), Cosine(0.5)))
    assert complete(space, {"hidden": [8, 8], "opt": Plain}) == {"hidden": "[8, 8]", "opt": "Plain"}
    assert complete(space, {"hidden": (8,), "opt": Cosine(0.5)}) == {"hidden": "[8]", "opt": "Cosine(final=0.5)"}


@pytest.mark.parametrize(
    ("partial", "match"),
    [
        ({"rate": 0.1}, r"rate: no searched value is called so; there are opt, opt\[Plain\].lr"),
        ({"opt": "adam"}, r"opt: 'adam' is none of its values, OneOf\(Plain, Momentum\)"),
        ({"opt.lr": 7}, r"opt.lr: 7 is none of its values, Log\(0.001, 1.0\)"),
        ({"opt.momentum": 0.5}, "opt.momentum: it is there only when opt is Momentum; give that too"),
        ({"opt": "Plain", "opt[Momentum].lr": 0.5}, "only when opt is Momentum"),
        ({"width": 9}, "width: 9 is not what the space has, the constant 8; search it or leave it out"),
    ],
)
def test_a_partial_point_that_does_not_fit_names_the_field(partial: dict[str, Any], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        complete(conditional(), partial)
    assert complete(conditional(), {"width": 8}) == complete(conditional(), {})


# -- checked when it is defined ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("width", Log(1, 10), r"Mlp.width: Log\(1, 10\) gives 1.0, a float; it takes int; use Int, LogInt or OneOf"),
        ("width", OneOf(4, 8.5), r"Mlp.width: option 8.5 of OneOf\(4, 8.5\) is a float; it takes int"),
        ("width", OneOf(4, Uniform(5, 6)), r"Mlp.width: Uniform\(5, 6\) gives 5.0, a float; it takes int"),
        ("lr", OneOf("fast", 0.1), "Mlp.lr: option 'fast' of .* is a str; it takes float"),
        ("lr", OneOf(True, 0.1), "Mlp.lr: option True of .* is a bool; it takes float"),
        ("lr", Space(Plain, lr=0.1), "is a Space; it takes float"),
        ("lr", OneOf(0.1, Space(Plain, lr=0.1)), r"Mlp.lr: option 'Plain' .* is a Space; it takes float"),
        ("act", OneOf("relu", "relo"), "Mlp.act: option 'relo' of .* is a str; it takes Literal"),
        ("act", Int(1, 3), r"Mlp.act: Int\(1, 3\) gives 1, a int; it takes Literal"),
        ("hidden", OneOf((8,), 8), "Mlp.hidden: option 8 of .* is a int; it takes tuple"),
        ("hidden", (Int(1, 3), 8), "Mlp.hidden: values inside a list have no path; use a dict, or OneOf over whole"),
        ("extra", {"a": {"b": [Log(0.1, 1)]}}, "Mlp.extra.a.b: values inside a list have no path"),
        ("drop", OneOf(None, "half"), "Mlp.drop: option 'half' of .* is a str; it takes float | None"),
        ("bias", Int(0, 1), r"Mlp.bias: Int\(0, 1\) gives 0, a int; it takes bool"),
    ],
)
def test_a_dimension_that_does_not_fit_its_field_is_refused(name: str, value: Any, match: str) -> None:
    with pytest.raises(BadInput, match=match.replace("|", r"\|")):
        Space(Mlp, **{name: value})


def test_a_space_of_the_wrong_class_is_refused() -> None:
    assert Space(Momentum, lr=0.1, schedule=OneOf(None, Space(Cosine))).values
    with pytest.raises(BadInput, match=r"Momentum.schedule: option 'Plain' .* is a Space; it takes"):
        Space(Momentum, lr=0.1, schedule=OneOf(None, Space(Plain, lr=0.1)))


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Learned(OneOf(0.1, "x"), by=SGD()), "'x' is neither a number nor a factory"),
        (lambda: Learned(mlp, by=OneOf(SGD(), 3)), "by=3 does not move values"),
        (lambda: Learned(OneOf(0.1, mlp), by=SGD(), per="tensor"), "per='tensor' is for a number"),
        (lambda: Learned(mlp, by=SGD(), per=OneOf("one", "tensor")), "per='tensor' is for a number"),
        (lambda: Learned(0.1, by=SGD(), per=OneOf("one", "layer")), "Learned.per: option 'layer' of"),
    ],
)
def test_learned_says_what_it_takes_of_dimensions_too(make: Any, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        make()


def test_a_dict_takes_any_name_and_its_names_are_told_apart() -> None:
    space = Space(dict, **{"a.b": Uniform(0, 1), "layers": {1: Int(1, 3), "x": 2}})
    assert names(space) == ["a.b", "layers.1"]
    assert build(settle(space, {"a.b": 0.5, "layers.1": 3})) == {"a.b": 0.5, "layers": {1: 3, "x": 2}}
    assert names(assign(space, "a.b", 0.5)) == ["layers.1"]
    with pytest.raises(BadInput, match=r"space: a.b names two values; rename a key that has a dot in it"):
        parameters(Space(dict, **{"a.b": Uniform(0, 1), "a": {"b": Uniform(0, 1)}}))


# -- set ---------------------------------------------------------------------------------------------------------------


def test_a_dimension_becomes_a_constant_and_a_constant_a_dimension() -> None:
    space = Space(Mlp, lr=Log(1e-3, 1.0), opt=Momentum(lr=0.5))
    assert names(assign(space, "lr", 1)) == []
    assert assign(space, "lr", 1).values["lr"] == 1.0
    searched = assign(assign(space, "opt.momentum", Uniform(0, 1)), "opt.schedule", OneOf(None, Space(Cosine)))
    assert names(searched) == ["lr", "opt.momentum", "opt.schedule"]
    assert names(assign(searched, "opt.schedule", None)) == ["lr", "opt.momentum"]
    assert names(assign(space, "lr", Learned(Uniform(0, 1), by=SGD()))) == ["lr"]
    assert names(assign(hybrid(), "lr.by.lr", Log(1e-3, 1.0)))[-3:] == ["lr.by.lr", "lr.per", "steps"]
    assert build(settle(assign(space, "extra", {"n": Int(1, 3)}), {"lr": 0.5, "extra.n": 2})).extra == {"n": 2}


def bag(target: type = dict) -> Space:
    """A space of whatever names, in which spaces and dicts are nested."""
    return Space(target, lr=Log(1e-3, 1.0), opt=Space(target, momentum=0.9, betas={"first": 0.9}), **{"a.b": 1})


@pytest.mark.parametrize("target", [dict, SimpleNamespace])
@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("nope", "no value at 'nope': the space has lr, opt, a.b"),
        ("nope.lr", "no value at 'nope.lr': the space has lr, opt, a.b"),
        ("opt.nope", "no value at 'opt.nope': opt has momentum, betas"),
        ("opt.betas.third", "no value at 'opt.betas.third': opt.betas has first"),
    ],
)
def test_what_takes_any_name_takes_no_misspelt_path(target: type, path: str, said: str) -> None:
    with pytest.raises(BadInput, match=re.escape(said)):
        assign(bag(target), path, 1)


def test_what_takes_any_name_is_set_by_those_that_it_has() -> None:
    space = bag()
    for path in ("lr", "opt.momentum", "opt.betas.first", "a.b"):
        space = assign(space, path, 0.5)
    assert build(space) == {"lr": 0.5, "opt": {"momentum": 0.5, "betas": {"first": 0.5}}, "a.b": 0.5}


def test_the_label_of_an_option_picks_it() -> None:
    picked = assign(conditional(), "opt", "Momentum")
    assert names(picked) == ["opt.lr", "opt.momentum", "opt.schedule", "opt.schedule[Cosine].final"]
    assert names(assign(assign(picked, "opt.lr", 0.5), "opt.schedule", None)) == ["opt.momentum"]
    network = assign(assign(hybrid(), "init", "conv4"), "init.by", "Adam")
    assert names(network) == ["init.by.lr", "lr", "lr.per", "steps"]
    assert network.values["init"].value is conv4
    assert assign(Space(Mlp, hidden=OneOf((8,), (4,))), "hidden", [3, 3]).values["hidden"] == (3, 3)
    assert assign(Space(Mlp, opt=OneOf("a", mlp)), "opt", "mlp").values["opt"] is mlp
    assert assign(Space(Mlp, opt=OneOf("a", mlp)), "opt", "new").values["opt"] == "new"


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        ("opt.lr", 0.1, "no value at 'opt.lr': opt is a choice of Plain, Momentum; pick one first, such as opt=Plain"),
        ("opt", "momentum", "opt: 'momentum' is none of its options: Plain, Momentum"),
        ("lr.x", 0.1, "no value at 'lr.x': lr has no fields"),
        ("width", Uniform(1, 9), r"width: Uniform\(1, 9\) gives 1.0, a float; it takes int"),
        ("act", OneOf("relu", "x"), "act: option 'x' of .* is a str; it takes Literal"),
    ],
)
def test_a_path_into_a_choice_and_a_dimension_that_does_not_fit_are_refused(path: str, value: Any, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        assign(conditional(), path, value)


def test_a_path_into_a_choice_of_networks_is_refused_too() -> None:
    with pytest.raises(BadInput, match=r"'init.hidden': init is a choice of mlp, conv4; pick one first, such as init="):
        assign(hybrid(), "init.hidden", (4,))
    with pytest.raises(BadInput, match=r"no value at 'lr.x': Log\(0.01, 1.0\) is a number; it has by, per and start"):
        assign(hybrid(), "lr.x", 1)


def test_a_study_sets_dimensions_by_their_path() -> None:
    study = Study(name="x", objective=mlp, minimize="loss", space=Space(Mlp))
    assert names(study.set("lr", Log(1e-3, 1.0)).set("width", LogInt(1, 9)).space) == ["lr", "width"]
