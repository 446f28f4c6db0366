"""How are parameter trees (nested dicts of tensors) compared, combined, moved and hashed?"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor


def map_tensors(function: Callable[[Tensor], Any], tree: Any) -> Any:
    """The same tree with `function` applied to each tensor; dicts, lists, tuples and dataclasses are walked."""
    if isinstance(tree, Tensor):
        return function(tree)
    if isinstance(tree, dict):
        return {name: map_tensors(function, leaf) for name, leaf in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(map_tensors(function, leaf) for leaf in tree)
    if is_dataclass(tree) and not isinstance(tree, type):
        return type(tree)(**{f.name: map_tensors(function, getattr(tree, f.name)) for f in fields(tree)})
    return tree


def leaves(tree: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """`(dotted path, leaf)` of a nested dict, in name order (insertion order does not count)."""
    if isinstance(tree, Mapping):
        for name in sorted(tree):
            yield from leaves(tree[name], f"{path}.{name}" if path else str(name))
    else:
        yield path, tree


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
        return type(first)(**{f.name: stack([getattr(tree, f.name) for tree in trees]) for f in fields(first)})
    return first


def add(left: Any, right: Any) -> Any:
    """Leaf by leaf `left + right` of two nested dicts of tensors or numbers."""
    if isinstance(left, dict):
        return {name: add(leaf, right[name]) for name, leaf in left.items()}
    return left + right


def to_device(tree: Any, device: torch.device | str) -> Any:
    """The tree with its tensors on `device`."""
    return map_tensors(lambda tensor: tensor.to(device), tree)


def to_numpy(tree: Any) -> Any:
    """The tree with tensors as numpy arrays: what travels between processes without a copy."""
    return map_tensors(lambda tensor: tensor.detach().cpu().numpy(), tree)


def from_numpy(tree: Any) -> Any:
    """The inverse of `to_numpy`; arrays are copied, so that each tensor owns aligned, writable memory."""
    if isinstance(tree, np.ndarray):
        return torch.tensor(tree)  # torch aligns to 64 bytes, numpy to 16; the bits of a product may depend on it
    if isinstance(tree, dict):
        return {name: from_numpy(leaf) for name, leaf in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(from_numpy(leaf) for leaf in tree)
    return tree


def digest(tree: Any) -> str:
    """SHA-256 (hex) over names, types, shapes and bytes of a tree's leaves, in name order."""
    sha = hashlib.sha256()
    for path, leaf in leaves(tree):
        if isinstance(leaf, Tensor):
            array = np.ascontiguousarray(leaf.detach().cpu().numpy())
            sha.update(f"{path}\0{array.dtype.str}\0{array.shape}\0".encode())
            sha.update(array.tobytes())
        else:
            sha.update(f"{path}\0{leaf!r}\0".encode())
    return sha.hexdigest()
