"""What has been added to a journal since it was last read?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bilevel.errors import RecordDamaged
from bilevel.record import journal
from bilevel.study import reading
from bilevel.study.events import Event


@dataclass(frozen=True)
class News:
    """What is new.

    Args:
        entries: `(unix time [s], event)` in their order.
        anew: the journal is another one, or shorter: what was read before counts no more.
        problem: why the rest cannot be read.
    """

    entries: tuple[tuple[float, Event], ...] = ()
    anew: bool = False
    problem: str = ""


class Tail:
    """Reads a journal as its driver writes it; no entry twice, as long as it only grows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._problem = ""
        self._seen: tuple[int, int, int] | None = None
        self._begin()

    def _begin(self) -> None:
        self._offset = self._next = 0
        self._course = reading.Course()

    def news(self) -> News:
        """What was added since the last call; a problem is said again until the file is another one."""
        try:
            there = self.path.stat()
        except OSError as error:
            self._seen = None
            return News(problem=f"{self.path}: the journal is gone ({error.strerror}); shown is what was read before")
        seen = (there.st_ino, there.st_size, there.st_mtime_ns)
        if seen == self._seen:
            return News(problem=self._problem)
        another = self._seen is not None and self._seen[0] != there.st_ino
        self._seen = seen
        anew = self._offset > 0 and (another or there.st_size < self._offset)
        if anew:
            self._begin()
        before = self._next
        found, self._problem = self._read()
        if self._problem and before and not anew and self._next == before:  # maybe written anew in place
            self._begin()
            found, self._problem = self._read()
            anew = True
        return News(tuple(found), anew, self._problem)

    def _read(self) -> tuple[list[tuple[float, Event]], str]:
        found: list[tuple[float, Event]] = []
        try:
            for entry in journal.read(self.path, self._offset):
                if entry.n != self._next:
                    raise RecordDamaged(f"entry {self._next} is missing (found {entry.n})")
                event = entry.typed()
                self._course.take(event)
                found.append((entry.t, event))
                self._offset, self._next = entry.end, entry.n + 1
        except RecordDamaged as error:
            said = str(error)
            return found, said if str(self.path) in said else f"{self.path}: {said}"
        return found, ""
