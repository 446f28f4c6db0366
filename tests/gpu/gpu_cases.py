"""On which networks and rules is the card compared with the CPU?

Weights and samples are drawn in float32 on the CPU, so that float64 sees the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from bilevel import trees
from bilevel.batched import Network
from bilevel.episodes import Batch, Episode, Key
from bilevel.inner import GradientDescent
from bilevel.nets import conv4, mlp

Gradient = dict[str, Tensor]
TASKS = 4
STEPS = 3


class Recurrent(nn.Module):
    """The last output of a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.GRU(4, 12, batch_first=True), nn.Linear(12, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x)[0][:, -1])


class Attentive(nn.Module):
    """A small transformer with dropout, constant positions and a frozen trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(4, 16).requires_grad_(False)
        self.register_buffer("positions", torch.randn(6, 16))
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.1, batch_first=True)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(self.trunk(x) + self.positions).mean(1))


class Tokens(nn.Module):
    """Words, many of them the same: their embeddings' gradients are sums."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.embedding(x).mean(1)))


class Pooled(nn.Module):
    """Windows that overlap: their gradients are sums."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(1, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.max_pool2d(torch.tanh(self.first(x)), 3, 1)
        return self.head(nn.functional.adaptive_avg_pool2d(torch.tanh(self.second(x)), 3).flatten(1))


def _classes(shape: tuple[int, ...], ways: int = 3, words: int = 0) -> Episode:
    generator = torch.Generator().manual_seed(1)

    def batch(each: int) -> Batch:
        size = (TASKS, ways * each, *shape)
        x = torch.randint(words, size, generator=generator) if words else torch.randn(size, generator=generator)
        return Batch(x, torch.arange(ways).repeat_interleave(each).expand(TASKS, -1).contiguous())

    return Episode(batch(2), batch(3))


def _numbers() -> Episode:
    generator = torch.Generator().manual_seed(2)
    parts = [torch.randn(TASKS, 6, n, generator=generator) for n in (3, 2, 3, 2)]
    return Episode(Batch(*parts[:2]), Batch(*parts[2:]))


@dataclass(frozen=True)
class Example:
    """A network, and episodes for it."""

    module: Callable[[], nn.Module]
    episode: Callable[[], Episode]
    lr: float


NETWORKS = {
    "conv4": Example(lambda: conv4(5, hidden=16), lambda: _classes((1, 28, 28), 5), 0.1),
    "conv4 pool": Example(lambda: conv4(3, (1, 16, 16), 8, pool=True), lambda: _classes((1, 16, 16)), 0.1),
    "mlp classes": Example(lambda: mlp(3, (5,), (16, 16), "tanh"), lambda: _classes((5,)), 0.3),
    "mlp numbers": Example(lambda: mlp(2, (3,), (16,), "gelu"), _numbers, 0.05),
    "GRU": Example(Recurrent, lambda: _classes((6, 4)), 0.3),
    "transformer": Example(Attentive, lambda: _classes((6, 4)), 0.05),
    "tokens": Example(Tokens, lambda: _classes((9,), words=5), 0.3),
    "pooled": Example(Pooled, lambda: _classes((1, 9, 9)), 0.1),
}


@dataclass(frozen=True)
class Variant:
    """A rule, as made by `rule(init=, lr=)`; `rates`: its rates are learned too, one a tensor."""

    rule: Callable[..., Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    rates: bool = False


RULES = {
    "second order": Variant(GradientDescent),
    "first order": Variant(GradientDescent, {"order": 1}),
    "support statistics": Variant(GradientDescent, {"normalization": "support"}),
    "proximal": Variant(GradientDescent, {"proximal": 0.5}),
    "learned rates": Variant(GradientDescent, rates=True),
}
"""Every rule of `bilevel.inner`, each way in which its gradient is another one."""


def gradient(example: Example, variant: Variant, device: str, dtype: torch.dtype, *, batched: bool = True) -> Gradient:
    """Of the query loss after some steps, summed over tasks, in all that is learned; brought to the CPU."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = example.module().to(dtype)
    network = Network(module, batched=batched)
    episode = trees.to_device(
        trees.map_tensors(lambda t: t.to(dtype) if t.is_floating_point() else t, example.episode()), device
    )
    leaves = {name: value.to(device).requires_grad_() for name, value in network.start().items()}
    rates = {n: torch.tensor(example.lr, dtype=dtype, device=device, requires_grad=True) for n in leaves}
    rule = variant.rule(init=network, lr=example.lr, steps=STEPS, **variant.options)
    keys = [Key((task,)) for task in range(TASKS)]
    states = rule.adapt({"init": leaves} | ({"lr": rates} if variant.rates else {}), episode.support, keys)
    loss, _ = rule.evaluate(next(islice(states, STEPS, None)), episode.query, keys)
    learned = leaves | ({f"rate of {name}": rate for name, rate in rates.items()} if variant.rates else {})
    slopes = torch.autograd.grad(loss.sum(), list(learned.values()), allow_unused=True, materialize_grads=True)
    return {name: slope.detach().cpu() for name, slope in zip(learned, slopes, strict=True)}


def distance(found: Gradient, wanted: Gradient) -> float:
    """Relative, over all tensors, in float64."""
    gap = sum(float((found[name].double() - value.double()).square().sum()) for name, value in wanted.items())
    size = sum(float(value.double().square().sum()) for value in wanted.values())
    return float((gap / size) ** 0.5) if size else float(gap**0.5)
