"""Does a function written for Optuna run unchanged, and is what it suggests for itself searched and told?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import optuna
import pytest

from bilevel import ASHA, TPE, Inline, Ray, Space, Study, run
from bilevel.episodes import Key
from bilevel.errors import BadInput
from bilevel.space.conversion import read
from bilevel.space.dimensions import Int, Log, LogInt, OneOf, Uniform
from bilevel.study.define_by_run import Trial, define_by_run
from bilevel.study.events import Report
from bilevel.study.given import Run


def attempt(trial: int = 0, answers: tuple[bool, ...] = ()) -> tuple[Run, list[Report]]:
    """A run whose reports are kept, and answered in turn."""
    said: list[Report] = []

    def sink(report: Report) -> bool:
        said.append(report)
        return answers[len(said) - 1] if len(said) <= len(answers) else False

    return Run(seed=1, trial=trial, key=Key((7,)), sink=sink), said


def everything(trial: Any) -> float:
    """All ways to suggest, as in Optuna's own tutorials."""
    lr = trial.suggest_float("lr", 1e-5, 1e-1, log=True)
    drop = trial.suggest_float("drop", 0.0, 0.5, step=0.1)
    width = trial.suggest_int("width", 4, 64, log=True)
    layers = trial.suggest_int("layers", 1, 9, step=2)
    units = [trial.suggest_int(f"units{layer}", 4, 8) for layer in range(layers)]
    act = trial.suggest_categorical("act", ["relu", "tanh", None])
    fixed = trial.suggest_float("fixed", 0.5, 0.5) + trial.suggest_int("one", 1, 1)
    old = trial.suggest_uniform("u", -1, 1), trial.suggest_loguniform("l", 1, 2)
    old += (trial.suggest_discrete_uniform("d", 0, 1, 0.25),)
    assert (type(lr), type(drop), type(width), type(fixed)) == (float, float, int, float)
    assert all(type(value) is float for value in old)
    assert trial.suggest_float("lr", 1e-5, 1e-1, log=True) == lr
    trial.set_user_attr("width_again", width)
    trial.set_user_attr("note", act)
    return float(lr * drop + sum(units))


def sphere(trial: Any) -> float:
    """A search with values that are there only sometimes, and reports on the way."""
    x = trial.suggest_float("x", -10, 10)
    kind = trial.suggest_categorical("kind", ["near", "far"])
    y = trial.suggest_float("y", -1, 1) if kind == "near" else 5 + trial.suggest_int("z", 0, 9)
    for step in range(4):
        trial.report(x**2 + y**2 + 8 - 2 * step, step)
        if trial.should_prune():
            raise optuna.TrialPruned
    return float(x**2 + y**2)


def two(trial: Any) -> tuple[float, float]:
    """Two values to be minimized."""
    x = trial.suggest_float("x", -2, 2)
    return x**2, (x - 1) ** 2


# -- the adapter alone -------------------------------------------------------------------------------------------------


def test_optunas_own_trial_and_ours_take_the_same_calls() -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    with pytest.warns(FutureWarning):
        study.optimize(everything, n_trials=1)
    ours, said = attempt()
    define_by_run(everything)({}, ours)
    assert {"lr", "drop", "width", "layers", "act", "fixed", "u", "l", "d"} <= said[-1].found.keys()
    assert said[-1].found.keys() ^ study.best_params.keys() <= {f"units{layer}" for layer in range(9)}
    public = {name for name in dir(optuna.trial.BaseTrial) if not name.startswith("_")}
    assert public - set(dir(Trial({}, ours, "value"))) == {"constraints", "datetime_start", "distributions"}


def test_every_report_tells_what_was_suggested_so_far() -> None:
    ours, said = attempt()
    define_by_run(everything, metric="loss")({}, ours)
    (report,) = said
    assert report.step == 0
    assert report.metrics.keys() == {"loss", "width_again"}
    assert json.loads(json.dumps(report.found)) == report.found
    dimensions = {name: read(told["dimension"]) for name, told in report.found.items()}
    assert dimensions["lr"] == Log(1e-5, 1e-1)
    assert dimensions["drop"] == Uniform(0.0, 0.5, step=0.1)
    assert dimensions["width"] == LogInt(4, 64)
    assert dimensions["layers"] == Int(1, 9, step=2)
    assert dimensions["act"] == OneOf("relu", "tanh", None)
    assert (dimensions["fixed"], dimensions["one"]) == (OneOf(0.5), Int(1, 1))
    assert all(dimensions[name].contains(told["value"]) for name, told in report.found.items())


def test_values_are_drawn_by_trial_and_name_and_drawn_again_alike() -> None:
    def found(trial: int) -> dict[str, Any]:
        ours, said = attempt(trial)
        define_by_run(sphere)({}, ours)
        return {name: told["value"] for name, told in said[-1].found.items()}

    assert found(3) == found(3)
    draws = [found(trial) for trial in range(300)]
    assert len({draw["x"] for draw in draws}) == 300
    assert 120 < sum(draw["kind"] == "near" for draw in draws) < 180
    assert -1 < sum(draw["x"] for draw in draws) / 300 < 1
    key = Key((7,)).child("trial", 3, "suggest", "x")
    assert found(3)["x"] == Uniform(-10, 10).decode(key.numpy().random())


def test_the_configurations_value_is_taken_where_the_range_has_it() -> None:
    ours, said = attempt()
    define_by_run(sphere)({"x": 2, "kind": "far", "z": 3.0, "y": 0.5}, ours)
    assert {name: told["value"] for name, told in said[-1].found.items()} == {"x": 2.0, "kind": "far", "z": 3}
    assert said[-1].metrics == {"value": 68.0}
    define_by_run(sphere)({"x": 11, "kind": "middle"}, ours)
    assert -10 <= said[-1].found["x"]["value"] <= 10
    assert said[-1].found["kind"]["value"] in ("near", "far")


def test_objects_may_be_chosen_and_are_told_by_their_labels() -> None:
    def chosen(trial: Any) -> float:
        return float(trial.suggest_categorical("f", [abs, len])([-3]) if trial.number else 0)

    def listed(trial: Any) -> float:
        return float(sum(trial.suggest_categorical("hidden", [(8,), (4, 4, 4)])))

    ours, said = attempt(1)
    define_by_run(chosen)({"f": "len"}, ours)
    assert said[-1].metrics == {"value": 1.0}
    assert said[-1].found["f"] == {
        "value": "len",
        "dimension": {"OneOf": ["abs", "len"], "ordered": False, "center": None},
    }
    define_by_run(listed)({"hidden": "[4, 4, 4]"}, ours)
    assert said[-1].metrics == {"value": 12.0}


def test_reports_are_steps_and_the_result_is_the_last() -> None:
    ours, said = attempt()
    define_by_run(sphere, metric="loss")({"x": 0, "kind": "near", "y": 0}, ours)
    assert [(report.step, report.metrics["loss"]) for report in said] == [(0, 8), (1, 6), (2, 4), (3, 2), (4, 0)]


def test_a_stopped_trial_is_pruned_in_optunas_way_and_ends_without_a_result() -> None:
    ours, said = attempt(answers=(False, True))
    with pytest.raises(optuna.TrialPruned):  # where a study runs it, the trial is stopped
        define_by_run(sphere)({}, ours)
    assert [report.step for report in said] == [0, 1]


def test_of_reports_for_one_step_the_first_counts_and_steps_only_grow() -> None:
    def twice(trial: Any) -> float:
        trial.report(1.0, 3)
        trial.report(2.0, 3)
        return 0.0

    def back(trial: Any) -> float:
        trial.report(1.0, 3)
        trial.report(2.0, 2)
        return 0.0

    ours, said = attempt()
    define_by_run(twice)({}, ours)
    assert [(report.step, report.metrics["value"]) for report in said] == [(3, 1.0), (4, 0.0)]
    with pytest.raises(BadInput, match=r"trial.report: step 2 after step 3; report steps in their order"):
        define_by_run(back)({}, ours)


def test_constraints_and_numbers_that_are_kept_become_metrics() -> None:
    def bounded(trial: Any) -> float:
        trial.set_constraint("weight", 2)
        trial.set_user_attr("accuracy", 0.5)
        trial.set_user_attr("good", True)
        return 1.0

    ours, said = attempt()
    define_by_run(bounded)({}, ours)
    assert said[-1].metrics == {"value": 1.0, "weight": 2.0, "accuracy": 0.5}


@pytest.mark.parametrize(
    ("returned", "metric"),
    [(None, "loss"), ("1.0", "loss"), ((1.0, 2.0), "loss"), (1.0, ("a", "b")), ((1, None), ("a", "b"))],
)
def test_a_result_that_is_no_number_fails_the_trial(returned: Any, metric: Any) -> None:
    ours, _ = attempt()
    with pytest.raises(TypeError, match=r"the objective returned .*; it takes a number each for (loss|a, b)"):
        define_by_run(lambda trial: returned, metric)({}, ours)


@pytest.mark.parametrize(
    ("function", "match"),
    [
        (lambda trial: trial.suggest_float("x", 1, 2, log=True, step=0.5), "'x' has log=True and step=0.5"),
        (lambda trial: trial.suggest_int("x", 1, 8, log=True, step=2), "'x' has log=True and step=2"),
        (lambda trial: trial.suggest_float("x", 0, 1) + trial.suggest_float("x", 0, 2), r"'x' was Uniform\(0, 1\)"),
        (lambda trial: trial.suggest_float("x", 1, 0), "the lower bound is above the upper one"),
        (lambda trial: trial.suggest_categorical("x", []), "nothing to choose from"),
    ],
)
def test_what_cannot_be_suggested_is_refused(function: Any, match: str) -> None:
    ours, _ = attempt()
    with pytest.raises(BadInput, match=match):
        define_by_run(function)({}, ours)


def test_what_is_not_such_an_objective_is_refused() -> None:
    with pytest.raises(BadInput, match="define_by_run: 3 cannot be called"):
        define_by_run(3)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match=r"metric=\('a', 'a'\); give a name, or a tuple of different ones"):
        define_by_run(sphere, ("a", "a"))
    with pytest.raises(BadInput, match=r"the configuration is a float; use Space\(dict\)"):
        define_by_run(sphere)(0.5, attempt()[0])  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="works only while a study runs this objective"):
        define_by_run(sphere)({}, Run(seed=1, trial=0, key=Key((7,))))


# -- in a study --------------------------------------------------------------------------------------------------------


def study(**options: Any) -> Study:
    values: dict[str, Any] = {
        "name": "defined",
        "minimize": "value",
        "space": Space(dict),
        "trials": 40,
        "search": TPE(),
    }
    return Study(**{"objective": define_by_run(sphere), **values, **options})


def test_a_study_searches_what_the_function_suggests(tmp_path: Path) -> None:
    result = run(study(), on=Inline(), store=tmp_path, track="none")
    table = result.trials
    assert list(table["state"]) == ["completed"] * 40
    near = table["config.kind"] == "near"
    assert (table["config.y"].notna() == near).all()
    assert (table["config.z"].notna() == ~near).all()
    assert table["config.x"].abs()[20:].mean() < 3.0  # chance would give 5
    assert result.best["objective"] == pytest.approx(result.best["config"]["x"] ** 2 + result.best["config"]["y"] ** 2)


@pytest.mark.slow
def test_workers_run_it_as_this_process_does(tmp_path: Path) -> None:
    inline, there = (
        run(study(trials=8, deterministic=True), on=on, slots=2, store=tmp_path, track="none")
        for on in (Inline(), Ray(workers=2))
    )
    assert inline.fingerprint == there.fingerprint


def test_pruned_trials_are_stopped(tmp_path: Path) -> None:
    result = run(study(stop=ASHA(first=1, factor=2, last=4)), on=Inline(), store=tmp_path, track="none")
    states = list(result.trials["state"])
    assert set(states) == {"completed", "stopped"}
    assert states.count("stopped") > 10


def test_a_function_that_prunes_itself_is_stopped_and_does_not_win(tmp_path: Path) -> None:
    def gives_up(trial: Any) -> float:
        x = trial.suggest_float("x", 0.0, 1.0)
        trial.report(-1.0 if trial.number else x, 1)
        if trial.number:
            raise optuna.TrialPruned
        return x

    chosen = study(objective=define_by_run(gives_up), trials=4)
    for on in (Inline(), Ray(workers=1)):
        result = run(chosen, on=on, slots=1, store=tmp_path, track="none")
        assert list(result.trials["state"]) == ["completed", "stopped", "stopped", "stopped"]
        assert result.best["trial"] == 0


def test_what_is_declared_stays_though_not_every_branch_suggests_it(tmp_path: Path) -> None:
    def branches(trial: Any) -> float:
        if trial.suggest_categorical("kind", ["a", "b"]) == "a":
            return float(trial.suggest_int("depth", 1, 9))
        return 0.0

    space = Space(dict, kind=OneOf("a", "b"), depth=Int(1, 9))
    result = run(study(objective=define_by_run(branches), space=space), on=Inline(), store=tmp_path, track="none")
    assert (result.status, result.best["config"]["kind"]) == ("completed", "b")


def test_a_range_may_shrink_while_trials_are_out(tmp_path: Path) -> None:
    def shrinking(trial: Any) -> float:
        value = trial.suggest_int("n", 1, 8 if trial.number % 2 else 4, log=True)
        trial.report(float(value), 0)
        return float(value)

    chosen = study(objective=define_by_run(shrinking), search=TPE(startup=3), seed=1)
    result = run(chosen, on=Inline(), slots=3, store=tmp_path, track="none")
    assert (result.status, len(result.trials)) == ("completed", 40)


def test_a_suggested_value_can_be_set(tmp_path: Path) -> None:
    """Which names there are the space cannot know: so `--set` refuses none here."""
    result = run(study(trials=4, search=None).set("x", 0.5), on=Inline(), store=tmp_path, track="none")
    assert list(result.trials["config.x"]) == [0.5] * 4


def test_several_values_have_a_name_each(tmp_path: Path) -> None:
    both = Study(
        name="two",
        objective=define_by_run(two, ("left", "right")),
        minimize=("left", "right"),
        space=Space(dict),
        trials=12,
    )
    result = run(both, on=Inline(), store=tmp_path, track="none")
    assert list(result.trials["state"]) == ["completed"] * 12
