"""How does gradient descent adapt a network to each of many tasks at once?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn

from bilevel.batched import Network, Statistics
from bilevel.episodes import Batch, Episode, Key
from bilevel.errors import BadInput
from bilevel.inner.fits import fit
from bilevel.inner.labels import Labels
from bilevel.inner.losses import Reading
from bilevel.inner.rule import POSITIVE, Loss, judge, metrics

Weights = dict[str, Tensor]
"""Trainable tensors by name, each [tasks, *shape]."""


@dataclass(frozen=True)
class Adapted:
    """Weights after some steps, and the support set that they were adapted on."""

    weights: Weights
    support: Batch


@dataclass(frozen=True, kw_only=True)
class GradientDescent:
    """Some steps of gradient descent on the support loss (MAML: Finn et al. 2017, eq. 1; first order: section 5.2).

    Args:
        init: the network that is learned: `Learned(factory, by=...)`.
        lr: step size, one number or `Learned`; learned `per="tensor"` there is one for each tensor of the network.
        steps: inner steps of a training episode, at least 1.
        order: 2 differentiates through the steps; 1 takes each step for a constant.
        normalization: where batch normalisation takes its statistics from when queries are judged: "batch" (the queries
            at hand, as Finn et al.; transductive) or "support" (the support set, under the adapted weights; then one
            query at a time gives the same answer as all at once). A normalisation that the network keeps in eval mode
            is frozen: it uses its running statistics, whatever this says.
        proximal: strength of a pull `proximal / 2 * |w - init|^2` towards the start (Rajeswaran et al. 2019, eq. 3).
        loss: `loss(prediction, y)`, a number for each sample or their mean: torch's (`F.cross_entropy`,
            `nn.HuberLoss()`) or one of your own, tried on an example; by default cross-entropy for classes, squared
            error otherwise. How many outputs there are, and what they mean, is for the loss to say.
    """

    init: Any
    lr: float = field(default=0.01, metadata=POSITIVE)
    steps: int = 1
    order: Literal[1, 2] = 2
    normalization: Literal["batch", "support"] = "batch"
    proximal: float = 0.0
    loss: Loss | Reading | None = None

    def __post_init__(self) -> None:
        if isinstance(self.lr, int | float) and not 0 < self.lr < float("inf"):
            raise BadInput(f"GradientDescent: lr is {self.lr}; a step size is a positive number, such as 0.01")
        if self.steps < 1:
            raise BadInput(f"GradientDescent: steps is {self.steps}; adapting takes at least 1")
        if self.proximal < 0:
            raise BadInput(f"GradientDescent: proximal is {self.proximal}; it takes 0 or more")

    def adapt(self, meta: Mapping[str, Any], support: Batch, keys: Sequence[Key] | None) -> Iterator[Adapted]:
        """The network after 0, 1, 2, ... steps on each task's support set.

        Differentiable in `meta` where its tensors require gradients; otherwise each state stands for itself.
        """
        tasks = len(support.y)
        learning = any(tensor.requires_grad for tensor in _tensors(meta))
        start = self.init.spread(meta["init"], tasks)
        rates = _rates(meta.get("lr", self.lr), start)
        weights = start
        while True:
            weights = {
                name: weight if learning and weight.requires_grad else weight.detach().requires_grad_()
                for name, weight in weights.items()
            }
            yield Adapted(weights, support)
            slopes = self._slopes(weights, start, support, keys, exact=learning and self.order == 2)
            weights = {name: _step(weight, rates[name], slopes[name]) for name, weight in weights.items()}

    def _slopes(
        self, weights: Weights, start: Weights, support: Batch, keys: Sequence[Key] | None, *, exact: bool
    ) -> Weights:
        with torch.enable_grad():
            loss = self._judge(self.init(weights, support.x, training=keys is not None, keys=keys), support).sum()
            slopes = torch.autograd.grad(
                loss, list(weights.values()), create_graph=exact, allow_unused=True, materialize_grads=True
            )
        if not self.proximal:
            return dict(zip(weights, slopes, strict=True))
        pull = {name: self.proximal * (weight - start[name]) for name, weight in weights.items()}
        if not exact:
            pull = {name: tensor.detach() for name, tensor in pull.items()}
        return {name: slope + pull[name] for name, slope in zip(weights, slopes, strict=True)}

    def predict(self, adapted: Adapted, x: Tensor, keys: Sequence[Key] | None = None) -> Tensor:
        """Scores [tasks, samples, outputs] for `x` [tasks, samples, *shape]."""
        network: Network = self.init
        training = keys is not None
        if self.normalization == "batch" or not network.normalizes:
            return network(adapted.weights, x, training=training, keys=keys)
        statistics = Statistics()
        network(adapted.weights, adapted.support.x, training=training, keys=keys, record=statistics)
        return network(adapted.weights, x, training=training, keys=keys, use=statistics)

    def evaluate(self, adapted: Adapted, query: Batch, keys: Sequence[Key] | None) -> tuple[Tensor, dict[str, Tensor]]:
        """Query loss [tasks] and metrics (`accuracy` or `mae`), each [tasks]."""
        prediction = self.predict(adapted, query.x, keys)
        seen = prediction.detach()
        further = self.loss.metrics(seen, query) if isinstance(self.loss, Reading) else metrics(seen, query)
        return self._judge(prediction, query), further

    def _judge(self, prediction: Tensor, batch: Batch) -> Tensor:
        if isinstance(self.loss, Reading):
            return self.loss.judge(prediction, batch)
        return judge(self.loss, prediction, batch)

    def fitted(self, example: Episode, labels: Labels) -> GradientDescent:
        """This rule with its loss as it is to be read of such tasks.

        Raises:
            BadInput: outputs, loss and labels do not go together.
        """
        return replace(self, loss=fit(self.init, self.loss, example, labels))

    def module(self, adapted: Adapted) -> nn.Module:
        """One adapted task as a plain torch module, normalised by its support set whatever the policy in training."""
        network: Network = self.init
        statistics = Statistics()
        with torch.no_grad():
            network(adapted.weights, adapted.support.x, training=False, record=statistics)
        return network.adapted({name: weight[0].detach() for name, weight in adapted.weights.items()}, statistics)


def _step(weight: Tensor, rate: Any, slope: Tensor) -> Tensor:
    """`weight - rate * slope` in one pass; the weight comes first, so that its order in memory is kept."""
    if isinstance(rate, Tensor):
        return torch.addcmul(weight, rate.to(weight.dtype), slope, value=-1)
    return torch.sub(weight, slope, alpha=rate)


def _rates(lr: Any, weights: Weights) -> dict[str, Any]:
    if isinstance(lr, Mapping):
        return dict(lr)
    return dict.fromkeys(weights, lr)


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, Mapping):
        for leaf in tree.values():
            yield from _tensors(leaf)
