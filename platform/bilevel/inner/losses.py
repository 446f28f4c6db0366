"""How is a loss of the user's own to be read: which labels does it want, and what does it give for them?

Asked of an example before anything runs, with the network's own outputs: a loss that is written for one task or for
many, that gives a number a sample or their mean, and that takes labels as a column or flat, is taken at its word. What
mixes samples that have nothing to do with each other is refused.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from bilevel.episodes import Batch
from bilevel.errors import BadInput
from bilevel.inner.rule import Loss, classes, masked_mean, metrics

Form = Literal["together", "rows", "each"]
"""It is given all tasks at once [tasks, samples, ...]; all their samples in one row; or one task after another."""

CLOSE = {"rtol": 1e-3, "atol": 1e-6, "equal_nan": True}
PROMISE = "it must give one number a sample, [samples], or one for the task, their mean"


@dataclass(frozen=True)
class Target:
    """The labels in the shape that a loss wants (like the prediction, flat, a column), and whether as floats."""

    shape: Literal["given", "like", "flat", "column"] = "given"
    floats: bool = False

    def __call__(self, prediction: Tensor, y: Tensor) -> Tensor:
        """`y` [tasks, samples, ...] so."""
        if self.shape == "like":
            y = y.reshape(prediction.shape)
        elif self.shape == "flat":
            y = y.reshape(y.shape[:2])
        elif self.shape == "column":
            y = y.unsqueeze(-1)
        return y.to(prediction.dtype) if self.floats else y


@dataclass(frozen=True)
class Reading:
    """A loss as it was understood on the example; `metric` is what else can be said of such predictions.

    `mapped`: one task after another may be vectorized, to the same values and derivatives; where nothing is padded.
    """

    loss: Loss
    form: Form
    target: Target
    metric: Literal["accuracy", "mae"] | None
    mapped: bool = False

    def judge(self, prediction: Tensor, batch: Batch) -> Tensor:
        """The mean loss of each task [tasks]; padded samples do not count.

        Raises:
            BadInput: the loss gives another shape than it did for the example.
        """
        y = self.target(prediction, batch.y)
        if self.form == "each" and self.mapped and batch.mask is None:
            means: Tensor = torch.vmap(lambda one, labels: self.loss(one, labels).mean())(prediction, y)
            return means
        if self.form == "each":
            kept: Sequence[Any] = [slice(None)] * len(prediction) if batch.mask is None else list(batch.mask)
            each = [self.loss(prediction[task][keep], y[task][keep]) for task, keep in enumerate(kept)]
            return torch.stack([value.mean() for value in each])
        try:
            values = _values(self.loss, self.form, prediction, y)
        except _Misfit as misfit:
            raise BadInput(f"rule.loss {misfit} for predictions {list(prediction.shape)}; {PROMISE}") from misfit
        return masked_mean(values.flatten(2).mean(2) if values.dim() > 2 else values, batch.mask)

    def metrics(self, prediction: Tensor, batch: Batch) -> dict[str, Tensor]:
        """`accuracy` or `mae` of each task [tasks], where the labels are such; labels below 0 are left out of it."""
        if self.metric is None:
            return {}
        y = batch.y
        if self.metric == "mae" or (y.dtype == torch.int64 and batch.mask is None and bool((y >= 0).all())):
            return metrics(prediction, Batch(batch.x, y if self.metric == "accuracy" else y.to(prediction), batch.mask))
        if y.dtype == torch.bool:  # several of them a sample: the share that is right
            right = ((prediction > 0) == y.reshape(prediction.shape)).to(prediction.dtype)
            return {"accuracy": masked_mean(right.flatten(2).mean(2), batch.mask)}
        counted = y >= 0 if batch.mask is None else batch.mask & (y >= 0)
        return {"accuracy": masked_mean((classes(prediction) == y).to(prediction.dtype), counted)}


class _Misfit(Exception):
    """A loss cannot be read so, and why."""


def read(loss: Loss, prediction: Tensor, y: Tensor) -> Reading:
    """How `loss` is to be read.

    Args:
        loss: the user's.
        prediction: a network's outputs for an example, [tasks, samples, ...], of at least two tasks that differ.
        y: its labels, [tasks, samples, ...].

    Raises:
        BadInput: it cannot be read; the message says what it gives, and what it should.
    """
    reasons: list[str] = []
    for target in _targets(prediction, y):
        for form, coupled in (("together", False), ("rows", False), ("each", True), ("together", True)):
            reading = Reading(loss, form, target, _metric(prediction, y))  # type: ignore[arg-type]
            try:
                _try(reading, prediction, y, coupled)
            except _Misfit as misfit:
                if form == "each":  # as most losses are meant
                    reasons.append(str(misfit))
            else:
                return replace(reading, mapped=form == "each" and _mappable(reading, prediction, y))
    shape, labels = list(prediction.shape[1:]), f"{str(y.dtype).removeprefix('torch.')} {list(y.shape[1:])}"
    raise BadInput(
        f"rule.loss: for predictions {shape} and labels {labels} it {reasons[0]}; {PROMISE}, such as F.cross_entropy "
        "or lambda p, y: (p - y.view_as(p)) ** 2"
    )


def check(reading: Reading, prediction: Tensor, y: Tensor) -> None:
    """Whether a loss can be read so of other tasks, too.

    Raises:
        BadInput: it cannot.
    """
    again = read(reading.loss, prediction, y)
    if replace(again, mapped=reading.mapped) != reading:
        raise BadInput(
            f"rule.loss: for labels {list(y.shape[1:])} it would be read otherwise than for those that it learns from; "
            "tasks of one study have labels of one kind"
        )


def _targets(prediction: Tensor, y: Tensor) -> Iterator[Target]:
    shapes: list[Literal["given", "like", "flat", "column"]] = ["given"]
    if y.shape != prediction.shape and y.numel() == prediction.numel():
        shapes.append("like")
    if y.dim() > 2 and math.prod(y.shape[2:]) == 1:
        shapes.append("flat")
    if y.dim() == 2 and y.numel() != prediction.numel():
        shapes.append("column")
    for floats in (False,) if y.is_floating_point() else (False, True):
        yield from (Target(shape, floats) for shape in shapes)


def _metric(prediction: Tensor, y: Tensor) -> Literal["accuracy", "mae"] | None:
    if y.is_floating_point() or (y.dtype == torch.bool and y.dim() > 2):
        if y.numel() != prediction.numel():
            return None
        return "mae" if y.is_floating_point() else "accuracy"
    if y.dim() != 2 or prediction.dim() != 3:
        return None
    if prediction.shape[2] == 1:
        return "accuracy" if int(y.max()) <= 1 else "mae"
    return "accuracy" if int(y.max()) < prediction.shape[2] else None


def _try(reading: Reading, prediction: Tensor, y: Tensor, coupled: bool) -> None:
    """Raises _Misfit where the loss cannot be read so; only a coupled one may look at several samples of a task."""
    leaf = prediction.detach().clone().requires_grad_()
    y = reading.target(leaf, y)
    samples = leaf.shape[1]
    if reading.form == "each":
        each = [_call(reading.loss, leaf[task], y[task], samples) for task in range(len(leaf))]
        for value in each:
            if value.dim() and len(value) != samples:
                raise _Misfit(f"gives {list(value.shape)}")
        total = torch.stack([value.mean() for value in each]).sum()
    else:
        values = _values(reading.loss, reading.form, leaf, y, samples)
        parts = [(slice(1, None), slice(None))]
        if not coupled:
            parts += [(slice(None), slice(samples // 2, None)), (slice(None), slice(samples - 1, None))]
        for part in parts:
            alone = _values(reading.loss, reading.form, leaf[part], y[part], samples)
            if alone.shape != values[part].shape or not torch.allclose(alone, values[part], **CLOSE):  # type: ignore[arg-type]
                raise _Misfit("gives another value for a sample when others are beside it")
        total = values.sum()
    slope = torch.autograd.grad(total, leaf, allow_unused=True)[0] if total.requires_grad else None
    if slope is None or not bool(slope.count_nonzero()):
        raise _Misfit("does not depend on the predictions (its gradient is 0)")


def _mappable(reading: Reading, prediction: Tensor, y: Tensor) -> bool:
    """Whether torch can vectorize a loss over tasks, exactly and to the second derivative."""
    found = []
    for mapped in (False, True):
        leaf = prediction.detach().clone().requires_grad_()
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # it is told so where it would fall back to a loop of its own
            try:
                means = replace(reading, mapped=mapped).judge(leaf, Batch(leaf, y))
                slope = torch.autograd.grad(means.sum(), leaf, create_graph=True)[0]
                bent = (
                    torch.autograd.grad((slope * leaf.detach().cos()).sum(), leaf)[0] if slope.requires_grad else slope
                )
            except Exception:  # noqa: BLE001  whatever a user's loss does that cannot be vectorized: the loop does it
                return False
        found.append((means.detach(), slope.detach(), bent.detach()))
    return all(torch.allclose(one, two, rtol=1e-4, atol=1e-6, equal_nan=True) for one, two in zip(*found, strict=True))


def _values(loss: Loss, form: Form, prediction: Tensor, y: Tensor, samples: int | None = None) -> Tensor:
    """The loss of each sample, [tasks, samples, ...]; raises _Misfit, or BadInput where no example is tried."""
    lead = prediction.shape[:2]
    if form == "rows":
        prediction, y = prediction.flatten(0, 1), y.flatten(0, 1)
    values = loss(prediction, y) if samples is None else _call(loss, prediction, y, samples)
    wanted = prediction.shape[: 1 if form == "rows" else 2]
    if not isinstance(values, Tensor) or values.shape[: len(wanted)] != wanted:
        raise _Misfit(f"gives {_shape(values)}")
    return values.view(*lead, *values.shape[1:]) if form == "rows" else values


def _call(loss: Loss, prediction: Tensor, y: Tensor, samples: int) -> Tensor:
    """The loss under watch: raises _Misfit for what it raises, and where every label meets every prediction."""
    with warnings.catch_warnings(record=True) as said, _Watch(samples) as watch:
        warnings.simplefilter("always")
        try:
            value = loss(prediction, y)
        except Exception as error:  # whatever a user's loss raises for labels in another shape
            first = (str(error).splitlines() or [""])[0]
            raise _Misfit(f"raises {type(error).__name__}: {first}") from error
    if watch.crossed or any("target size" in str(one.message) for one in said):
        raise _Misfit(
            f"sets every label beside every prediction (of [samples, 1] and [samples] torch makes {_shape(value)})"
        )
    if not isinstance(value, Tensor):
        raise _Misfit(f"gives a {type(value).__name__}")
    return value


def _shape(value: Any) -> str:
    return str(list(value.shape)) if isinstance(value, Tensor) else f"a {type(value).__name__}"


class _Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class has no types
    """Sees where two tensors of different ranks are both spread over each other along the samples."""

    def __init__(self, samples: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.samples = samples
        self.crossed = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        """`func`, looked at."""
        out = func(*args, **(kwargs or {}))
        pair = [value for value in args if isinstance(value, Tensor)][:2]
        if len(pair) == 2 and isinstance(out, Tensor) and self.samples > 1:
            low, high = sorted(pair, key=lambda tensor: tensor.dim())
            spread = 0 < low.dim() < high.dim() == out.dim() and out.shape not in (low.shape, high.shape)
            if spread and low.shape[-1] == self.samples and high.shape[-1] == 1 and out.shape[-1] == self.samples:
                self.crossed = True
        return out
