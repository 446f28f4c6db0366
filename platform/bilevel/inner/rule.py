"""What must an inner rule offer, and how are predictions judged?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from bilevel.episodes import Batch, Episode, Key
from bilevel.errors import BadInput
from bilevel.inner.labels import Labels
from bilevel.traits import Trait, Traits

Loss = Callable[[Tensor, Tensor], Tensor]
"""`loss(prediction [samples, outputs], y [samples, ...])`: a number for each sample, or one, their mean. With one more
axis [tasks, ...] in front of each it is called once for all tasks."""

POSITIVE = {"positive": True}
"""Metadata of a field that must stay positive: learned, it is moved in log-space."""


class Rule(Protocol):
    """How a model adapts to a task: a frozen dataclass of meta-parameters with two pure functions over many tasks.

    Fields that are `Learned` in the study arrive in `meta` by name: a network's weights as {name: tensor}, a number as
    a tensor, or as {name: tensor} where it is learned per tensor; the field itself then holds the `batched.Network` (or
    the number that it started from). Tensors of episodes have a leading axis [tasks, ...]. `keys`, one a task, are for
    the rule's own randomness (dropout); None means evaluation: no randomness.
    """

    @property
    def steps(self) -> int:
        """Inner steps of a training episode."""
        ...

    def adapt(self, meta: Mapping[str, Any], support: Any, keys: Sequence[Key] | None) -> Iterator[Any]:
        """The adapted states after 0, 1, 2, ... steps, without end."""
        ...

    def evaluate(self, adapted: Any, query: Any, keys: Sequence[Key] | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The query loss [tasks] that the outer loop descends, and further metrics by name, each [tasks]."""
        ...


class RuleTraits(Traits):
    """What a rule may have beside that."""

    normalization = Trait[Literal["batch", "support"] | None](None)
    """Where batch normalisation takes its statistics from when queries are judged, if it can be chosen."""
    predict = Trait[Callable[..., Tensor] | None](None)
    """`predict(adapted, x, keys=None)`: [tasks, samples, outputs], for figures."""
    module = Trait[Callable[[Any], Any] | None](None)
    """`module(adapted)`: what was adapted to one task, as a plain `nn.Module`, for `load().adapt`."""
    order = Trait[int](2)
    """2: it differentiates through its own steps; 1: each step is a constant, and its network needs no second one."""


@runtime_checkable
class Scoring(Protocol):
    """A rule that takes a network's outputs for scores (or values) of the labels; any other rule is not checked so."""

    def fitted(self, example: Episode, labels: Labels) -> Scoring:
        """The rule as it judges such tasks.

        Raises:
            BadInput: its network's outputs, its loss and the labels do not go together.
        """
        ...


def judge(loss: Loss | None, prediction: Tensor, batch: Batch) -> Tensor:
    """Mean loss of each task [tasks]; by default cross-entropy for class labels (of one logit: binary), else squared.

    Shapes: prediction [tasks, samples, outputs]; padded samples (`batch.mask` False) do not count.
    """
    each = (loss or _loss_for)(prediction, batch.y)
    if each.shape != prediction.shape[:2]:
        raise BadInput(
            f"rule.loss gives {list(each.shape)} for predictions {list(prediction.shape)} of [tasks, samples, ...]; "
            "it must give one number a sample, [tasks, samples]"
        )
    return masked_mean(each, batch.mask)


def metrics(prediction: Tensor, batch: Batch) -> dict[str, Tensor]:
    """`accuracy` (0-1) for classes, `mae` (mean absolute error) for regression, each [tasks]."""
    if batch.y.dtype == torch.int64:
        return {"accuracy": masked_mean((classes(prediction) == batch.y).to(prediction.dtype), batch.mask)}
    gap = (prediction - _like(prediction, batch.y)).abs().flatten(2).mean(2)
    return {"mae": masked_mean(gap, batch.mask)}


def classes(prediction: Tensor) -> Tensor:
    """The predicted class [..., samples] of scores [..., samples, outputs]; one output is the logit of class 1."""
    return (prediction[..., 0] > 0).long() if prediction.shape[-1] == 1 else prediction.argmax(-1)


def _loss_for(prediction: Tensor, y: Tensor) -> Tensor:
    if y.dtype != torch.int64:
        return (prediction - _like(prediction, y)).square().flatten(2).mean(2)
    _check_classes(y, max(2, prediction.shape[-1]))
    if prediction.shape[-1] == 1:
        return F.binary_cross_entropy_with_logits(prediction[..., 0], y.to(prediction.dtype), reduction="none")
    return -F.log_softmax(prediction, -1).gather(-1, y.unsqueeze(-1)).squeeze(-1)


def _check_classes(y: Tensor, count: int) -> None:
    if y.device.type != "cpu" or not y.numel():  # a look at numbers would hold a card up; torch refuses them there, too
        return
    low, high = (int(value) for value in torch.aminmax(y))
    if low < 0 or high >= count:
        raise BadInput(
            f"labels {low} to {high}, but the network tells classes 0 to {count - 1} apart; say how many there are in "
            "the tasks' attribute `classes` (not every episode shows them all), or leave out samples of label -100 "
            "with loss=F.cross_entropy"
        )


def _like(prediction: Tensor, y: Tensor) -> Tensor:
    return y.to(prediction.dtype).reshape(prediction.shape)


def masked_mean(values: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over the samples [tasks, samples] -> [tasks]."""
    if mask is None:
        return values.mean(1)
    weight = mask.to(values.dtype)
    return torch.where(mask, values, 0).sum(1) / weight.sum(1)
