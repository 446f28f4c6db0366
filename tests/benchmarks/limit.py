"""How fast could a second-order meta-gradient be if only its matrix products took time?

A lower bound: the floating-point operations of the matrix products that the gradient needs, at the rate at which this
machine multiplies large float32 matrices. Element-wise work, memory traffic and small matrices make up the distance.
"""

from __future__ import annotations

import numpy as np
import torch
from cases import CHANNELS, HIDDEN, Case

SIDE = 1024
PRODUCT = 2 * SIDE**3
"""Floating-point operations of one product that `Products` times."""


class Products:
    """A `contestant.Contestant` that multiplies two matrices [1024, 1024]; one iteration is one product."""

    def __init__(self) -> None:
        left, right = torch.randn(2, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
        self._left, self._right = left, right

    def gradient(self) -> list[np.ndarray]:
        return []

    def iterate(self) -> None:
        self._left @ self._right

    def memory(self) -> float:
        return 0.0

    def close(self) -> None:
        pass


def operations(case: Case) -> float:
    """Floating-point operations of the matrix products of one meta-iteration.

    A layer y = W x takes one product forward and two backward (for W and for x; for W alone in the first layer, whose
    input is given). An inner step is forward and backward; the outer gradient goes backward through each of its
    products, two for one: 3 + 6 products, in the first layer 2 + 2 (W and what reaches y and its slope). The query
    takes 3, in the first layer 2.
    """
    support, query = case.sizes
    total = 0.0
    for layer, size in enumerate(_products(case)):
        step, judged = (4, 2) if layer == 0 else (9, 3)
        total += 2 * size * (support * case.steps * step + query * judged)
    return total * case.tasks


def _products(case: Case) -> list[int]:
    """Multiplications of one forward pass of one sample, by layer."""
    if not case.ways:
        return [HIDDEN, HIDDEN * HIDDEN, HIDDEN]
    positions = [14 * 14, 7 * 7, 4 * 4, 2 * 2]
    inputs = [1, CHANNELS, CHANNELS, CHANNELS]
    convolutions = [p * i * 9 * CHANNELS for p, i in zip(positions, inputs, strict=True)]
    return [*convolutions, CHANNELS * case.ways]
