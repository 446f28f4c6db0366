"""Is a search told of earlier trials exactly where they fit?"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from bilevel import (
    ASHA,
    CMAES,
    GP,
    TPE,
    Inline,
    Log,
    OneOf,
    Random,
    Report,
    Result,
    Run,
    Sobol,
    Space,
    Study,
    Uniform,
    run,
)
from bilevel.drive import warm
from bilevel.errors import BadInput
from bilevel.record import folder as folders
from support.tiny import Said, finished


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is searched."""

    lr: float
    momentum: float = 0.5


def trial(config: Config, run: Run) -> Iterator[Report]:
    """A loss that is the rate."""
    if config.lr > 0.5:
        raise ArithmeticError("too large")
    yield Report(1, {"loss": config.lr, "accuracy": 1 - config.lr})


def study(**changes: Any) -> Study:
    values: dict[str, Any] = {
        "name": "first",
        "objective": trial,
        "minimize": "loss",
        "search": Random(),
        "trials": 12,
        "space": Space(Config, lr=Log(1e-3, 1.0)),
    }
    return Study(**(values | changes))


def earlier(store: Path, **more: Any) -> Result:
    return run(study(), on=Inline(), store=store, watch=Said(), **{"track": "none", **more})


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    from bilevel import figures

    monkeypatch.setattr(figures, "draw", lambda *_: {})


@pytest.mark.parametrize("search", [Random(), Sobol(), TPE(startup=20), GP(startup=20), CMAES()], ids=repr)
def test_what_was_told_is_not_tried_again_with_the_same_seed(search: Any, tmp_path: Path) -> None:
    first = run(study(search=search, trials=8), on=Inline(), store=tmp_path, watch=Said(), track="none")
    said = Said()
    second = study(name="second", search=search, trials=8, warm_start=("first",))
    again = run(second, on=Inline(), store=tmp_path, watch=said, track="none")
    assert not set(first.trials["config.lr"]) & set(again.trials["config.lr"])
    best = min(first.trials["loss"].dropna() if "loss" in first.trials else first.trials["objective"].dropna())
    assert f"warm start: told the search 8 trials of first, the best with loss {best:.5g}" in said.lines


@pytest.mark.parametrize("search", [Random(), Sobol(), TPE(startup=20), CMAES()], ids=repr)
def test_of_a_finite_space_only_what_no_earlier_run_has_tried_is_tried(search: Any, tmp_path: Path) -> None:
    space = Space(Config, lr=OneOf(*(0.01 * n for n in range(1, 13)), ordered=True))
    first = run(study(search=search, trials=6, space=space), on=Inline(), store=tmp_path, watch=Said(), track="none")
    second = study(name="second", search=search, trials=6, space=space, warm_start=("first",))
    again = run(second, on=Inline(), store=tmp_path, watch=Said(), track="none")
    assert len(set(first.trials["config.lr"]) | set(again.trials["config.lr"])) == 12


@pytest.mark.parametrize("named", ["first", "id", "last"])
def test_all_that_fits_is_told_with_the_sign_of_the_objective(named: str, tmp_path: Path) -> None:
    before = earlier(tmp_path)
    narrower = study(name="second", space=Space(Config, lr=Log(1e-3, 0.1)))
    name = {"id": before.run_id}.get(named, named)
    told = warm.restore(warm.collect(replace(narrower, warm_start=(name,)), tmp_path, "none"))
    fitting = before.trials[before.trials["config.lr"] <= 0.1]
    assert 0 < len(fitting) < 12
    assert [(point["lr"], said.values) for point, said in told] == [(lr, (lr,)) for lr in fitting["config.lr"]]


def test_failed_trials_are_told_as_failed(tmp_path: Path) -> None:
    before = earlier(tmp_path)
    told = warm.restore(warm.collect(study(warm_start=("first",)), tmp_path, "none"))
    failed = before.trials["state"] == "failed"
    assert 0 < failed.sum() < 12
    assert [said.values is None for _, said in told] == list(failed)


def test_an_experiment_of_mlflow_tells_the_same(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    earlier(tmp_path, track=uri)
    by_store = warm.collect(study(warm_start=("first",)), tmp_path, uri)
    by_mlflow = warm.collect(study(warm_start=("mlflow:first",)), tmp_path, uri)
    assert [(said["point"], said["values"]) for said in by_mlflow] == [
        (said["point"], said["values"]) for said in by_store
    ]


def falling(config: Config, run: Run) -> Iterator[Report]:
    """At its best, the rate, at step 2 of 4."""
    for step, more in enumerate((0.2, 0.0, 0.4, 0.3), 1):
        yield Report(step, {"loss": config.lr + more})


@pytest.mark.parametrize(("value", "more"), [("last", 0.3), ("best", 0.0)])
@pytest.mark.parametrize("name", ["first", "mlflow:first"])
def test_earlier_trials_are_told_as_this_study_values_them(name: str, value: Any, more: float, tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    run(study(objective=falling, trials=4), on=Inline(), store=tmp_path, track=uri, watch=Said())
    told = warm.collect(study(objective=falling, value=value, warm_start=(name,)), tmp_path, uri)
    assert [said["values"] for said in told] == [[pytest.approx(said["point"]["lr"] + more)] for said in told]
    assert len(told) == 4


def test_stopped_trials_are_told_at_the_step_that_they_came_to(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    halved = study(objective=falling, stop=ASHA(first=1, factor=2, last=4))
    run(halved, on=Inline(), store=tmp_path, track=uri, watch=Said())
    by_store, by_mlflow = (
        warm.collect(study(objective=falling, warm_start=(name,)), tmp_path, uri) for name in ("first", "mlflow:first")
    )
    stopped = [said for said in by_store if said["stopped"]]
    assert {said["step"] for said in stopped} <= {1, 2}
    assert len(stopped) > 3
    assert [said for said in by_mlflow if said["stopped"]] == stopped


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Something chosen."""

    kind: Any


def chosen(config: Kind, run: Run) -> Iterator[Report]:
    yield Report(1, {"loss": float(len(str(config.kind)))})


OPTIONS: tuple[tuple[Any, ...], ...] = (
    ("18", "34"), ("true", "x y"), ("null", "no"), (True, False, None), (1, 2.5, "a"), ("it's", '"'),
)  # fmt: skip


def test_choices_are_told_as_they_were_though_mlflow_keeps_text(tmp_path: Path) -> None:
    def trained(config: dict[str, Any], run: Run) -> Iterator[Report]:
        yield Report(1, {"loss": 1.0})

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    space = Space(dict, **{f"choice{number}": OneOf(*options) for number, options in enumerate(OPTIONS)})
    wanted = study(objective=trained, space=space, trials=8)
    run(wanted, on=Inline(), store=tmp_path, track=uri, watch=Said())
    by_store, by_mlflow = (
        warm.collect(replace(wanted, warm_start=(name,)), tmp_path, uri) for name in ("first", "mlflow:first")
    )
    assert [repr(said["point"]) for said in by_mlflow] == [repr(said["point"]) for said in by_store]
    assert len(by_mlflow) == 8


def test_a_choice_that_others_recorded_is_read_as_python_prints_it(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = MlflowClient(uri, uri)
    experiment = client.create_experiment("theirs")
    for value in (True, False, None, "x"):
        run_id = client.create_run(experiment).info.run_id
        client.log_param(run_id, "kind", value)
        client.log_metric(run_id, "loss", 1.0)
        client.set_terminated(run_id, "FINISHED")
    wanted = study(
        objective=chosen, space=Space(Kind, kind=OneOf(True, False, None, "x")), warm_start=("mlflow:theirs",)
    )
    assert [said["point"]["kind"] for said in warm.collect(wanted, tmp_path, uri)] == [True, False, None, "x"]


def test_what_reads_like_two_options_is_not_told(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    wanted = study(objective=chosen, space=Space(Kind, kind=OneOf("1", 1, "b")), trials=9)
    run(wanted, on=Inline(), store=tmp_path, track=uri, watch=Said())
    told = warm.collect(replace(wanted, warm_start=("mlflow:first",)), tmp_path, uri)
    assert {said["point"]["kind"] for said in told} == {"b"}


def test_an_experiment_that_is_not_there_makes_no_database(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no experiment 'first'"):
        run(study(warm_start=("mlflow:first",)), on=Inline(), store=tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_what_was_interrupted_tells_nothing(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    earlier(tmp_path, track=uri)
    client = MlflowClient(uri, uri)
    experiment = client.get_experiment_by_name("first").experiment_id
    for status in ("KILLED", "FINISHED"):
        run_id = client.create_run(experiment).info.run_id
        client.log_param(run_id, "lr", 0.02)
        client.log_metric(run_id, "loss", -7.0 if status == "KILLED" else -8.0)
        client.set_terminated(run_id, status)
    values = [said["values"] for said in warm.collect(study(warm_start=("mlflow:first",)), tmp_path, uri)]
    assert [-8.0] in values
    assert [-7.0] not in values


def test_names_that_mlflow_does_not_take_are_found_again(tmp_path: Path) -> None:
    def named(config: dict[str, float], _: Run) -> dict[str, float]:
        return {"loss@1": config["a<"], "loss<": config["a>"]}

    wanted = Study(
        name="first",
        objective=named,
        minimize=("loss@1", "loss<"),
        space=Space(dict, **{"a<": Log(1e-3, 1.0), "a>": Uniform(0.0, 1.0)}),
        search=Random(),
        trials=3,
    )
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    run(wanted, on=Inline(), store=tmp_path, track=uri)
    told = [warm.collect(replace(wanted, warm_start=(name,)), tmp_path, uri) for name in ("first", "mlflow:first")]
    by_run, by_mlflow = ([(said["point"], said["values"]) for said in trials] for trials in told)
    assert len(by_run) == 3
    assert by_run == by_mlflow


def test_a_database_that_is_away_is_said_at_once(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    uri = "postgresql://bob:s3cret@127.0.0.1:1/db"
    with pytest.raises(BadInput, match=r"postgresql://\*\*\*@127.0.0.1:1/db: .*[Cc]onnection refused") as caught:
        warm.collect(study(warm_start=("mlflow:first",)), tmp_path, uri)
    assert "s3cret" not in str(caught.value)


def test_runs_of_a_study_in_which_nothing_has_ended_are_passed_over(tmp_path: Path) -> None:
    folders.create(tmp_path, "first", {"name": "first"})
    with pytest.raises(BadInput, match="warm_start='first': none of its trials has ended"):
        warm.collect(study(warm_start=("first",)), tmp_path, "none")
    earlier(tmp_path)
    folders.create(tmp_path, "first", {"name": "first"})
    assert len(warm.collect(study(warm_start=("first",)), tmp_path, "none")) == 12


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"warm_start": ("nobody",)}, "nobody: no such run"),
        (
            {"warm_start": ("first",), "minimize": "accuracy"},
            "looks for minimize loss, this study for minimize accuracy",
        ),
        (
            {"warm_start": ("first",), "space": Space(Config, lr=Log(1e-3, 1.0), momentum=Uniform(0.9, 1.0))},
            "of its 12 ended trials none fits this space; its values are lr",
        ),
        ({"warm_start": ("mlflow:first",)}, "needs a tracking server"),
    ],
)
def test_what_cannot_be_told_is_refused_before_anything_starts(
    changes: dict[str, Any], match: str, tmp_path: Path
) -> None:
    earlier(tmp_path)
    with pytest.raises(BadInput, match=match):
        run(study(**changes), on=Inline(), store=tmp_path, track="none")
    assert len(list(tmp_path.glob("*/study.json"))) == 1


def test_a_damaged_run_is_left_out_and_that_is_said(tmp_path: Path) -> None:
    damaged = finished(tmp_path, study(trials=3)).folder
    finished(tmp_path, study(trials=3, seed=1))
    (damaged / "study.json").write_bytes(b"{")
    with pytest.warns(UserWarning, match=rf"leaves {damaged.name} out: .*study\.json: damaged"):
        found = warm.collect(study(name="second", warm_start=("first",)), tmp_path, "none")
    assert len(found) == 3
