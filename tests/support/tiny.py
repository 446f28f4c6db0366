"""Studies that take a fraction of a second, for tests of what runs them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from bilevel import (
    Adam,
    Inline,
    Learned,
    MetaTraining,
    Report,
    Result,
    Run,
    Space,
    Study,
    figures,
    meta_train,
    run,
)
from bilevel.drive.progress import Progress
from bilevel.inner import GradientDescent
from bilevel.nets import mlp
from bilevel.study.events import Units
from bilevel.tasks import Sinusoid


def maml(**changes: Any) -> Study:
    """Sinusoid MAML in four outer steps of three episodes (two units); `changes` go to `MetaTraining`."""
    values = {
        "tasks": Sinusoid(shots=4, queries=4),
        "episodes": 3,
        "steps": 4,
        "unit": 2,
        "validate_every": 2,
        "test_episodes": 4,
        "validate_episodes": 4,
        "rule": Space(
            GradientDescent,
            init=Learned(Space(mlp, hidden=(8,)), by=Adam(1e-2)),
            lr=Learned(0.05, by=Adam(1e-2), per="tensor"),
            steps=1,
        ),
    } | changes
    space = Space(MetaTraining, **values)
    return Study(name="tiny", objective=meta_train, minimize="valid/loss", space=space, seed=7)


def finished(store: Path, study: Study | None = None, **more: Any) -> Result:
    """A run of the tiny study from beginning to end, in this process, without MLflow and (dear to draw) figures."""
    with mock.patch.object(figures, "draw", return_value={}):
        return run(study or maml(), on=Inline(), store=store, track="none", **more)


@dataclass(frozen=True, kw_only=True)
class Walk:
    """The configuration of `walk`."""

    steps: int = 5
    units: int = 3


def drift(shared: dict[str, Any], item: int) -> dict[str, Any]:
    """A unit whose value depends on the shared tensor and on its item."""
    return {"w": torch.sin(shared["w"] * (item + 1))}


def walk(config: Walk, run: Run) -> Iterator[Report | Units]:
    """A tensor that moves by the sum of some units at every step: as `meta_train`, in five lines."""
    state = run.state or {"step": 0, "learned": {"w": torch.linspace(0.1, 1.0, 4) + run.seed % 7}}
    for step in range(state["step"] + 1, config.steps + 1):
        w = state["learned"]["w"]
        results = yield Units(drift, {"w": w}, tuple(range(config.units)))
        state = {"step": step, "learned": {"w": w + sum(result["w"] for result in results)}}
        yield Report(step, {"loss": float(state["learned"]["w"].sum())}, state)


def walking(**changes: Any) -> Study:
    """A study of `walk`."""
    return Study(name="walk", objective=walk, minimize="loss", space=Space(Walk, **changes), seed=3)


class Said:
    """A watch that keeps what it is told, and may interrupt when it looks."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.seen: list[Progress] = []

    def progress(self, progress: Progress) -> None:
        self.seen.append(progress)

    def say(self, text: str) -> None:
        self.lines.append(text)
