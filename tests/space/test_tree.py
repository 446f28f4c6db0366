"""Does every value of a study have a path, a source and a type that is checked?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest

from bilevel import SGD, Adam, Learned, MetaTraining, Report, Space, Study, space
from bilevel.errors import BadInput
from bilevel.inner import GradientDescent
from bilevel.meta.movers import Cosine
from bilevel.nets import mlp
from bilevel.tasks import Sinusoid
from support.tiny import maml


@dataclass(frozen=True, kw_only=True)
class Mlp:
    lr: float
    width: int
    act: Literal["relu", "tanh"] = "relu"
    hidden: tuple[int, ...] = (8, 8)
    note: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)


def small() -> Space:
    return Space(Mlp, lr=0.1, width=4)


# -- what a space may hold ---------------------------------------------------------------------------------------------


def test_a_missing_value_is_named_with_its_cure() -> None:
    with pytest.raises(BadInput) as caught:
        Space(Mlp, lr=0.1)
    assert str(caught.value) == "Space for Mlp: 'width' has no source; give it a value, a dimension or Learned(...)"
    with pytest.raises(BadInput, match=r"'inputs' has no source; .* \(tasks tell a network shape, ways, outputs\)"):
        Space(lambda inputs, outputs: None)


def test_an_unknown_field_is_named_beside_those_that_there_are() -> None:
    with pytest.raises(BadInput, match="Space for Mlp: no field 'rate'; it has lr, width, act, hidden, note, extra"):
        Space(Mlp, lr=0.1, width=4, rate=1)


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("lr", "fast", "Mlp.lr: 'fast' is a str; it takes float"),
        ("lr", True, "Mlp.lr: True is a bool; it takes float"),
        ("width", 4.5, "Mlp.width: 4.5 is a float; it takes int"),
        ("width", True, "Mlp.width: True is a bool; it takes int"),
        ("act", "relo", "Mlp.act: 'relo' is a str; it takes Literal"),
        ("hidden", 8, "Mlp.hidden: 8 is a int; it takes tuple"),
        ("hidden", (8, "wide"), r"Mlp.hidden: \(8, 'wide'\) is a tuple; it takes tuple\[int, ...\]"),
        ("note", 3, "Mlp.note: 3 is a int; it takes str | None"),
        ("extra", 3, "Mlp.extra: 3 is a int; it takes"),
    ],
)
def test_a_value_of_the_wrong_type_is_refused(name: str, value: Any, match: str) -> None:
    with pytest.raises(BadInput, match=match.replace("|", r"\|")):
        Space(Mlp, **{"lr": 0.1, "width": 4, name: value})


def test_an_object_where_tasks_belong_cannot_be_a_number() -> None:
    with pytest.raises(BadInput, match=r"MetaTraining.tasks: 5 is a int; it takes Tasks"):
        maml(tasks=5)


# -- build -------------------------------------------------------------------------------------------------------------


def test_build_gives_the_record_and_leaves_learned_values_to_the_objective() -> None:
    config = space.build(maml().space)
    assert isinstance(config, MetaTraining)
    assert (config.episodes, config.steps, config.rule.steps) == (3, 4, 1)
    assert isinstance(config.rule, GradientDescent)
    assert isinstance(config.rule.init, Learned)
    assert config.rule.init.by == Adam(1e-2)


def test_a_mover_that_is_a_space_is_built() -> None:
    config = space.build(Space(GradientDescent, init=Learned(mlp, by=Space(Adam, lr=0.5))))
    assert config.init.by == Adam(0.5)


def test_learned_hands_the_factory_what_it_takes_and_does_not_have() -> None:
    def factory(outputs: int, shape: tuple[int, ...], hidden: int = 3) -> tuple[Any, ...]:
        return outputs, shape, hidden

    given = {"shape": (7,), "ways": 5, "outputs": 5}
    assert Learned(factory, by=SGD()).build(given) == (5, (7,), 3)
    assert Learned(Space(factory, outputs=2, hidden=9), by=SGD()).build(given) == (2, (7,), 9)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: Learned(0.1, by="adam"), "by='adam' does not move values; use SGD"),
        (lambda: Learned("0.1", by=SGD()), "'0.1' is neither a number nor a factory"),
        (lambda: Learned(True, by=SGD()), "True is neither a number nor a factory"),
        (lambda: Learned(mlp, by=SGD(), per="tensor"), "per='tensor' is for a number"),
        (lambda: Learned(0.1, by=SGD(), per="layer"), "Learned.per: 'layer' is a str"),
        (lambda: Learned(mlp, by=SGD(), start=3), "Learned.start: 3 is a int"),
    ],
)
def test_learned_says_what_it_takes(make: Any, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        make()


def test_learned_values_have_their_paths() -> None:
    assert {path for path, _ in space.learned(maml().space)} == {"rule.init", "rule.lr"}


# -- set ---------------------------------------------------------------------------------------------------------------


def config(study: Study, path: str) -> Any:
    return study.config()[path]


@pytest.mark.parametrize(
    ("path", "value", "shown"),
    [
        ("steps", 9, 9),
        ("rule.steps", 3, 3),
        ("rule.order", 1, 1),
        ("rule.lr", 0.25, 0.25),
        ("rule.lr", 1, 1.0),
        ("rule.lr.by.lr", 0.125, 0.125),
        ("rule.lr.per", "one", None),
        ("rule.init.by.lr", 0.5, 0.5),
        ("rule.init.by.clip", 10, 10),
        ("rule.init.hidden", [5, 6], [5, 6]),
        ("rule.init.activation", "tanh", "tanh"),
        ("tasks.shots", 2, 2),
        ("test_steps", 3, 3),
    ],
)
def test_any_value_is_set_by_its_path_and_the_original_stays(path: str, value: Any, shown: Any) -> None:
    study = maml()
    before = study.config()
    after = study.set(path, value).config()
    assert after.get(path) == shown
    assert type(after.get(path)) is type(shown)
    assert study.config() == before
    assert {p for p in {*before, *after} if before.get(p) != after.get(p)} - {path} <= {"rule.lr.by", *before}
    others = {p: v for p, v in before.items() if not p.startswith(path)}
    assert {p: after.get(p) for p in others} == others


def test_a_factory_with_options_is_handed_what_it_names() -> None:
    def factory(outputs: int, *sizes: int, width: int = 3, **options: object) -> tuple[object, ...]:
        return outputs, sizes, width, options

    given = {"shape": (7,), "ways": 5, "outputs": 5, "options": 1, "sizes": 2}
    assert Learned(factory, by=SGD()).build(given) == (5, (), 3, {})
    assert Learned(Space(factory, width=9, depth=2), by=SGD()).build(given) == (5, (), 9, {"depth": 2})
    assert Learned(lambda **options: options, by=SGD()).build(given) == {}


def test_a_bare_factory_becomes_a_space_when_one_of_its_values_is_set() -> None:
    study = maml(rule=Space(GradientDescent, init=Learned(mlp, by=Adam())))
    built = space.build(study.set("rule.init.hidden", (3,)).space).rule.init
    assert isinstance(built.value, Space)
    assert built.build({"outputs": 2, "shape": (4,)})[0].weight.shape == (3, 4)


def test_a_built_rule_takes_learned_and_learned_becomes_a_constant() -> None:
    study = maml(rule=GradientDescent(init=Learned(mlp, by=Adam()), lr=0.5))
    learned = study.set("rule.lr", Learned(0.5, by=SGD()))
    assert {path for path, _ in space.learned(learned.space)} == {"rule.init", "rule.lr"}
    assert [path for path, _ in space.learned(learned.set("rule.lr", 0.25).space)] == ["rule.init"]
    assert space.build(learned.set("rule.lr", 0.25).space).rule.lr == 0.25


def test_values_of_a_dict_have_paths() -> None:
    study = maml(test_tasks={"long": Sinusoid(shots=4, queries=4), "short": Sinusoid(shots=2, queries=4)})
    after = study.set("test_tasks.short.shots", 3)
    assert config(after, "test_tasks.short.shots") == 3
    assert config(after, "test_tasks.long.shots") == 4
    assert space.build(after.space).test_tasks["short"].shots == 3
    with pytest.raises(BadInput, match=r"no value at 'test_tasks.tiny.shots': test_tasks has long, short"):
        study.set("test_tasks.tiny.shots", 3)


@pytest.mark.parametrize(
    ("path", "match"),
    [
        ("stepz", "no value at 'stepz': the space has tasks, rule, steps"),
        ("rule.stepz", "no value at 'rule.stepz': rule has init, lr, steps"),
        ("rule.init.width", "no value at 'rule.init.width': rule.init has outputs, shape, hidden, activation"),
        ("rule.lr.width", "no value at 'rule.lr.width': 0.05 is a number; it has by, per and start"),
        ("tasks.shots.x", "no value at 'tasks.shots.x': tasks.shots has no fields"),
        ("rule.init.by.rate", "no value at 'rule.init.by.rate': rule.init.by has lr, betas"),
    ],
)
def test_an_unknown_path_says_what_there_is(path: str, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        maml().set(path, 1)


@pytest.mark.parametrize(
    ("path", "value", "match"),
    [
        ("steps", "many", "steps: 'many' is a str; it takes int"),
        ("rule.order", 3, "rule.order: 3 is a int; it takes Literal"),
        ("tasks.shots", 2.5, "tasks.shots: 2.5 is a float; it takes int"),
        ("rule.init.hidden", 8, "rule.init.hidden: 8 is a int; it takes"),
        ("rule.init.by.lr", "big", "rule.init.by.lr: 'big' is a str; it takes float"),
        ("tasks", "omniglot", "tasks: 'omniglot' is a str; it takes Tasks"),
    ],
)
def test_setting_the_wrong_type_names_path_value_and_type(path: str, value: Any, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        maml().set(path, value)


def test_a_value_that_a_record_refuses_is_refused_when_it_is_set() -> None:
    with pytest.raises(BadInput, match="Adam: lr is -1"):
        maml().set("rule.init.by.lr", -1)


@pytest.mark.parametrize(
    ("text", "value"), [("3", 3), ("[1, 2]", [1, 2]), ("true", True), ("relu", "relu"), ("null", None)]
)
def test_the_value_of_a_command_line_is_json_or_a_string(text: str, value: Any) -> None:
    assert space.parse(text) == value


# -- flatten -----------------------------------------------------------------------------------------------------------


def test_flat_config_is_json_with_objects_by_name_and_their_fields_below() -> None:
    study = maml(rule=Space(GradientDescent, init=Learned(mlp, by=Adam(1e-2, schedule=Cosine(0.1))), lr=0.4))
    flat = study.config()
    assert json.loads(json.dumps(flat)) == flat
    assert flat["rule"] == "GradientDescent"
    assert flat["rule.init"] == "mlp"
    assert flat["rule.init.by"] == "Adam"
    assert flat["rule.init.by.schedule"] == "Cosine"
    assert flat["rule.init.by.schedule.final"] == 0.1
    assert flat["rule.lr"] == 0.4
    assert flat["rule.steps"] == 1
    assert flat["tasks"] == "Sinusoid"
    assert flat["tasks.shots"] == 4


def test_a_learned_number_shows_its_start_and_who_moves_it() -> None:
    flat = maml().config()
    assert flat["rule.lr"] == 0.05
    assert flat["rule.lr.by.lr"] == 1e-2
    assert flat["rule.lr.per"] == "tensor"


# -- where Learned may stand -------------------------------------------------------------------------------------------


def test_learned_in_the_wrong_place_is_refused_when_the_study_is_defined() -> None:
    with pytest.raises(
        BadInput, match="Study tiny: steps is Learned, but meta_train cannot learn it; it learns what is"
    ):
        maml(steps=Learned(4.0, by=SGD()))


def test_an_objective_that_learns_nothing_refuses_learned() -> None:
    def train(config: Mlp, run: Any) -> Any:
        yield Report(1, {"loss": config.lr})

    with pytest.raises(BadInput, match=r"lr is Learned, but .*train cannot learn it; it learns nothing by gradient"):
        Study(name="x", objective=train, minimize="loss", space=Space(Mlp, lr=Learned(0.1, by=SGD()), width=1))
