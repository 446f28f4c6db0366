"""Networks as users bring them: with state, noise, norms and parametrizations of all kinds; one number in, one out."""

from __future__ import annotations

import os
import random
import warnings
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations

from bilevel.nets import mlp

RANDOM = np.random.default_rng(0)


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(1, 6), nn.Linear(6, 1)

    def between(self, h: Tensor) -> Tensor:
        return h

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.two(torch.tanh(self.between(self.one(x))))
        return out


class Buffer(Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("f", torch.randn(6))

    def between(self, h: Tensor) -> Tensor:
        return h * self.f


class Frozen(Base):
    def __init__(self) -> None:
        super().__init__()
        self.one.requires_grad_(False)


class Attribute(Base):
    def __init__(self) -> None:
        super().__init__()
        self.f, self.order = torch.randn(6), np.random.permutation(6).tolist()

    def between(self, h: Tensor) -> Tensor:
        return (h * self.f)[..., self.order]


class Keeps(Base):
    def between(self, h: Tensor) -> Tensor:
        self.last = h
        return h


class Caches(Base):
    def between(self, h: Tensor) -> Tensor:
        if not hasattr(self, "mask"):
            self.mask = torch.arange(6) > 1
        return h * self.mask


class Counts(Base):
    calls = 0

    def between(self, h: Tensor) -> Tensor:
        self.calls += 1
        return h + torch.sin(torch.tensor(float(self.calls)))


class Written(Base):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros(()))

    def between(self, h: Tensor) -> Tensor:
        self.count += 1
        return h + torch.sin(self.count)


class Around(Written):
    def between(self, h: Tensor) -> Tensor:
        self.count.data.add_(1)
        return h + torch.sin(self.count)


class Averages(Written):
    def between(self, h: Tensor) -> Tensor:
        with torch.no_grad():
            self.count = 0.9 * self.count + 0.1 * h.mean()
        return h - self.count


class Logs(Base):
    def __init__(self) -> None:
        super().__init__()
        self.log: list[int] = []

    def between(self, h: Tensor) -> Tensor:
        self.log.append(1)
        return h / len(self.log)


class NumpyNoise(Base):
    def between(self, h: Tensor) -> Tensor:
        return h + 0.1 * torch.from_numpy(np.random.randn(6)).float()


class PythonNoise(Base):
    def between(self, h: Tensor) -> Tensor:
        return h * random.uniform(0.9, 1.1)


class TrainingNoise(Base):
    def between(self, h: Tensor) -> Tensor:
        return h + 0.1 * torch.randn(6) if self.training else h


class LayerDrop(Base):
    def between(self, h: Tensor) -> Tensor:
        return h if torch.rand([]) < 0.5 else torch.relu(h)


class CallNoise(Counts):
    """Noise that depends on a call counter."""

    def between(self, h: Tensor) -> Tensor:
        self.calls += 1
        return h + 0.1 * torch.randn(6, generator=torch.Generator().manual_seed(self.calls))


class OwnTorch(Base):
    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)

    def between(self, h: Tensor) -> Tensor:
        return h + 0.1 * torch.randn(6, generator=self.generator)


class OwnNumpy(Base):
    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(3)

    def between(self, h: Tensor) -> Tensor:
        return h * float(self.rng.uniform(0.9, 1.1))


class Shared(Base):
    def between(self, h: Tensor) -> Tensor:
        return h * float(RANDOM.uniform(0.9, 1.1))


class System(Base):
    """What no key decides."""

    def between(self, h: Tensor) -> Tensor:
        return h * (1 + os.urandom(1)[0] / 1000)


class Sequence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.GRU(1, 4, batch_first=True), nn.Linear(4, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.layer(x.unsqueeze(1))[0][:, -1])
        return out


def plain() -> nn.Module:
    return mlp(1, (1,), (6,))


def batch_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 1))


def layer_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 1))


def dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 6), nn.Dropout(0.3), nn.Tanh(), nn.Linear(6, 1))


def alpha_dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 6), nn.AlphaDropout(0.3), nn.SELU(), nn.Linear(6, 1))


def weight_norm() -> nn.Module:
    return nn.Sequential(parametrizations.weight_norm(nn.Linear(1, 6)), nn.Tanh(), nn.Linear(6, 1))


def spectral_norm() -> nn.Module:
    return nn.Sequential(nn.Linear(1, 6), parametrizations.spectral_norm(nn.Linear(6, 6)), nn.Tanh(), nn.Linear(6, 1))


def old_weight_norm() -> nn.Module:
    return _old(nn.utils.weight_norm)


def old_spectral_norm() -> nn.Module:
    return _old(nn.utils.spectral_norm)


def _old(function: Callable[..., nn.Module]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return nn.Sequential(nn.Linear(1, 6), function(nn.Linear(6, 6)), nn.Tanh(), nn.Linear(6, 1))


def functional() -> nn.Module:
    class Local(Base):  # a class that no module has by name
        def between(self, h: Tensor) -> Tensor:
            return F.dropout(h, 0.2, self.training)

    return Local()


KEYED: tuple[Callable[[], nn.Module], ...] = (
    plain, batch_norm, layer_norm, dropout, alpha_dropout, functional, Sequence, Buffer, Frozen, Attribute, Keeps,
    Caches, Counts, Written, Around, Averages, Logs, NumpyNoise, PythonNoise, TrainingNoise, LayerDrop, CallNoise,
    OwnTorch, OwnNumpy, Shared, weight_norm, spectral_norm, old_weight_norm, old_spectral_norm,
)  # fmt: skip
"""Those whose every number a key decides."""
