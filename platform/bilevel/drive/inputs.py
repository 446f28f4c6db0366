"""How are a user's samples and labels brought to the shape and type that a model learned from?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bilevel.episodes import Scaling
from bilevel.errors import BadInput


def array(values: Any, what: str) -> NDArray[Any]:
    """What a user gave, as an array.

    Raises:
        BadInput: it is none (rows of unequal length, say).
    """
    try:
        return np.asarray(values)
    except (ValueError, TypeError) as error:
        raise BadInput(f"{what} is no array: {error}") from error


def counted(x: Any) -> int | None:
    """How many samples inputs hold, an array or a dict or tuple of them; None: they do not agree, or are a number."""
    parts = x.values() if isinstance(x, dict) else x if isinstance(x, tuple) else (x,)
    shapes = [array(part, "support: x").shape for part in parts]
    counts = {shape[0] if shape else None for shape in shapes}
    return counts.pop() if len(counts) == 1 else None


def like(x: Any, example: Any, what: str, scaling: Scaling | None = None) -> Any:
    """Inputs as those of an example [samples, *shape] are: their type, their shape, a dict or tuple where it is one.

    Raises:
        BadInput: they are no finite numbers, of another shape, or not whole where the model takes whole numbers.
    """
    if isinstance(example, Tensor):
        return _tensor(array(x, f"{what}: x"), example, what, scaling)
    if not isinstance(x, type(example)) or len(x) != len(example):
        raise BadInput(f"{what}: x is a {type(x).__name__}; the model takes a {_described(example)}")
    if isinstance(example, dict):
        missing = [name for name in example if name not in x]
        if missing:
            raise BadInput(f"{what}: x has no {missing[0]!r}; the model takes a {_described(example)}")
        return {name: like(x[name], part, what, scaling) for name, part in example.items()}
    return tuple(like(one, part, what, scaling) for one, part in zip(x, example, strict=True))


def check_numbers(values: NDArray[Any], what: str, largest: float) -> None:
    """Whether they are finite numbers that the model's own can hold.

    Raises:
        BadInput: they are not; the first that is none is named.
    """
    if values.dtype.kind not in "fiub":
        raise BadInput(f"{what} holds something else than finite numbers ({values.dtype})")
    wrong = ~np.isfinite(values)
    if not wrong.any():
        wrong = (values > largest) | (values < -largest)
    if wrong.any():
        at = np.unravel_index(int(wrong.argmax()), wrong.shape)
        place = f"{values[at]} in sample {at[0]}" + (f", value {', '.join(map(str, at[1:]))}" if len(at) > 1 else "")
        raise BadInput(f"{what} holds something else than finite numbers: {place} (counted from 0)")


def check_whole(values: NDArray[Any], dtype: torch.dtype, what: str) -> None:
    """Whether they are whole numbers that the type can hold.

    Raises:
        BadInput: they are not; the first that is none is named.
    """
    low, high = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    wrong = values[(values != np.floor(values)) | (values < low) | (values > high)]
    if wrong.size:
        kind = str(dtype).removeprefix("torch.")
        raise BadInput(f"{what} holds {wrong.flat[0]}; the model takes whole numbers ({kind})")


def largest(example: Tensor, scaling: Scaling | None) -> float:
    """The largest number that the model can be given."""
    return float(torch.finfo(torch.float64 if scaling or not example.is_floating_point() else example.dtype).max)


def _tensor(x: NDArray[Any], example: Tensor, what: str, scaling: Scaling | None) -> Tensor:
    shape = tuple(example.shape[1:])
    if x.ndim == 0:
        sizes = ", ".join(map(str, shape))
        raise BadInput(f"{what}: x is a single {x.dtype}; it takes samples, [samples, {sizes}]")
    if x.ndim == 1 and shape:
        x = x[:, None]
    check_numbers(x, f"{what}: x", largest(example, scaling))
    if x.shape[1:] != shape:
        if math.prod(x.shape[1:]) != math.prod(shape):
            raise BadInput(f"{what}: a sample is {list(x.shape[1:])}; the model takes {list(shape)}")
        x = x.reshape(len(x), *shape)
    if example.is_floating_point():
        tensor = torch.from_numpy(np.ascontiguousarray(x).astype(np.float64))
        return (tensor if scaling is None else scaling.encode_x(tensor)).to(example.dtype)
    check_whole(x, example.dtype, f"{what}: x")
    return torch.from_numpy(np.ascontiguousarray(x).astype(np.int64)).to(example.dtype)


def _described(x: Any) -> str:
    names = ", ".join(map(repr, x)) if isinstance(x, dict) else str(len(x))
    return f"{type(x).__name__} of tensors ({names})"
