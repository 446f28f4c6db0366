"""What happened in a run, in order? An append-only file of checksummed lines: the truth of the record."""

from __future__ import annotations

import json
import math
import os
import time
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from bilevel.errors import RecordDamaged, StoreFailed
from bilevel.study.events import Event, Started

FORMAT = 1
COMMIT_EVERY = 0.25  # seconds: events within it share one fsync
_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_TYPES = {kind.__name__.lower(): kind for kind in get_args(Event)}
_FIELDS = {kind: tuple(field.name for field in fields(kind)) for kind in get_args(Event)}


@dataclass(frozen=True)
class Entry:
    """A line: its number, unix time [s], event as a dict with its name under "event", and the offset behind it."""

    n: int
    t: float
    event: dict[str, Any]
    end: int

    def typed(self) -> Event:
        """The event as its dataclass."""
        values = {
            name: tuple(value) if isinstance(value, list) else value  # as it was written
            for name, value in self.event.items()
            if name != "event"
        }
        event: Event = _TYPES[self.event["event"]](**values)
        return event


class Journal:
    """The writing end. Opening it cuts a torn last line off; only one process may hold it (see `record.lock`).

    Events are committed in groups: those of `COMMIT_EVERY` seconds share one write and fsync; `commit` does it at once.
    What was handed to the system by `flush` outlives this process, but not a power failure before the next commit.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pending: list[bytes] = []
        self._unsynced = False
        self._committed_at = time.monotonic()
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            last = deque(read(path), maxlen=1)
            self._next, self._size = (last[0].n + 1, last[0].end) if last else (0, 0)
            os.ftruncate(self._fd, self._size)
        except OSError as error:
            raise StoreFailed(f"{path}: the journal cannot be opened for writing: {error.strerror}") from error

    def append(self, event: Event) -> None:
        """Take an event in; durable after the next commit."""
        line: dict[str, Any] = {"n": self._next, "t": round(time.time(), 6), "event": type(event).__name__.lower()}
        line |= {name: getattr(event, name) for name in _FIELDS[type(event)]}
        try:
            text = _JSON.encode(line)
        except ValueError:  # a number that is not finite
            text = _JSON.encode(_encode(line))
        crc = zlib.crc32(text.encode())
        self._pending.append(f'{text[:-1]},"crc":"{crc:08x}"}}\n'.encode())
        self._next += 1
        if time.monotonic() - self._committed_at >= COMMIT_EVERY:
            self.commit()

    def commit(self) -> None:
        """Make all that was appended durable (one write, one fsync).

        Raises:
            StoreFailed: the disk is full or gone. What was committed earlier stays.
        """
        self._committed_at = time.monotonic()
        self.flush()
        if not self._unsynced:
            return
        self._unsynced = False
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise self._full(error) from error

    def flush(self) -> None:
        """Hand all that was appended to the system (one write): a kill of this process loses nothing of it.

        Raises:
            StoreFailed: the disk is full or gone. What was written earlier stays.
        """
        data = b"".join(self._pending)
        self._pending.clear()
        if not data:
            return
        try:
            written = 0
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError as error:
            raise self._full(error) from error
        self._size += len(data)
        self._unsynced = True

    def _full(self, error: OSError) -> StoreFailed:
        return StoreFailed(f"{self.path}: cannot be written: {error.strerror}; free space, then resume")

    @property
    def due(self) -> bool:
        """Whether something waits for longer than the commit interval."""
        return (bool(self._pending) or self._unsynced) and time.monotonic() - self._committed_at >= COMMIT_EVERY

    def close(self) -> None:
        """Commit and close."""
        try:
            self.commit()
        finally:
            os.close(self._fd)


def read(path: Path, offset: int = 0) -> Iterator[Entry]:
    """The committed entries from a byte offset on (0, or an `Entry.end`); a torn last line is left out.

    Raises:
        RecordDamaged: a line before the last is not what was written, or the format is of a newer version.
    """
    with path.open("rb") as file:
        file.seek(offset)
        torn: int | None = None
        expected: int | None = 0 if offset == 0 else None
        for line in file:
            if torn is not None:
                raise RecordDamaged(f"{path}: byte {torn}: a line in the middle of the journal is damaged")
            start, offset = offset, offset + len(line)
            entry = _parse(line, offset)
            if entry is None:
                torn = start
                continue
            if expected is not None and entry.n != expected:
                raise RecordDamaged(f"{path}: byte {start}: entry {expected} is missing (found {entry.n})")
            if entry.n == 0 and entry.event.get("format") != FORMAT:
                raise RecordDamaged(f"{path}: format {entry.event.get('format')}, this version reads {FORMAT}")
            expected = entry.n + 1
            yield entry


def started(path: Path) -> Started | None:
    """The first entry, or None where the journal has none yet."""
    for entry in read(path):
        event = entry.typed()
        return event if isinstance(event, Started) else None
    return None


def _parse(line: bytes, end: int) -> Entry | None:
    head, separator, tail = line.rpartition(b',"crc":"')
    if not separator or not tail.endswith(b'"}\n') or b"%08x" % zlib.crc32(head + b"}") != tail[:-3]:
        return None
    said = json.loads(head + b"}")
    if b'{"float":' in head:
        said = _decode(said)
    return Entry(said.pop("n"), said.pop("t"), said, end)


def _encode(value: Any) -> Any:
    """Non-finite numbers as {"float": "nan"}: JSON has none."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": repr(value)}
    if isinstance(value, dict):
        return {str(name): _encode(part) for name, part in value.items()}
    return [_encode(part) for part in value] if isinstance(value, list | tuple) else value


def _decode(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {"float"} and value["float"] in ("nan", "inf", "-inf"):
            return float(value["float"])
        return {name: _decode(part) for name, part in value.items()}
    return [_decode(part) for part in value] if isinstance(value, list) else value
