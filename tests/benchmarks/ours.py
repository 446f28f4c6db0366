"""How does this project compute the same meta-iteration, through its own engine?

`bilevel.meta_train` is driven as the driver drives it, without journal and tracker: its units go to the executor (this
process, or Ray actors), results are reduced in shard order, Adam moves the weights, and they travel again.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from cases import HIDDEN, Case
from contestant import peak_memory
from torch import nn

from bilevel import nets, trees
from bilevel.episodes import Batch, Episode, Key
from bilevel.execute import Inline, Ray, opening
from bilevel.inner import GradientDescent
from bilevel.meta import MetaTraining, meta_train
from bilevel.meta.movers import Adam
from bilevel.space import Learned
from bilevel.study.events import Done, Executor, Units
from bilevel.study.given import Run

ENDLESS = 10**9


@dataclass(frozen=True)
class Fixed:
    """A task distribution of `tasks` given episodes: the key's last number says which."""

    episodes: tuple[Episode, ...]

    def episode(self, split: str, key: Key) -> Episode:
        return self.episodes[key.path[-1] % len(self.episodes)]


@dataclass(frozen=True)
class Given:
    """A network factory: the library's own small networks with given weights."""

    case: Case
    weights: tuple[torch.Tensor, ...]

    def __call__(self) -> nn.Module:
        net = nets.conv4(self.case.ways) if self.case.ways else nets.mlp(1, hidden=(HIDDEN, HIDDEN))
        net.to(self.weights[0].dtype)
        with torch.no_grad():
            for parameter, weight in zip(net.parameters(), self.weights, strict=True):
                parameter.copy_(weight)
        return net


class Ours:
    """A `contestant.Contestant`: `workers` Ray actors of one thread, or this process alone where it is 0."""

    def __init__(
        self,
        case: Case,
        arrays: dict[str, np.ndarray],
        weights: list[np.ndarray],
        dtype: str,
        *,
        workers: int,
        device: str | None = None,
    ) -> None:
        kind = getattr(torch, dtype)
        given = Given(case, tuple(torch.from_numpy(weight).to(kind) for weight in weights))
        self._names = [name for name, _ in given().named_parameters()]
        rule = GradientDescent(init=Learned(given, by=Adam(1e-3)), lr=case.lr, steps=case.steps)
        tasks = Fixed(_episodes(arrays, kind))
        self._config = MetaTraining(
            tasks=tasks, rule=rule, steps=ENDLESS, validate_every=ENDLESS, episodes=case.tasks, unit=case.unit
        )  # fmt: skip
        self._workers, self._ticket = workers, 0
        place = Ray(workers=workers) if workers else Inline(device)
        self._executor: Executor = opening.executor(place, 1, (os.path.dirname(__file__),))  # noqa: PTH120
        while self._executor.alive < workers:
            self._executor.poll(0.1)
        self._training = self._start()
        self._asked: Any = None

    def gradient(self) -> list[np.ndarray]:
        """The meta-gradient that the first outer step asks for."""
        units = next(self._start())
        total, *more = self._carry_out(units)
        for result in more:
            total = trees.add(total, result)
        return [total["gradient"]["init"][name].numpy() / self._config.episodes for name in self._names]

    def iterate(self) -> None:
        """Send units until a step is reported."""
        asked = self._asked or next(self._training)
        while isinstance(asked, Units):
            asked = self._training.send(self._carry_out(asked))
        self._asked = next(self._training)  # the next step's units, not yet carried out

    def memory(self) -> float:
        """Peak of the largest worker; of this process where there is none."""
        if not self._workers:
            return peak_memory()
        found = self._carry_out(Units(_memory_of, {}, tuple(range(16 * self._workers))))
        return max(result["mb"] for result in found)

    def close(self) -> None:
        self._executor.close()

    def _start(self):
        return meta_train(self._config, Run(seed=0, trial=0, key=Key((0,))))

    def _carry_out(self, units: Units) -> list[Any]:
        self._ticket += 1
        self._executor.submit(self._ticket, units)
        while True:
            for message in self._executor.poll(60.0):
                if not isinstance(message, Done):
                    raise RuntimeError(f"the executor says {message}")
                return message.results


def _memory_of(shared: Any, item: int) -> dict[str, float]:
    return {"mb": peak_memory()}


def _episodes(arrays: dict[str, np.ndarray], kind: torch.dtype) -> tuple[Episode, ...]:
    tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
    tensors = {name: t.to(kind) if t.is_floating_point() else t for name, t in tensors.items()}

    def batch(part: str, task: int) -> Batch:  # a copy: a view would travel to the workers with all that it views
        return Batch(tensors[f"{part}_x"][task].clone(), tensors[f"{part}_y"][task].clone())

    return tuple(Episode(batch("support", task), batch("query", task)) for task in range(len(tensors["support_x"])))
