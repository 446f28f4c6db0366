"""How does a gradient move what is learned? torch's optimisers as pure functions of their state."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from bilevel import trees
from bilevel.errors import BadInput
from bilevel.space.dimensions import is_dimension

Tensors = dict[str, Tensor]
State = dict[str, Tensors]
"""By tensor name, what the optimiser keeps for it (`exp_avg`, ...); empty at the start."""


COUNT = "step"
"""The entry of a state that counts its steps; all others have a number for each of the tensor's."""


class Mover(Protocol):
    """Moves learned tensors at every outer step of a run."""

    def move(self, values: Tensors, gradient: Tensors, state: State, *, done: float) -> tuple[Tensors, State]:
        """New values and new state; nothing is changed in place. `done` is the fraction of the run so far, 0 to 1."""
        ...


class Schedule(Protocol):
    """A factor on the step size as a function of the fraction of the run that is done."""

    def __call__(self, done: float) -> float:
        """The factor at `done` (0 to 1)."""
        ...


@dataclass(frozen=True)
class Linear:
    """From 1 to `final` in a straight line, after a linear rise from 0 over the fraction `warmup` of the run."""

    final: float = 0.0
    warmup: float = 0.0

    def __call__(self, done: float) -> float:
        """The factor at `done` (0 to 1)."""
        return _warmed(done, self.warmup, lambda t: 1 + (self.final - 1) * t)


@dataclass(frozen=True)
class Cosine:
    """From 1 to `final` along half a cosine (Loshchilov and Hutter 2017), after a linear rise over `warmup`."""

    final: float = 0.0
    warmup: float = 0.0

    def __call__(self, done: float) -> float:
        """The factor at `done` (0 to 1)."""
        return _warmed(done, self.warmup, lambda t: self.final + (1 - self.final) * (1 + math.cos(math.pi * t)) / 2)


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent with momentum.

    `lr` is the step size, `clip` bounds the gradient's norm over all tensors of the value, `schedule` scales `lr`.
    """

    lr: float = 0.01
    momentum: float = 0.0
    nesterov: bool = False
    clip: float | None = None
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        _check(self)

    def move(self, values: Tensors, gradient: Tensors, state: State, *, done: float) -> tuple[Tensors, State]:
        """One step of `torch.optim.SGD`."""

        def make(leaves: list[Tensor], lr: float) -> torch.optim.Optimizer:
            return torch.optim.SGD(leaves, lr=lr, momentum=self.momentum, nesterov=self.nesterov)

        return _step(self, make, values, gradient, state, done)


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba 2015).

    `lr` is the step size, `clip` bounds the gradient's norm over all tensors of the value, `schedule` scales `lr`.
    """

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    clip: float | None = None
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        _check(self)

    def move(self, values: Tensors, gradient: Tensors, state: State, *, done: float) -> tuple[Tensors, State]:
        """One step of `torch.optim.Adam`."""

        def make(leaves: list[Tensor], lr: float) -> torch.optim.Optimizer:
            return torch.optim.Adam(leaves, lr=lr, betas=self.betas, eps=self.eps)

        return _step(self, make, values, gradient, state, done)


@dataclass(frozen=True)
class AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter 2019); arguments as `Adam`'s."""

    lr: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.01
    clip: float | None = None
    schedule: Schedule | None = None

    def __post_init__(self) -> None:
        _check(self)

    def move(self, values: Tensors, gradient: Tensors, state: State, *, done: float) -> tuple[Tensors, State]:
        """One step of `torch.optim.AdamW`."""

        def make(leaves: list[Tensor], lr: float) -> torch.optim.Optimizer:
            return torch.optim.AdamW(leaves, lr=lr, betas=self.betas, eps=self.eps, weight_decay=self.weight_decay)

        return _step(self, make, values, gradient, state, done)


def _step(
    mover: SGD | Adam | AdamW,
    make: Callable[[list[Tensor], float], torch.optim.Optimizer],
    values: Tensors,
    gradient: Tensors,
    state: State,
    done: float,
) -> tuple[Tensors, State]:
    """One step of torch's optimiser over tensors laid end to end: it works number by number, and one call costs less.

    Tensors of another type or device are a row of their own.
    """
    rows: dict[tuple[torch.dtype, torch.device], list[str]] = {}
    for name, value in sorted(values.items()):  # by name, as the norm's last bits depend on the order
        rows.setdefault((value.dtype, value.device), []).append(name)
    leaves = [_row(values, names) for names in rows.values()]
    optimizer = make(leaves, mover.lr * (mover.schedule(done) if mover.schedule else 1.0))
    for leaf, names in zip(leaves, rows.values(), strict=True):
        leaf.grad = _row(gradient, names).to(leaf.dtype)
        if names[0] in state:
            optimizer.state[leaf] = {
                entry: tensor.clone() if entry == COUNT else _row({n: state[n][entry] for n in names}, names)
                for entry, tensor in state[names[0]].items()
            }
    if mover.clip is not None:
        torch.nn.utils.clip_grad_norm_(leaves, mover.clip, foreach=False)
    optimizer.step()
    moved: Tensors = {}
    kept: State = {}
    for leaf, names in zip(leaves, rows.values(), strict=True):
        moved |= _split(leaf.detach(), values, names)
        for entry, tensor in optimizer.state[leaf].items():
            if tensor is not None:  # momentum that is not asked for
                parts = dict.fromkeys(names, tensor) if entry == COUNT else _split(tensor, values, names)
                for name, part in parts.items():
                    kept.setdefault(name, {})[entry] = part
    return {name: moved[name] for name in values}, {name: kept[name] for name in values if name in kept}


def _row(tensors: Tensors, names: list[str]) -> Tensor:
    """A copy of these tensors, end to end."""
    return torch.cat([tensors[name].detach().reshape(-1) for name in names])


def _split(row: Tensor, like: Tensors, names: list[str]) -> Tensors:
    parts = torch.split(row, [like[name].numel() for name in names])
    return {name: part.reshape(like[name].shape) for name, part in zip(names, parts, strict=True)}


def _warmed(done: float, warmup: float, after: Callable[[float], float]) -> float:
    if done < warmup:
        return done / warmup
    return after((done - warmup) / (1 - warmup) if warmup < 1 else 1.0)


def _check(mover: SGD | Adam | AdamW) -> None:
    name = type(mover).__name__
    for field, value in trees.fields_of(mover).items():
        if is_dimension(value):
            raise BadInput(f"{name}: {field}={value!r} is searched: write Space({name}, {field}={value!r}) instead")
    if not 0 < mover.lr < math.inf:
        raise BadInput(f"{name}: lr is {mover.lr}; a step size is a positive number, such as 1e-3")
    if mover.clip is not None and not mover.clip > 0:
        raise BadInput(f"{name}: clip is {mover.clip}; it bounds the gradient's norm and is positive, or None")
