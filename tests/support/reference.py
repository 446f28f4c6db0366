"""The meta-gradient of gradient descent written out with plain torch, one task after another (Finn et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from bilevel.episodes import Batch, Episode

Weights = dict[str, Tensor]


def loss_of(module: nn.Module, weights: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy or mean squared error of one task, by torch's own functions."""
    prediction = functional_call(module, dict(weights), (x,))
    return F.cross_entropy(prediction, y) if y.dtype == torch.int64 else F.mse_loss(prediction, y)


def adapted(
    module: nn.Module,
    start: Weights,
    rates: Mapping[str, Tensor],
    x: Tensor,
    y: Tensor,
    *,
    steps: int,
    exact: bool,
    proximal: float = 0.0,
) -> Weights:
    """Weights of one task after `steps` steps; `exact` keeps the graph through the steps."""
    weights = dict(start)
    for _ in range(steps):
        loss = loss_of(module, weights, x, y)
        loss = loss + proximal / 2 * sum((w - start[n]).square().sum() for n, w in weights.items())
        slopes = torch.autograd.grad(loss, list(weights.values()), create_graph=exact)
        weights = {n: w - rates[n] * s for (n, w), s in zip(weights.items(), slopes, strict=True)}
    return weights


def query_loss(
    module: nn.Module, start: Weights, rates: Mapping[str, Tensor], episode: Episode, *, steps: int, **more: Any
) -> Tensor:
    """Sum over the tasks of the loss on the query after adapting to the support."""
    support, query = episode.support, episode.query
    total = torch.zeros(())
    for task in range(len(support.x)):
        weights = adapted(module, start, rates, support.x[task], support.y[task], steps=steps, exact=True, **more)
        total = total + loss_of(module, weights, query.x[task], query.y[task])
    return total


def second_order(module: nn.Module, start: Weights, lr: float, episode: Episode, *, steps: int) -> Weights:
    """Gradient of `query_loss` at the start, through all steps."""
    leaves = {name: value.clone().requires_grad_() for name, value in start.items()}
    loss = query_loss(module, leaves, dict.fromkeys(leaves, torch.tensor(lr)), episode, steps=steps)
    return dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def first_order(module: nn.Module, start: Weights, lr: float, episode: Episode, *, steps: int) -> Weights:
    """The defining formula (section 5.2): the query loss's gradient at the adapted weights, summed over the tasks."""
    total = {name: torch.zeros_like(value) for name, value in start.items()}
    support, query = episode.support, episode.query
    for task in range(len(support.x)):
        weights = {name: value.clone().requires_grad_() for name, value in start.items()}
        rates = dict.fromkeys(weights, torch.tensor(lr))
        weights = adapted(module, weights, rates, support.x[task], support.y[task], steps=steps, exact=False)
        weights = {name: value.detach().requires_grad_() for name, value in weights.items()}
        loss = loss_of(module, weights, query.x[task], query.y[task])
        slopes = torch.autograd.grad(loss, list(weights.values()))
        total = {name: total[name] + slope for name, slope in zip(weights, slopes, strict=True)}
    return total


def along(function: Callable[[Weights], Tensor], start: Weights, direction: Weights, h: float = 1e-5) -> float:
    """Derivative of `function` along `direction` by central differences of fourth order."""

    def at(step: float) -> float:
        return float(function({name: value + step * direction[name] for name, value in start.items()}))

    return (8 * (at(h) - at(-h)) - (at(2 * h) - at(-2 * h))) / (12 * h)


def directions(start: Weights, count: int) -> list[Weights]:
    """Random directions of unit length over all tensors."""
    found = []
    for index in range(count):
        generator = torch.Generator().manual_seed(index)
        drawn = {name: torch.randn(value.shape, generator=generator) for name, value in start.items()}
        norm = sum(value.square().sum() for value in drawn.values()) ** 0.5
        found.append({name: value / norm for name, value in drawn.items()})
    return found


def inner(left: Weights, right: Weights) -> float:
    """Inner product over all tensors."""
    return float(sum((left[name] * right[name]).sum() for name in left))


def distance(found: Weights, wanted: Weights) -> float:
    """Relative distance of two trees, over all tensors."""
    gap = sum(float((found[name] - wanted[name]).square().sum()) for name in wanted)
    return (gap / sum(float(value.square().sum()) for value in wanted.values())) ** 0.5


def classes(tasks: int, ways: int, shape: tuple[int, ...], *, shots: int = 1, queries: int = 2) -> Episode:
    """Random classification episodes."""
    generator = torch.Generator().manual_seed(1)

    def batch(each: int) -> Batch:
        x = torch.randn(tasks, ways * each, *shape, generator=generator)
        return Batch(x, torch.arange(ways).repeat_interleave(each).expand(tasks, -1))

    return Episode(batch(shots), batch(queries))


def numbers(tasks: int, features: int, outputs: int, *, samples: int = 4) -> Episode:
    """Random regression episodes."""
    generator = torch.Generator().manual_seed(2)

    def batch() -> Batch:
        x = torch.randn(tasks, samples, features, generator=generator)
        return Batch(x, torch.randn(tasks, samples, outputs, generator=generator))

    return Episode(batch(), batch())
