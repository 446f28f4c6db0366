"""What does Ray write on our terminal by itself? Nothing that its user could use: it is kept from there."""

from __future__ import annotations

import contextlib
import os
import re
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass

_OF_RAY = re.compile(rb"\[\d{4}-\d\d-\d\d [\d:,]+ [A-Z] \d+ \d+\] ")
"""How a line of Ray's C++ libraries begins, which write to standard error whatever Python has made of that."""


@dataclass
class Heard:
    """What Ray has written."""

    text: str = ""


@contextlib.contextmanager
def spared() -> Iterator[Heard]:
    """Within: what goes to standard error waits, and is written at the end, but for the lines of Ray's libraries."""
    heard = Heard()
    try:
        before = os.dup(2)
    except OSError:  # there is none
        yield heard
        return
    with tempfile.TemporaryFile() as kept:
        sys.stderr.flush()
        os.dup2(kept.fileno(), 2)
        try:
            yield heard
        finally:
            with contextlib.suppress(OSError, ValueError):  # closed meanwhile
                sys.stderr.flush()
            os.dup2(before, 2)
            os.close(before)
            kept.seek(0)
            lines = kept.read().splitlines(keepends=True)
            heard.text = b"".join(line for line in lines if _OF_RAY.match(line)).decode(errors="replace")
            with contextlib.suppress(OSError):
                for line in lines:
                    if not _OF_RAY.match(line):
                        os.write(2, line)
