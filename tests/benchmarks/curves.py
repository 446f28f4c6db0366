"""Which learning curves does a grid of real trainings have? Small networks on four data sets, trained side by side.

480 configurations of a network with one hidden layer (rate, width, momentum, weight decay), 27 epochs of stochastic
gradient descent each; the value is the loss on validation data after each epoch, infinite once it is not a number.
Computed once, in a few minutes of one core, and kept in the folder for temporary files.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn import datasets
from torch import Tensor
from torch.nn import functional

EPOCHS = 27
BATCH = 32
AXES: Mapping[str, tuple[float, ...]] = {
    "rate": tuple(float(f"{10 ** (-3.5 + i * 0.4):.3g}") for i in range(10)),
    "width": (4, 16, 64, 128),
    "momentum": (0.0, 0.7, 0.95),
    "decay": (0.0, 1e-4, 1e-3, 1e-2),
}
DATA = ("digits", "breast_cancer", "diabetes", "friedman")


@cache
def curves(name: str) -> NDArray[np.float64]:
    """Losses, [rate, width, momentum, decay, epoch]."""
    kept = Path(tempfile.gettempdir()) / f"bilevel-curves-{name}.npy"
    if kept.exists():
        return np.load(kept)
    found = _train(name)
    np.save(kept, found)
    return found


def _train(name: str) -> NDArray[np.float64]:
    x, y, classes = _data(name)
    valid = torch.arange(len(x)) % 4 == 0
    widths = [_side_by_side(x[~valid], y[~valid], x[valid], y[valid], int(width), classes) for width in AXES["width"]]
    return np.stack(widths, axis=1)


def _data(name: str) -> tuple[Tensor, Tensor, int]:
    """Standardised features [samples, features], labels, and the number of classes (0: numbers)."""
    if name == "friedman":
        x, y = datasets.make_friedman1(600, noise=1.0, random_state=0)
    else:
        x, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    features = torch.tensor(x[order], dtype=torch.float32)
    features = (features - features.mean(0)) / features.std(0).clamp(min=1e-3)
    if name in ("digits", "breast_cancer"):
        return features, torch.tensor(y[order]), int(y.max()) + 1
    numbers = torch.tensor(y[order], dtype=torch.float32)
    return features, (numbers - numbers.mean()) / numbers.std(), 0


def _side_by_side(x: Tensor, y: Tensor, vx: Tensor, vy: Tensor, width: int, classes: int) -> NDArray[np.float64]:
    """All networks of one width at once, [rate, momentum, decay, epoch]."""
    grid = torch.cartesian_prod(*(torch.tensor(AXES[name]) for name in ("rate", "momentum", "decay")))
    rate, momentum, decay = (column[:, None, None] for column in grid.T)
    generator = torch.Generator().manual_seed(width)
    shapes = ((x.shape[1], width), (1, width), (width, max(classes, 1)), (1, max(classes, 1)))
    start = [torch.randn(s, generator=generator) / math.sqrt(s[0]) * (s[0] > 1) for s in shapes]
    params = [p.expand(len(grid), *p.shape).clone().requires_grad_() for p in start]
    speeds = [torch.zeros_like(p) for p in params]
    found = []
    for _ in range(EPOCHS):
        for rows in torch.randperm(len(x), generator=generator).split(BATCH):
            loss = _losses(params, x[rows], y[rows], classes).sum()
            gradients = torch.autograd.grad(loss, params)
            with torch.no_grad():
                for p, speed, gradient in zip(params, speeds, gradients, strict=True):
                    speed.mul_(momentum).add_(gradient + decay * p)
                    p.sub_(rate * speed)
        with torch.no_grad():
            found.append(_losses(params, vx, vy, classes))
    losses = torch.stack(found, -1).double().nan_to_num(math.inf).numpy()
    losses = np.where(np.maximum.accumulate(np.isinf(losses), axis=-1), math.inf, losses)
    return losses.reshape(*(len(AXES[name]) for name in ("rate", "momentum", "decay")), EPOCHS)


def _losses(params: list[Tensor], x: Tensor, y: Tensor, classes: int) -> Tensor:
    """[networks]"""
    w1, b1, w2, b2 = params
    out = torch.relu(x @ w1 + b1) @ w2 + b2  # [networks, samples, outputs]
    if not classes:
        return ((out[..., 0] - y) ** 2).mean(1)
    labels = y.expand(out.shape[:2])
    return functional.cross_entropy(out.flatten(0, 1), labels.flatten(), reduction="none").view(labels.shape).mean(1)
