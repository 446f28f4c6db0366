"""Is a file of learned tensors what was written? Its SHA-256 lies beside it, in MANIFEST.json."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from bilevel.errors import RecordDamaged

NAME = "MANIFEST.json"


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files to a directory, the manifest last; without one they are not read as checked."""
    (folder / NAME).unlink(missing_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    entries = {name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)} for name, data in files.items()}
    (folder / NAME).write_text(json.dumps({"format": 1, "files": entries}, indent=1), encoding="utf-8")


def is_there(folder: Path) -> bool:
    """Whether files of a directory can be checked; runs of earlier versions have no manifest here."""
    return (folder / NAME).is_file()


def read(file: Path) -> bytes:
    """The bytes of a file, compared with the manifest beside it, if there is one.

    Raises:
        OSError: there is no such file.
        RecordDamaged: it is not what was written, or the manifest is damaged.
    """
    data = file.read_bytes()
    if not is_there(file.parent):
        return data
    try:
        entries = json.loads((file.parent / NAME).read_bytes())["files"]
        known = {str(name): str(entry["sha256"]) for name, entry in entries.items()}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RecordDamaged(f"{file.parent / NAME}: damaged: {error}") from error
    if known.get(file.name) != hashlib.sha256(data).hexdigest():
        raise RecordDamaged(f"{file}: it is not what was written ({len(data)} bytes)")
    return data


WHOLE = 1 << 20
"""Bytes up to which a file is read by who only looks whether all is there; of larger ones the size is compared."""


def faults(folder: Path) -> list[str]:
    """What of a directory's files is not what was written, as far as that shows without reading large ones."""
    found = []
    try:
        entries = json.loads((folder / NAME).read_bytes())["files"]
        sizes = {str(name): int(entry["bytes"]) for name, entry in entries.items()}
    except FileNotFoundError:  # of an earlier version, or none
        return []
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        return [f"{folder / NAME}: damaged: {error}"]
    for name, size in sizes.items():
        try:
            if (folder / name).stat().st_size != size:
                found.append(f"{folder / name}: it is not what was written")
            elif size <= WHOLE:
                read(folder / name)
        except (OSError, RecordDamaged) as error:
            found.append(str(error))
    return found
