"""How long was a journal when it was last known to be whole? Then a shorter one, or another one, is noticed."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Seal:
    """Entries, bytes and SHA-256 of a journal's beginning; `damaged`: there was one that cannot be read."""

    entries: int
    size: int
    sha256: str
    damaged: bool = False


def place(journal: Path) -> Path:
    """Where the seal of a journal lies."""
    return journal.with_suffix(".seal")


def write(journal: Path, seal: Seal) -> None:
    """Put it beside the journal, at once. It needs no fsync: the one before holds for a shorter beginning."""
    said = {"entries": seal.entries, "bytes": seal.size, "sha256": seal.sha256}
    part = place(journal).with_name(f".{place(journal).name}.part")
    part.write_text(json.dumps({**said, "check": _check(said)}) + "\n", encoding="utf-8")
    part.replace(place(journal))


def read(journal: Path) -> Seal | None:
    """The seal of a journal; None where there is none, as with runs of earlier versions."""
    try:
        said = json.loads(place(journal).read_text(encoding="utf-8"))
        whole = said.pop("check") == _check(said)
        return Seal(said["entries"], said["bytes"], said["sha256"]) if whole else Seal(0, 0, "", damaged=True)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Seal(0, 0, "", damaged=True)  # whatever is in it, it is none of ours: who opens the journal says so


class Check:
    """Compares a journal, line by line from its beginning, with its seal."""

    def __init__(self, journal: Path) -> None:
        known = read(journal)
        self.sealed = known is not None
        self._seal = known or Seal(0, 0, "")
        self._sha, self._done = hashlib.sha256(), self._seal.size == 0

    @property
    def entries(self) -> int:
        """How many were there when it was sealed."""
        return self._seal.entries

    def agrees(self, line: bytes, end: int) -> bool:
        """Whether all is as it was, up to a line that ends there."""
        if self._done:
            return True
        self._sha.update(line)
        self._done = end >= self._seal.size
        return not self._done or (end, self._sha.hexdigest()) == (self._seal.size, self._seal.sha256)


def _check(said: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
