"""How does a user's own table become one task for each patient, user or site?"""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bilevel import trees
from bilevel.episodes import Batch, Episode, Key, Scaling, Split
from bilevel.errors import BadInput, MissingData
from bilevel.tasks.data import VARIABLE, find
from bilevel.tasks.fewshot import Ints, check_counts

BOUND = 5.0
"""Standard deviations within which a feature is as it is; normal ones are never beyond."""
WIDE = 20.0
"""Standard deviations from which on a feature is named: it is rare, or of another kind than the rest."""


@dataclass(frozen=True, eq=False)
class Grouped:
    """A task for each group of a table's rows: predict column `y` of a group from a few of its rows.

    `table` is a DataFrame or a CSV file, looked for as named and then below BILEVEL_DATA. The groups are shuffled by
    `seed` and cut into `folds` parts: part `fold` is the test split, the next the valid split, the others train.
    Features and regression labels are standardised by the training groups alone (`scaling`). Groups with `support`
    rows or fewer are left out. `cluster` says which group an episode is about, so that intervals are taken over groups.

    Shapes: `x` [support, features] float32; `y` [support, 1] float32 for regression or [support] int64 for classes. The
    query has as many rows for all groups: `queries` of a group's other rows at random, or, with None, all of them;
    where a group has fewer, `mask` is False.
    """

    table: str | pd.DataFrame
    _: KW_ONLY
    task: str
    """The column that names the group."""
    y: str
    """The column to predict."""
    classes: Sequence[Any] | None = None
    """The values of `y` in the order of their labels, for classification; None: regression."""
    features: str | Sequence[str] | None = None
    """The columns to predict from; None: all numeric ones but `task`, `y` and those in `drop`."""
    drop: str | Sequence[str] = ()
    """Columns that are no features, because they would give the answer away or mean nothing."""
    support: int = 5
    """Rows of a group to learn from."""
    queries: int | None = None
    """Rows of a group to be judged on; None: all but the support."""
    choose: Literal["first", "random"] = "first"
    """Which rows are the support: a group's first, as when a patient is new, or others in each episode."""
    order: str | None = None
    """The column that says which row is first; None: as they stand in the table."""
    folds: int = 5
    fold: int = 0
    seed: int = 0
    """Decides which group is in which fold."""

    @property
    def scaling(self) -> Scaling:
        """From the user's units to those of the episodes, fitted to the training groups."""
        return self._prepared.scaling

    def check(self) -> None:
        """Raises BadInput for impossible counts or unusable columns, MissingData where there is no such file."""
        check_counts(self, support=self.support, folds=self.folds)
        if self.queries is not None:
            check_counts(self, queries=self.queries)
        if self.folds < 3:
            raise BadInput(f"Grouped: folds={self.folds} leave a split without groups; give 3 or more")
        if isinstance(self.fold, bool) or not isinstance(self.fold, int) or not 0 <= self.fold < self.folds:
            raise BadInput(f"Grouped: fold={self.fold!r}, but the folds are 0 to {self.folds - 1}; give one of them")
        if self.choose not in ("first", "random"):
            raise BadInput(f"Grouped: choose={self.choose!r}; give 'first' or 'random'")
        for note in self._prepared.notes:
            warnings.warn(f"Grouped: {note}", stacklevel=2)

    def cluster(self, split: Split, key: Key) -> int:
        """The number of the group that `episode(split, key)` is about; `groups(split)` in the order of the numbers."""
        return self._draw(split, key)[1]

    def groups(self, split: Split) -> dict[int, Any]:
        """The groups of a split: what stands in the column `task`, by the group's number."""
        return {int(number): self._prepared.names[number] for number in self._prepared.splits[split]}

    def digest(self) -> str:
        """A hash of the features and labels in the user's units, and of the groups and their splits."""
        return self._prepared.digest

    def episode(self, split: Split, key: Key) -> Episode:
        """One group of the split, its support and its query."""
        data = self._prepared
        rng, group = self._draw(split, key)
        rows = data.rows[group]
        first = rng.permutation(len(rows))[: self.support] if self.choose == "random" else np.arange(self.support)
        rest = np.delete(rows, first)
        if self.queries is not None and self.queries < len(rest):
            rest = np.sort(rng.choice(rest, self.queries, replace=False))
        support = torch.from_numpy(rows[first])
        size = data.longest - self.support if self.queries is None else self.queries
        query = torch.from_numpy(np.pad(rest, (0, size - len(rest))))
        mask = torch.arange(size) < len(rest)
        # What only pads is 0, the mean of a feature, and never another row's value.
        x, y = data.x[query] * mask[:, None], data.y[query] * mask.view(-1, *[1] * (data.y.dim() - 1))
        return Episode(Batch(data.x[support], data.y[support]), Batch(x, y, mask))

    def _draw(self, split: Split, key: Key) -> tuple[np.random.Generator, int]:
        rng, groups = key.child(split).numpy(), self._prepared.splits[split]
        return rng, int(groups[rng.integers(len(groups))])

    @functools.cached_property
    def _prepared(self) -> _Prepared:
        return _prepare(self)

    def __getstate__(self) -> dict[str, Any]:
        """What travels to a worker: the fields, not what is worked out from them."""
        return trees.fields_of(self)


@dataclass(frozen=True)
class _Prepared:
    """A table made ready: `x` [rows, features], `y` [rows, 1] or [rows]; `rows` of each group in order."""

    x: Tensor
    y: Tensor
    rows: tuple[Ints, ...]
    names: tuple[Any, ...]
    splits: dict[Split, Ints]
    scaling: Scaling
    longest: int
    notes: tuple[str, ...]
    """What the user should know of her table before she believes a result."""
    digest: str


def _prepare(spec: Grouped) -> _Prepared:
    frame = _frame(spec.table)
    features = _features(spec, frame)
    for column in [*features, spec.task, *([spec.order] if spec.order else [])]:
        _check_complete(frame, column)
    y = _answers(spec, frame)
    names, rows = _rows(spec, frame)
    parts = _folds(spec, len(names))
    train = np.concatenate([rows[group] for group in parts["train"]])
    x = frame[features].to_numpy(np.float64, copy=True)
    scaling = _scaling(x[train], y[train] if spec.classes is None else None)
    answers = torch.from_numpy(y) if spec.classes is not None else scaling.encode_y(torch.from_numpy(y)[:, None])
    encoded = scaling.encode_x(torch.from_numpy(x))
    notes = _wide(features, x, scaling)
    digest = _digest(x, y, rows, names, parts)
    return _Prepared(encoded, answers, rows, names, parts, scaling, max(map(len, rows)), notes, digest)


def _frame(table: str | pd.DataFrame) -> pd.DataFrame:
    if isinstance(table, pd.DataFrame):
        return table
    file = find(table)
    if file is None or not file.is_file():
        raise MissingData(
            f"Grouped: there is no table {table}, neither as named nor below the folder that {VARIABLE} names; "
            f"give the CSV file's path with --set tasks.table=FILE, or set {VARIABLE}"
        )
    return _read(file.resolve(), file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _read(file: Path, changed: int) -> pd.DataFrame:  # noqa: ARG001  `changed` is there to tell versions of a file apart
    try:
        return pd.read_csv(file)
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise BadInput(
            f"Grouped: {file} cannot be read as CSV ({str(error).strip()}); give one with a header"
        ) from error


def _features(spec: Grouped, frame: pd.DataFrame) -> list[str]:
    """The columns to predict from."""
    features, drop = _several(spec.features or ()), _several(spec.drop)
    order = [] if spec.order is None else [spec.order]
    named = {"task": [spec.task], "y": [spec.y], "order": order, "drop": drop, "features": features}
    for role, columns in named.items():
        for column in columns:
            if column not in frame.columns:
                there = ", ".join(map(str, frame.columns))
                raise BadInput(f"Grouped: {role} names the column {column!r}, which is not there; there are: {there}")
    if spec.features is None:
        taken = {spec.task, spec.y, *drop}
        found = [name for name in frame.columns if name not in taken and pd.api.types.is_numeric_dtype(frame[name])]
        if not found:
            raise BadInput("Grouped: no numeric column is left to predict from; name some in features")
        return found
    for column in features:
        if column in (spec.task, spec.y):
            raise BadInput(f"Grouped: features name {column!r}, which is the group or the answer; leave it out")
        if not pd.api.types.is_numeric_dtype(frame[column]):
            raise BadInput(
                f"Grouped: column {column!r} is not numeric ({frame[column].iloc[0]!r}, …); "
                "turn it into numbers (pandas.get_dummies) or leave it out of features"
            )
    return features


def _several(columns: str | Sequence[str]) -> list[str]:
    return [columns] if isinstance(columns, str) else list(columns)


def _check_complete(frame: pd.DataFrame, column: str) -> None:
    values = frame[column]
    missing = int(values.isna().sum())
    if not missing and pd.api.types.is_float_dtype(values):
        missing = int((~np.isfinite(values.to_numpy(np.float64))).sum())
    if missing:
        raise BadInput(
            f"Grouped: column {column!r} has {missing} missing or infinite values of {len(values)}; "
            f"fill them, leave out those rows, or leave out the column with drop=({column!r},)"
        )


def _answers(spec: Grouped, frame: pd.DataFrame) -> np.ndarray[Any, Any]:
    """Column `y` as it is, float64, or as the places of its values in `classes`, int64: [rows]."""
    values = frame[spec.y]
    _check_complete(frame, spec.y)
    if spec.classes is None:
        if not pd.api.types.is_numeric_dtype(values):
            some = tuple(sorted(map(str, values.unique())))[:5]
            raise BadInput(f"Grouped: y={spec.y!r} holds no numbers; for classification name them: classes={some}")
        return values.to_numpy(np.float64, copy=True)  # pandas lends arrays that cannot be written
    places = {label: place for place, label in enumerate(spec.classes)}
    unknown = [label for label in values.unique() if label not in places]
    if unknown:
        raise BadInput(
            f"Grouped: y={spec.y!r} holds {unknown[0]!r}, not one of classes={tuple(spec.classes)}; name all"
        )
    return np.array([places[label] for label in values], dtype=np.int64)


def _rows(spec: Grouped, frame: pd.DataFrame) -> tuple[tuple[Any, ...], tuple[Ints, ...]]:
    """The groups with more than `support` rows, by name, and their rows in order."""
    ordered = np.arange(len(frame)) if spec.order is None else frame[spec.order].argsort(kind="stable").to_numpy()
    found: dict[Any, list[int]] = {}
    for row, name in zip(ordered.tolist(), frame[spec.task].to_numpy()[ordered].tolist(), strict=True):
        found.setdefault(name, []).append(row)
    names = tuple(name for name in sorted(found, key=str) if len(found[name]) > spec.support)
    if len(names) < spec.folds:
        raise BadInput(
            f"Grouped: {len(names)} of {len(found)} groups of {spec.task!r} have more than support={spec.support} "
            f"rows, fewer than folds={spec.folds}; lower support or folds"
        )
    return names, tuple(np.array(found[name], dtype=np.int64) for name in names)


def _folds(spec: Grouped, groups: int) -> dict[Split, Ints]:
    """The numbers of the groups of each split."""
    part = np.empty(groups, dtype=np.int64)
    part[np.random.default_rng(spec.seed).permutation(groups)] = np.arange(groups) % spec.folds
    valid = (spec.fold + 1) % spec.folds
    return {
        "train": np.flatnonzero((part != spec.fold) & (part != valid)),
        "valid": np.flatnonzero(part == valid),
        "test": np.flatnonzero(part == spec.fold),
    }


def _scaling(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any] | None) -> Scaling:
    """Mean and standard deviation over rows; 1 for a deviation of 0 (or its rounding): a constant stays harmless."""

    def deviation(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        std = values.std(axis=0)
        return np.where(std > 1e-12 * np.abs(values.mean(axis=0)), std, 1.0)

    mean, std = tuple(x.mean(axis=0).tolist()), tuple(deviation(x).tolist())
    if y is None:
        return Scaling(mean, std, bound=BOUND)
    return Scaling(mean, std, float(y.mean()), float(deviation(y)), bound=BOUND)


def _wide(features: Sequence[str], x: np.ndarray[Any, Any], scaling: Scaling) -> tuple[str, ...]:
    """The features with values that lie far from all others, in a sentence."""
    widest = np.abs((x - np.array(scaling.x_mean)) / np.array(scaling.x_std)).max(axis=0)
    found = [f"{name!r} ({wide:.0f})" for name, wide in zip(features, widest, strict=True) if wide > WIDE]
    if not found:
        return ()
    return (
        f"some values lie many standard deviations from the mean, as those of a rare indicator do: {', '.join(found)}; "
        f"beyond {BOUND:g} only the logarithm of the distance counts; leave such a column out with drop= if it says "
        "nothing of a new group",
    )


def _digest(
    x: np.ndarray[Any, Any],
    y: np.ndarray[Any, Any],
    rows: Sequence[Ints],
    names: Sequence[Any],
    parts: Mapping[Split, Ints],
) -> str:
    sha = hashlib.sha256()
    for array in (x, y, *rows, *(parts[split] for split in sorted(parts))):
        sha.update(f"{array.dtype}{array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    sha.update("\0".join(map(str, names)).encode())
    return sha.hexdigest()
