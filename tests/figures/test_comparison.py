"""Is it said, in one line, when something simpler is better, and only then?"""

from __future__ import annotations

import pytest

from bilevel.figures.comparison import verdict

OURS = {"test/accuracy@0": 0.5, "test/accuracy@3": 0.914, "test/accuracy_ci95@3": 0.004}


def test_the_best_baseline_is_named_with_the_gap_and_what_to_try() -> None:
    more = {"test/majority_accuracy": 0.933, "test/majority_accuracy_ci95": 0.004, "test/prototypes_accuracy": 0.92}
    said = verdict(OURS | more)
    assert said is not None
    assert said.startswith("the majority of the support is better than what was learned: 93.3 % against 91.4 % right")
    assert "(1.9 points more); classes are out of balance" in said
    assert "\n" not in said


def test_what_may_be_chance_is_said_to_be() -> None:
    more = {"test/prototypes_accuracy": 0.916, "test/prototypes_accuracy_ci95": 0.004}
    assert "it may be chance" in str(verdict(OURS | more))


def test_errors_are_the_better_the_smaller() -> None:
    metrics = {"test/mae@0": 9.0, "test/mae@10": 5.0, "test/mae_ci95@10": 0.1}
    said = verdict(metrics | {"test/boosted_trees_mae": 4.0, "test/boosted_trees_mae_ci95": 0.1, "test/ridge_mae": 7.0})
    assert said is not None
    assert said.startswith("boosted trees over all tasks, with the support's statistics")
    assert "an absolute error of 4 against 5 (20 % less)" in said


@pytest.mark.parametrize(
    "metrics",
    [
        {},
        {"loss": 1.0},
        OURS,
        OURS | {"test/majority_accuracy": 0.9, "test/prototypes_balanced_accuracy": 0.99},
        OURS | {"test/far/majority_accuracy": 0.99},
        OURS | {"test/majority_accuracy": None},
        OURS | {"test/accuracy@3": None, "test/majority_accuracy": 0.9},
        {"test/mae@1": 1.0, "test/ridge_mae": 1.5},
    ],
)
def test_otherwise_nothing_is_said(metrics: dict[str, float | None]) -> None:
    assert verdict(metrics) is None
