"""How are parameter trees (nested dicts of tensors) compared, combined, moved and hashed?"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

NOT_NUMPYS = frozenset((torch.bfloat16, torch.float8_e4m3fn, torch.float8_e5m2))
KEPT = NOT_NUMPYS | frozenset((
    torch.bool, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint8, torch.uint16, torch.uint32,
    torch.uint64, torch.float16, torch.float32, torch.float64, torch.complex64,
))  # fmt: skip
"""Types of tensors that safetensors can hold."""

ALIGNED = 64
"""Bytes to whose multiples torch aligns the tensors that it makes."""


def map_tensors(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """The same tree with `function` applied to each tensor; dicts, lists, tuples and dataclasses are walked."""
    return _map(Tensor, function, tree)


def map_pairs(function: Callable[[Tensor, Tensor], Any], left: Any, right: Any) -> Any:
    """`function` of the tensors at the same place of two trees (dicts, lists, tuples) that are alike."""
    if isinstance(left, dict):
        return {name: map_pairs(function, leaf, right[name]) for name, leaf in left.items()}
    if isinstance(left, list | tuple):
        return type(left)(map_pairs(function, one, two) for one, two in zip(left, right, strict=True))
    return function(left, right)


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """`(dotted path, leaf)` of a nested dict, in name order (insertion order does not count)."""
    if isinstance(tree, Mapping):
        for name in sorted(tree, key=_order):
            yield from leaves(tree[name], f"{path}.{name}" if path else str(name))
    else:
        yield path, tree


def _order(name: Any) -> tuple[int, Any]:
    """Words, then numbers, then the rest: a tree may have all of them as names."""
    if isinstance(name, str):
        return 0, name
    return (1, name) if isinstance(name, int | float) else (2, str(name))


def stack(trees: Sequence[Any]) -> Any:
    """One tree whose tensors are `torch.stack` of the given trees' tensors: each gets a leading axis.

    Raises:
        ValueError: the trees differ in structure or in a tensor's shape.
    """
    first = trees[0]
    if isinstance(first, Tensor):
        shapes = {tuple(tree.shape) for tree in trees}
        if len(shapes) > 1:
            raise ValueError(f"tensors of different shapes cannot be stacked: {sorted(shapes)[:4]}")
        return torch.stack(list(trees))
    if isinstance(first, dict):
        return {name: stack([tree[name] for tree in trees]) for name in first}
    if isinstance(first, list | tuple):
        return type(first)(stack(list(parts)) for parts in zip(*trees, strict=True))
    if is_dataclass(first) and not isinstance(first, type):
        return type(first)(**{f.name: stack([fields_of(tree)[f.name] for tree in trees]) for f in fields(first)})
    return first


def fields_of(record: Any) -> dict[str, Any]:
    """What a dataclass's instance holds, by field, in their order; not copied."""
    return {field.name: getattr(record, field.name) for field in fields(record)}


def add(left: Any, right: Any) -> Any:
    """Leaf by leaf `left + right` of two nested dicts of tensors or numbers."""
    if isinstance(left, dict):
        return {name: add(leaf, right[name]) for name, leaf in left.items()}
    return left + right


def storable(tree: Any, path: str = "", *, copy: bool = False) -> Any:
    """The tree as a checkpoint can hold it: tensors and JSON values; numpy's arrays become tensors, its numbers plain.

    With `copy` its tensors are copies: whoever goes on training changes the originals in place.

    Raises:
        TypeError: something else is in it; the message says where and what.
    """
    if isinstance(tree, Tensor):
        if tree.layout != torch.strided or tree.is_quantized or tree.dtype not in KEPT:
            kind = str(tree.dtype if tree.layout == torch.strided else tree.layout).removeprefix("torch.")
            raise TypeError(f"{path or 'it'} is a tensor of {kind}; a checkpoint cannot hold it")
        return tree.detach().clone() if copy else tree
    if isinstance(tree, str | int | float | bool | None):
        return tree
    if isinstance(tree, dict):
        for name in tree:
            if not isinstance(name, str | int | float | None):
                raise TypeError(
                    f"{path or 'it'} has the key {name!r}, a {type(name).__name__}; keys are words or numbers"
                )
        return {name: storable(leaf, f"{path}.{name}" if path else str(name), copy=copy) for name, leaf in tree.items()}
    if isinstance(tree, list | tuple):
        return [storable(leaf, f"{path}.{index}", copy=copy) for index, leaf in enumerate(tree)]
    if isinstance(tree, np.ndarray) and tree.dtype.kind in "biufc" and tree.dtype.itemsize <= 8:
        return torch.tensor(np.ascontiguousarray(tree, dtype=tree.dtype.newbyteorder("=")))
    if isinstance(tree, np.generic) and isinstance(tree.item(), str | int | float):
        return tree.item()
    raise TypeError(
        f"{path or 'it'} is a {type(tree).__name__}; it takes tensors, numpy arrays, numbers, words, lists and dicts"
    )


def to_device(tree: Any, device: torch.device | str) -> Any:
    """The tree with its tensors on `device`."""
    return map_tensors(lambda tensor: tensor.to(device), tree)


class _Place(NamedTuple):
    """Where a tensor lies in the bytes of a `Packed`."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True)
class Packed:
    """A tree on its way between processes: its tensors side by side in one array, for a buffer each would cost more."""

    tree: Any
    """With the place of a tensor where the tensor was."""
    data: np.ndarray[Any, np.dtype[np.uint8]]


def pack(tree: Any) -> Packed:
    """The tree ready to travel; numpy arrays in it become tensors."""
    parts: list[tuple[_Place, Tensor]] = []
    size = 0

    def place(leaf: Tensor | np.ndarray[Any, Any]) -> _Place:
        nonlocal size
        tensor = (torch.tensor(leaf) if isinstance(leaf, np.ndarray) else leaf.detach().cpu()).contiguous()
        found = _Place(tensor.dtype, tuple(tensor.shape), size, size + tensor.nbytes)
        parts.append((found, tensor))
        size = -(-found.end // ALIGNED) * ALIGNED
        return found

    placed = _map((Tensor, np.ndarray), place, tree)
    data = torch.zeros(size, dtype=torch.uint8)
    for where, tensor in parts:
        data[where.start : where.end] = tensor.reshape(-1).view(torch.uint8)
    return Packed(placed, data.numpy())


def unpack(packed: Packed) -> Any:
    """The tree that was packed, in writable memory of its own, each tensor aligned as torch aligns."""
    data = torch.tensor(packed.data)  # a copy: numpy aligns to 16 bytes, and the bits of a product may depend on it

    def tensor(at: _Place) -> Tensor:
        if at.start == at.end:
            return torch.empty(at.shape, dtype=at.dtype)
        return data[at.start : at.end].view(at.dtype).reshape(at.shape)

    return _map(_Place, tensor, packed.tree)


def digest(tree: Any) -> str:
    """SHA-256 (hex) over names, types, shapes and bytes of a tree's leaves, in name order."""
    sha = hashlib.sha256()
    for path, leaf in leaves(tree):
        if isinstance(leaf, Tensor):
            tensor = leaf.detach().cpu().contiguous()
            kind = str(tensor.dtype) if tensor.dtype in NOT_NUMPYS else tensor.numpy().dtype.str
            sha.update(f"{path}\0{kind}\0{tuple(tensor.shape)}\0".encode())
            sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
        else:
            sha.update(f"{path}\0{leaf!r}\0".encode())
    return sha.hexdigest()


def _map(kind: type | tuple[type, ...], function: Callable[[Any], Any], tree: Any) -> Any:
    if isinstance(tree, kind):
        return function(tree)
    if isinstance(tree, dict):
        return {name: _map(kind, function, leaf) for name, leaf in tree.items()}
    if isinstance(tree, list | tuple):
        make = getattr(type(tree), "_make", type(tree))  # a named tuple takes its fields one by one
        return make(_map(kind, function, leaf) for leaf in tree)
    if is_dataclass(tree) and not isinstance(tree, type):
        return type(tree)(**{name: _map(kind, function, value) for name, value in fields_of(tree).items()})
    return tree
