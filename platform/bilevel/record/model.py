"""What was learned, in a form that lasts: tensors and JSON, readable without this library and without pickle."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from bilevel import manifest
from bilevel.episodes import Scaling
from bilevel.errors import RecordDamaged, StoreFailed

WITHOUT = "`show`, `report` and `resume` work without it, `adapt` does not; put a copy of it back"
Values = dict[str, dict[str, Tensor]]


def write(folder: Path, values: Mapping[str, Any], document: Mapping[str, Any], scaling: Scaling | None) -> None:
    """`learned.safetensors` (tensors named by their place in the tree, `field/name`) and `model.json` in a directory.

    Raises:
        StoreFailed: the disk is full or gone.
    """
    tensors = {path: tensor.contiguous() for path, tensor in _named(values)}
    described = {**document, "scaling": None if scaling is None else dataclasses.asdict(scaling)}
    try:
        folder.mkdir(exist_ok=True)
        files = {
            "learned.safetensors": safetensors.torch.save(tensors),
            "model.json": json.dumps(described, indent=1).encode(),
        }
        manifest.write(folder, files)
    except OSError as error:
        raise StoreFailed(
            f"{folder}: the model cannot be written: {error.strerror}; free space, then resume"
        ) from error


def _named(tree: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(tree, Tensor):
        yield path, tree
    elif isinstance(tree, Mapping):
        for name, leaf in tree.items():
            yield from _named(leaf, f"{path}/{name}" if path else str(name))


def read(folder: Path) -> tuple[Values, dict[str, Any], Scaling | None]:
    """What `write` wrote.

    Raises:
        RecordDamaged: there is none, or it cannot be read.
    """
    try:
        document: dict[str, Any] = json.loads(manifest.read(folder / "model.json"))
        tensors = safetensors.torch.load(manifest.read(folder / "learned.safetensors"))
        scaling = _scaling(document.pop("scaling", None))
        trial = document.get("trial", 0)
        if not isinstance(document.get("point", {}), dict) or type(trial) is not int or trial < 0:
            raise ValueError("model.json: trial is a whole number from 0 on, and point an object")
    except (OSError, ValueError, TypeError, AttributeError, RecursionError, safetensors.SafetensorError) as error:
        raise RecordDamaged(f"{folder}: no learned model can be read there: {error}; {WITHOUT}") from error
    except RecordDamaged as error:
        raise RecordDamaged(f"{error}; {WITHOUT}") from error
    values: Values = {}
    for name, tensor in tensors.items():
        field, _, rest = name.partition("/")
        values.setdefault(field, {})[rest] = tensor.clone()
    return values, document, scaling


def _scaling(said: Mapping[str, Any] | None) -> Scaling | None:
    if said is None:
        return None
    tuples: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}
    for name, value in tuples.items():
        numbers = value if isinstance(value, tuple) else (value,)
        if (name, value) != ("bound", None) and not all(type(number) in (int, float) for number in numbers):
            raise ValueError(f"scaling.{name} is {str(value)[:60]!r}; it takes numbers")
    return Scaling(**tuples)
