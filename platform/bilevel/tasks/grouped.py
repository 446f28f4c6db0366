"""How does a user's own table become one task for each patient, user or site?"""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from bilevel import trees
from bilevel.episodes import Batch, Episode, Key, Scaling, Split
from bilevel.errors import BadInput
from bilevel.tasks import table as tables
from bilevel.tasks.fewshot import Ints, check_counts
from bilevel.tasks.table import Features, Floats, Roles, listed, several

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
    rows or fewer are left out, which is said. `cluster` says which group an episode is about, so that intervals are
    taken over groups.

    Shapes: `x` [support, features] float32; `y` [support, 1] float32 for regression or [support] int64 for classes. The
    query has as many rows for all groups: `queries` of a group's other rows at random, or, with None, all of them;
    where a group has fewer, `mask` is False.
    """

    table: str | pd.DataFrame
    _: KW_ONLY
    task: str | Sequence[str]
    """The column that names the group, or several that do so together."""
    y: str
    """The column to predict."""
    classes: Sequence[Any] | None = None
    """The values of `y` in the order of their labels, for classification; None: regression, of truth values (False,
    True)."""
    features: str | Sequence[str] | None = None
    """The columns to predict from; None: all numeric ones but `task`, `y` and those in `drop`."""
    drop: str | Sequence[str] = ()
    """Columns that are no features, because they would give the answer away or mean nothing."""
    categories: str | Sequence[str] = ()
    """Columns of text or numbers of which each value becomes a feature, 1 where a row has it."""
    statistics: str | Sequence[str] = ()
    """Columns that name an item, such as a film that users rate: the mean of `y` over its rows in training groups (of
    classes: the share of each) and the logarithm of their number become features. A training group's rows do not count
    for itself."""
    missing: Literal["fill", "flag", "rows"] | None = None
    """Where a feature has no value: "fill" in its mean, "flag" it in a column of its own as well, or leave out the
    "rows"; None: refuse."""
    support: int = 5
    """Rows of a group to learn from."""
    queries: int | None = None
    """Rows of a group to be judged on; None: all but the support."""
    choose: Literal["first", "random"] = "first"
    """Which rows are the support: a group's first, as when a patient is new, or others in each episode."""
    balanced: bool = False
    """As many rows of each class in a support (`support` is a multiple of the classes)."""
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

    @property
    def columns(self) -> list[str]:
        """What each feature is, in order."""
        return self._prepared.features.names

    def inputs(self, frame: pd.DataFrame) -> Floats:
        """Rows of a new group [rows, features] in the user's units, as `load(...).adapt` takes them."""
        return self._prepared.features.matrix(frame)

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
        if self.missing not in (None, "fill", "flag", "rows"):
            raise BadInput(f"Grouped: missing={self.missing!r}; give 'fill', 'flag' or 'rows', or leave it out")
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
        first = rng.permutation(len(rows)) if self.choose == "random" else np.arange(len(rows))
        first = self._evenly(first, data.y[rows]) if self.balanced else first[: self.support]
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

    def _evenly(self, places: Ints, y: Tensor) -> Ints:
        """The first of `places` of each class, as many of each: [support]."""
        labels = y.numpy()[places]
        count = len(self._prepared.classes)
        taken = [np.flatnonzero(labels == place)[: self.support // count] for place in range(count)]
        return places[np.sort(np.concatenate(taken))]

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
    classes: tuple[Any, ...]
    """Values of `y` in the order of their labels; none for a regression."""
    features: Features
    notes: tuple[str, ...]
    """What the user should know of her table before she believes a result."""
    digest: str


def _prepare(spec: Grouped) -> _Prepared:
    frame = tables.frame_of(spec.table)
    role = _roles(spec, frame)
    frame, left_out = _complete(spec, frame, role)
    classes = _classes(spec, frame)
    y = _answers(spec, frame, classes)
    names, rows, small = _rows(spec, frame, y, classes)
    parts = _folds(spec, len(names))
    train = np.concatenate([rows[group] for group in parts["train"]])
    groups = np.full(len(frame), -1, dtype=np.int64)
    for number, group in enumerate(rows):
        groups[group] = number
    outcomes = y[:, None] if not classes else np.eye(len(classes))[y]
    among = np.isin(np.arange(len(frame)), train)
    features, x = tables.fitted(frame, role, outcomes, groups, among, flag=spec.missing == "flag")
    scaling = _scaling(x[train], None if classes else y[train])
    answers = torch.from_numpy(y) if classes else scaling.encode_y(torch.from_numpy(y)[:, None])
    notes = (*left_out, *small, *_notes(spec, role, rows, parts, y, classes), *_wide(features.names, x, scaling))
    encoded, longest = scaling.encode_x(torch.from_numpy(x)), max(map(len, rows))
    digest = _digest(x, y, rows, names, parts)
    return _Prepared(encoded, answers, rows, names, parts, scaling, longest, classes, features, notes, digest)


def _roles(spec: Grouped, frame: pd.DataFrame) -> Roles:
    named = {
        "task": several(spec.task),
        "y": [spec.y],
        "order": [] if spec.order is None else [spec.order],
        "drop": several(spec.drop),
        "categories": several(spec.categories),
        "statistics": several(spec.statistics),
    }
    return tables.roles(frame, named, features=None if spec.features is None else several(spec.features))


def _complete(spec: Grouped, frame: pd.DataFrame, role: Roles) -> tuple[pd.DataFrame, tuple[str, ...]]:
    """The table without missing values where they may not be, and a note on the rows that this cost."""
    needed = [*role.task, *([spec.order] if spec.order else []), spec.y, *role.statistics]
    optional = [column for column in role.numbers if column not in needed]
    filled = spec.missing in ("fill", "flag")
    found = tables.missing(frame, [*optional, *needed] if not filled else needed)
    if not found:
        return frame, ()
    if spec.missing != "rows":
        tables.complain(found, needed)
    bad = np.logical_or.reduce(list(found.values()))
    if bad.all():
        raise BadInput(f"Grouped: every row has a missing value, in {listed(list(found))}; use missing='fill'")
    note = f"{int(bad.sum())} of {len(frame)} rows are left out, with missing values in {listed(list(found))}"
    return frame[~bad].reset_index(drop=True), (note,)


def _classes(spec: Grouped, frame: pd.DataFrame) -> tuple[Any, ...]:
    """The values of `y` in the order of their labels; none for a regression."""
    values = frame[spec.y]
    if spec.classes is None:
        return (False, True) if pd.api.types.is_bool_dtype(values) else ()
    if isinstance(spec.classes, str):
        some = tuple(sorted(values.unique().tolist(), key=str))[:5]
        raise BadInput(f"Grouped: classes={spec.classes!r} is one text; name the values of {spec.y!r}: classes={some}")
    classes = tuple(spec.classes)
    if not classes or len(set(classes)) < len(classes):
        raise BadInput(f"Grouped: classes={classes} are not different values of {spec.y!r}; name each of them once")
    return classes


def _answers(spec: Grouped, frame: pd.DataFrame, classes: tuple[Any, ...]) -> np.ndarray[Any, Any]:
    """Column `y` as it is, float64, or as the places of its values in `classes`, int64: [rows]."""
    values = frame[spec.y]
    if not classes:
        if not pd.api.types.is_numeric_dtype(values):
            some = tuple(sorted(values.unique().tolist(), key=str))[:5]
            raise BadInput(f"Grouped: y={spec.y!r} holds no numbers; for classification name them: classes={some}")
        return tables.numbers(values)
    places = {label: place for place, label in enumerate(classes)}
    unknown = [label for label in values.unique().tolist() if label not in places]
    if unknown:
        raise BadInput(f"Grouped: y={spec.y!r} holds {unknown[0]!r}, not one of classes={classes}; name all")
    return np.array([places[label] for label in values.tolist()], dtype=np.int64)


def _rows(
    spec: Grouped, frame: pd.DataFrame, y: np.ndarray[Any, Any], classes: tuple[Any, ...]
) -> tuple[tuple[Any, ...], tuple[Ints, ...], tuple[str, ...]]:
    """The groups that support and query can be drawn from, by name, their rows in order, and a note on the others."""
    ordered = np.arange(len(frame)) if spec.order is None else frame[spec.order].argsort(kind="stable").to_numpy()
    columns = [frame[column].to_numpy()[ordered].tolist() for column in several(spec.task)]
    called = columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
    found: dict[Any, list[int]] = {}
    for row, name in zip(ordered.tolist(), called, strict=True):
        found.setdefault(name, []).append(row)
    wanted = f"more than support={spec.support} rows"
    enough = {name: len(rows) > spec.support for name, rows in found.items()}
    if spec.balanced:
        each = _each(spec, classes)
        wanted += f", {each} or more of each class"
        for name, rows in found.items():
            enough[name] &= bool(np.bincount(y[rows], minlength=len(classes)).min() >= each)
    names = tuple(name for name in sorted(found, key=str) if enough[name])
    task = several(spec.task)[0] if isinstance(spec.task, str) else tuple(spec.task)
    if len(names) < spec.folds:
        raise BadInput(
            f"Grouped: {len(names)} of {len(found)} groups of {task!r} have {wanted}, "
            f"fewer than folds={spec.folds}; lower support or folds"
        )
    rest = len(found) - len(names)
    note = f"{rest} of {len(found)} groups of {task!r} are left out: they do not have {wanted}"
    return names, tuple(np.array(found[name], dtype=np.int64) for name in names), (note,) if rest else ()


def _each(spec: Grouped, classes: tuple[Any, ...]) -> int:
    """Rows of each class in a balanced support."""
    if not classes:
        raise BadInput(f"Grouped: balanced=True is for classes, and y={spec.y!r} is a regression; name its classes")
    if spec.support % len(classes):
        raise BadInput(
            f"Grouped: support={spec.support} cannot be balanced over {len(classes)} classes; give a multiple of "
            f"{len(classes)}"
        )
    return spec.support // len(classes)


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
    shown = ", ".join(found[:12]) + (f", … ({len(found)} features)" if len(found) > 12 else "")
    return (
        f"some values lie many standard deviations from the mean, as those of a rare indicator do: {shown}; "
        f"beyond {BOUND:g} only the logarithm of the distance counts; leave such a column out with drop= if it says "
        "nothing of a new group",
    )


def _notes(
    spec: Grouped,
    role: Roles,
    rows: Sequence[Ints],
    parts: Mapping[Split, Ints],
    y: np.ndarray[Any, Any],
    classes: tuple[Any, ...],
) -> list[str]:
    """What is right as far as one can see, and may not be what was meant."""
    found: list[str] = []
    if role.left_out:
        found.append(
            f"the columns {listed(role.left_out)} are no numbers and are left out; name those that matter in "
            "categories=, the others in drop="
        )
    if not classes and len(values := np.unique(y)) == 2:
        pair = tuple(int(v) if v == int(v) else v for v in values.tolist())
        found.append(f"y={spec.y!r} has two values and is taken for a regression; classes={pair} makes it classes")
    alone = sum(len(np.unique(y[group[: spec.support]])) < 2 for group in rows) if classes else 0
    if alone and not spec.balanced:
        which = "first rows" if spec.choose == "first" else "first rows, and so many a random support,"
        found.append(
            f"in {alone} of {len(rows)} groups the {spec.support} {which} are of one class, from which no other can be "
            f"learned; balanced=True takes as many of each, of a support that is a multiple of {len(classes)}"
        )
    ones = [split for split, groups in parts.items() if split != "train" and len(groups) == 1]
    if ones:
        found.append(f"{' and '.join(ones)} have one group, which gives no interval; give fewer folds, or more groups")
    return found


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
