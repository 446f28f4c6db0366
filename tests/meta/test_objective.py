"""Does a meta-training learn, judge and fail as it says, for tasks and rules of one's own too?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from bilevel import SGD, Adam, Learned, MetaTraining, Run, Space, Study, meta_train
from bilevel.episodes import Batch, Episode, Key, Scaling, Split
from bilevel.errors import BadInput, NotPromised
from bilevel.inner import GradientDescent
from bilevel.meta.objective import _keep_best, interval
from bilevel.meta.plan import plan
from bilevel.nets import mlp
from bilevel.record import model
from bilevel.record.folder import RunFolder
from bilevel.study.history import replay
from bilevel.tasks import Sinusoid
from support.tiny import finished, maml

# -- intervals ---------------------------------------------------------------------------------------------------------


def test_the_interval_is_students() -> None:
    values = torch.tensor([0.2, 0.5, 0.9, 0.4, 0.6])
    mean, half = interval(values)
    low, high = stats.t.interval(0.95, 4, loc=0.52, scale=stats.sem(values.double().numpy()))
    assert (mean - half, mean + half) == pytest.approx((low, high), rel=1e-6)
    assert mean == pytest.approx(0.52)


def test_the_interval_of_two_by_hand() -> None:
    assert interval(torch.tensor([0.0, 2.0])) == pytest.approx((1.0, 12.706204736))


def test_one_episode_has_no_interval() -> None:
    assert interval(torch.tensor([0.3]))[1] == math.inf


def test_a_cluster_counts_once_however_often_it_is_drawn() -> None:
    values, groups = torch.tensor([1.0, 3.0, 5.0, 5.0, 5.0, 8.0]), torch.tensor([7, 7, 2, 2, 2, 9])
    assert interval(values, groups) == pytest.approx(interval(torch.tensor([2.0, 5.0, 8.0])))
    again = torch.cat([values, values]), torch.cat([groups, groups])
    assert interval(*again) == pytest.approx(interval(values, groups))
    assert interval(torch.cat([values, values]))[1] < interval(values)[1]


# -- a whole training --------------------------------------------------------------------------------------------------


def test_what_a_meta_training_reports(tmp_path: Path) -> None:
    result = finished(tmp_path, maml(test_steps=2, test_tasks={"short": Sinusoid(shots=2, queries=4)}))
    assert result.status == "completed"
    names = set(result.metrics)
    at = {f"{metric}{ci}@{k}" for metric in ("loss", "mae") for ci in ("", "_ci95") for k in (0, 1, 2)}
    flat = {f"{name}_mae{ci}" for name in ("mean_of_support", "ridge") for ci in ("", "_ci95")}
    pooled = {f"{name}_mae{ci}" for name in ("pooled_ridge", "pooled_ridge_with_support") for ci in ("", "_ci95")}
    tests = {f"test/{name}" for name in at | flat | pooled} | {f"test/short/{name}" for name in at | flat}
    assert names == {"train/loss", "train/mae", "valid/loss", "valid/mae"} | tests
    assert result.document["episodes"] == 12
    reported = [event for event in RunFolder(result.folder).events() if type(event).__name__ == "Reported"]
    assert [event.step for event in reported] == [1, 2, 3, 4]
    assert ["valid/loss" in event.metrics for event in reported] == [False, True, False, True]


@dataclass(frozen=True)
class Flip:
    """A one-dimensional target, the same for all tasks: y is the sign of the split times 2."""

    def episode(self, split: Split, key: Key) -> Episode:
        y = torch.full((1, 1), 2.0)
        return Episode(Batch(torch.ones(1, 1), y), Batch(torch.ones(1, 1), y))


@dataclass(frozen=True, kw_only=True)
class Still:
    """A rule of one's own in ten lines: it does not adapt; what it predicts is the learned number itself."""

    guess: float
    steps: int = 1

    def adapt(self, meta: dict[str, Any], support: Batch, keys: Any) -> Iterator[Tensor]:
        while True:
            yield meta["guess"]

    def evaluate(self, adapted: Tensor, query: Batch, keys: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return (adapted - query.y.flatten(1)).square().mean(1) / 2, {}


def own(steps: int = 5, lr: float = 0.5, **changes: Any) -> Study:
    values = {"tasks": Flip(), "rule": Space(Still, guess=Learned(0.0, by=SGD(lr))), "episodes": 4, "unit": 2} | changes
    values = {"test_episodes": 2, "validate_episodes": 2, "validate_every": 1} | values
    space = Space(MetaTraining, steps=steps, **values)
    return Study(name="own", objective=meta_train, minimize="valid/loss", space=space)


def test_tasks_with_one_method_and_a_rule_of_ten_lines_follow_the_closed_form(tmp_path: Path) -> None:
    """Curvature 1 and rate a: after k outer steps the number is 2 (1 - (1 - a)^k), whichever way episodes are cut."""
    result = finished(tmp_path, own(steps=5, lr=0.5))
    left = 2 * 0.5**5
    assert result.metrics["valid/loss"] == pytest.approx(left**2 / 2)
    assert result.metrics["train/loss"] == pytest.approx((2 * 0.5**4) ** 2 / 2)
    assert result.metrics["test/loss@0"] == result.metrics["test/loss@1"] == pytest.approx(left**2 / 2)


def test_it_tests_with_what_did_best_in_validation(tmp_path: Path) -> None:
    """A rate of 2.5 diverges: every step is worse than the first."""
    result = finished(tmp_path, own(steps=3, lr=2.5))
    first = (2 * 1.5) ** 2 / 2
    assert result.metrics["test/loss@1"] == pytest.approx(first)
    assert result.metrics["valid/loss"] == pytest.approx((2 * 1.5**3) ** 2 / 2)


@dataclass(frozen=True)
class Broken(Flip):
    """Labels that are not numbers from a step on, in so many of its episodes."""

    step: int = 3
    episodes: int = 4
    split: str = "train"

    def episode(self, split: Split, key: Key) -> Episode:
        episode = super().episode(split, key)
        step = key.path[-2] if split == "train" and len(key.path) > 3 else self.step  # (..., step, index)
        if split == self.split and step >= self.step and key.path[-1] < self.episodes:
            episode.support.y.fill_(math.nan)
        return episode


def failed(result: Any) -> tuple[str, Any]:
    """Why the only trial failed, and the trial."""
    assert result.status == "failed"
    (trial,) = replay(RunFolder(result.folder).events()).trials.values()
    assert trial.state == "failed"
    assert trial.reason is not None
    return trial.reason, trial


@pytest.mark.filterwarnings("ignore:.*is left out")
def test_a_step_whose_episodes_overflow_fails_the_trial_and_the_best_so_far_is_tested(tmp_path: Path) -> None:
    """Steps before it are not lost: after two steps of rate 0.5 a quarter of the way is left."""
    reason, trial = failed(finished(tmp_path, own(tasks=Broken())))
    assert reason.startswith("step 3: 4 of 4 episodes overflow, the first: episode 0: its loss is nan; try a smaller")
    assert reason.endswith("(tested are the best weights so far, those of step 2)")
    assert trial.metrics["test/loss@1"] == pytest.approx((2 * 0.5**2) ** 2 / 2)


@pytest.mark.filterwarnings("ignore:.*is left out")
def test_without_a_validated_step_there_is_nothing_to_test(tmp_path: Path) -> None:
    reason, trial = failed(finished(tmp_path, own(tasks=Broken(step=1))))
    assert reason.startswith("step 1: 4 of 4 episodes overflow")
    assert "tested" not in reason
    assert trial.metrics == {}


@pytest.mark.filterwarnings("ignore:.*is left out")
@pytest.mark.parametrize("unit", [1, 2, 4])
def test_an_episode_that_overflows_is_left_out_named_and_counted(unit: int, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="step 3: episode 0: its loss is nan; it is left out of the step"):
        found = finished(tmp_path, own(tasks=Broken(episodes=1), unit=unit))
    assert found.status == "completed"
    assert found.metrics["train/left_out"] == 3, "of steps 3, 4 and 5"
    wanted = finished(tmp_path, own(unit=unit))
    assert "train/left_out" not in wanted.metrics
    for name, value in wanted.metrics.items():
        if "pooled" not in name:  # a model of all tasks' rows has none where some overflow
            assert found.metrics[name] == pytest.approx(value), name


@pytest.mark.filterwarnings("ignore:.*is left out")
def test_some_at_every_step_are_too_many_in_the_end(tmp_path: Path) -> None:
    reason, trial = failed(finished(tmp_path, own(steps=20, tasks=Broken(step=1, episodes=1))))
    assert reason.startswith("step 10: 10 of 40 episodes so far overflow, the last: episode 0: its loss is nan")
    assert trial.metrics["train/left_out"] == 9


@pytest.mark.filterwarnings("ignore:.*is left out")
def test_an_episode_is_named_with_its_group(tmp_path: Path) -> None:
    class Grouped(Broken):
        def cluster(self, split: Split, key: Key) -> int:
            return 7

    with pytest.warns(UserWarning, match=r"step 3: episode 0 \(group 7\): its loss is nan"):
        finished(tmp_path, own(tasks=Grouped(episodes=1)))


@pytest.mark.parametrize("split", ["valid", "test"])
def test_a_few_that_overflow_when_judged_are_left_out_of_the_means(split: str, tmp_path: Path) -> None:
    study = own(tasks=Broken(episodes=1, split=split), validate_episodes=10, test_episodes=10, steps=2)
    with pytest.warns(UserWarning, match=f"1 of 10 {split} episodes overflow and are left out of the means"):
        result = finished(tmp_path, study)
    assert result.status == "completed"
    assert result.metrics[f"{split}/left_out"] == 1
    assert result.metrics["test/loss@1"] == pytest.approx((2 * 0.5**2) ** 2 / 2)


def test_many_that_overflow_in_validation_fail_the_trial(tmp_path: Path) -> None:
    reason, _ = failed(finished(tmp_path, own(tasks=Broken(episodes=2, split="valid"))))
    assert reason.startswith("step 1: valid/loss is nan; try a smaller rule.lr or outer rate")


@pytest.mark.filterwarnings("ignore:.*diverged")
def test_a_loss_out_of_all_proportion_is_no_result_though_finite(tmp_path: Path) -> None:
    """A rate of 10: the number is 2 (1 - (-9)^k); the loss begins at 2 and is 8.6e7 after four steps."""
    with pytest.warns(
        UserWarning, match=r"step 4: diverged: valid/loss is 8.6e\+07, 2 before any training; these weights"
    ):
        reason, trial = failed(finished(tmp_path, own(steps=5, lr=10.0)))
    assert reason.startswith("step 5: diverged: valid/loss is")
    assert reason.endswith("(tested are the best weights so far, those of step 1)")
    assert trial.metrics["test/loss@1"] == pytest.approx((2 * 9) ** 2 / 2)


@pytest.mark.filterwarnings("ignore:.*diverged")
def test_what_diverges_before_it_is_validated_has_no_result(tmp_path: Path) -> None:
    reason, _ = failed(finished(tmp_path, own(steps=5, lr=10.0, validate_every=5)))
    assert reason.startswith("step 5: diverged: valid/loss is")
    assert "tested" not in reason


def test_labels_in_large_units_have_not_diverged(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Large(Flip):
        def episode(self, split: Split, key: Key) -> Episode:
            y = torch.full((1, 1), 1e6)
            return Episode(Batch(torch.ones(1, 1), y), Batch(torch.ones(1, 1), y))

    assert finished(tmp_path, own(tasks=Large(), steps=2)).status == "completed"


@dataclass(frozen=True)
class Restless(Sinusoid):
    """Draws from a generator of its own, which the key does not decide."""

    def episode(self, split: Split, key: Key) -> Episode:
        return super().episode(split, Key((int(RESTLESS.integers(100)),)))


RESTLESS = np.random.default_rng(0)


def test_tasks_that_a_key_does_not_decide_are_named_before_anything_starts() -> None:
    study = own(tasks=Restless(shots=4, queries=4))
    with pytest.warns(NotPromised, match=r"tasks: Restless.episode gives other samples for the same key"):
        plan(study.build({}), Run(0, 0, study.key))


def test_a_unit_that_raises_fails_the_trial_with_its_name(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Raising(Flip):
        def episode(self, split: Split, key: Key) -> Episode:
            if split == "train" and key.path[-2:] == (2, 3):
                raise ZeroDivisionError("by hand")
            return super().episode(split, key)

    result = finished(tmp_path, own(tasks=Raising()))
    (trial,) = replay(RunFolder(result.folder).events()).trials.values()
    assert trial.reason == "unit (step 2, episodes 2 to 3): ZeroDivisionError: by hand"
    assert "by hand" in (result.folder / "errors" / "trial-0000.txt").read_text()


# -- kinds of tasks ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sides:
    """Which side of a random line through the origin is a point on?"""

    def episode(self, split: Split, key: Key) -> Episode:
        rng = key.child(split).numpy()
        x = torch.from_numpy(rng.standard_normal((24, 2))).float()
        y = (x @ torch.from_numpy(rng.standard_normal(2)).float() > 0).long()
        y[:2] = torch.tensor([0, 1])
        return Episode(Batch(x[:12], y[:12]), Batch(x[12:], y[12:]))


@pytest.mark.parametrize("outputs", [1, 2])
def test_binary_tasks_with_one_logit_or_two(outputs: int, tmp_path: Path) -> None:
    init = Learned(Space(mlp, outputs=outputs, hidden=(8,)), by=Adam(1e-2))
    rule = Space(GradientDescent, init=init, lr=Learned(0.5, by=Adam(1e-2)), steps=3)
    study = maml(tasks=Sides(), rule=rule, test_episodes=40)
    result = finished(tmp_path, study)
    assert result.status == "completed"
    assert 0.0 <= result.metrics["test/accuracy@0"] <= 0.7
    assert result.metrics["test/accuracy@3"] > result.metrics["test/accuracy@0"] + 0.05
    assert "test/nearest_neighbour_accuracy" in result.metrics


def test_absolute_errors_are_in_the_users_units(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Scaled(Sinusoid):
        scaling = Scaling((0.0,), (1.0,), 5.0, 10.0)

    plain, scaled = finished(tmp_path, maml()), finished(tmp_path, maml(tasks=Scaled(shots=4, queries=4)))
    for name in ("train/mae", "valid/mae", "test/mae@1", "test/mae_ci95@1", "test/ridge_mae"):
        assert scaled.metrics[name] == pytest.approx(10 * plain.metrics[name])
    assert scaled.metrics["test/loss@1"] == plain.metrics["test/loss@1"]


def test_the_number_of_trials_does_not_change_the_tests_tasks(tmp_path: Path) -> None:
    """All trials are judged on the same episodes: the ridge baseline, which learns nothing, is the same."""
    result = finished(tmp_path, dataclasses.replace(maml(), trials=2))
    trials = replay(RunFolder(result.folder).events()).trials
    assert trials[0].metrics["test/ridge_mae"] == trials[1].metrics["test/ridge_mae"]
    assert trials[0].metrics["train/loss"] != trials[1].metrics["train/loss"]


# -- what cannot be trained --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"steps": 0}, "MetaTraining: steps is 0; it takes at least 1"),
        ({"episodes": 0}, "MetaTraining: episodes is 0"),
        ({"unit": 0}, "MetaTraining: unit is 0; it takes at least 1, or null for the default"),
        ({"rule": 3.0}, "rule"),
        ({"rule": object()}, r"rule object has no adapt\(\)"),
        ({"tasks": object()}, r"tasks object has no episode\(split, key\)"),
        ({"test_tasks": {"far": object()}}, r"test_tasks.far object has no episode"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_starts(
    changes: dict[str, Any], match: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=match):
        finished(tmp_path / "store", maml(**changes))
    assert not (tmp_path / "store").exists()


@dataclass(frozen=True)
class Many:
    """As many classes as asked for."""

    ways: int

    def episode(self, split: Split, key: Key) -> Episode:
        y = torch.arange(self.ways)
        x = torch.from_numpy(key.child(split).numpy().standard_normal((self.ways, 2))).float()
        return Episode(Batch(x, y), Batch(x, y))


@pytest.mark.parametrize(
    ("tasks", "match"),
    [
        (Many(5), r"test_tasks.far: rule.init: the network gives \[5, 3\] for 5 samples, the tasks have 5 classes"),
        (Sinusoid(), r"test_tasks.far: rule.init: the network does not work on inputs \(10, 1\)"),
    ],
    ids=["ways", "shape"],
)
def test_test_tasks_that_the_learned_network_does_not_fit_are_named_at_once(
    tasks: Any, match: str, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=match):
        finished(
            tmp_path, maml(tasks=Many(3), test_tasks={"far": tasks}, rule=Space(GradientDescent, init=mlp_learned()))
        )


def mlp_learned() -> Learned:
    return Learned(mlp, by=Adam())


@pytest.mark.parametrize("part", ["baselines", "_plain"])
def test_a_baseline_or_an_exhibit_that_fails_costs_itself_alone(
    part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> Any:
        raise RuntimeError("solve: the input is Half")

    whole = finished(tmp_path / "whole")
    monkeypatch.setattr(f"bilevel.meta.units.{part}", fails)
    with pytest.warns(UserWarning, match="left out of the test: the (baselines|exhibit): RuntimeError: solve"):
        result = finished(tmp_path)
    lost = {name for name in whole.metrics if ("ridge" in name or "mean_of" in name) and "pooled" not in name}
    assert lost
    assert result.status == "completed"
    assert result.metrics == {n: v for n, v in whole.metrics.items() if part == "_plain" or n not in lost}
    assert result.best == whole.best
    assert (result.folder / "model").is_dir()


# -- which weights are kept --------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Torn(Still):
    """The further the number goes, the larger its loss and its accuracy."""

    def evaluate(self, adapted: Tensor, query: Batch, keys: Any) -> tuple[Tensor, dict[str, Tensor]]:
        loss, _ = super().evaluate(adapted, query, keys)
        return loss, {"accuracy": loss.detach() / 1000}


@dataclass(frozen=True)
class Third:
    """A rule that stops every trial at step 3."""

    last: int | None = None

    def open(self) -> Third:
        return self

    def report(self, trial: int, step: int, value: float, *, upto: int | None = None) -> bool:
        return step >= 3


FIRST = (2 * 1.5) ** 2 / 2
"""The loss after the first step at a rate of 2.5, which diverges."""


def kept(folder: Path) -> float:
    return float(model.read(folder / "model")[0]["guess"]["value"])


def test_the_objective_is_of_the_weights_that_are_kept(tmp_path: Path) -> None:
    result = finished(tmp_path, own(steps=3, lr=2.5))
    assert result.best is not None
    assert result.best["objective"] == pytest.approx(FIRST)
    assert result.best["step"] == 1
    assert result.metrics["test/loss@1"] == pytest.approx(FIRST)
    assert kept(result.folder) == 5.0
    last = finished(tmp_path, dataclasses.replace(own(steps=3, lr=2.5), value="last"))
    assert last.best is not None
    assert last.best["objective"] == pytest.approx(FIRST * 1.5**4)
    assert (last.best["step"], last.best["value"]) == (3, "last")


def test_a_training_that_is_stopped_keeps_its_best_too(tmp_path: Path) -> None:
    result = finished(tmp_path, dataclasses.replace(own(steps=6, lr=2.5), stop=Third()))
    assert result.best is not None
    assert result.document["trials"]["stopped"] == 1
    assert (result.best["objective"], result.best["step"]) == (pytest.approx(FIRST), 1)
    assert kept(result.folder) == 5.0
    last = finished(tmp_path, dataclasses.replace(own(steps=6, lr=2.5), stop=Third(), value="last"))
    assert kept(last.folder) == pytest.approx(2 + 2 * 1.5**3)


def test_weights_are_kept_by_what_the_study_looks_for(tmp_path: Path) -> None:
    study = own(steps=3, lr=2.5, rule=Space(Torn, guess=Learned(0.0, by=SGD(2.5))))
    assert finished(tmp_path, study).metrics["test/loss@1"] == pytest.approx(FIRST)
    other = dataclasses.replace(study, minimize=None, maximize="valid/accuracy")
    result = finished(tmp_path, other)
    assert result.metrics["test/loss@1"] == pytest.approx(FIRST * 1.5**4)
    assert result.best is not None
    assert result.best["objective"] == pytest.approx(result.metrics["test/accuracy@1"])


def test_of_several_objectives_all_are_of_the_weights_that_are_kept(tmp_path: Path) -> None:
    study = dataclasses.replace(own(steps=3, lr=2.5), minimize=("valid/loss", "train/loss"))
    (front,) = finished(tmp_path, study).document["pareto"]
    assert front["objectives"] == {"valid/loss": pytest.approx(FIRST), "train/loss": pytest.approx(2.0)}


def test_what_is_no_validation_counts_as_it_was_reported_last(tmp_path: Path) -> None:
    result = finished(tmp_path, dataclasses.replace(own(steps=3, lr=2.5), minimize="train/loss"))
    assert result.best is not None
    assert result.best["objective"] == pytest.approx(FIRST * 1.5**2)
    assert result.metrics["test/loss@1"] == pytest.approx(FIRST)


def test_a_training_begun_before_goes_on_keeping_as_it_did() -> None:
    judged = {"valid/loss": 2.0, "valid/accuracy": 0.5}
    before = {"learned": {}, "best": {"score": 0.4, "step": 1, "learned": {}}}
    run = Run(0, 0, Key((0,)), metric="valid/loss", minimize=True)
    assert _keep_best(before, judged, {}, 2, run)["best"] == {
        "score": 0.5,
        "step": 2,
        "by": "valid/accuracy",
        "learned": {},
    }
    assert _keep_best({"learned": {}}, judged, {}, 2, run)["best"]["by"] == "valid/loss"
