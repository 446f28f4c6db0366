"""Do our searches suggest in a user's own Tuner what they suggest elsewhere, and go on after a restore?"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import tune
from ray.tune.search import ConcurrencyLimiter

import programs
from bilevel import (
    PBT,
    SGD,
    TPE,
    Grid,
    Int,
    Learned,
    Log,
    LogInt,
    LogNormal,
    Normal,
    OneOf,
    Random,
    Sobol,
    Space,
    Uniform,
)
from bilevel.errors import BadInput
from bilevel.execute.tuner import TuneSearcher, as_tune_searcher, to_tune
from bilevel.search.port import Told
from bilevel.space.conversion import from_tune

SPACE = Space(
    dict, lr=Log(1e-4, 1e-1), width=LogInt(8, 64), opt=OneOf(Space(dict, momentum=Uniform(0.0, 1.0)), "adam"), epochs=3
)


def loss(config: dict[str, Any]) -> float:
    momentum = config["opt"]["momentum"] if isinstance(config["opt"], dict) else 0.5
    return float((config["lr"] - 0.01) ** 2 + momentum / config["width"])


def told(searcher: TuneSearcher, count: int, first: int = 0) -> list[Any]:
    """What it suggests, one after the other."""
    seen = []
    for number in range(first, first + count):
        config = searcher.suggest(f"trial-{number}")
        seen.append(config)
        if isinstance(config, dict):
            searcher.on_trial_complete(f"trial-{number}", {"loss": loss(config), "training_iteration": 1})
    return seen


def ours(search: Any, count: int, seed: int = 0) -> list[Any]:
    """What a loop of one's own is given."""
    loop = search.start(SPACE, seed=seed)
    seen = []
    for _ in range(count):
        trial = loop.ask()
        seen.append(trial.config)
        loop.tell(trial, loss(trial.config))
    return seen


@pytest.mark.parametrize("search", [Random(), TPE(), Sobol()], ids=lambda search: type(search).__name__)
def test_it_suggests_what_a_loop_of_ones_own_is_given(search: Any) -> None:
    assert told(as_tune_searcher(search, SPACE, metric="loss", seed=3), 15) == ours(search, 15, seed=3)


def test_what_is_to_be_large_is_turned_round() -> None:
    searcher = as_tune_searcher(TPE(), SPACE, metric="loss", mode="max")
    seen = []
    for number in range(15):
        seen.append(searcher.suggest(str(number)))
        searcher.on_trial_complete(str(number), {"loss": -loss(seen[-1]), "training_iteration": 1})
    assert seen == ours(TPE(), 15)


def test_it_goes_on_from_what_it_saved_and_when_pickled(tmp_path: Path) -> None:
    searcher = as_tune_searcher(TPE(), SPACE, metric="loss")
    told(searcher, 12)
    searcher.suggest("out")
    searcher.save(str(tmp_path / "state"))
    json.loads((tmp_path / "state").read_text())
    again = as_tune_searcher(TPE(), SPACE, metric="loss")
    again.restore(str(tmp_path / "state"))
    copy = ray.cloudpickle.loads(ray.cloudpickle.dumps(searcher))
    for each in (searcher, again, copy):
        each.on_trial_complete("out", {"loss": 1.0, "training_iteration": 1})
    assert told(again, 5, first=20) == told(copy, 5, first=20) == told(searcher, 5, first=20)


def test_who_failed_and_was_run_again_is_told_anew() -> None:
    searcher, other = (as_tune_searcher(TPE(), SPACE, metric="loss") for _ in range(2))
    told(other, 12)
    config = searcher.suggest("trial-0")
    assert isinstance(config, dict)
    searcher.on_trial_complete("trial-0", error=True)
    searcher.on_trial_complete("trial-0", {"loss": loss(config), "training_iteration": 1})
    told(searcher, 11, first=1)
    assert told(searcher, 3, first=12) == told(other, 3, first=12)


def test_a_history_of_something_else_is_refused(tmp_path: Path) -> None:
    searcher = as_tune_searcher(Random(), SPACE, metric="loss")
    told(searcher, 2)
    searcher.save(str(tmp_path / "state"))
    other = as_tune_searcher(Random(), Space(dict, depth=Int(1, 3)), metric="loss")
    with pytest.raises(BadInput, match=r"state: no history of a search of this space \(depth"):
        other.restore(str(tmp_path / "state"))
    (tmp_path / "torn").write_text('{"format": 1, "hist')
    with pytest.raises(BadInput, match="torn: no history"):
        other.restore(str(tmp_path / "torn"))


class Recording:
    """A search that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    def open(self, problem: Any) -> Any:
        self.problem = problem
        searcher = Random().open(problem)
        searcher.tell = lambda number, _point, told: self.told.append((number, told))
        return searcher


def test_it_is_told_how_far_a_trial_came_and_what_failed() -> None:
    search = Recording()
    searcher = as_tune_searcher(search, SPACE, metric="loss", last=3)
    for name in ("whole", "stopped", "raised", "nan"):
        searcher.suggest(name)
    for step in (1, 2):
        searcher.on_trial_result("whole", {"loss": 1.0 / step, "training_iteration": step})
    searcher.on_trial_result("stopped", {"loss": float("nan"), "training_iteration": 1})
    searcher.on_trial_complete("whole", {"loss": 0.25, "training_iteration": 3})
    searcher.on_trial_complete("stopped", {"loss": 2.0, "training_iteration": 2})
    searcher.on_trial_complete("raised", {"loss": 2.0, "training_iteration": 2}, error=True)
    searcher.on_trial_complete("nan", {"loss": float("nan"), "training_iteration": 3})
    searcher.on_trial_complete("unknown", {"loss": 0.0, "training_iteration": 3})
    whole, stopped, *failed = search.told
    assert search.problem.fidelity == 3
    assert whole == (0, Told((0.25,), 3, curve=((1, 1.0), (2, 0.5), (3, 0.25))))
    assert stopped == (1, Told((2.0,), 2, stopped=True, curve=((2, 2.0),)))
    assert failed == [(2, Told(None)), (3, Told(None))]


def test_a_grid_is_done_when_it_is_done() -> None:
    searcher = as_tune_searcher(Grid(), Space(dict, width=OneOf(1, 2)), metric="loss")
    assert [searcher.suggest(str(number)) for number in range(3)] == [{"width": 1}, {"width": 2}, "FINISHED"]


@dataclass(frozen=True, kw_only=True)
class Net:
    lr: float
    depth: int = 2


def test_of_a_dataclass_a_trial_has_the_fields_and_a_guess_comes_first() -> None:
    space = Space(Net, lr=Log(1e-4, 1e-1, center=0.02))
    searcher = as_tune_searcher(Random(), space, metric="loss", points=[{"lr": 0.05}])
    seen = [searcher.suggest(str(number)) for number in range(2)]
    assert seen == [{"lr": 0.02, "depth": 2}, {"lr": 0.05, "depth": 2}]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"search": PBT(every=2)}, "PBT: members of a population exchange checkpoints; run it in a Study"),
        ({"mode": "minimum"}, "mode='minimum' for metric='loss'; give 'min' or 'max'"),
        ({"space": Space(dict, lr=0.1)}, "nothing is searched"),
        ({"space": Space(ours, search=None, count=Int(1, 2))}, "describes no dict or dataclass"),
    ],
)
def test_what_cannot_work_is_refused(change: dict[str, Any], message: str) -> None:
    values = {"search": Random(), "space": SPACE, "metric": "loss"} | change
    with pytest.raises(BadInput, match=message):
        as_tune_searcher(values.pop("search"), values.pop("space"), **values)


# -- in a Tuner --------------------------------------------------------------------------------------------------------


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    monkeypatch.setenv("RAY_AIR_NEW_OUTPUT", "0")
    monkeypatch.setenv("TUNE_GLOBAL_CHECKPOINT_S", "0")
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers have no such module
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])
    ray.shutdown()


class Crash(tune.Callback):
    """Ends the driver, as far as Tune can see, once four trials are complete."""

    def __init__(self, marker: Path) -> None:
        self.marker, self.left = marker, 4

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.left -= 1
        if self.left == 0 and not self.marker.exists():
            self.marker.touch()
            raise KeyboardInterrupt


def kept(experiment: Path) -> list[int]:
    """The steps at which the trials ended of which the searcher was told, as far as they are written down."""
    try:
        saved = json.loads(next(experiment.glob("searcher-state-*")).read_text())
    except (StopIteration, ValueError):
        return []
    return [what["step"] for kind, _, what in saved["history"] if kind == "told"]


def test_in_a_users_tuner_and_in_one_that_is_restored_after_a_crash(cluster: None, tmp_path: Path) -> None:
    def train(config: dict[str, Any]) -> None:
        for _ in range(config["epochs"]):
            tune.report({"loss": loss(config)})

    search = as_tune_searcher(TPE(), SPACE, metric="loss", last=3)
    settings = tune.TuneConfig(search_alg=ConcurrencyLimiter(search, 1), num_samples=8, reuse_actors=True)
    callbacks = [Crash(tmp_path / "crashed")]
    where = tune.RunConfig(name="users", storage_path=str(tmp_path), verbose=0, callbacks=callbacks)
    with pytest.raises(KeyboardInterrupt):
        tune.Tuner(train, tune_config=settings, run_config=where).fit()
    programs.until(lambda: kept(tmp_path / "users") == [3, 3, 3])  # a thread of Tune's writes it
    grid = tune.Tuner.restore(str(tmp_path / "users"), train).fit()
    assert not grid.errors
    assert sorted(map(repr, (result.config for result in grid))) == sorted(map(repr, ours(TPE(), 8)))


# -- spaces ------------------------------------------------------------------------------------------------------------


def test_a_space_goes_to_tune_and_comes_back() -> None:
    space = Space(
        dict,
        a=Uniform(0.0, 2.0),
        b=Uniform(1.0, 2.0, step=0.5),
        c=Log(1e-4, 1e-1),
        d=Log(0.5, 8.0, step=0.5),
        e=Int(3, 7),
        f=Int(4, 12, step=4),
        g=LogInt(8, 64),
        h=Normal(1.0, 2.0),
        i=Normal(0.0, 1.0, step=0.1),
        j=OneOf("relu", "gelu"),
        k=5,
        rule=Space(dict, lr=Log(1e-3, 1.0), on=True),
    )
    there = to_tune(space)
    assert repr(from_tune(there)) == repr(space.replace(rule=dict(space.values["rule"].values)))
    for domain, dimension in ((there[name], space.values[name]) for name in "abcdefghij"):
        assert all(dimension.contains(domain.sample()) for _ in range(20)), dimension


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (LogNormal(0.0, 1.0), "x: Tune has nothing like LogNormal"),
        (Uniform(0.25, 2.0, step=0.5), "x: Uniform.* starts at no multiple of its step"),
        (OneOf(Space(dict, y=Uniform(0, 1)), "none"), "x: what option dict searches depends on the choice"),
        (OneOf(Uniform(0, 1), "none"), "x: what option .* searches depends on the choice"),
        (Learned(0.1, by=SGD(0.1)), "x: Learned.* is learned inside a run"),
        (Space(dict, y=LogNormal(0.0, 1.0)), r"x\.y: Tune has nothing like LogNormal"),
    ],
)
def test_what_tune_has_nothing_for_is_refused_by_name(value: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        to_tune(Space(dict, x=value))
