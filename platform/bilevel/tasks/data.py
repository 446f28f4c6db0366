"""Where is a data set found on this machine, and where is one kept whose decoding takes seconds?"""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

VARIABLE = "BILEVEL_DATA"


def find(name: str) -> Path | None:
    """The file or folder `name` as it stands, or else below the folder that BILEVEL_DATA names; None if in neither."""
    places = [Path(name).expanduser()]
    if folder := os.environ.get(VARIABLE):
        places.append(Path(folder).expanduser() / name)
    return next((place for place in places if place.exists()), None)


def read_array(file: Path, name: str) -> NDArray[Any]:
    """The array `name` of an .npz file; nothing in it is ever run.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is damaged, or holds no such array.
    """
    with file.open("rb") as stream:  # numpy leaves a damaged archive open
        try:
            with np.load(stream, allow_pickle=False) as archive:
                return np.asarray(archive[name])
        except (KeyError, EOFError, IndexError, TypeError, zipfile.BadZipFile, zlib.error) as error:
            raise ValueError(f"damaged, or without an array {name}: {error}") from error


def kept(name: str, build: Callable[[], NDArray[Any]]) -> NDArray[Any]:
    """`build()`, kept in the user's cache folder under `name`, which must say all that decides the array.

    The file holds a checksum; a damaged one is built again. A folder that cannot be written costs only time.
    """
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    file = Path(root).expanduser() / "bilevel" / f"{name}.npz"
    with suppress(OSError, ValueError):
        return read_array(file, "array")
    array = build()
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=file.parent, suffix=".part", delete=False) as part:
            try:
                np.savez_compressed(part, array=array)
                part.close()
                Path(part.name).replace(file)  # atomic: readers see the old file, none, or the whole new one
            except BaseException:
                Path(part.name).unlink(missing_ok=True)
                raise
    return array
