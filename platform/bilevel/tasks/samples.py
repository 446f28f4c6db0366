"""How are samples and labels taken out of what a user has: arrays, memory maps, data sets of pairs or dicts?"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bilevel.errors import BadInput, MissingData
from bilevel.tasks.fewshot import Ints

SAMPLES = ("x", "image", "img", "images", "pixel_values", "input", "inputs", "input_ids", "features", "data", "sample")
LABELS = ("y", "label", "labels", "target", "targets", "class")
HASHED = 1 << 28  # bytes of samples up to which a hash is of all of them; of more, of some
SOME = 256

Place = int | str
"""Where an item of a data set has something: the position in a tuple, or the key of a dict."""


@runtime_checkable
class Rows(Protocol):
    """An array of whatever library (h5py, zarr): it has a shape and a type, and gives its rows."""

    @property
    def shape(self) -> Sequence[int]:
        """Rows first."""
        ...

    @property
    def dtype(self) -> Any:
        """Of its numbers."""
        ...

    def __getitem__(self, row: Any) -> Any:
        """A row."""
        ...

    def __len__(self) -> int:
        """How many rows."""
        ...


@runtime_checkable
class Framed(Protocol):
    """A table of pandas, or one of its columns."""

    def to_numpy(self) -> NDArray[Any]:
        """As an array."""
        ...


@runtime_checkable
class Targeted(Protocol):
    """A data set that keeps its labels, as those of torchvision do."""

    targets: Any


def plain(values: Any) -> Any:
    """A table or column of pandas as an array; anything else as it is."""
    return values.to_numpy() if isinstance(values, Framed) and not isinstance(values, Tensor) else values


def is_array(x: Any) -> bool:
    """Whether `x` holds samples alone, and not samples with labels as a data set does."""
    listed = isinstance(x, list | tuple) and not (len(x) > 0 and isinstance(x[0], Mapping))
    return listed or isinstance(x, np.ndarray | Tensor | Rows)


# -- labels ------------------------------------------------------------------------------------------------------------


def labels(x: Any, y: Any, item: tuple[Place, Place] | None) -> list[Hashable]:
    """The label of each sample, as Python values.

    Raises:
        BadInput: there are none, or not one for each sample.
    """
    source = plain(y)
    if source is None and isinstance(x, Targeted):
        source = x.targets
    if source is None:
        if is_array(x) or not hasattr(x, "__len__"):
            raise BadInput("Episodes: samples without labels; give y, one label a sample, or a data set that has them")
        source = [_part(x[row], item, 1) for row in range(len(x))]
    found = _values(source)
    if len(found) != len(x):
        raise BadInput(f"Episodes: {len(x)} samples but {len(found)} labels; give one label a sample")
    for row, label in enumerate(found):
        if label is None or label != label:
            raise BadInput(
                f"Episodes: sample {row} has no label ({label!r}); leave such samples out, or name their class"
            )
    return found


def _values(source: Any) -> list[Hashable]:
    """Labels as a list: one number, word or other value a sample; of one-hot rows the place of the 1."""
    array = source.detach().cpu().numpy() if isinstance(source, Tensor) else source
    if isinstance(array, np.ndarray):
        values = array.tolist()
    else:
        values = [one.tolist() if isinstance(one, np.ndarray | np.generic | Tensor) else one for one in array]
    rows = [value for value in values if isinstance(value, list | tuple) and not isinstance(value, str)]
    if rows and isinstance(rows[0], list):
        return _from_rows(values)
    if values and not isinstance(values[0], Hashable):
        raise BadInput(f"Episodes: the first label is {values[0]!r}; y must be [n], one class a sample")
    return list(values)


def _from_rows(values: list[Any]) -> list[Hashable]:
    """The classes of one-hot labels [n, classes], or of a column [n, 1]."""
    lengths = {len(row) if isinstance(row, list) else -1 for row in values}
    if lengths == {1}:
        return [row[0] for row in values]
    numbers = all(isinstance(v, bool | int | float) for row in values if isinstance(row, list) for v in row)
    if len(lengths) != 1 or not numbers:
        raise BadInput(f"Episodes: the first label is {values[0]!r}; y must be [n], one class a sample, or one-hot")
    array = np.asarray(values, dtype=np.float64)
    wrong = np.flatnonzero(((array != 0) & (array != 1)).any(axis=1) | (array.sum(axis=1) != 1))
    if len(wrong):
        raise BadInput(
            f"Episodes: label {wrong[0]} is {values[wrong[0]]!r}, which is not one-hot; a sample has one class here: "
            "give y [n], or rows with a single 1"
        )
    return [int(place) for place in array.argmax(axis=1)]


# -- samples -----------------------------------------------------------------------------------------------------------


def gather(x: Any, rows: Ints, item: tuple[Place, Place] | None) -> Tensor:
    """Samples `rows` of arrays or of a data set: [len(rows), *shape] float32.

    Raises:
        BadInput: they differ in size, or are no numbers.
    """
    if isinstance(x, Tensor):
        return x[torch.from_numpy(rows)].float()
    if isinstance(x, np.ndarray):
        return torch.from_numpy(np.ascontiguousarray(_numbers(x[rows], int(rows[0])))).float()
    alone = is_array(x)
    parts = [_numbers(np.asarray(x[row] if alone else _part(x[row], item, 0)), row) for row in rows.tolist()]
    shapes = {part.shape: row for part, row in zip(parts, rows.tolist(), strict=True)}
    if len(shapes) > 1:
        (first, a), (second, b), *_ = shapes.items()
        raise BadInput(
            f"Episodes: samples differ in size: {list(first)} (sample {a}) and {list(second)} (sample {b}); bring them "
            "to one size in the data set, as with torchvision.transforms.Resize"
        )
    return torch.from_numpy(np.stack(parts)).float()


def _numbers(part: NDArray[Any], row: int) -> NDArray[Any]:
    if part.dtype.kind not in "fiub":
        raise BadInput(
            f"Episodes: sample {row} holds {part.dtype} and no numbers; turn samples into arrays of one size first"
        )
    return part.astype(np.float32) if part.dtype in (np.uint16, np.uint32, np.uint64) else part


def _part(entry: Any, item: tuple[Place, Place] | None, which: int) -> Any:
    """The sample (0) or the label (1) of an item of a data set."""
    if item is not None:
        try:
            return entry[item[which]]
        except (KeyError, IndexError, TypeError) as error:
            raise BadInput(f"Episodes: item={item!r}, but an item {_described(entry)}; name what it has") from error
    if isinstance(entry, Mapping):
        for name in (SAMPLES, LABELS)[which]:
            if name in entry:
                return entry[name]
        raise BadInput(
            f"Episodes: an item {_described(entry)}; say which is the sample and which its label: "
            "item=('image', 'label')"
        )
    if not isinstance(entry, tuple | list) or len(entry) < 2:
        raise BadInput(
            f"Episodes: an item {_described(entry)}; it takes (sample, label, ...) or a dict, or give labels in y"
        )
    return entry[which]


def _described(entry: Any) -> str:
    if isinstance(entry, Mapping):
        return f"has the keys {', '.join(map(repr, entry))}"
    if isinstance(entry, tuple | list):
        return f"is a {type(entry).__name__} of {len(entry)}"
    return f"is a {type(entry).__name__}"


def digest(x: Any, found: Iterable[Hashable], item: tuple[Place, Place] | None) -> str:
    """A hash of labels and samples; of more than 256 MB, of memory maps and data sets of some samples."""
    sha = hashlib.sha256(repr(list(found)).encode())
    x = plain(x)
    size = x.nbytes if isinstance(x, np.ndarray | Tensor) and not isinstance(x, np.memmap) else HASHED + 1
    most = len(x) if size <= HASHED else min(SOME, len(x))
    rows = np.unique(np.linspace(0, len(x) - 1, most).round().astype(np.int64))
    if isinstance(x, Tensor | np.ndarray):
        kept = np.ascontiguousarray(x.detach().cpu().float().numpy()[rows] if isinstance(x, Tensor) else x[rows])
        sha.update(f"{kept.dtype}{x.shape}".encode() + kept.tobytes())
        return sha.hexdigest()
    for row in rows[:: max(1, len(rows) // 16)]:  # reading an item may be dear
        sha.update(gather(x, np.array([row], dtype=np.int64), item).numpy().tobytes())
    return sha.hexdigest()


# -- memory maps -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Mapped:
    """A memory map as it travels: where its numbers lie, and not the numbers."""

    path: str
    offset: int
    shape: tuple[int, ...]
    dtype: str

    def open(self) -> NDArray[Any]:
        """The same numbers, mapped anew and read only.

        Raises:
            MissingData: the file is not on this machine.
        """
        if not Path(self.path).is_file():
            raise MissingData(
                f"Episodes: {self.path} is mapped into memory and is not on this machine; put it where "
                "all workers see it"
            )
        count = int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize
        raw = np.memmap(self.path, mode="r", dtype=np.uint8, offset=self.offset, shape=(count,))
        return raw.view(self.dtype).reshape(self.shape)


def packed(x: Any) -> Any:
    """What travels to a worker in place of `x`: of a memory map in one piece its file's path."""
    if not isinstance(x, np.memmap) or x.filename is None or not x.flags.c_contiguous or not x.size:
        return x
    root = x
    while isinstance(root.base, np.memmap):
        root = root.base
    inside = x.__array_interface__["data"][0] - root.__array_interface__["data"][0]
    if inside < 0 or inside + x.nbytes > root.nbytes or root.base is None:  # a copy, which lies in no file
        return x
    return Mapped(str(Path(x.filename).resolve()), root.offset + inside, x.shape, x.dtype.str)


def unpacked(x: Any) -> Any:
    """What `packed` packed."""
    return x.open() if isinstance(x, Mapped) else x
