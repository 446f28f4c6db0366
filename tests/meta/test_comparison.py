"""Are a result's comparisons honest, on the same tasks, the same anywhere, and never in the way of the result?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from bilevel import Adam, Learned, Ray, Space, Study, run
from bilevel.episodes import Batch, Episode, Key, Split
from bilevel.inner import GradientDescent, baselines, classifiers
from bilevel.meta import units
from bilevel.nets import mlp
from bilevel.tasks import Grouped
from support.tiny import finished, maml


@dataclass(frozen=True)
class Rare:
    """Nine of ten samples are of class 0, and the features say nothing."""

    def episode(self, split: Split, key: Key) -> Episode:
        rng = key.child(split).numpy()
        x = torch.from_numpy(rng.standard_normal((30, 3))).float()
        y = torch.tensor([0] * 9 + [1] + [0] * 18 + [1] * 2)
        return Episode(Batch(x[:10], y[:10]), Batch(x[10:], y[10:]))


def classed(**changes: Any) -> Study:
    rule = Space(GradientDescent, init=Learned(mlp, by=Adam(1e-2)), lr=0.5, steps=2)
    return maml(**{"tasks": Rare(), "rule": rule, "test_episodes": 10} | changes)


def test_classes_out_of_balance_are_seen(tmp_path: Path) -> None:
    metrics = finished(tmp_path, classed()).metrics
    assert metrics["test/majority_accuracy"] == pytest.approx(0.9)
    assert metrics["test/majority_balanced_accuracy"] == 0.5
    for name in ("nearest_neighbour", "prototypes", "logistic_regression"):
        for kind in ("accuracy", "balanced_accuracy", "auc"):
            assert 0 <= metrics[f"test/{name}_{kind}"] <= 1
            assert metrics[f"test/{name}_{kind}_ci95"] >= 0
    assert 0 <= metrics["test/balanced_accuracy@2"] <= 1
    assert 0 <= metrics["test/auc@2"] <= 1
    assert "test/pooled_ridge_accuracy" not in metrics, "a class has another meaning in each task"


def liked() -> Grouped:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"user": np.repeat(np.arange(20), 12), "x": rng.normal(size=240)})
    frame["liked"] = np.where(frame["x"] + rng.normal(size=20)[frame["user"]] > 0, "yes", "no")
    return Grouped(frame, task="user", y="liked", classes=("no", "yes"))


@pytest.mark.filterwarnings("ignore:Grouped")
def test_a_table_of_classes_is_compared_with_models_of_all_its_rows(tmp_path: Path) -> None:
    metrics = finished(tmp_path, classed(tasks=liked(), episodes=24)).metrics
    for name in ("pooled_ridge", "pooled_ridge_with_support", "boosted_trees"):
        assert metrics[f"test/{name}_accuracy"] > 0.5


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Grouped")
def test_comparisons_are_the_same_on_workers(tmp_path: Path) -> None:
    study = classed(tasks=liked(), episodes=24)
    here = finished(tmp_path, study)
    there = run(study, on=Ray(workers=1), store=tmp_path, track="none")
    assert dict(there.metrics) == dict(here.metrics)
    assert there.fingerprint == here.fingerprint


def broken(*_: Any) -> Any:
    raise ZeroDivisionError("by hand")


def test_what_fails_in_a_comparison_is_a_warning_and_the_run_completes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(classifiers, "CLASSIFIERS", {"prototypes": broken, "majority": classifiers.majority})
    with pytest.warns(UserWarning, match=r"\(prototypes\) failed and is left out: ZeroDivisionError: by hand"):
        result = finished(tmp_path, classed())
    assert result.status == "completed"
    assert "test/majority_accuracy" in result.metrics
    assert "test/accuracy@2" in result.metrics


def test_an_older_baseline_that_fails_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(units, "baselines", broken)
    with pytest.warns(UserWarning, match="left out of the test: the baselines: ZeroDivisionError: by hand"):
        result = finished(tmp_path)
    assert result.status == "completed"
    assert "test/mae@1" in result.metrics
    assert "test/ridge_mae" not in result.metrics


def test_training_tasks_that_cannot_be_drawn_cost_only_the_comparison(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Poor:
        """Its training tasks are those of the training's own keys."""

        def episode(self, split: Split, key: Key) -> Episode:
            x = torch.from_numpy(key.child(split).numpy().standard_normal((8, 1))).float()
            if Key(()).child("pooled").path[0] in key.path:
                raise OSError("gone")
            return Episode(Batch(x[:4], x[:4]), Batch(x[4:], x[4:]))

    with pytest.warns(UserWarning, match="all tasks' rows.* failed and is left out: OSError: gone"):
        result = finished(tmp_path, maml(tasks=Poor()))
    assert result.status == "completed"


def test_labels_of_a_tables_own_kind_do_not_end_the_older_baselines() -> None:
    """`linalg.solve` and `cdist` take floats alone, and labels as they come are not."""
    x = torch.randn(1, 4, 2)
    for y in (torch.tensor([[0, 1, 1, 0]], dtype=torch.int32), torch.tensor([[True, False, True, True]])):
        found = baselines.baselines(Episode(Batch(x, y), Batch(x, y)))
        assert found
    half = x.bfloat16()
    assert baselines.baselines(Episode(Batch(half, half), Batch(half, half)))["ridge_mae"].isfinite().all()
