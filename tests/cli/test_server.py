"""Does the dashboard end with all its processes, however it is told to?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from programs import until

SERVE = """
import os, signal, sys
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # it is ignored where these tests run under `nohup`
from bilevel.cli import cli, server
from bilevel.record import tracking
server.PATIENCE = 0.5
tracking.ui_command = lambda *_: (["bash", "-c", sys.argv[1]], os.environ)
sys.exit(cli.main(["ui", "--store", "nowhere"]))
"""
"""`bilevel ui` with another server than MLflow's, which takes ten seconds to begin."""
SLEEPS = "sleep 60 & echo $!; wait"
STUBBORN = "trap '' TERM INT; sleep 60 & echo $!; wait"
FAILS = "sleep 60 & echo $!; exit 3"


def started(text: str) -> tuple[subprocess.Popen[str], int]:
    """`bilevel ui`, and a process of its server's."""
    program = subprocess.Popen([sys.executable, "-c", SERVE, text], stdout=subprocess.PIPE, text=True, process_group=0)
    assert program.stdout is not None
    return program, int(next(line for line in program.stdout if line.strip().isdigit()))


def lives(pid: int) -> bool:
    """Whether a process runs (one that has ended may wait for its parent)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("number", "text"), [(signal.SIGTERM, SLEEPS), (signal.SIGHUP, SLEEPS), (signal.SIGTERM, STUBBORN)]
)
def test_a_signal_ends_all_of_it(number: signal.Signals, text: str) -> None:
    program, child = started(text)
    with program:
        assert lives(child)
        program.send_signal(number)
        assert program.wait(20) == 0
    until(lambda: not lives(child), 5, "the end of the server's own process")


def test_impatience_leaves_nothing_either() -> None:
    program, child = started(STUBBORN)
    with program:
        for _ in range(4):
            os.kill(program.pid, signal.SIGINT)
            time.sleep(0.05)
        assert program.wait(20) == 0
    until(lambda: not lives(child), 5, "the end of the server's own process")


def test_a_server_that_ends_by_itself_gives_its_status_and_leaves_nothing() -> None:
    program, child = started(FAILS)
    with program:
        assert program.wait(20) == 3
    until(lambda: not lives(child), 5, "the end of the server's own process")
