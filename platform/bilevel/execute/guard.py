"""Who ends the processes of a local cluster, if the driver is killed and can no longer do it?

Run as a process of its own (`python -I -S guard.py MARK PID`) that waits until the driver PID is no longer its parent,
however that happens. Ray alone would leave two agents behind for a minute, and workers that are stopped for ever.
Processes are known by a mark in their environment, which children inherit. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from pathlib import Path

MARK = "BILEVEL_CLUSTER"


def family(mark: str) -> set[int]:
    """All other processes that were started with the mark and still live; none on systems without /proc."""
    found = set()
    entry = f"{MARK}={mark}".encode()
    for environ in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # gone since, or another user's
            # A zombie has no environment any more.
            if entry in environ.read_bytes().split(b"\0"):
                found.add(int(environ.parent.name))
    return found - {os.getpid()}


def end(mark: str, grace: float = 0.0, limit: float = 10.0) -> None:
    """Wait `grace` seconds for the family to go by itself, then kill it until none is left or `limit` has passed."""
    begun = time.monotonic()
    while (left := family(mark)) and time.monotonic() - begun < limit:
        if time.monotonic() - begun >= grace:
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        time.sleep(0.02)


if __name__ == "__main__":
    while os.getppid() == int(sys.argv[2]):
        time.sleep(0.2)
    end(sys.argv[1])
