"""Does a trial that draws from the global generators come to the same bits, interrupted or not, wherever it runs?"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import bilevel
from bilevel import Inline, Random, Ray, Report, Run, Space, Study, Tune, Uniform, figures
from bilevel.drive import progress
from bilevel.drive.progress import Progress

STEPS = 6
ENGINES = [
    pytest.param(Inline(), id="inline"),
    pytest.param(Ray(workers=1), id="ray", marks=pytest.mark.slow),
    pytest.param(Tune(workers=1), id="tune", marks=pytest.mark.slow),
]


def drawn() -> dict[str, float]:
    return {"python": random.random(), "numpy": float(np.random.rand()), "torch": float(torch.rand(()))}


def keeping(config: dict[str, float], run: Run) -> Iterator[Report]:
    """A network with dropout, whose state is what anyone would keep: weights, optimiser, epoch."""
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Dropout(0.5), torch.nn.Linear(8, 1))
    optimiser = torch.optim.Adam(net.parameters(), lr=config["lr"])
    done = 0
    if run.state is not None:
        net.load_state_dict(run.state["net"])
        optimiser.load_state_dict(run.state["optimiser"])
        done = run.state["done"]
    for step in range(done + 1, STEPS + 1):
        x = torch.randn(16, 4) + random.random() + float(np.random.randn())
        loss = (net(x) - x.sum(1, keepdim=True)).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        state = {"net": net.state_dict(), "optimiser": optimiser.state_dict(), "done": step}
        yield Report(step, {"loss": loss.item(), **drawn()}, state)


def without(config: dict[str, float], run: Run) -> Iterator[Report]:
    """The same draws, and nothing is kept: it begins again, from the trial's seed."""
    for step in range(1, STEPS + 1):
        yield Report(step, {"loss": config["lr"] + random.random(), **drawn()})


class Looking:
    """Keeps what it is told. Nothing of the tests' own is imported here: the objectives' module goes to workers."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def progress(self, seen: Progress) -> None:
        pass

    def say(self, text: str) -> None:
        self.lines.append(text)


class Interrupting(Looking):
    """Ends the driver's work once, in the middle of a trial."""

    def progress(self, seen: Progress) -> None:
        trial = seen.history.trials.get(1)
        if trial is not None and trial.step >= 3 and trial.state == "running" and "interrupted" not in self.lines:
            self.lines.append("interrupted")
            os.kill(os.getpid(), signal.SIGINT)


def studied(objective: Any) -> Study:
    space = Space(dict, lr=Uniform(0.001, 0.1))
    return Study(name="drawn", objective=objective, minimize="loss", space=space, search=Random(), trials=3, seed=5)


@pytest.mark.parametrize("objective", [keeping, without])
@pytest.mark.parametrize("on", ENGINES)
def test_resumed_and_undisturbed_are_the_same_bits(
    objective: Any, on: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, "draw", lambda *_, **__: {})
    monkeypatch.setattr(progress, "LOOK_EVERY", 0.0)
    undisturbed = bilevel.run(studied(objective), on=Inline(), store=tmp_path, track="none", slots=1)
    watch = Interrupting()
    half = bilevel.run(studied(objective), on=on, store=tmp_path, track="none", slots=1, watch=watch)
    assert half.status == ("interrupted" if "interrupted" in watch.lines else "completed"), half.trials["reason"][0]
    again = Looking()
    whole = bilevel.resume(half.run_id, store=tmp_path, study=studied(objective), watch=again)
    assert whole.status == "completed"
    assert not [line for line in again.lines if "recomputed" in line]
    assert whole.reports.equals(undisturbed.reports)
    assert whole.fingerprint == undisturbed.fingerprint
    if isinstance(on, Inline):  # elsewhere a trial may have ended before anybody looked
        assert half.status == "interrupted"
