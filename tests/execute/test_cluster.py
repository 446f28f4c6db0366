"""Does a cluster of our own leave nothing behind, and let nobody in?"""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

import bilevel
from bilevel.execute import cluster, kept

KILLED = """
import os, signal, sys
from bilevel.execute import kept
made = kept.connect(None, 1, 1)
print(made.guard.home, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_its_folder_is_ours_alone_and_its_path_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/tmp")
    home = cluster._home()
    try:
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert home.parent == Path("/tmp")
    finally:
        home.rmdir()
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "much" / "too" / "long" / "for" / "a" / "socket"))
    monkeypatch.setattr(cluster.tempfile, "gettempdir", lambda: "/tmp/" + "x" * 30)
    home = cluster._home()
    assert home.parent == Path("/tmp")
    home.rmdir()


@pytest.mark.slow
def test_its_files_go_with_it_also_when_its_driver_is_killed() -> None:
    before = set(Path("/tmp/ray").glob("session_2*"))
    made = kept.connect(None, 1, 1)
    assert made.guard is not None
    home = made.guard.home
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    assert list(home.glob("r/session_*"))
    kept.release(made)
    bilevel.shutdown()
    assert not home.exists()
    program = subprocess.run([sys.executable, "-c", KILLED], capture_output=True, text=True, env=os.environ)
    home = Path(program.stdout.split()[-1])
    deadline = time.monotonic() + 20
    while home.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not home.exists()
    others = set(Path("/tmp/ray").glob("session_2*")) - before
    assert not [path for path in others if f"_{os.getpid()}" in path.name]
