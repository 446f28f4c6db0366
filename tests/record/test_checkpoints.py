"""Is a checkpoint what was saved, bit by bit, or refused?"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from bilevel import trees
from bilevel.errors import RecordDamaged, StoreFailed
from bilevel.record import checkpoints

FILES = ("state.safetensors", "state.json", "MANIFEST.json")


def state() -> dict[str, Any]:
    w = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    return {
        "step": 7,
        "learned": {"init": {"0.weight": w, "0.bias": w[0]}, "lr": {"value": torch.tensor(-1.5)}},
        "again": {"same": w, "transposed": w.T, "expanded": w[:1].expand(5, 4)},
        "movers": {"init": {"0.weight": {"exp_avg": w.double(), "step": torch.tensor(3.0)}}},
        "exhibit": {"y": torch.tensor([1, 2]), "mask": torch.tensor([True, False]), "none": torch.zeros(0, 2)},
        "nested": {"list": [1, None, "x", {"deep": torch.tensor(1), "p": 0.1}], "empty": {}, "flag": False},
    }


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return checkpoints.folder(tmp_path, 0, 7)


def same(left: Any, right: Any) -> bool:
    if isinstance(left, torch.Tensor):
        return left.dtype == right.dtype and torch.equal(left, right)
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(same(left[name], right[name]) for name in left)
    if isinstance(left, list):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and left == right


def test_what_was_saved_is_loaded_bit_by_bit(path: Path) -> None:
    manifest = checkpoints.save(path, state())
    read = checkpoints.load(path, manifest)
    assert same(read, state())
    assert trees.digest(read["learned"]) == trees.digest(state()["learned"])
    assert all(tensor.is_contiguous() for _, tensor in trees.leaves(read["again"]))
    assert sorted(p.name for p in path.iterdir()) == sorted(FILES)
    assert path.name == "step-00000007"
    assert path.parent.name == "trial-0000"


def test_no_two_places_of_a_tree_are_confused(path: Path) -> None:
    places = [
        {"a/b": 1, "a": {"b": 2}}, {1: 1, "#1": 2}, {"a": [1], "a/0": 2}, {"a": {"": 1}, "a/": 2},
        {"": {"b": 1}, "b": 2, "%": 3, "%25": 4}, {"__metadata__": 1, "%__metadata__": 2},
        {"a": {"%2Fb": 1}, "a%2F": 2},
    ]  # fmt: skip
    tree = {f"{index}": _numbered(place) for index, place in enumerate(places)} | _numbered({"": 7, "__metadata__": 8})
    assert same(checkpoints.load(path, checkpoints.save(path, tree)), tree)


def _numbered(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _numbered(leaf) for name, leaf in tree.items()}
    return [_numbered(leaf) for leaf in tree] if isinstance(tree, list) else torch.tensor([float(tree)])


def test_tensors_are_readable_without_this_library_and_the_manifest_has_their_hashes(path: Path) -> None:
    digest = checkpoints.save(path, state())
    assert torch.equal(
        safetensors.torch.load_file(path / "state.safetensors")["learned/init/0.weight"],
        state()["learned"]["init"]["0.weight"],
    )
    manifest = json.loads((path / "MANIFEST.json").read_text())
    for name, entry in manifest["files"].items():
        assert hashlib.sha256((path / name).read_bytes()).hexdigest() == entry["sha256"]
    assert hashlib.sha256((path / "MANIFEST.json").read_bytes()).hexdigest() == digest


def test_the_same_state_has_the_same_manifest(tmp_path: Path) -> None:
    assert checkpoints.save(tmp_path / "a", state()) == checkpoints.save(tmp_path / "b", state())


def test_saving_again_replaces_what_lies_there(path: Path) -> None:
    checkpoints.save(path, {"x": torch.zeros(2)})
    checkpoints.save(path, {"x": torch.ones(2)})
    assert checkpoints.load(path)["x"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_or_missing_file_is_refused(path: Path, name: str) -> None:
    manifest = checkpoints.save(path, state())
    whole = (path / name).read_bytes()
    for size in (0, 1, len(whole) // 2, len(whole) - 1):
        (path / name).write_bytes(whole[:size])
        with pytest.raises(RecordDamaged, match=name):
            checkpoints.load(path, manifest)
    (path / name).unlink()
    with pytest.raises(RecordDamaged, match=name):
        checkpoints.load(path, manifest)


@pytest.mark.parametrize("name", FILES)
def test_any_flipped_bit_is_refused(path: Path, name: str) -> None:
    manifest = checkpoints.save(path, state())
    whole = (path / name).read_bytes()
    for at in range(0, len(whole), 37):
        (path / name).write_bytes(whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :])
        with pytest.raises(RecordDamaged, match=name):
            checkpoints.load(path, manifest)


def test_a_planted_change_with_a_renewed_manifest_is_caught_by_the_digest(path: Path) -> None:
    digest = checkpoints.save(path, state())
    changed = state()
    changed["learned"]["init"]["0.weight"][0, 0] += 1e-6
    planted = checkpoints.save(path, changed)
    assert checkpoints.load(path, planted) is not None
    with pytest.raises(RecordDamaged, match=r"MANIFEST.json is not the one that the journal names"):
        checkpoints.load(path, digest)


def test_a_full_disk_leaves_nothing_half_made(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    digest = checkpoints.save(path, state())

    def full(fd: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(StoreFailed, match="No space left on device; free space, then resume"):
            checkpoints.save(path, {"x": torch.zeros(1)})
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert same(checkpoints.load(path, digest), state())


def test_pruning_keeps_the_last_the_best_and_a_spread(tmp_path: Path) -> None:
    steps = list(range(1, 101))
    for step in steps:
        checkpoints.folder(tmp_path, 0, step).mkdir(parents=True)
    checkpoints.prune(tmp_path, 0, steps, best=41)
    left = sorted(int(p.name.removeprefix("step-")) for p in checkpoints.folder(tmp_path, 0, 0).parent.iterdir())
    assert left[-checkpoints.LAST :] == [98, 99, 100]
    assert 41 in left
    spread = [step for step in left[: -checkpoints.LAST] if step != 41]
    assert checkpoints.SPREAD - 1 <= len(spread) <= checkpoints.SPREAD
    assert left[0] == 1
    assert max(b - a for a, b in pairwise(left)) <= 2 * 100 / checkpoints.SPREAD


def test_pruning_again_and_again_keeps_the_number_bounded(tmp_path: Path) -> None:
    for step in range(1, 200):
        checkpoints.folder(tmp_path, 0, step).mkdir(parents=True)
        checkpoints.prune(tmp_path, 0, range(1, step + 1), best=1)
    assert len(list(checkpoints.folder(tmp_path, 0, 0).parent.iterdir())) <= checkpoints.LAST + checkpoints.SPREAD + 1


def test_what_a_killed_writer_left_is_removed(path: Path, tmp_path: Path) -> None:
    checkpoints.save(path, state())
    part = path.with_name(".step-00000008.part")
    part.mkdir()
    (part / "state.json").write_text("{")
    other = checkpoints.folder(tmp_path, 0, 3)  # of a member before it moved
    other.mkdir()
    checkpoints.prune(tmp_path, 0, [7], best=None)
    assert not other.exists()
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_what_a_killed_writer_left_does_not_get_into_the_next_checkpoint(path: Path) -> None:
    part = path.with_name(f".{path.name}.part")
    part.mkdir(parents=True)
    (part / "stray").write_text("x")
    checkpoints.save(path, state())
    assert sorted(p.name for p in path.iterdir()) == sorted(FILES)
