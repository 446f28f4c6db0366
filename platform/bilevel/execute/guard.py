"""Who ends the processes of a local cluster, if the driver is killed and can no longer do it?

Run as a process of its own (`python -I -S guard.py MARK PID FOLDER`) that waits until the driver PID is no longer its
parent, however that happens; the cluster's files, in FOLDER, go last. Ray alone would leave two agents behind for a
minute, and workers that are stopped for ever.
Processes are known by a mark in their environment, which children inherit; titles must not overwrite it (KEEP).
Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import sys
import time
from pathlib import Path

MARK = "BILEVEL_CLUSTER"
KEEP = {"SPT_NOENV": "1"}
"""Ray's agents write their titles over the memory in which the system shows their environment, unless this is in it."""

BLOWS = 3
"""Times that what is left is killed at least, before it is given up."""


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


def end(mark: str, grace: float = 0.0, limit: float = 10.0, quiet: float = 0.1) -> None:
    """Wait `grace` seconds for the family to go by itself, then kill it until none is left or `limit` has passed.

    None is left when none is seen for `quiet` seconds: a process that is just being started shows no environment. Time
    is taken after each scan, which may last for seconds on a busy machine, and no limit comes before the first blows.
    """
    begun = seen = time.monotonic()
    blows = 0
    while True:
        left = family(mark)
        now = time.monotonic()
        if left:
            seen = now
        elif now - seen >= quiet:
            return
        if left and now - begun >= grace:
            blows += 1
            for pid in left:
                with contextlib.suppress(OSError):
                    os.kill(pid, signal.SIGKILL)
        if now - begun >= limit and blows >= BLOWS:
            return
        time.sleep(0.02)


if __name__ == "__main__":
    while os.getppid() == int(sys.argv[2]):
        time.sleep(0.2)
    end(sys.argv[1], quiet=1.0)
    shutil.rmtree(sys.argv[3], ignore_errors=True)
