"""How does somebody else ask a driver for something? By files in the run's folder, each of which appears whole."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bilevel.errors import BadInput
from bilevel.record.folder import RunFolder

LARGEST = 1 << 20
"""Bytes of a request."""


@dataclass(frozen=True)
class Request:
    """What was asked for, under the name of its file; `what` is None where it cannot be read."""

    name: str
    what: Mapping[str, Any] | None


class Mailbox:
    """A run's requests that nobody has answered yet."""

    def __init__(self, folder: RunFolder) -> None:
        self._home = folder.path / "requests"

    def put(self, what: Mapping[str, Any]) -> str:
        """Ask for something; the request's name.

        Raises:
            BadInput: the run's folder cannot be written.
        """
        name = f"{time.time_ns():020d}-{secrets.token_hex(4)}"
        part = self._home / f".{name}.part"
        try:
            self._home.mkdir(exist_ok=True)
            part.write_text(json.dumps(what), encoding="utf-8")
            part.replace(self._home / f"{name}.json")
        except OSError as error:
            raise BadInput(f"{self._home}: it cannot be written: {error.strerror}") from error
        return name

    def look(self) -> list[Request]:
        """What is asked for, oldest first."""
        try:
            names = sorted(entry.name for entry in os.scandir(self._home) if entry.name.endswith(".json"))
        except OSError:  # nobody has asked for anything yet
            return []
        return [Request(name[:-5], self._read(name)) for name in names if not name.startswith(".")]

    def _read(self, name: str) -> Mapping[str, Any] | None:
        try:
            with (self._home / name).open("rb") as file:
                what = json.loads(file.read(LARGEST))
        except (OSError, ValueError, RecursionError):
            return None
        return what if isinstance(what, dict) else None

    def drop(self, name: str) -> None:
        """It is answered."""
        with contextlib.suppress(OSError):
            (self._home / f"{name}.json").unlink()
