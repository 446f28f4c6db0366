"""Where does it go what a trial prints? Into its log: from this process's streams, or from all that it writes."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import tempfile
import weakref
from collections.abc import Iterator
from functools import cache
from typing import BinaryIO, Protocol, TextIO, cast

OUTPUT = 1_000_000
"""Characters that a trial may print between two reports; the middle of more is left out."""


class Capture(Protocol):
    """What a trial prints."""

    def taken(self) -> contextlib.AbstractContextManager[None]:
        """Within: what is printed is the trial's."""
        ...

    def collect(self) -> str:
        """What it has printed since the last call."""
        ...


class Descriptors:
    """All that a worker writes to its descriptors 1 and 2: Python, libraries in C, and child processes."""

    def __init__(self) -> None:
        self._fd = _memory()
        weakref.finalize(self, os.close, self._fd)

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Within: the descriptors are the trial's, and Python's streams lead there, the same ones for every trial."""
        before = os.dup(1), os.dup(2)
        os.dup2(self._fd, 1)
        os.dup2(self._fd, 2)
        out, err = _streams()
        try:
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                yield
        finally:
            for stream, number, old in ((out, 1, before[0]), (err, 2, before[1])):
                with contextlib.suppress(OSError, ValueError):  # closed by somebody, or no space for its last words
                    stream.flush()
                os.dup2(old, number)
                os.close(old)

    def collect(self) -> str:
        """What was printed since the last call."""
        fd = self._fd
        size = os.fstat(fd).st_size
        if not size:
            return ""
        half = 2 * OUTPUT  # bytes; a character may have up to four, and those in the middle are cut in any case
        data = os.pread(fd, size if size <= 2 * half else half, 0)
        if size > 2 * half:
            data += os.pread(fd, half, size - half)
        os.ftruncate(fd, 0)
        os.lseek(fd, 0, os.SEEK_SET)
        return _cut(data.decode(errors="replace"), max(0, size - 2 * half))


class Streams:
    """What is printed through Python's streams, in a process where others print, too.

    Args:
        echo: where it is seen besides.
    """

    def __init__(self, echo: TextIO | None = None) -> None:
        self._echo = echo
        self._parts: list[str] = []

    @contextlib.contextmanager
    def taken(self) -> Iterator[None]:
        """Within: the streams are the trial's."""
        with contextlib.redirect_stdout(_ROUTER), contextlib.redirect_stderr(_ROUTER), _ROUTER.to(self):
            yield

    def take(self, text: str) -> None:
        """A piece of it."""
        self._parts.append(text)
        if self._echo is not None:
            self._echo.write(text)

    def collect(self) -> str:
        """What was printed since the last call."""
        text, self._parts = "".join(self._parts), []
        return _cut(
            text.encode(errors="backslashreplace").decode()
        )  # a name of a file may be no text that a file holds


class _Router(io.TextIOBase):
    """A stream whose words are those of the trial at work; a logging handler that got hold of it may keep it."""

    encoding = "utf-8"
    errors = "replace"

    def __init__(self) -> None:
        self._trial: Streams | None = None

    @contextlib.contextmanager
    def to(self, trial: Streams) -> Iterator[None]:
        before, self._trial = self._trial, trial
        try:
            yield
        finally:
            self._trial = before

    def write(self, text: str) -> int:
        if self._trial is not None:
            self._trial.take(text)
        elif sys.__stderr__ is not None:
            sys.__stderr__.write(text)
        return len(text)

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return 2  # for child processes: standard output is for results

    @property
    def buffer(self) -> BinaryIO:
        return cast(BinaryIO, _Bytes(self))


class _Bytes(io.RawIOBase):
    """The same for who writes bytes."""

    def __init__(self, router: _Router) -> None:
        self._router = router

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        text = bytes(cast(bytes, data))
        self._router.write(text.decode(errors="replace"))
        return len(text)


_ROUTER = _Router()


@cache
def _streams() -> tuple[TextIO, TextIO]:
    """Python's way to descriptors 1 and 2, whatever the process's own streams are bound to."""
    made = (os.fdopen(fd, "w", encoding="utf-8", errors="replace", buffering=1, closefd=False) for fd in (1, 2))
    return next(made), next(made)


def _memory() -> int:
    """The descriptor of a file that no disk holds, where the system has such."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("printed")
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


def _cut(text: str, left_out: int = 0) -> str:
    """The text without its middle, if it is long; of which so much is missing already."""
    if len(text) <= OUTPUT and not left_out:
        return text
    half = OUTPUT // 2
    return f"{text[:half]}\n[{len(text) - 2 * half + left_out} characters left out]\n{text[-half:]}"
