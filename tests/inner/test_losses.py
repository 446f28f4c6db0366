"""Is a loss of one's own taken for what it says: torch's value task by task, or refused with the cure?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bilevel.episodes import Batch
from bilevel.errors import BadInput
from bilevel.inner.losses import Reading, Target, check, read

TASKS = 4
Mean = Callable[[Tensor, Tensor], Tensor]


def drawn(samples: int, *outputs: int) -> Tensor:
    return torch.randn(TASKS, samples, *outputs, generator=torch.Generator().manual_seed(samples))


def whole(most: int, samples: int, *shape: int) -> Tensor:
    return torch.randint(0, most, (TASKS, samples, *shape), generator=torch.Generator().manual_seed(samples + 1))


def same(reading: Reading, mean: Mean, prediction: Tensor, y: Tensor) -> None:
    """Values and slopes are those of the mean that torch gives for one task after another."""
    leaf = prediction.clone().requires_grad_()
    found = reading.judge(leaf, Batch(torch.zeros(()), y))
    wanted = torch.stack([mean(leaf[task], y[task]) for task in range(TASKS)])
    assert found.shape == (TASKS,)
    assert torch.allclose(found, wanted, rtol=1e-5, atol=1e-6)
    slopes = [torch.autograd.grad(value.sum(), leaf)[0] for value in (found, wanted)]
    assert torch.allclose(*slopes, rtol=1e-4, atol=1e-6)


CLASSES: dict[str, tuple[Any, Mean]] = {
    "function": (F.cross_entropy, F.cross_entropy),
    "none": (partial(F.cross_entropy, reduction="none"), F.cross_entropy),
    "sum": (partial(F.cross_entropy, reduction="sum"), partial(F.cross_entropy, reduction="sum")),
    "module": (nn.CrossEntropyLoss(), F.cross_entropy),
    "smooth": (nn.CrossEntropyLoss(label_smoothing=0.1), nn.CrossEntropyLoss(label_smoothing=0.1)),
    "weights": (nn.CrossEntropyLoss(weight=torch.tensor([1.0, 2.0, 5.0])),) * 2,
    "lambda": (lambda p, y: F.cross_entropy(p, y), F.cross_entropy),
    "nll": (lambda p, y: F.nll_loss(F.log_softmax(p, -1), y), F.cross_entropy),
    "margin": (nn.MultiMarginLoss(), F.multi_margin_loss),
    "ours": (lambda p, y: -torch.log_softmax(p, -1).gather(-1, y.unsqueeze(-1)).squeeze(-1), F.cross_entropy),
    "one hot": (lambda p, y: ((p - F.one_hot(y, 3)) ** 2).sum(-1),
                lambda p, y: ((p - F.one_hot(y, 3)) ** 2).sum(-1).mean()),
}  # fmt: skip


@pytest.mark.parametrize("samples", [3, 5], ids=["as many as classes", "more"])
@pytest.mark.parametrize("name", CLASSES)
def test_losses_of_classes_are_torchs(name: str, samples: int) -> None:
    loss, mean = CLASSES[name]
    prediction, y = drawn(samples, 3), whole(3, samples)
    reading = read(loss, prediction, y)
    same(reading, mean, prediction, y)
    assert reading.metric == "accuracy"


NUMBERS: dict[str, tuple[Any, Mean]] = {
    "mse": (F.mse_loss, F.mse_loss),
    "mse none": (partial(F.mse_loss, reduction="none"), F.mse_loss),
    "l1": (nn.L1Loss(), F.l1_loss),
    "huber": (nn.HuberLoss(delta=0.5), nn.HuberLoss(delta=0.5)),
    "smooth": (partial(F.smooth_l1_loss, reduction="none"), F.smooth_l1_loss),
    "square": (lambda p, y: (p - y) ** 2, F.mse_loss),
    "mean": (lambda p, y: ((p - y) ** 2).mean(), F.mse_loss),
    "ours": (lambda p, y: (p - y).square().flatten(2).mean(2), F.mse_loss),
    "logcosh": (lambda p, y: torch.log(torch.cosh(p - y)), lambda p, y: torch.log(torch.cosh(p - y)).mean()),
}


@pytest.mark.parametrize("outputs", [1, 3])
@pytest.mark.parametrize("samples", [3, 6])
@pytest.mark.parametrize("name", NUMBERS)
def test_losses_of_numbers_are_torchs(name: str, samples: int, outputs: int) -> None:
    loss, mean = NUMBERS[name]
    prediction, y = drawn(samples, outputs), drawn(samples, outputs).flip(1) + 0.5
    reading = read(loss, prediction, y)
    same(reading, mean, prediction, y)
    assert reading.metric == "mae"


@pytest.mark.parametrize("loss", [lambda p, y: (p - y) ** 2, F.mse_loss, nn.L1Loss(reduction="none"), F.huber_loss])
def test_a_column_of_predictions_and_flat_labels_are_lined_up(loss: Any) -> None:
    """Of [n, 1] and [n] torch makes [n, n]: every label beside every prediction."""
    prediction, y = drawn(6, 1), drawn(6) + 1
    value = read(loss, prediction, y).judge(prediction, Batch(torch.zeros(()), y))
    wanted = read(loss, prediction, y.unsqueeze(-1)).judge(prediction, Batch(torch.zeros(()), y.unsqueeze(-1)))
    assert torch.allclose(value, wanted)


@pytest.mark.parametrize(
    ("loss", "mean"),
    [
        (lambda p, y: F.mse_loss(p.squeeze(-1), y), lambda p, y: F.mse_loss(p, y)),
        (lambda p, y: (p[..., 0] - y) ** 2, lambda p, y: F.mse_loss(p, y)),
    ],
)
def test_flat_predictions_and_a_column_of_labels_are_lined_up(loss: Any, mean: Mean) -> None:
    prediction, y = drawn(6, 1), drawn(6, 1) + 1
    same(read(loss, prediction, y), mean, prediction, y)


@pytest.mark.parametrize("loss", [F.binary_cross_entropy_with_logits, nn.BCEWithLogitsLoss()])
@pytest.mark.parametrize("shape", [(), (1,), (4,)], ids=["flat", "column", "several"])
@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.float32])
def test_logits_take_marks_of_any_type(loss: Any, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    prediction, y = drawn(6, *shape or (1,)), whole(2, 6, *shape).to(dtype)
    same(read(loss, prediction, y), lambda p, y: loss(p, y.float().view_as(p)), prediction, y)


def test_two_outputs_for_one_label() -> None:
    """A mean and its spread; quantiles."""

    def gauss(p: Tensor, y: Tensor) -> Tensor:
        return F.gaussian_nll_loss(p[..., :1], y, p[..., 1:].exp())

    def flat(p: Tensor, y: Tensor) -> Tensor:
        return F.gaussian_nll_loss(p[..., 0], y, p[..., 1].exp(), reduction="none")

    def pinball(p: Tensor, y: Tensor) -> Tensor:
        level = torch.tensor([0.1, 0.5, 0.9])
        return torch.maximum(level * (y - p), (level - 1) * (y - p))

    prediction, y = drawn(6, 2), drawn(6, 1) + 1
    for loss in (gauss, flat):
        reading = read(loss, prediction, y)
        same(reading, gauss, prediction, y)
        assert reading.metric is None, "two numbers are no guess of one"
        assert reading.metrics(prediction, Batch(torch.zeros(()), y)) == {}
    same(read(pinball, drawn(6, 3), y), lambda p, y: pinball(p, y).mean(), drawn(6, 3), y)
    same(read(pinball, drawn(6, 3), y[..., 0]), lambda p, y: pinball(p, y[:, None]).mean(), drawn(6, 3), y[..., 0])


def test_left_out_labels_and_labels_of_each_step() -> None:
    prediction, y = drawn(6, 3), whole(3, 6)
    y[:, ::2] = -100
    reading = read(F.cross_entropy, prediction, y)
    same(reading, F.cross_entropy, prediction, y)
    right = (prediction.argmax(-1) == y)[:, 1::2].float().mean(1)
    assert torch.equal(reading.metrics(prediction, Batch(torch.zeros(()), y))["accuracy"], right)
    series, marks = drawn(6, 3, 5), whole(3, 6, 5)  # [samples, classes, steps], [samples, steps]
    same(read(F.cross_entropy, series, marks), F.cross_entropy, series, marks)


def test_counts_and_shares_of_classes() -> None:
    counts = whole(9, 6)
    reading = read(F.poisson_nll_loss, drawn(6, 1), counts)
    same(reading, lambda p, y: F.poisson_nll_loss(p, y.view_as(p).float()), drawn(6, 1), counts)
    assert reading.metric == "mae"
    shares = drawn(6, 3).softmax(-1)
    same(read(F.cross_entropy, drawn(3, 3), shares[:, :3]), F.cross_entropy, drawn(3, 3), shares[:, :3])


@pytest.mark.parametrize(
    "loss", [F.mse_loss, partial(F.mse_loss, reduction="none"), lambda p, y: (p - y).square().sum(-1)]
)
def test_padded_samples_do_not_count(loss: Any) -> None:
    prediction, y = drawn(6, 2), drawn(6, 2) + 1
    mask = torch.arange(6).expand(TASKS, -1) < torch.tensor([[6], [3], [1], [4]])
    found = read(loss, prediction, y).judge(prediction, Batch(torch.zeros(()), y, mask))
    for task, kept in enumerate(mask):
        alone = loss(prediction[task][kept], y[task][kept]).mean()
        assert torch.allclose(found[task], alone)


def test_several_marks_have_a_share_that_is_right() -> None:
    prediction, y = drawn(6, 4), whole(2, 6, 4).bool()
    found = read(F.binary_cross_entropy_with_logits, prediction, y).metrics(prediction, Batch(torch.zeros(()), y))
    assert torch.allclose(found["accuracy"], ((prediction > 0) == y).float().mean((1, 2)))


@pytest.mark.parametrize(
    ("loss", "outputs", "match"),
    [
        (lambda p, y: (p - y)[..., :2, :].sum(-1), 1, r"it gives \[2\]; it must give one number a sample"),
        (lambda p, y: 1.0, 1, "it gives a float; it must give"),
        (lambda p, y: p.detach().mean(), 1, "it does not depend on the predictions"),
        (lambda p, y: F.cross_entropy(p, y), 1, "it does not depend on the predictions"),
        (nn.GaussianNLLLoss(), 2, r"predictions \[6, 2\] and labels float32 \[6, 1\] it raises TypeError: .*'var'"),
        (lambda p, y: p[:, :1] - y.flatten(), 2, "it sets every label beside every prediction"),
        (F.mse_loss, 2, "predictions .* it sets every label beside"),
    ],
    ids=["two of six", "no tensor", "detached", "one class", "three arguments", "crossed", "wider"],
)
def test_what_keeps_no_promise_is_refused(loss: Any, outputs: int, match: str) -> None:
    with pytest.raises(BadInput, match=f"rule.loss: .*{match}"):
        read(loss, drawn(6, outputs), drawn(6, 1) + 1)


def test_a_mean_is_vectorized_where_torch_can_and_looped_where_it_cannot() -> None:
    def branching(p: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(p, y) if float(p.sum()) > 0 else 2 * F.cross_entropy(p, y)

    prediction, y = drawn(5, 3), whole(3, 5)
    plain, odd = read(F.cross_entropy, prediction, y), read(branching, prediction, y)
    assert (plain.mapped, odd.mapped) == (True, False)
    same(odd, branching, prediction, y)
    padded = Batch(torch.zeros(()), y, torch.tensor([True, True, False, True, False]).expand(TASKS, -1))
    wanted = torch.stack([F.cross_entropy(p[[0, 1, 3]], one[[0, 1, 3]]) for p, one in zip(prediction, y, strict=True)])
    assert torch.allclose(plain.judge(prediction, padded), wanted)


def test_tasks_whose_labels_are_read_otherwise_are_refused() -> None:
    reading = read(F.mse_loss, drawn(6, 1), drawn(6, 1) + 1)
    check(reading, drawn(4, 1), drawn(4, 1) + 1)
    with pytest.raises(BadInput, match="it would be read otherwise than for those that it learns from"):
        check(reading, drawn(4, 1), drawn(4) + 1)


def test_a_loss_that_gives_another_shape_later_is_named() -> None:
    reading = Reading(lambda p, y: (p - y).sum(), "together", Target(), None)
    with pytest.raises(BadInput, match=r"rule.loss gives \[\] for predictions \[4, 6, 2\]"):
        reading.judge(drawn(6, 2), Batch(torch.zeros(()), drawn(6, 2)))
