"""Does the guard of a cluster end what is left of it, however slow the machine is?"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bilevel.execute import guard


def test_a_scan_that_takes_longer_than_the_guards_patience_does_not_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    program = [sys.executable, "-c", "import time; time.sleep(100)"]
    left = subprocess.Popen(program, env={**os.environ, guard.MARK: "slow"})

    def family(mark: str) -> set[int]:
        """As on a machine of thousands of processes: what is found was there at the beginning of the scan."""
        with contextlib.suppress(OSError):
            found = {left.pid} if (Path("/proc") / str(left.pid) / "environ").read_bytes() else set()
            time.sleep(0.15)
            return found
        return set()

    monkeypatch.setattr(guard, "family", family)
    try:
        guard.end("slow", grace=0.1, limit=0.1, quiet=0.1)
        assert left.wait(2.0) == -9
    finally:
        left.kill()
        left.wait()
