"""Where is the minimum of a quadratic through the points near the best one?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_FULL = 10
"""Dimensions up to which all products of two coordinates are fitted; beyond, only squares."""
_MARGIN = 1.1
"""Points for each coefficient that a richer model needs."""
_NEAR = 2
"""Points for each coefficient that are fitted, the nearest ones."""
_LIGHTEST = 0.1
"""Weight of the worst point; the best has 1."""
_OUTLIER = 10.0
"""Values above the best by more than so many times what the median is above it are cut."""


def wanted(size: int) -> int:
    """How many points are fitted in so many dimensions, if they are there."""
    return _NEAR * (1 + size + (size * (size + 1) // 2 if size <= _FULL else size))


def minimum(places: Array, values: Array, radius: float, *, least: int = 0) -> tuple[Array, float] | None:
    """The place of the minimum within a ball around 0, and the value that is expected there; None: nothing to go by.

    A linear, a separable quadratic or a full quadratic model, the richest for which there are points (as in Hansen
    2019), is fitted to the points nearest to 0.

    Args:
        places: [points, dimensions], in coordinates in which near and far mean something.
        values: [points].
        radius: of the ball.
        least: so many points are fitted at least, if there are so many.
    """
    size = places.shape[1]
    full = size <= _FULL and len(places) >= _MARGIN * (size + 1) * (size + 2) / 2
    separable = len(places) >= _MARGIN * (2 * size + 1)
    if len(places) < _MARGIN * (size + 1):
        return None
    rows, columns = np.triu_indices(size) if full else np.diag_indices(size)
    if not full and not separable:
        rows, columns = rows[:0], columns[:0]
    take = max(int(_NEAR * (1 + size + len(rows))), least)
    near = np.argsort((places * places).sum(axis=1), kind="stable")[:take]
    places, values = places[near], values[near]
    low, middle = values.min(), np.median(values)
    span = (middle - low) or (values.max() - low)
    if span <= 0:
        return None
    heights = (np.minimum(values, low + _OUTLIER * span) - low) / span
    order = np.argsort(np.argsort(heights, kind="stable"))
    weights = 1 - (1 - _LIGHTEST) * order / max(len(order) - 1, 1)
    terms = np.hstack([np.ones((len(places), 1)), places, places[:, rows] * places[:, columns]])
    found = np.linalg.lstsq(terms * weights[:, None], heights * weights, rcond=1e-10)[0]
    slope, curve = found[1 : size + 1], np.zeros((size, size))
    curve[rows, columns] = found[size + 1 :]
    curve = curve + curve.T
    step = _descend(slope, curve, radius)
    if step is None:
        return None
    return step, float(low + span * (found[0] + slope @ step + step @ curve @ step / 2))


def _descend(slope: Array, curve: Array, radius: float) -> Array | None:
    """The minimum of `slope x + x curve x / 2` within the ball: -(curve + c)^-1 slope with the least c that does."""
    steepness = float(np.linalg.norm(slope))
    if steepness == 0.0:
        return None
    bends, axes = np.linalg.eigh(curve)
    along = axes.T @ slope

    def step(shift: float) -> Any:
        return -along / (bends + shift)

    low = max(0.0, -float(bends[0])) + 1e-12 * max(float(np.abs(bends).max()), steepness)
    if np.linalg.norm(step(low)) > radius:
        high = low + 2 * steepness / radius
        for _ in range(30):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if np.linalg.norm(step(middle)) > radius else (low, middle)
        low = high
    found: Array = axes @ step(low)
    return found
