"""Is a process of this machine at work: is it stopped, or does it compute nothing at all?"""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from pathlib import Path

SHARE = 0.04
"""Of a core: what does less does nothing. Ray's own threads in an idle worker take 1.4 percent (measured)."""


@dataclass(frozen=True)
class Vitals:
    """Whether a process is stopped (SIGSTOP, a debugger), and seconds that it and its children have computed."""

    stopped: bool
    seconds: float


def vitals(pid: int) -> Vitals | None:
    """How a process is; None where that cannot be known: it is gone (Ray says so), or the system has no /proc."""
    try:
        fields = _fields(pid)
    except OSError:
        return None
    return Vitals(fields[0] in ("T", "t"), _ticks(pid) / os.sysconf("SC_CLK_TCK"))


@dataclass
class Pulse:
    """For how long a process that is to answer has done nothing."""

    idle_since: float = field(default_factory=time.monotonic)
    looked: float = field(default_factory=time.monotonic)
    seconds: float | None = None

    def idle(self, found: Vitals, now: float) -> float:
        """Seconds up to `now` (monotonic) in which it has computed next to nothing."""
        before, self.seconds = self.seconds, found.seconds
        if before is None or abs(found.seconds - before) > SHARE * (now - self.looked):
            self.idle_since = now
        self.looked = now
        return now - self.idle_since


def _fields(pid: int) -> list[str]:
    """Of /proc/PID/stat what follows the name: the state first."""
    return Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()


def _ticks(pid: int) -> int:
    """Of the process, of its children that have ended, and of those that live, with theirs."""
    total = 0
    with contextlib.suppress(OSError):  # gone since
        total = sum(map(int, _fields(pid)[11:15]))
        for children in Path(f"/proc/{pid}/task").glob("*/children"):
            with contextlib.suppress(OSError):
                total += sum(map(_ticks, map(int, children.read_text(encoding="ascii").split())))
    return total
