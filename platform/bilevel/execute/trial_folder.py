"""What files does a trial make, and which of them has the driver not got yet?"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Files = dict[str, Any]
"""Name (a path with slashes) -> an array of bytes, or None for one that is gone. Arrays, for Ray need not copy them."""


class TrialFolder:
    """A folder on this machine that is a trial's own while it runs, there once it is asked for.

    Args:
        files: what earlier attempts at this trial left.
        home: where to make it, if not among the system's temporary files.
    """

    def __init__(self, files: Mapping[str, Any], home: Path | None = None) -> None:
        self._before, self._home = files, home
        self._path: Path | None = None
        self._sent: dict[str, tuple[int, int]] = {}

    @property
    def path(self) -> Path:
        """The folder; what lies in it is kept."""
        if self._path is None:
            self._path = Path(tempfile.mkdtemp(prefix="bilevel-trial-", dir=self._home))
            for name, content in self._before.items():
                file = self._path / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_bytes(np.asarray(content, np.uint8).tobytes())
            self._sent = dict(self._marks())
        return self._path

    def news(self) -> Files:
        """What has changed since the last call."""
        if self._path is None:
            return {}
        marks = dict(self._marks())
        found: Files = dict.fromkeys(self._sent.keys() - marks.keys())
        for name, mark in sorted(marks.items()):
            if self._sent.get(name) != mark:
                try:
                    found[name] = np.fromfile(self._path / name, np.uint8)
                except OSError:  # the trial deleted it just now
                    marks.pop(name)
        self._sent = marks
        return found

    def close(self) -> None:
        """Nothing of it stays here."""
        if self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)
            self._path = None

    def _marks(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Each file's name, and what changes when it does."""
        top = self._path
        if top is None:
            return
        for folder, _, names in os.walk(top):  # links to folders are not followed
            for name in names:
                file = Path(folder, name)
                if file.is_file():
                    stat = file.stat()
                    yield file.relative_to(top).as_posix(), (stat.st_size, stat.st_mtime_ns)
