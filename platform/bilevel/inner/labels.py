"""What are the labels of a distribution over tasks, classes or numbers, and in which types does an episode come?"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bilevel import trees
from bilevel.episodes import Batch, Episode, TaskTraits
from bilevel.errors import BadInput

HALF = (torch.float16, torch.bfloat16)  # types that figures and linear algebra do not know


@dataclass(frozen=True)
class Labels:
    """What a sample's label is: one of so many classes, or (None) something else; and the outputs that suit it."""

    classes: int | None
    outputs: int


NUMBERS = Labels(None, 1)


def labels_of(tasks: Any, examples: Iterable[Episode]) -> Labels:
    """As the tasks declare it (`classes`, `outputs`), else as some of their episodes show it.

    Whole numbers (or booleans), one a sample, are classes 0, 1, ...; all else is what the loss takes it for.

    Raises:
        BadInput: a declaration that is no count.
    """
    classes = TaskTraits(tasks).classes
    outputs = TaskTraits(tasks).outputs
    count = classes if isinstance(classes, int) or classes is None else len(classes)
    for name, value in (("classes", count), ("outputs", outputs)):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
            raise BadInput(f"{type(tasks).__name__}: {name} is {value!r}; it is a number of 1 or more")
    answers = [batch.y for one in examples for batch in (one.support, one.query) if isinstance(batch, Batch)]
    if not answers:
        return Labels(None, outputs or 1)
    first = answers[0]
    if first.is_floating_point() or first.dim() != 1:
        return Labels(None, outputs or int(np.prod(first.shape[1:])))
    if count is None:
        count = max((int(y.max()) for y in answers if y.numel()), default=0) + 1
    return Labels(count, outputs or count)


def settled(episode: Episode, dtype: torch.dtype) -> Episode:
    """The episode in the types that all else counts on: floats in `dtype`, classes int64, and 0 where samples only pad.

    Whole numbers as inputs (tokens, bytes of an image) stay what they are.

    Raises:
        BadInput: inputs or labels that are no tensors or arrays.
    """
    return Episode(_settled("support", episode.support, dtype), _settled("query", episode.query, dtype))


def single(tree: Any) -> Any:
    """The tree with numbers of 16 bits in 32: what is drawn or compared with."""
    return trees.map_tensors(lambda tensor: tensor.float() if tensor.dtype in HALF else tensor, tree)


def _settled(part: str, batch: Any, dtype: torch.dtype) -> Any:
    if not isinstance(batch, Batch):
        return batch
    x, y = _tensors(f"{part}.x", batch.x), _tensors(f"{part}.y", batch.y)
    if not isinstance(y, Tensor):
        raise BadInput(f"{part}.y is a {type(y).__name__}; labels are one tensor, [samples, ...]")
    x = trees.map_tensors(lambda tensor: tensor.to(dtype) if tensor.is_floating_point() else tensor, x)
    if y.is_floating_point():
        y = y.to(dtype)
    elif y.dtype != torch.bool or y.dim() == 1:  # several booleans a sample stay what they are: labels of their own
        y = y.to(torch.int64)
    if batch.mask is None:
        return replace(batch, x=x, y=y)
    mask = _tensors(f"{part}.mask", batch.mask).to(torch.bool)
    return Batch(trees.map_tensors(lambda tensor: _blank(tensor, mask), x), _blank(y, mask), mask)


def _tensors(name: str, value: Any) -> Any:
    if isinstance(value, np.ndarray):
        try:
            return torch.from_numpy(np.ascontiguousarray(value))
        except TypeError as error:
            raise BadInput(f"{name} is an array of {value.dtype}; give numbers") from error
    if isinstance(value, dict):
        return {key: _tensors(f"{name}[{key!r}]", leaf) for key, leaf in value.items()}
    if isinstance(value, list | tuple) and not all(isinstance(leaf, int | float) for leaf in value):
        return tuple(_tensors(f"{name}[{index}]", leaf) for index, leaf in enumerate(value))
    if not isinstance(value, Tensor):
        raise BadInput(
            f"{name} is a {type(value).__name__}; it takes a tensor [samples, ...], or a dict or tuple of them"
        )
    return value


def _blank(values: Tensor, mask: Tensor) -> Tensor:
    """0 in padded samples: what stands there, NaN too, reaches neither a loss nor (0 * NaN) a gradient."""
    return values.masked_fill(~mask.view(*mask.shape, *[1] * (values.dim() - mask.dim())), 0)
