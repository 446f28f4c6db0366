"""Are trees of tensors compared, combined and hashed by what is in them?"""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pytest
import torch

from bilevel import trees
from bilevel.episodes import Batch

TREE = {"b": {"y": torch.tensor([1.0, 2.0]), "x": torch.tensor(3)}, "a": 4}


def test_leaves_come_in_name_order_whatever_the_insertion_order() -> None:
    assert [path for path, _ in trees.leaves(TREE)] == ["a", "b.x", "b.y"]


class Named(NamedTuple):
    value: torch.Tensor


def test_map_walks_dicts_lists_tuples_named_or_not_and_dataclasses_and_leaves_the_rest() -> None:
    tree = {
        "l": [torch.tensor(1.0)],
        "t": (torch.tensor(2.0), "word"),
        "d": Batch(torch.tensor(3.0), torch.tensor(4.0)),
        "n": Named(torch.tensor(5.0)),
    }
    doubled = trees.map_tensors(lambda tensor: 2 * tensor, tree)
    assert doubled["l"][0] == 2
    assert isinstance(doubled["t"], tuple)
    assert doubled["t"][1] == "word"
    assert (doubled["d"].x, doubled["d"].y, doubled["d"].mask) == (6, 8, None)
    assert doubled["n"] == Named(torch.tensor(10.0))
    assert tree["l"][0] == 1


def test_stack_gives_every_tensor_a_leading_axis() -> None:
    stacked = trees.stack([Batch(torch.full((2,), float(i)), torch.tensor(i)) for i in range(3)])
    assert stacked.x.tolist() == [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]
    assert stacked.y.tolist() == [0, 1, 2]
    assert stacked.mask is None


def test_stack_names_the_shapes_that_differ() -> None:
    with pytest.raises(ValueError, match=r"\(2,\), \(3,\)"):
        trees.stack([torch.zeros(2), torch.zeros(3)])


def test_add_is_leaf_by_leaf() -> None:
    total = trees.add({"a": torch.tensor(1.0), "b": {"c": 2}}, {"a": torch.tensor(10.0), "b": {"c": 20}})
    assert (total["a"], total["b"]["c"]) == (11.0, 22)


@dataclass(frozen=True)
class Pair:
    left: torch.Tensor
    right: torch.Tensor


def test_packed_and_back_is_the_same_tree_in_aligned_memory_of_its_own() -> None:
    tree = {
        "f": torch.randn(3, 2, generator=torch.Generator().manual_seed(0)),
        "turned": torch.arange(6.0, dtype=torch.float64).reshape(2, 3).T,
        "none": torch.empty(0, 4),
        "flags": [torch.tensor([True, False, True]), torch.tensor(2), (1, "x", None)],
        "pair": Pair(torch.tensor([1.5], dtype=torch.bfloat16), torch.tensor(1j)),
    }
    packed = pickle.loads(pickle.dumps(trees.pack(tree)))
    back = trees.unpack(packed)
    plain = {**tree, "pair": vars(tree["pair"])}  # type: ignore[arg-type]
    assert repr({**back, "pair": vars(back["pair"])}) == repr(plain)
    assert all(leaf.data_ptr() % trees.ALIGNED == 0 for leaf in (back["f"], back["turned"], back["flags"][1]))
    back["f"].zero_()
    assert tree["f"].abs().sum() > 0
    assert trees.unpack(packed)["f"].abs().sum() > 0


def test_a_tree_of_nothing_but_empty_tensors_travels() -> None:
    back = trees.unpack(trees.pack({"hits": torch.empty(0), "rows": torch.empty(0, 3, dtype=torch.int64)}))
    assert (tuple(back["hits"].shape), tuple(back["rows"].shape), back["rows"].dtype) == ((0,), (0, 3), torch.int64)


def test_numpy_arrays_travel_as_tensors() -> None:
    assert torch.equal(trees.unpack(trees.pack({"a": np.arange(3)}))["a"], torch.arange(3))


@pytest.mark.parametrize(
    "other",
    [
        {"w": torch.tensor([1.0, 2.5])},
        {"w": torch.tensor([[1.0, 2.0]])},
        {"w": torch.tensor([1.0, 2.0], dtype=torch.float64)},
        {"v": torch.tensor([1.0, 2.0])},
        {"w": torch.tensor([1.0, 2.0]), "n": 1},
        {"w": torch.tensor([1.0, 2.0]).bfloat16()},
        {"w": torch.tensor([1.0, 2.0]), 1: torch.tensor([1.0])},
    ],
    ids=["value", "shape", "type", "name", "leaf", "brain", "number"],
)
def test_digest_tells_apart(other: dict[str, object]) -> None:
    assert trees.digest({"w": torch.tensor([1.0, 2.0])}) != trees.digest(other)


def test_digest_depends_neither_on_insertion_nor_on_memory() -> None:
    a, b = torch.arange(6.0).reshape(2, 3), torch.tensor(1)
    assert trees.digest({"a": a, "b": b}) == trees.digest({"b": b, "a": a.T.contiguous().T})


def test_digest_is_a_plain_hash_that_anyone_can_compute() -> None:
    data = b"a.w\0<f4\0(2,)\0" + np.array([1, 2], "<f4").tobytes() + b"b\0'x'\0"
    assert trees.digest({"b": "x", "a": {"w": torch.tensor([1.0, 2.0])}}) == hashlib.sha256(data).hexdigest()
