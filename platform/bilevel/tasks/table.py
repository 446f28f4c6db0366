"""How do the columns of a user's table become numbers to predict from, fitted to the training groups alone?"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bilevel.errors import BadInput, MissingData
from bilevel.tasks.data import VARIABLE, find

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]

KINDS = 50  # values of a column of categories at most
PRIOR = 5.0  # rows of the overall mean that are added to an item's own: few ratings say little


def several(columns: str | Sequence[str]) -> list[str]:
    """One column or more, as a list."""
    return [columns] if isinstance(columns, str) else list(columns)


def listed(columns: Sequence[Any], most: int = 12) -> str:
    """Names for a message."""
    shown = ", ".join(map(repr, columns[:most]))
    return shown + (f", … ({len(columns)})" if len(columns) > most else "")


# -- reading -----------------------------------------------------------------------------------------------------------


def frame_of(table: str | pd.DataFrame) -> pd.DataFrame:
    """The table itself, or that of a CSV file.

    Raises:
        MissingData: there is no such file; BadInput: it is no CSV.
    """
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


# -- which columns -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Roles:
    """Which columns of a table are what: `categories` and `statistics` are features of their own kind."""

    task: tuple[str, ...]
    y: str
    numbers: tuple[str, ...]
    categories: tuple[str, ...]
    statistics: tuple[str, ...]
    left_out: tuple[str, ...]
    """Columns that are no numbers and that nobody named."""


def roles(
    frame: pd.DataFrame,
    named: Mapping[str, Sequence[str]],
    *,
    features: Sequence[str] | None,
) -> Roles:
    """What each column is for.

    Args:
        frame: the table.
        named: columns by role: task, y, order, drop, categories, statistics.
        features: the columns that are features; None: all numeric ones without another role.

    Raises:
        BadInput: a name that is not there, a feature that cannot be one, or none at all.
    """
    _check_named(frame, {**named, "features": features or ()})
    categories, statistics = tuple(named["categories"]), tuple(named["statistics"])
    if features is not None:
        numeric = [column for column in features if column not in categories]
        left_out: list[str] = []
        for column in numeric:
            if not _numeric(frame[column]):
                raise BadInput(
                    f"Grouped: column {column!r} is not numeric ({frame[column].iloc[0]!r}, …); turn it into numbers, "
                    f"name it in categories=({column!r},), or leave it out of features"
                )
    else:
        taken = {column for role, columns in named.items() if role != "order" for column in columns}
        free = [column for column in frame.columns if column not in taken]
        numeric = [column for column in free if _numeric(frame[column])]
        left_out = [column for column in free if not _numeric(frame[column]) and column not in named["order"]]
    if not (numeric or categories or statistics):
        raise BadInput("Grouped: no numeric column is left to predict from; name some in features or categories")
    return Roles(tuple(named["task"]), named["y"][0], tuple(numeric), categories, statistics, tuple(map(str, left_out)))


def _check_named(frame: pd.DataFrame, named: Mapping[str, Sequence[str]]) -> None:
    """Whether the columns are there once, and none is a feature that is also something else."""
    twice = frame.columns[frame.columns.duplicated()].tolist()
    if twice:
        raise BadInput(f"Grouped: two columns are called {twice[0]!r}; rename or leave out one of them")
    for role, columns in named.items():
        for column in columns:
            if column not in frame.columns:
                there = ", ".join(map(str, frame.columns))
                raise BadInput(f"Grouped: {role} names the column {column!r}, which is not there; there are: {there}")
    for role in ("features", "categories", "statistics"):
        for column in named[role]:
            if column in named["drop"]:
                raise BadInput(f"Grouped: {role} and drop both name {column!r}; leave it out of one of them")
            if column in named["y"] or (column in named["task"] and role != "statistics"):
                raise BadInput(f"Grouped: {role} name {column!r}, which is the group or the answer; leave it out")


def _numeric(values: pd.Series[Any]) -> bool:
    return pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_complex_dtype(values)


def numbers(values: pd.Series[Any]) -> Floats:
    """A column as float64, NaN where a value is missing."""
    return np.array(
        values.to_numpy(dtype=np.float64, na_value=np.nan)
    )  # a copy: pandas lends what is not to be written


def missing(frame: pd.DataFrame, columns: Sequence[str]) -> dict[str, Mask]:
    """The rows [rows] in which each column has no value or an infinite one, where there are any."""
    found = {column: np.asarray(frame[column].isna().to_numpy(), dtype=bool) for column in columns}
    for column in columns:
        if _numeric(frame[column]):
            found[column] = ~np.isfinite(numbers(frame[column]))
    return {column: rows for column, rows in found.items() if rows.any()}


def complain(found: Mapping[str, Mask], needed: Sequence[str]) -> None:
    """All columns with missing values in one message, with what can be done about each kind.

    Raises:
        BadInput: always.
    """
    counts = [f"column {column!r} has {int(rows.sum())}" for column, rows in found.items()]
    total = len(next(iter(found.values())))
    shown = ", ".join(counts[:12]) + (f", … ({len(counts)} columns)" if len(counts) > 12 else "")
    cures = "missing='rows' leaves out those rows"
    features = [column for column in found if column not in needed]
    if features:
        cures += f"; missing='fill' fills features with their mean, 'flag' also says where; or drop={tuple(features)!r}"
    raise BadInput(f"Grouped: {shown} missing or infinite values of {total}; {cures}")


# -- features ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Features:
    """What was fitted to the training groups: how rows of a table become `names` numbers each."""

    roles: Roles
    fills: Mapping[str, float]
    """By column of numbers, its mean."""
    flagged: tuple[str, ...]
    """Columns of numbers beside which another one says where they were missing."""
    kinds: Mapping[str, tuple[Any, ...]]
    """By column of categories, its values."""
    items: Mapping[str, Mapping[Any, tuple[float, ...]]]
    """By column of statistics, an item's number of rows and sums of the answers."""
    means: tuple[float, ...]
    """Of the answers, over all rows."""

    @property
    def names(self) -> list[str]:
        """What each number is."""
        names = [*self.roles.numbers, *(f"{column} missing" for column in self.flagged)]
        names += [f"{column}={value}" for column, values in self.kinds.items() for value in values]
        for column in self.items:
            outcomes = ["mean"] if len(self.means) == 1 else [f"share {place}" for place in range(len(self.means))]
            names += [*(f"{column}: {outcome} of {self.roles.y}" for outcome in outcomes), f"{column}: log rows"]
        return names

    def matrix(self, frame: pd.DataFrame, own: Mapping[str, Floats] | None = None) -> Floats:
        """[rows, names] in the user's units; `own` are the parts of the statistics that come from a row's own group."""
        parts = [np.zeros((len(frame), 0))]
        for column in self.roles.numbers:
            values = numbers(frame[column])
            parts.append(np.where(np.isfinite(values), values, self.fills[column])[:, None])
        parts += [(~np.isfinite(numbers(frame[column])))[:, None].astype(np.float64) for column in self.flagged]
        for column, kinds in self.kinds.items():
            values = frame[column].to_numpy(dtype=object)
            parts.append(np.stack([(values == kind).astype(np.float64) for kind in kinds], axis=1))
        for column, items in self.items.items():
            nothing = (0.0,) * (1 + len(self.means))
            known = np.array([items.get(item, nothing) for item in frame[column].tolist()], dtype=np.float64)
            known = known.reshape(len(frame), -1) - (own[column] if own is not None else 0.0)
            count = known[:, :1]
            parts += [(known[:, 1:] + PRIOR * np.array(self.means)) / (count + PRIOR), np.log1p(count)]
        return np.concatenate(parts, axis=1)


def fitted(
    frame: pd.DataFrame, role: Roles, answers: Floats, groups: NDArray[np.int64], train: Mask, *, flag: bool
) -> tuple[Features, Floats]:
    """The features that training rows give, and the whole table in them: [rows, names].

    Statistics of an item (its mean answer, how many rows it has) come from training groups, and for a row of one of
    these from the other ones, as they will for a group that is new.

    Args:
        frame: the table.
        role: what its columns are.
        answers: [rows, outcomes].
        groups: the number of each row's group.
        train: the rows of training groups.
        flag: say in a column of its own where a value was missing.
    """
    own: dict[str, Floats] = {}
    items: dict[str, dict[Any, tuple[float, ...]]] = {}
    fills: dict[str, float] = {}
    for column in role.numbers:
        values = numbers(frame[column])[train]
        there = values[np.isfinite(values)]
        if not len(there):
            raise BadInput(f"Grouped: column {column!r} has no value in the training groups; leave it out with drop=")
        fills[column] = float(there.mean())
    kinds = {column: _kinds(frame, column, train) for column in role.categories}
    for column in role.statistics:
        items[column], own[column] = _items(frame[column].tolist(), answers, groups, train)
    flagged = tuple(column for column in role.numbers if flag and not np.isfinite(numbers(frame[column])).all())
    means = tuple(answers[train].mean(axis=0).tolist())
    found = Features(role, fills, flagged, kinds, items, means)
    return found, found.matrix(frame, own)


def _kinds(frame: pd.DataFrame, column: str, train: Mask) -> tuple[Any, ...]:
    values = sorted(frame[column][train].dropna().unique().tolist(), key=str)
    if not 1 <= len(values) <= KINDS:
        raise BadInput(
            f"Grouped: categories name {column!r}, which has {len(values)} values in the training groups; up to "
            f"{KINDS} become a feature each; of more, such as items, use statistics=({column!r},)"
        )
    return tuple(values)


def _items(
    names: list[Any], answers: Floats, groups: NDArray[np.int64], train: Mask
) -> tuple[dict[Any, tuple[float, ...]], Floats]:
    """Rows and sums of answers by item over training rows; and of those, by row, what comes from its own group."""
    counted = np.concatenate([np.ones((len(answers), 1)), answers], axis=1) * train[:, None]
    places: dict[Any, int] = {}
    item = np.array([places.setdefault(name, len(places)) for name in names], dtype=np.int64)
    total = np.zeros((len(places), counted.shape[1]))
    np.add.at(total, item, counted)
    pairs, pair = np.unique(np.stack([item, groups], axis=1), axis=0, return_inverse=True)
    own = np.zeros((len(pairs), counted.shape[1]))
    np.add.at(own, pair.reshape(-1), counted)
    return {name: tuple(total[place].tolist()) for name, place in places.items()}, own[pair.reshape(-1)]
