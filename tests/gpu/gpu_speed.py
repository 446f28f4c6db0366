"""How fast is a meta-iteration: ours, torch.func's and the plain loop's, on the same device and the same numbers?

The cases, the definition (the plain loop, task by task) and the count of operations are those of `tests/benchmarks`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from itertools import islice
from typing import Any

import torch
from cases import CASES, HIDDEN, Case, episodes, weights
from ours import Ours
from plain import loss_of, meta_gradient, network, tasks_of
from torch import Tensor

from bilevel import nets
from bilevel.batched import Network
from bilevel.episodes import Batch
from bilevel.inner import GradientDescent
from bilevel.meta.movers import Adam


def case_of(name: str, tasks: int) -> Case:
    """A case of the benchmark with another number of tasks, all in one unit of work."""
    return dataclasses.replace(CASES[name], tasks=tasks, unit=tasks)


class Loop:
    """The definition: one task after another."""

    def __init__(self, case: Case, device: str, dtype: torch.dtype) -> None:
        self._case = case
        self._net = network(case, weights(case), dtype).to(device)
        self._tasks = [tuple(part.to(device) for part in task) for task in tasks_of(case, episodes(case), dtype)]
        self._adam = torch.optim.Adam(self._net.parameters(), lr=1e-3)

    def gradient(self) -> list[Tensor]:
        self._adam.zero_grad()
        return meta_gradient(self._case, self._net, self._tasks)

    def iterate(self) -> None:
        self.gradient()
        self._adam.step()


class Functional:
    """`torch.func`: grad through grad, vmapped over tasks, as its tutorial on MAML does."""

    def __init__(self, case: Case, device: str, dtype: torch.dtype) -> None:
        self._net = network(case, weights(case), dtype).to(device)
        self._stacked = _stacked(case, device, dtype)
        self._adam = torch.optim.Adam(self._net.parameters(), lr=1e-3)
        loss, net = loss_of(case), self._net

        def of_task(start: dict[str, Tensor], sx: Tensor, sy: Tensor, qx: Tensor, qy: Tensor) -> Tensor:
            fast = start
            for _ in range(case.steps):
                slopes = torch.func.grad(lambda w: loss(torch.func.functional_call(net, w, (sx,)), sy))(fast)
                fast = {name: w - case.lr * slopes[name] for name, w in fast.items()}
            return loss(torch.func.functional_call(net, fast, (qx,)), qy)

        def total(start: dict[str, Tensor]) -> Tensor:
            return torch.func.vmap(of_task, in_dims=(None, 0, 0, 0, 0))(start, *self._stacked).mean()

        self._of_all = torch.func.grad(total)

    def gradient(self) -> list[Tensor]:
        found = self._of_all({name: p.detach() for name, p in self._net.named_parameters()})
        return list(found.values())

    def iterate(self) -> None:
        for parameter, slope in zip(self._net.parameters(), self.gradient(), strict=True):
            parameter.grad = slope
        self._adam.step()


class Held:
    """Our rule and mover with the episodes held on the device: what a unit computes, without its way there and back."""

    def __init__(self, case: Case, device: str, dtype: torch.dtype) -> None:
        net = (nets.conv4(case.ways) if case.ways else nets.mlp(1, hidden=(HIDDEN, HIDDEN))).to(dtype)
        with torch.no_grad():
            for parameter, weight in zip(net.parameters(), weights(case), strict=True):
                parameter.copy_(torch.from_numpy(weight))
        self._network = Network(net)
        sx, sy, qx, qy = _stacked(case, device, dtype)
        self._support, self._query = Batch(sx, sy), Batch(qx, qy)
        self._rule = GradientDescent(init=self._network, lr=case.lr, steps=case.steps)
        self.values = {name: value.to(device) for name, value in self._network.start().items()}
        self.mover, self.state = Adam(1e-3), {}
        self._tasks = case.tasks

    def gradient(self) -> list[Tensor]:
        leaves = {name: value.requires_grad_() for name, value in self.values.items()}
        states = self._rule.adapt({"init": leaves}, self._support, None)
        adapted = next(islice(states, self._rule.steps, None))
        loss, _ = self._rule.evaluate(adapted, self._query, None)
        return list(torch.autograd.grad(loss.sum() / self._tasks, list(leaves.values())))

    def iterate(self) -> None:
        slopes = dict(zip(self.values, self.gradient(), strict=True))
        self.values, self.state = self.mover.move(self.values, slopes, self.state, done=0.0)


class Captured:
    """`Held` with its gradient recorded once as a CUDA graph and replayed: what is left when Python need not hurry."""

    def __init__(self, case: Case, device: str, dtype: torch.dtype) -> None:
        self._held = Held(case, device, dtype)
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(2):
                self._held.gradient()
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._found = self._held.gradient()

    def gradient(self) -> list[Tensor]:
        self._graph.replay()
        return self._found

    def iterate(self) -> None:
        values = self._held.values
        slopes = dict(zip(values, self.gradient(), strict=True))
        moved, self._held.state = self._held.mover.move(values, slopes, self._held.state, done=0.0)
        for name, value in moved.items():
            values[name].data.copy_(value)  # the graph reads where it was recorded


class Engine:
    """Our whole meta-iteration: draw, stack, to the device, gradient, back, outer step (`tests/benchmarks/ours.py`)."""

    def __init__(self, case: Case, device: str, dtype: torch.dtype) -> None:
        name = str(dtype).removeprefix("torch.")
        self._ours = Ours(case, episodes(case), weights(case), name, workers=0, device=device)
        self.iterate = self._ours.iterate

    def gradient(self) -> list[Tensor]:
        return [torch.from_numpy(array) for array in self._ours.gradient()]


SIDES: dict[str, Callable[..., Any]] = {
    "plain loop": Loop, "torch.func": Functional, "bilevel, held": Held, "bilevel, engine": Engine,
    "bilevel, graph": Captured,
}  # fmt: skip


def flat(gradient: list[Tensor]) -> Tensor:
    """One long vector in float64, on the CPU."""
    return torch.cat([part.detach().double().cpu().reshape(-1) for part in gradient])


def _stacked(case: Case, device: str, dtype: torch.dtype) -> tuple[Tensor, ...]:
    return tuple(torch.stack(parts).to(device) for parts in zip(*tasks_of(case, episodes(case), dtype), strict=True))
