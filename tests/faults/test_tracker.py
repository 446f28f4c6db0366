"""Does MLflow's record become whole and single, whatever dies, hangs or is absent?"""

from __future__ import annotations

import os
import random
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import journals
from bilevel.record import tracking
from bilevel.record.tracking import Tracker, sync, ui_command

STEPS = 2500  # of a trial: several chunks of the journal


def until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    """Wait for something that is bound to happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.02)


def assert_whole_and_single(database: Path, folder: Path, trials: int, steps: int) -> None:
    """One parent, one child a trial, every step once."""
    of_run = f"(select run_uuid from tags where key = 'bilevel.run_id' and value = '{folder.name}')"
    of_children = (
        f"(select run_uuid from tags join runs using (run_uuid) where key = 'mlflow.parentRunId' "
        f"and value in {of_run} and lifecycle_stage = 'active')"
    )
    with sqlite3.connect(database) as db:
        parents = f"select status from runs where run_uuid in {of_run} and lifecycle_stage = 'active'"
        assert db.execute(parents).fetchall() == [("FINISHED",)]
        children = f"select value from tags where key = 'bilevel.trial' and run_uuid in {of_children} order by value"
        assert db.execute(children).fetchall() == [(str(number),) for number in range(trials)]
        states = f"select distinct status from runs where run_uuid in {of_children}"
        assert db.execute(states).fetchall() == [("FINISHED",)]
        points = (
            f"select count(*), count(distinct step) from metrics where key = 'train/loss' and run_uuid in {of_children}"
        )
        assert db.execute(f"{points} group by run_uuid").fetchall() == [(steps, steps)] * trials


def whole(steps: int = STEPS, trials: int = 1) -> list[journals.Event]:
    """The events of a run behind its beginning."""
    return [event for number in range(trials) for event in journals.trial(number, steps)] + journals.end(trials)


# -- the writer dies ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_writer_killed_at_random_moments_leaves_nothing_twice_and_nothing_out(tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    moments = random.Random(seed)
    folder, database = journals.folder(tmp_path), tmp_path / "mlflow.db"
    uri = f"sqlite:///{database}"
    journals.write(folder, [*journals.beginning(folder.name), *whole(1000, 3)])
    tracker = Tracker(folder, uri)
    until(lambda: bool(list(tmp_path.glob(".mlflow.db.*.part"))))  # while the tables are made
    time.sleep(moments.uniform(0, 0.5))
    kill(tracker)
    for _ in range(2):  # and while it writes, at any point between two marks
        tracker = Tracker(folder, uri)
        goal = moments.randrange(2900)
        until(lambda tracker=tracker, goal=goal: tracker.status().synced >= goal)  # type: ignore[misc]
        time.sleep(moments.uniform(0, 0.3))
        kill(tracker)
    status = sync(folder, uri, 100.0)
    assert status.complete, f"seed {seed}: {status}"
    assert_whole_and_single(database, folder, trials=3, steps=1000)
    assert not list(tmp_path.glob(".mlflow.db.*.part*")), f"seed {seed}"


def kill(tracker: Tracker) -> None:
    """kill -9; what `finish` then says is no more than that."""
    process = tracker._process
    assert process is not None
    process.kill()
    process.wait()
    tracker.finish(5.0)


def test_a_dead_writer_is_said_and_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = journals.folder(tmp_path)
    journals.write(folder, journals.beginning(folder.name))
    tracker = Tracker(folder, f"sqlite:///{tmp_path}/mlflow.db")
    first = tracker._process
    assert first is not None
    first.kill()
    first.wait()
    assert "ended with status -9" in (tracker.status().problem or "")
    assert tracker._process is first
    monkeypatch.setattr(tracking, "RESTART_AFTER", 0.0)
    tracker.status()
    assert tracker._process is not first
    tracker.finish(0.0)
    assert tracker._process is not None
    assert tracker._process.poll() is not None


def test_a_writer_that_was_started_before_its_run_writes_it_and_is_gone_afterwards(tmp_path: Path) -> None:
    folder, database = journals.folder(tmp_path), tmp_path / "mlflow.db"
    journals.write(folder, [*journals.beginning(folder.name), *whole(100)])
    with tracking.prepared(f"sqlite:///{database}") as writer:
        assert writer is not None
        tracker = Tracker(folder, f"sqlite:///{database}", writer)
        assert tracker._process is writer
        assert tracker.finish(100.0).complete
    assert_whole_and_single(database, folder, trials=1, steps=100)
    assert "INFO mlflow" in (folder / tracking.LOG_FILE).read_text()  # what libraries say goes into the run's folder
    assert writer.poll() is not None


def test_a_writer_that_nobody_takes_ends(tmp_path: Path) -> None:
    with tracking.prepared(f"sqlite:///{tmp_path}/mlflow.db") as writer:
        assert writer is not None
        assert writer.poll() is None
    assert writer.poll() is not None
    assert list(tmp_path.iterdir()) == []
    with tracking.prepared("none") as writer:
        assert writer is None


def test_nothing_stays_when_the_driver_is_killed(tmp_path: Path) -> None:
    folder = journals.folder(tmp_path)
    journals.write(folder, journals.beginning(folder.name))
    code = (
        "import sys, time; from pathlib import Path; from bilevel.record.tracking import Tracker\n"
        f"tracker = Tracker(Path({str(folder)!r}), 'sqlite:///{tmp_path}/mlflow.db')\n"
        "print(tracker._process.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        writer = int(driver.stdout.readline())
        driver.kill()
    until(lambda: not Path(f"/proc/{writer}").exists() or "(zombie)" in Path(f"/proc/{writer}/status").read_text())


def test_two_writers_take_turns(tmp_path: Path) -> None:
    """`sync` while a driver's own tracker works: it says so and leaves."""
    import fcntl

    folder = journals.folder(tmp_path)
    journals.write(folder, journals.beginning(folder.name))
    with (folder / "mlflow.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        tracker = Tracker(folder, f"sqlite:///{tmp_path}/mlflow.db")
        until(lambda: tracker.status().problem is not None)
        assert "another process" in (tracker.status().problem or "")
        tracker.finish(0.0)


def test_a_store_that_cannot_be_written_fails_nothing(tmp_path: Path) -> None:
    status = Tracker(tmp_path / "gone", "sqlite:///x.db").finish(1.0)
    assert "cannot be started" in (status.problem or "")


# -- the server dies, hangs, or is not there ---------------------------------------------------------------------------


class Server:
    """A real tracking server on this machine."""

    def __init__(self, store: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.store = store
        self.database = store / "server.db"
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Unless it runs."""
        if self.process is not None and self.process.poll() is None:
            return
        command, environment = ui_command(self.store, f"sqlite:///{self.database}", self.port)
        with (self.store / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
        until(self.answers)

    def answers(self) -> bool:
        try:
            socket.create_connection(("127.0.0.1", self.port), 1.0).close()
        except OSError:
            return False
        return True

    def signal(self, number: int) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, number)
        if number == signal.SIGKILL:
            self.process.wait()
            until(lambda: not self.answers())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("server"))
    yield server
    if server.process is not None and server.process.poll() is None:
        server.signal(signal.SIGKILL)


@pytest.mark.slow
def test_a_server_absent_from_the_start(server: Server, tmp_path: Path) -> None:
    folder = journals.folder(tmp_path, "run-absent")
    journals.write(folder, [*journals.beginning(folder.name, "absent"), *whole()])
    tracker = Tracker(folder, server.uri)
    until(lambda: "connection refused" in (tracker.status().problem or ""))
    began = time.monotonic()
    status = tracker.finish(60.0)
    assert time.monotonic() - began < 10.0  # does not make its user wait for nobody
    assert (status.synced, status.behind) == (0, STEPS + 7)
    server.start()
    assert sync(folder, server.uri, 100.0).complete
    assert_whole_and_single(server.database, folder, trials=1, steps=STEPS)


@pytest.mark.slow
def test_a_server_killed_in_the_middle(server: Server, tmp_path: Path) -> None:
    folder = journals.folder(tmp_path, "run-killed")
    events = [*journals.beginning(folder.name, "killed"), *whole()]
    server.start()
    journals.write(folder, events[:1500])
    tracker = Tracker(folder, server.uri)
    until(lambda: tracker.status().synced > 0)
    journals.write(folder, events[1500:])
    server.signal(signal.SIGKILL)
    until(lambda: tracker.status().problem is not None)
    server.start()
    status = tracker.finish(100.0) if tracker.status().problem is None else wait_then_finish(tracker)
    assert status.complete, status
    assert_whole_and_single(server.database, folder, trials=1, steps=STEPS)


def wait_then_finish(tracker: Tracker) -> tracking.TrackerStatus:
    until(lambda: tracker.status().problem is None)
    return tracker.finish(100.0)


def test_a_server_that_hangs(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "HTTP_TIMEOUT", 1)
    folder = journals.folder(tmp_path, "run-hung")
    server.start()
    server.signal(signal.SIGSTOP)
    try:
        journals.write(folder, [*journals.beginning(folder.name, "hung"), *whole(50, 4)])
        tracker = Tracker(folder, server.uri)
        until(lambda: "no answer" in (tracker.status().problem or ""))
    finally:
        server.signal(signal.SIGCONT)
    status = wait_then_finish(tracker)
    assert status.complete, status
    assert_whole_and_single(server.database, folder, trials=4, steps=50)
