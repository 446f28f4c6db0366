"""What is the meta-gradient by definition: one task after another, in plain torch, with nothing clever?

The networks here are also those that the peers are given.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from cases import CHANNELS, HIDDEN, Case
from torch import Tensor, nn

Task = tuple[Tensor, Tensor, Tensor, Tensor]
"""Support x and y, query x and y of one task."""


def network(case: Case, weights: Sequence[np.ndarray], dtype: torch.dtype) -> nn.Module:
    """The case's network with the given weights (in the order of `parameters()`)."""
    net = _conv4(case.ways) if case.ways else _mlp()
    net.to(dtype)
    with torch.no_grad():
        for parameter, weight in zip(net.parameters(), weights, strict=True):
            parameter.copy_(torch.from_numpy(weight))
    return net


def loss_of(case: Case):
    """The case's loss, a mean over samples."""
    return F.cross_entropy if case.ways else F.mse_loss


def tasks_of(case: Case, arrays: dict[str, np.ndarray], dtype: torch.dtype) -> list[Task]:
    """The episodes of `cases.episodes` as tensors, task by task."""
    tensors = [torch.from_numpy(arrays[name]) for name in ("support_x", "support_y", "query_x", "query_y")]
    tensors = [tensor.to(dtype) if tensor.is_floating_point() else tensor for tensor in tensors]
    return list(zip(*tensors, strict=True))


def meta_gradient(case: Case, net: nn.Module, tasks: list[Task]) -> list[Tensor]:
    """Mean over tasks of the gradient of the query loss after `case.steps` steps (Finn et al. 2017, eq. 1)."""
    loss, start = loss_of(case), dict(net.named_parameters())
    for support_x, support_y, query_x, query_y in tasks:
        fast = start
        for _ in range(case.steps):
            inner = loss(torch.func.functional_call(net, fast, (support_x,)), support_y)
            slopes = torch.autograd.grad(inner, list(fast.values()), create_graph=True)
            fast = {name: w - case.lr * g for (name, w), g in zip(fast.items(), slopes, strict=True)}
        (loss(torch.func.functional_call(net, fast, (query_x,)), query_y) / len(tasks)).backward()
    return [parameter.grad for parameter in net.parameters()]


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(1, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 1)
    )  # fmt: skip


def _conv4(ways: int) -> nn.Module:
    layers: list[nn.Module] = []
    for inputs in (1, CHANNELS, CHANNELS, CHANNELS):
        convolution = nn.Conv2d(inputs, CHANNELS, 3, stride=2, padding=1)
        layers += [convolution, nn.BatchNorm2d(CHANNELS, track_running_stats=False), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, ways))
