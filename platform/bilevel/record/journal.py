"""What happened in a run, in order? An append-only file of checksummed lines: the truth of the record."""

from __future__ import annotations

import hashlib
import json
import math
import os
import shutil
import time
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_args

from bilevel.errors import RecordDamaged, StoreFailed
from bilevel.record import seal
from bilevel.record.seal import Seal
from bilevel.space.secrets import redacted
from bilevel.study import reading
from bilevel.study.events import Event, Started

FORMAT = 1
DEEPEST = 100  # brackets of a line that may be open at a time
TAIL = 1 << 20  # bytes at the end in which a last line is looked for
COMMIT_EVERY = 0.25  # seconds: events within it share one fsync
_JSON = json.JSONEncoder(separators=(",", ":"), allow_nan=False)
_FIELDS = {kind: tuple(field.name for field in fields(kind)) for kind in get_args(Event)}


@dataclass(frozen=True)
class Entry:
    """A line: its number, unix time [s], event as a dict with its name under "event", and the offset behind it."""

    n: int
    t: float
    event: dict[str, Any]
    end: int

    def typed(self) -> Event:
        """The event as its dataclass.

        Raises:
            RecordDamaged: it is none that this version knows.
        """
        try:
            return reading.event(self.event)
        except RecordDamaged as error:
            raise RecordDamaged(f"entry {self.n}: {error}") from error


class Journal:
    """The writing end; only one process may hold it (see `record.lock`).

    Opening it cuts a torn last line off; what is lost otherwise at its end is kept aside first, and `lost` says so.
    Events are committed in groups: those of `COMMIT_EVERY` seconds share one write and fsync; `commit` does it at once.
    What was handed to the system by `flush` outlives this process, but not a power failure before the next commit.

    Raises:
        StoreFailed: it cannot be written.
        RecordDamaged: it is damaged before its end, or nothing of it can be read; it stays as it is.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pending: list[bytes] = []
        self._unsynced = False
        self._sealed = False
        self._committed_at = time.monotonic()
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
            last = deque(read(path), maxlen=1)
            self._next, self._size = (last[0].n + 1, last[0].end) if last else (0, 0)
            self.lost = lost(path)
            if self.lost:
                self.lost += f"; all of it is kept aside as {_aside(path).name}, and the run goes on from there"
            os.ftruncate(self._fd, self._size)
            self._sha = hashlib.sha256(path.read_bytes())
            if self.lost:
                self._seal()
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
        text = redacted(text)
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
            if not self._sealed:  # from now on an empty journal is known to be a damaged one
                self._seal()
        except OSError as error:
            raise self._full(error) from error

    def _seal(self) -> None:
        seal.write(self.path, Seal(self._next, self._size, self._sha.hexdigest()))
        self._sealed = True

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
        self._sha.update(data)
        self._unsynced = True

    def _full(self, error: OSError) -> StoreFailed:
        return StoreFailed(f"{self.path}: cannot be written: {error.strerror}; free space, then resume")

    @property
    def due(self) -> bool:
        """Whether something waits for longer than the commit interval."""
        return (bool(self._pending) or self._unsynced) and time.monotonic() - self._committed_at >= COMMIT_EVERY

    def close(self) -> None:
        """Commit, say beside it how long it is, and close."""
        try:
            self.commit()
            if self._sealed:
                self._seal()
        except OSError as error:
            raise self._full(error) from error
        finally:
            os.close(self._fd)


def read(path: Path, offset: int = 0) -> Iterator[Entry]:
    """The committed entries from a byte offset on (0, or an `Entry.end`); what is torn at the end is left out.

    Raises:
        RecordDamaged: a line before the last is not what was written, nothing can be read, or the format is of a newer
            version.
    """
    known = seal.Check(path) if offset == 0 else None
    torn: int | None = None
    expected: int | None = None if known is None else 0
    try:
        file = path.open("rb")
    except FileNotFoundError as error:
        raise RecordDamaged(f"{path}: the journal is gone; {WITHOUT}") from error
    with file:
        file.seek(offset)
        for line in file:
            start, offset = offset, offset + len(line)
            entry = None if torn is not None else _parse(line, offset)
            if torn is None and entry is None:
                torn = start
                if not line.endswith(b"\n"):  # its driver is writing it: what is there by now begins in its middle
                    break
                continue
            if entry is None or (expected is not None and entry.n != expected):
                raise RecordDamaged(_broken(path, start if torn is None else torn, expected, entry))
            if entry.n == 0 and entry.event.get("format") != FORMAT:
                raise RecordDamaged(
                    f"{path}: format {entry.event.get('format')}, this version reads {FORMAT}; a newer bilevel may have"
                    " written it: update this one"
                )
            expected = entry.n + 1
            if known is not None and not known.agrees(line, offset):
                raise RecordDamaged(f"{path}: its first {known.entries} entries are not those written; {WITHOUT}")
            yield entry
    if known is not None and not expected and (known.sealed or not _plain(path, 0)):
        raise RecordDamaged(f"{path}: no entry of it can be read; it is left as it is; {WITHOUT}")


def events(path: Path) -> Iterator[tuple[float, Event]]:
    """(unix time [s], event) of all entries, each looked at beside those before it.

    Raises:
        RecordDamaged: as `read`, or an event that is not known or cannot have happened there.
    """
    course = reading.Course()
    for entry in read(path):
        try:
            event = entry.typed()
        except RecordDamaged as error:
            raise RecordDamaged(f"{path}: {error}; {WITHOUT}") from error
        try:
            course.take(event)
        except RecordDamaged as error:
            raise RecordDamaged(f"{path}: entry {entry.n}: {error}; {WITHOUT}") from error
        yield entry.t, event


def lost(path: Path) -> str:
    """What is missing at the end of a journal, apart from a line that was torn when its driver died; else nothing.

    What is read of it then is an older state of the run.
    """
    known = seal.read(path)  # before the file, to which a driver may be adding
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - TAIL))
            *lines, rest = file.read(TAIL if size > TAIL else size).split(b"\n")
    except OSError:  # which `read` says
        return ""
    if known is not None and known.damaged:
        return f"{seal.place(path)}: damaged; whether the journal is whole is not known"
    last = _parse(lines[-1] + b"\n", size) if lines else None
    if known is not None and size - (len(rest) if last is not None else 0) < known.size:
        have = 0 if last is None else last.n + 1
        said = f"{have} of at least {known.entries}" if last is not None else f"fewer than {known.entries}"
        return f"{path}: it is shorter than it was ({said} entries): what is there is an older state of the run"
    if (lines and last is None) or (rest and not _plain(path, 0 if last is None else last.n + 1, rest)):
        return f"{path}: its end is damaged: what can be read is an older state of the run"
    return ""


def _plain(path: Path, n: int, rest: bytes | None = None) -> bool:
    """Whether it is the beginning of entry `n`, as a driver leaves it that dies; or nothing."""
    rest = path.read_bytes() if rest is None else rest
    begin = b'{"n":%d,"t":' % n
    return (rest.startswith(begin) or begin.startswith(rest)) and 0 not in rest


def _aside(path: Path) -> Path:
    """A copy of the journal beside it."""
    number = 1
    while (copy := path.with_name(f"{path.name}.damaged-{number}")).exists():
        number += 1
    shutil.copyfile(path, copy)
    return copy


WITHOUT = "`adapt` works without it where a model was learned, and other runs are not touched; put a copy of it back"


def _broken(path: Path, at: int, whole: int | None, found: Entry | None) -> str:
    """What is wrong at a byte before the last line."""
    missing = (
        f"entry {whole} is missing (found {found.n})" if found else "a line in the middle of the journal is damaged"
    )
    return (
        f"{path}: byte {at}: {missing}; the {whole or 0} entries before it are whole: put a copy back, or keep this one"
        f" aside and go on from those after `truncate -s {at} {path.name}`; `adapt` works without it"
    )


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
    try:
        if _depth(head) > DEEPEST:
            return None
        said = json.loads(head + b"}")
        if b'{"float":' in head:
            said = _decode(said)
        n, t = said.pop("n"), said.pop("t")
    except (ValueError, KeyError, AttributeError, TypeError):  # its checksum is right, but nothing of ours is in it
        return None
    if type(n) is not int or type(t) not in (int, float) or not abs(t) < 1e11:  # till the year 5138
        return None
    return Entry(n, t, said, end)


def _depth(text: bytes) -> int:
    """How many brackets are open at a time, at most; those inside of words count too, which is no harm."""
    if text.count(b"[") + text.count(b"{") <= DEEPEST:
        return 0
    depth = deepest = 0
    for char in text:
        depth += (char in b"[{") - (char in b"]}")
        deepest = max(deepest, depth)
    return deepest


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
