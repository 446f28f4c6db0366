"""Which sine curve is this, from a few of its points (Finn et al. 2017, section 5.1)?"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from bilevel.episodes import Batch, Episode, Key, Split
from bilevel.tasks.fewshot import check_counts

AMPLITUDE = (0.1, 5.0)
PHASE = (0.0, math.pi)  # radians
X = (-5.0, 5.0)
GRID = 100  # query points of an exhibit

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Sinusoid:
    """Regression on y = A sin(x - p), A uniform in 0.1–5, p in 0–π, x in [-5, 5]; no noise (Finn et al. 2017).

    All splits draw from the same distribution; their tasks differ because the split is part of what decides a task.
    Shapes: `x` and `y` [shots, 1] in the support and [queries, 1] in the query, float32.
    """

    shots: int = 10
    """Points to learn from."""
    queries: int = 10
    """Points to be judged on."""

    def check(self) -> None:
        """Raises BadInput for counts below 1."""
        check_counts(self, shots=self.shots, queries=self.queries)

    def episode(self, split: Split, key: Key) -> Episode:
        """One curve, and points on it."""
        rng = key.child(split).numpy()
        curve, x = rng.random(2), _between(X, rng.random(self.shots + self.queries))
        return _episode(curve, x, self.shots)

    def exhibit(self, key: Key) -> Episode:
        """A test curve to be drawn: the support as ever, the query 100 points on a regular grid over [-5, 5]."""
        rng = key.child("test").numpy()
        curve, x = rng.random(2), _between(X, rng.random(self.shots + self.queries))
        return _episode(curve, np.concatenate([x[: self.shots], np.linspace(*X, GRID)]), self.shots)


def _between(limits: tuple[float, float], unit: Floats) -> Floats:
    low, high = limits
    return low + (high - low) * unit


def _episode(curve: Floats, x: Floats, shots: int) -> Episode:
    """The curve that two numbers in [0, 1) stand for, at `x` [samples]; the first `shots` are the support."""
    amplitude, phase = _between(AMPLITUDE, curve[0]), _between(PHASE, curve[1])
    points = torch.from_numpy(np.stack([x, amplitude * np.sin(x - phase)]).astype(np.float32)).unsqueeze(-1)
    return Episode(Batch(points[0, :shots], points[1, :shots]), Batch(points[0, shots:], points[1, shots:]))
