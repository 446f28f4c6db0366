"""How is an N-way, K-shot episode drawn from classes and their samples?"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bilevel.episodes import Batch, Episode
from bilevel.errors import BadInput

Ints = NDArray[np.int64]


def check_counts(owner: object, **counts: object) -> None:
    """Each of `counts` is an integer ≥ 1.

    Raises:
        BadInput: one is not.
    """
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise BadInput(f"{type(owner).__name__}: {name}={value!r} is no count; give an integer of 1 or more")


def check_ways(owner: object, ways: int, classes: Mapping[str, int]) -> None:
    """Every split has at least `ways` classes; `classes` gives their number by split.

    Raises:
        BadInput: one has fewer.
    """
    if ways < 2:
        raise BadInput(f"{type(owner).__name__}: ways={ways} leaves nothing to tell apart; give 2 or more")
    name = min(classes, key=lambda split: classes[split])
    if ways > classes[name]:
        raise BadInput(
            f"{type(owner).__name__}: ways={ways}, but the {name} split has {classes[name]} classes; "
            f"give ways of at most {classes[name]}"
        )


def draw_classes(rng: np.random.Generator, classes: int, ways: int) -> Ints:
    """`ways` distinct classes of `classes`, in random order: [ways]. The place of a class is its label."""
    return np.asarray(rng.choice(classes, ways, replace=False), dtype=np.int64)


def draw_samples(rng: np.random.Generator, sizes: Ints, each: int) -> Ints:
    """`each` samples of every class, in random order: [ways, each], with `sizes` [ways] samples to choose from.

    They are distinct while a class has enough; only when it has fewer than `each` does it begin again.
    """
    order = rng.random((len(sizes), int(sizes.max())))
    order[np.arange(order.shape[1]) >= sizes[:, None]] = 2.0  # a class's missing samples come last
    ranked = np.argsort(order, axis=1, kind="stable")
    return np.take_along_axis(ranked, np.arange(each)[None, :] % sizes[:, None], axis=1)


def labelled(x: Tensor, shots: int) -> Episode:
    """The episode of samples `x` [ways, shots + queries, *shape]: the first `shots` of each class are its support.

    Both batches are grouped by class: `x` [ways * shots, *shape], `y` [ways * shots] = 0, …, 0, 1, …, 1, …
    """
    ways, each = x.shape[:2]
    return Episode(
        Batch(x[:, :shots].flatten(0, 1), torch.from_numpy(np.arange(ways).repeat(shots))),
        Batch(x[:, shots:].flatten(0, 1), torch.from_numpy(np.arange(ways).repeat(each - shots))),
    )
