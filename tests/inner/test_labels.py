"""Are episodes brought to the types that all else counts on, and classes counted or declared?"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bilevel.episodes import Batch, Episode
from bilevel.errors import BadInput
from bilevel.inner.labels import Labels, labels_of, settled, single


def episode(x: Any, y: Any, mask: Any = None) -> Episode:
    return Episode(Batch(x, y, mask), Batch(x, y, mask))


WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
FLOATS = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@pytest.mark.parametrize("dtype", WHOLE)
def test_whole_labels_of_any_type_are_classes(dtype: torch.dtype) -> None:
    found = settled(episode(torch.zeros(4, 2), torch.tensor([0, 1, 1, 0]).to(dtype)), torch.float32)
    assert found.support.y.dtype == found.query.y.dtype == torch.int64
    assert labels_of(None, [found]) == Labels(2, 2)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("network", [torch.float32, torch.float64])
def test_floats_are_of_the_networks_type(dtype: torch.dtype, network: torch.dtype) -> None:
    found = settled(episode(torch.ones(4, 2, dtype=dtype), torch.ones(4, 3, dtype=dtype)), network)
    assert {found.support.x.dtype, found.support.y.dtype, found.query.x.dtype} == {network}
    assert labels_of(None, [found]) == Labels(None, 3)


def test_whole_inputs_stay_what_they_are_and_arrays_become_tensors() -> None:
    found = settled(episode(np.zeros((4, 2), np.uint8), np.array([0.0, 1.0, 2.0, 3.0])), torch.float32).support
    assert found.x.dtype == torch.uint8
    assert found.y.dtype == torch.float32
    parts = settled(
        episode({"ids": torch.zeros(4, 2, dtype=torch.int32), "x": np.zeros((4, 1))}, found.y), torch.float32
    )
    assert parts.support.x["ids"].dtype == torch.int32
    assert parts.support.x["x"].dtype == torch.float32
    pair = settled(episode((torch.zeros(4, 2).double(), torch.zeros(4, 2)), found.y), torch.float32)
    assert [part.dtype for part in pair.query.x] == [torch.float32] * 2


def test_what_only_pads_is_nought() -> None:
    """NaN times 0 is NaN: hidden from the loss it still reaches the gradient."""
    x, y = torch.full((3, 2), torch.nan), torch.tensor([1, 1, 7])
    x[:2] = 1.0
    found = settled(episode(x, y, torch.tensor([True, True, False])), torch.float32).query
    assert found.x.tolist() == [[1, 1], [1, 1], [0, 0]]
    assert found.y.tolist() == [1, 1, 0]


def test_several_marks_a_sample_are_no_classes() -> None:
    marks = settled(episode(torch.zeros(4, 2), torch.ones(4, 3, dtype=torch.bool)), torch.float32)
    assert marks.support.y.dtype == torch.bool
    assert labels_of(None, [marks]) == Labels(None, 3)


def test_tasks_declare_classes_and_outputs() -> None:
    class Declared:
        classes: Any = 5
        outputs: Any = None

    tasks, one = Declared(), episode(torch.zeros(2, 1), torch.tensor([0, 1]))
    assert labels_of(tasks, [one]) == Labels(5, 5)
    tasks.classes = ("healthy", "ill", "unknown")
    assert labels_of(tasks, [one]) == Labels(3, 3)
    tasks.classes, tasks.outputs = None, 7
    assert labels_of(tasks, [one]) == Labels(2, 7)
    numbers = episode(torch.zeros(2, 1), torch.zeros(2, 1))
    assert labels_of(tasks, [numbers]) == Labels(None, 7)
    for tasks.classes in (0, -1, True, ()):
        with pytest.raises(BadInput, match=r"Declared: classes is .*; it is a number of 1 or more"):
            labels_of(tasks, [one])


def test_classes_are_counted_over_all_that_is_shown() -> None:
    shown = [episode(torch.zeros(2, 1), torch.tensor(pair)) for pair in ([0, 0], [0, 1], [2, 0])]
    assert labels_of(None, shown) == Labels(3, 3)


@pytest.mark.parametrize(
    ("x", "y", "match"),
    [
        ([[0.0]], torch.zeros(1), r"support.x\[0\] is a list; it takes a tensor \[samples, ...\]"),
        (torch.zeros(1, 1), {"a": torch.zeros(1)}, "support.y is a dict; labels are one tensor"),
        (torch.zeros(1, 1), np.array(["a"]), "support.y is an array of <U1; give numbers"),
        (torch.zeros(1, 1), None, "support.y is a NoneType"),
    ],
)
def test_what_are_no_tensors_is_refused(x: Any, y: Any, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        settled(episode(x, y), torch.float32)


def test_other_kinds_of_support_are_left_alone() -> None:
    one = Episode("an environment", "another")
    assert settled(one, torch.float32) == one
    assert labels_of(None, [one]) == Labels(None, 1)


def test_what_is_drawn_has_32_bits_at_least() -> None:
    tree = {"a": torch.zeros(1, dtype=torch.bfloat16), "b": torch.zeros(1, dtype=torch.int64)}
    assert [leaf.dtype for leaf in single(tree).values()] == [torch.float32, torch.int64]
