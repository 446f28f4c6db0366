"""Which samples are in a user's file?"""

from __future__ import annotations

import csv
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from bilevel.errors import BadInput

Samples = tuple[np.ndarray[Any, Any], np.ndarray[Any, Any] | None]
_NAME = re.compile(r"[^\W\d].*", re.DOTALL)  # of a column: it begins with a letter


def read_samples(path: Path, *, labelled: bool) -> Samples:
    """`x` and `y` of an `.npz`, or of a `.csv` whose last column is `y`.

    Raises:
        BadInput: no such file, another kind, a damaged one, or not numbers.
    """
    if not path.is_file():
        raise BadInput(f"{path}: no such file")
    if path.suffix == ".npz":
        return _read_npz(path, labelled)
    if path.suffix == ".csv":
        try:
            return _read_csv(path, labelled)
        except (ValueError, OSError, csv.Error) as error:
            raise BadInput(f"{path}: {error}") from error
    what = "an .npz with x and y, or a .csv whose last column is y" if labelled else "an .npz with x, or a .csv"
    raise BadInput(f"{path}: give {what}")


def _read_npz(path: Path, labelled: bool) -> Samples:
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # numpy reads as much as a header says, and then no checksum is compared
            if damaged is not None:
                raise BadInput(f"{path}: {damaged} is damaged: its checksum is another one")
        with np.load(path, allow_pickle=False) as data:
            if "x" not in data or (labelled and "y" not in data):
                found = ", ".join(data.files) or "nothing"
                raise BadInput(f"{path}: has {found}; it takes x{' and y' if labelled else ''}")
            return data["x"], data["y"] if labelled else None
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"{path}: no .npz that can be read: {type(error).__name__}: {error}") from error


def _read_csv(path: Path, labelled: bool) -> Samples:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [(number, row) for number, row in enumerate(csv.reader(file, strict=True), 1) if row]
    names = rows[0][1] if rows and all(_NAME.fullmatch(cell.strip()) for cell in rows[0][1]) else None
    names = (
        None
        if names is not None and all(cell.strip().lower() in ("nan", "inf", "infinity") for cell in names)
        else names
    )
    table = rows[1:] if names else rows
    if not table:
        raise BadInput(f"{path}: no rows")
    width = len(names or table[0][1])
    for number, row in table:
        if len(row) != width:
            raise BadInput(f"{path}: row {number} has {len(row)} cells, and the first has {width}")
    has_y = labelled or (names is not None and names[-1] == "y")
    if has_y and width < 2:
        raise BadInput(f"{path}: one column, which is y; it takes the columns of x, and y as the last one")
    numbers = [[_number(path, number, cell) for cell in row] for number, row in table]
    x = np.array([row[:-1] if has_y else row for row in numbers])
    if not labelled:
        return x, None
    labels = [row[-1] for _, row in table]
    whole = all(re.fullmatch(r"\s*-?\d{1,18}\s*", label) for label in labels)
    return x, np.array([int(v) if whole else float(v) for v in labels])


def _number(path: Path, row: int, cell: str) -> float:
    try:
        if "_" in cell:  # which Python reads as a number
            raise ValueError
        return float(cell)
    except ValueError as error:
        raise BadInput(f"{path}: row {row}: {cell[:60]!r} is no number") from error
