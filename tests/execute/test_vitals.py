"""Is a process that does nothing told from one that computes, itself or through its children?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from bilevel.execute.vitals import Pulse, Vitals, vitals

SPIN = "while True: pass"
CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {SPIN!r}])"


@contextmanager
def program(text: str) -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", text], start_new_session=True)
    try:
        yield process.pid
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.parametrize("text", [SPIN, CHILD])
def test_who_computes_has_more_and_more_seconds(text: str) -> None:
    with program(text) as pid:
        deadline = time.monotonic() + 20
        while (found := vitals(pid)) is None or found.seconds < 0.3:
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert not found.stopped


def test_who_is_stopped_is_seen_and_who_is_gone_is_not_judged() -> None:
    with program("import time; time.sleep(100)") as pid:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(0.1)
        found = vitals(pid)
        assert found is not None
        assert found.stopped
    assert vitals(pid) is None


def test_idle_time_counts_from_the_last_look_at_which_something_was_computed() -> None:
    pulse = Pulse(0.0, 0.0)
    looks = [(10.0, 5.0), (20.0, 5.1), (30.0, 5.2), (40.0, 8.0), (50.0, 8.0), (60.0, 8.1)]
    assert [pulse.idle(Vitals(False, seconds), now) for now, seconds in looks] == [0.0, 10.0, 20.0, 0.0, 10.0, 20.0]
