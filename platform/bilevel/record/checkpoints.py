"""What could a trial go on from? Directories of tensors and JSON, complete or not there, with their hashes.

A checkpoint is `state.safetensors` + `state.json` + `MANIFEST.json` (SHA-256 of both, written last), made under another
name and renamed into place, so that one that can be seen is whole. safetensors notices a truncation but not a flipped
bit; the manifest does.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from bilevel.errors import RecordDamaged, StoreFailed
from bilevel.study.events import Tree

FILES = ("state.safetensors", "state.json")
LAST = 3  # newest checkpoints kept
SPREAD = 16  # and as many older ones, spread over the run, from which `audit` and `replay` start


def folder(run: Path, trial: int, step: int) -> Path:
    """Where the checkpoint of a trial's step lies."""
    return run / "checkpoints" / f"trial-{trial:04d}" / f"step-{step:08d}"


def save(path: Path, state: Tree) -> str:
    """Write a tree of tensors and JSON values to directory `path`, atomically; the SHA-256 of its manifest.

    Raises:
        StoreFailed: the disk is full or gone; nothing that was there before is touched.
    """
    part = path.with_name(f".{path.name}.part")
    try:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
        tensors: dict[str, Tensor] = {}
        document = _split(state, "", tensors)
        files = {
            "state.safetensors": safetensors.torch.save(_own(tensors)),
            "state.json": json.dumps(document, indent=1).encode(),
        }
        entries = {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in files.items()
        }
        manifest = json.dumps({"format": 1, "files": entries}, indent=1).encode()
        for name, data in {**files, "MANIFEST.json": manifest}.items():
            _write(part / name, data)
        _sync(part)
        if path.exists():  # left by a driver that died between the rename and its journal line
            shutil.rmtree(path)
        part.rename(path)
        _sync(path.parent)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise StoreFailed(
            f"{path}: the checkpoint cannot be written: {error.strerror}; free space, then resume"
        ) from error
    return hashlib.sha256(manifest).hexdigest()


def load(path: Path, manifest: str | None = None) -> Tree:
    """The tree that `save` wrote, every byte checked against the manifest, and that against `manifest` if given.

    Raises:
        RecordDamaged: a file is missing, truncated or changed; the message says which.
    """
    try:
        text = (path / "MANIFEST.json").read_bytes()
        if manifest is not None and hashlib.sha256(text).hexdigest() != manifest:
            raise RecordDamaged(f"{path}: MANIFEST.json is not the one that the journal names")
        data: dict[str, bytes] = {}
        for name, entry in json.loads(text)["files"].items():
            if name not in FILES:
                raise RecordDamaged(f"{path}: MANIFEST.json names {name[:60]!r}, which is no part of a checkpoint")
            data[name] = (path / name).read_bytes()
            if hashlib.sha256(data[name]).hexdigest() != entry["sha256"]:
                raise RecordDamaged(
                    f"{path}: {name} is not what was written ({len(data[name])} of {entry['bytes']} bytes)"
                )
        tensors = safetensors.torch.load(data["state.safetensors"])
        joined: Tree = _join(json.loads(data["state.json"]), tensors)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        safetensors.SafetensorError,
    ) as error:
        raise RecordDamaged(f"{path}: {error}") from error
    return joined


def prune(run: Path, trial: int, steps: Iterable[int], best: int | None) -> None:
    """Of a trial's `steps`, delete what is not among the last `LAST`, the best, or `SPREAD` older ones spread evenly.

    Torn ones go too, and those of other steps: a member of a population had them before it moved.
    """
    kept = sorted(set(steps))
    wanted = {*kept[-LAST:], *([] if best is None else [best]), *_spread(kept[:-LAST])}
    home = folder(run, trial, 0).parent
    names = {folder(run, trial, step).name for step in wanted}
    for path in home.glob("step-*"):
        if path.name not in names:
            shutil.rmtree(path, ignore_errors=True)
    for torn in home.glob(".*.part"):
        shutil.rmtree(torn, ignore_errors=True)


def _spread(steps: list[int]) -> list[int]:
    """At most `SPREAD` of the steps, as even as they come: whoever has the closest neighbours goes first."""
    left = list(steps)
    while len(left) > SPREAD:
        gaps = [left[i + 1] - left[i - 1] for i in range(1, len(left) - 1)]
        del left[1 + gaps.index(min(gaps))]
    return left


def _split(tree: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(tree, Tensor):
        tensors[path] = tree
        return {"tensor": path}
    if isinstance(tree, dict):
        parts = {
            name: _split(leaf, f"{path}/{_word(name)}" if path else _word(name), tensors) for name, leaf in tree.items()
        }
        if all(isinstance(name, str) for name in tree) and tree.keys() not in ({"tensor"}, {"items"}):
            return parts
        return {"items": [[name, part] for name, part in parts.items()]}  # numbers as names, as optimizers have them
    if isinstance(tree, list | tuple):
        return [_split(leaf, f"{path}/{i}", tensors) for i, leaf in enumerate(tree)]
    return tree


def _word(name: Any) -> str:
    """A name as part of a path: no two paths of a tree are the same, and none is a word of safetensors' own."""
    if not isinstance(name, str):
        return f"#{name}"
    plain = name.replace("%", "%25").replace("/", "%2F").replace("#", "%23")
    return f"%{plain}" if plain in ("", "__metadata__") else plain


def _join(document: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(document, dict):
        if document.keys() == {"tensor"} and isinstance(document["tensor"], str):
            # A copy: safetensors gives views into one buffer, aligned as they come; results must not depend on that.
            return tensors[document["tensor"]].clone(memory_format=torch.contiguous_format)
        if document.keys() == {"items"} and isinstance(document["items"], list):
            return {name: _join(leaf, tensors) for name, leaf in document["items"]}
        return {name: _join(leaf, tensors) for name, leaf in document.items()}
    return [_join(leaf, tensors) for leaf in document] if isinstance(document, list) else document


def _own(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Each with memory of its own, as safetensors wants it: a state may hold the same tensor twice."""
    return {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}


def _write(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
