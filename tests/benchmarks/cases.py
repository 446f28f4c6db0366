"""What is measured: which networks, episodes and weights, the same numbers for every contestant?

Only numpy is used here, so that this file can be read by the interpreter of any contestant.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CHANNELS = 64
SIDE = 28
HIDDEN = 40


@dataclass(frozen=True)
class Case:
    """One meta-iteration: `tasks` episodes, `steps` second-order gradient steps of size `lr` on each.

    `ways` 0 is the sinusoid (an MLP 1-40-40-1 with ReLU, mean squared error, `shots` and `queries` points a task);
    otherwise `ways` classes of 28 x 28 images with `shots` and `queries` images a class, for the network of four
    convolutions that learn2learn calls OmniglotCNN (64 filters, stride 2, batch normalisation with the statistics of
    the batch at hand, mean over positions, one linear layer).
    """

    name: str
    ways: int
    shots: int
    queries: int
    tasks: int
    steps: int
    lr: float
    unit: int | None = None
    """Of us alone: episodes side by side in a unit of work (None: the default), as a study says it."""

    @property
    def sizes(self) -> tuple[int, int]:
        """Samples in support and query of one task."""
        classes = max(self.ways, 1)
        return classes * self.shots, classes * self.queries


CASES = {
    case.name: case
    for case in (
        Case("sinusoid-1", ways=0, shots=10, queries=10, tasks=25, steps=1, lr=0.01),
        Case("sinusoid-5", ways=0, shots=10, queries=10, tasks=25, steps=5, lr=0.01),
        Case("conv4-1", ways=5, shots=1, queries=5, tasks=32, steps=1, lr=0.4, unit=8),
        Case("conv4-5", ways=5, shots=1, queries=5, tasks=32, steps=5, lr=0.4, unit=8),
        Case("conv4-5-1query", ways=5, shots=1, queries=1, tasks=32, steps=5, lr=0.4, unit=8),
        Case("conv4-20way-5", ways=20, shots=1, queries=5, tasks=16, steps=5, lr=0.1),
    )
}


def episodes(case: Case, seed: int = 0) -> dict[str, np.ndarray]:
    """`support_x`, `support_y`, `query_x`, `query_y`, each with a leading axis [tasks, ...]; float64 and int64.

    Images [tasks, samples, 1, 28, 28] are coarse random figures in 0 and 1, one figure a class, shifted and speckled;
    classes follow each other in order. Points [tasks, samples, 1] are those of the sinusoids of Finn et al. (2017).
    """
    rng = np.random.default_rng(seed)
    arrays: dict[str, list[np.ndarray]] = {f"{part}_{axis}": [] for part in ("support", "query") for axis in "xy"}
    for _ in range(case.tasks):
        draw = _figures(case, rng) if case.ways else _sinusoid(rng)
        for part, samples in (("support", case.shots), ("query", case.queries)):
            x, y = draw(samples)
            arrays[f"{part}_x"].append(x)
            arrays[f"{part}_y"].append(y)
    return {name: np.stack(parts) for name, parts in arrays.items()}


def weights(case: Case, seed: int = 1) -> list[np.ndarray]:
    """Initial weights in the order of `Module.parameters()`: weight before bias, first layer first; float64."""
    rng = np.random.default_rng(seed)
    if not case.ways:
        return [part for sizes in ((1, HIDDEN), (HIDDEN, HIDDEN), (HIDDEN, 1)) for part in _linear(rng, *sizes)]
    parts = []
    for inputs in (1, CHANNELS, CHANNELS, CHANNELS):
        bound = np.sqrt(6 / (9 * (inputs + CHANNELS)))  # Glorot and Bengio (2010), as learn2learn starts
        parts += [rng.uniform(-bound, bound, (CHANNELS, inputs, 3, 3)), np.zeros(CHANNELS)]
        parts += [rng.uniform(0.5, 1.0, CHANNELS), rng.uniform(-0.1, 0.1, CHANNELS)]
    return parts + _linear(rng, CHANNELS, case.ways)


def _linear(rng: np.random.Generator, inputs: int, outputs: int) -> list[np.ndarray]:
    bound = 1 / np.sqrt(inputs)
    return [rng.uniform(-bound, bound, (outputs, inputs)), rng.uniform(-bound, bound, outputs)]


def _sinusoid(rng: np.random.Generator):
    amplitude, phase = rng.uniform(0.1, 5.0), rng.uniform(0.0, np.pi)

    def draw(samples: int) -> tuple[np.ndarray, np.ndarray]:
        x = rng.uniform(-5.0, 5.0, (samples, 1))
        return x, amplitude * np.sin(x - phase)

    return draw


def _figures(case: Case, rng: np.random.Generator):
    figures = np.kron(rng.random((case.ways, 7, 7)) < 0.3, np.ones((4, 4)))

    def draw(samples: int) -> tuple[np.ndarray, np.ndarray]:
        images = np.repeat(figures, samples, axis=0)
        moved = [np.roll(image, tuple(rng.integers(-2, 3, 2)), axis=(0, 1)) for image in images]
        speckled = np.abs(np.stack(moved) - (rng.random((len(images), SIDE, SIDE)) < 0.02))
        return speckled[:, None], np.repeat(np.arange(case.ways), samples)

    return draw
