"""Do figures show what the history says?"""

from __future__ import annotations

import io
import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import same_color
from matplotlib.figure import Figure
from torch import Tensor

from bilevel.figures import History, adaptation, draw, exhibit, learning_curve
from bilevel.figures.curves import _chance
from bilevel.figures.style import GREEN, VERMILLION


def reports(steps: int, last: dict[str, float] | None = None) -> dict[int, list[tuple[int, dict[str, float]]]]:
    """One trial with a known loss, validated every tenth step."""
    made = []
    for step in range(1, steps + 1):
        metrics = {"train/loss": 10.0 / step, "train/accuracy": 1 - 1 / step}
        if step % 10 == 0:
            metrics |= {"valid/loss": 20.0 / step}
        made.append((step, metrics | (last or {} if step == steps else {})))
    return {0: made}


def judged(steps: int) -> dict[str, float]:
    found = {}
    for k in range(steps + 1):
        found |= {f"test/accuracy@{k}": 0.2 + 0.1 * k, f"test/accuracy_ci95@{k}": 0.02, f"test/loss@{k}": 2.0 / (k + 1)}
        found |= {f"test/20w1s/accuracy@{k}": 0.1, f"test-support/accuracy@{k}": 0.15}
    return {**found, "test/nearest_neighbour_accuracy": 0.34, "test/nearest_neighbour_accuracy_ci95": 0.01}


def texts(figure: Figure) -> list[str]:
    """All that can be read in a figure, its parts' included."""
    return [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]


def line(figure: Figure, label: str) -> np.ndarray:
    found = [each for axis in figure.axes for each in axis.lines if each.get_label() == label]
    assert found, [each.get_label() for axis in figure.axes for each in axis.lines]
    return np.asarray(found[0].get_xydata())


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=50)
    return buffer.getvalue()


def test_learning_curve_holds_the_reported_values_on_a_log_scale() -> None:
    figure = learning_curve(History(reports(100), "valid/loss"))
    assert figure is not None
    assert figure.axes[0].get_yscale() == "log"
    assert all(float(place).is_integer() for place in figure.axes[0].get_xticks())  # steps are whole
    assert figure.axes[0].get_xlabel() == "outer step"
    assert np.allclose(line(figure, "train/loss"), [(step, 10 / step) for step in range(1, 101)])
    assert np.allclose(line(figure, "valid/loss"), [(step, 20 / step) for step in range(10, 101, 10)])


def test_a_long_curve_is_drawn_by_medians_and_says_so() -> None:
    figure = learning_curve(History({0: [(step, {"train/loss": 5.0}) for step in range(1, 6001)]}))
    assert figure is not None
    middle = line(figure, "train/loss (medians of 20 steps)")
    assert middle.shape == (300, 2)
    assert (middle[:, 1] == 5.0).all()


def test_adaptation_shows_each_source_its_interval_and_the_baseline() -> None:
    figure = adaptation(History(reports(20, judged(5)), chance=0.2))
    assert figure is not None
    accuracy = figure.axes[0]
    assert np.allclose(line(figure, "test tasks"), [(k, 0.2 + 0.1 * k) for k in range(6)])
    assert {"test tasks", "20w1s", "test tasks, support statistics"} <= {each.get_label() for each in accuracy.lines}
    assert {"nearest neighbour", "chance"} <= {text.get_text() for text in accuracy.texts}
    band = accuracy.collections[0].get_paths()[0].vertices
    assert np.isclose(np.ptp(band[band[:, 0] == 0.0][:, 1]), 0.04)


def test_one_adaptation_result_is_a_point_with_its_interval() -> None:
    figure = adaptation(History({0: [(9, {"test/loss@1": 0.3, "test/loss_ci95@1": 0.1})]}))
    assert figure is not None
    assert png(figure).startswith(b"\x89PNG")


def test_nothing_is_drawn_of_nothing() -> None:
    assert draw(History()) == {}
    assert list(draw(History({0: [(1, {"loss": 1.0})]}, metric="loss"))) == ["learning_curve"]


def test_values_that_are_not_finite_are_left_out() -> None:
    figure = learning_curve(History({0: [(1, {"train/loss": 2.0}), (2, {"train/loss": math.nan})]}))
    assert figure is not None
    assert line(figure, "train/loss").tolist() == [[1.0, 2.0]]


def task(x: Tensor, y: Tensor, predictions: Tensor, **more: Tensor) -> dict[str, object]:
    batch = {"x": x, "y": y, **more}
    return {"support": batch, "query": batch, "predictions": predictions}


def test_curves_of_one_variable_show_truth_and_fit_in_order_of_x() -> None:
    x = torch.tensor([[[2.0], [0.0], [1.0]]])
    figure = exhibit(task(x, 2 * x, torch.stack([0 * x, 2 * x], 1)))
    assert line(figure, "truth").tolist() == [[0, 0], [1, 2], [2, 4]]
    assert line(figure, "after 1 step").tolist() == [[0, 0], [1, 2], [2, 4]]
    assert line(figure, "before adaptation")[:, 1].tolist() == [0, 0, 0]
    assert any("mean squared error 6.7 → 0" in text for text in texts(figure))


@pytest.mark.parametrize("channels", [1, 3])
def test_letters_are_framed_by_whether_they_were_read(channels: int) -> None:
    x, y = torch.rand(1, 2, channels, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([[0, 1]])
    before = torch.tensor([[0.0, 1.0], [0.0, 1.0]])  # reads B, B
    after = torch.tensor([[1.0, 0.0], [0.0, 1.0]])  # reads A, B
    figure = exhibit(task(x, y, torch.stack([before, after]).unsqueeze(0)))
    titles = [(axis.get_title(), axis.spines["left"].get_edgecolor()) for axis in figure.axes]
    marked = [(title, color) for title, color in titles if not title.startswith("this is")]
    assert [title for title, _ in marked] == ["B ✗", "B ✓", "A ✓", "B ✓"]
    assert [same_color(color, VERMILLION) for _, color in marked] == [True, False, False, False]
    assert [same_color(color, GREEN) for _, color in marked] == [False, True, True, True]
    assert {"before adaptation: 50% of 2 right", "after 1 step: 100% of 2 right"} <= set(texts(figure))


def test_a_table_is_shown_as_predicted_against_true_without_padding() -> None:
    x, y = torch.zeros(1, 3, 4), torch.tensor([[[1.0], [2.0], [99.0]]])
    mask = torch.tensor([[True, True, False]])
    figure = exhibit(task(x, y, torch.stack([y + 1, y], 1), mask=mask))
    assert [axis.get_title() for axis in figure.axes] == [
        "before adaptation: mean absolute error 1",
        "after 1 step: mean absolute error 0",
    ]
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[1, 2], [2, 3]]


@pytest.mark.parametrize("labels", [torch.tensor([[0, 1]]), torch.tensor([[[0.0], [1.0]]])])
def test_one_logit_is_shown_as_the_probability_of_the_true_class(labels: Tensor) -> None:
    logits = torch.tensor([[[[0.0], [0.0]], [[-1.0], [1.0]]]])
    figure = exhibit(task(torch.zeros(1, 2, 5), labels, logits))
    sure = 1 / (1 + math.exp(-1))
    assert np.allclose(figure.axes[0].lines[0].get_xydata(), [[0.5, sure], [0.5, sure]])


def test_every_figure_can_be_written() -> None:
    x = torch.linspace(-1, 1, 6).reshape(1, 6, 1)
    shown = task(x, x**2, torch.stack([0 * x, x, x**2], 1))
    drawn = draw(History(reports(50, judged(2)), "valid/loss", shown))
    assert list(drawn) == ["learning_curve", "adaptation", "exhibit"]
    for figure in drawn.values():
        assert png(figure).startswith(b"\x89PNG")


def test_one_test_group_has_no_interval_and_is_drawn_without_a_warning() -> None:
    last = {f"test/loss@{k}": 2.0 / (k + 1) for k in range(3)} | {f"test/loss_ci95@{k}": math.inf for k in range(3)}
    last |= {"test/mae@0": 2.0, "test/mae@1": 1.0, "test/ridge_mae": 1.5, "test/ridge_mae_ci95": math.inf}
    figure = adaptation(History(reports(10, last), "valid/loss"))
    assert figure is not None
    assert png(figure)


def test_a_baselines_balanced_accuracy_is_not_taken_for_its_accuracy() -> None:
    figure = adaptation(
        History(reports(10, judged(2) | {"test/majority_balanced_accuracy": 0.5, "test/majority_auc": 0.5}))
    )
    assert figure is not None
    assert not [text for text in texts(figure) if text.startswith("majority")]


@pytest.mark.parametrize(("outputs", "classes", "chance"), [(10, 3, 1 / 3), (5, 5, 1 / 5), (1, 2, 1 / 2)])
def test_chance_is_that_of_the_tasks_classes_not_of_the_networks_outputs(
    outputs: int, classes: int, chance: float
) -> None:
    y = torch.arange(6).remainder(classes).expand(2, 6)
    shown = {"support": {"y": y}, "query": {"y": y}, "predictions": torch.zeros(2, 3, 6, outputs)}
    history: Any = SimpleNamespace(chance=None, exhibit=shown)
    assert _chance(history) == pytest.approx(chance)
