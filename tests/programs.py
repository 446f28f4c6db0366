"""How do tests run `bilevel` as the program that it is, kill it where they like, and read what it left?"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import signal
import sqlite3
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from multiprocessing import forkserver
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any, NoReturn

from bilevel import figures
from bilevel.cli import cli
from bilevel.drive import keeping
from bilevel.record import journal

MARK = "BILEVEL_TEST_FAMILY"
"""In the environment of a program and of all that it starts."""

TINY = """
from bilevel import Adam, Learned, MetaTraining, Space, Study, meta_train
from bilevel.inner import GradientDescent
from bilevel.nets import mlp
from bilevel.tasks import Sinusoid

study = Study(
    name="tiny",
    objective=meta_train,
    minimize="valid/loss",
    space=Space(
        MetaTraining,
        tasks=Sinusoid(shots=5, queries=5),
        episodes=4, steps=30, unit=2, test_episodes=8, validate_episodes=8,
        rule=Space(
            GradientDescent,
            init=Learned(Space(mlp, hidden=(8,)), by=Adam(1e-2)),
            lr=Learned(0.01, by=Adam(1e-2), per="tensor"),
        ),
    ),
)
"""
"""A study of 2 ms a step, in units of two episodes."""


PLAIN = (
    sys.executable,
    "-c",
    "import sys; from bilevel import cli, figures; figures.draw = lambda *_: {}; sys.exit(cli.main())",
)
"""The command without the figures at a run's end: they take seconds, and have their own tests."""


# -- faults that a program brings on itself ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Faults:
    """What is different in a program under test.

    `keep` and `keep_best`: seconds between checkpoints. `die_at`: it kills itself before its n-th touch of the files
    below `below` (an open, rename, mkdir, delete, write or fsync; of a write, half is done). `full_at`: from the n-th
    on, the disk is full. `touches`: write the names of all such touches down.
    """

    keep: float = keeping.KEEP_EVERY
    keep_best: float = keeping.KEEP_BEST_EVERY
    below: str | None = None
    die_at: int | None = None
    full_at: int | None = None
    touches: str | None = None


class _Touches:
    """Counts touches of files, and strikes at the n-th."""

    EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")

    def __init__(self, faults: Faults) -> None:
        self.faults = faults
        self.count = 0
        self.fsync, self.write = os.fsync, os.write
        self.log = open(faults.touches, "a") if faults.touches else None  # noqa: PTH123, SIM115
        os.fsync = self._fsync
        os.write = self._write  # type: ignore[assignment]
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in self.EVENTS and (event != "open" or self._changes(arguments)):
            self._touch(event, str(arguments[0]))

    @staticmethod
    def _changes(arguments: tuple[Any, ...]) -> bool:
        return bool(arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))

    def _touch(self, kind: str, path: str) -> bool:
        """Whether the n-th is now."""
        if self.faults.below is None or not path.startswith(self.faults.below):
            return False
        self.count += 1
        if self.log is not None:
            self.log.write(f"{kind} {path}\n")
            self.log.flush()
        if self.faults.full_at is not None and self.count >= self.faults.full_at and kind not in ("os.remove",):
            raise OSError(28, "No space left on device", path)
        now = self.count == self.faults.die_at
        if now and kind != "write":
            os.kill(os.getpid(), signal.SIGKILL)
        return now

    def _fsync(self, fd: int) -> None:
        self._touch("fsync", _name(fd))
        self.fsync(fd)

    def _write(self, fd: int, data: bytes) -> int:
        if self._touch("write", _name(fd)):
            self.write(fd, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return self.write(fd, data)


def _name(fd: int) -> str:
    return str(Path(f"/proc/self/fd/{fd}").readlink())


# -- programs ----------------------------------------------------------------------------------------------------------


def _main(argv: Sequence[str], out: str, faults: Faults, environment: Mapping[str, str]) -> NoReturn:
    """The command in a fresh copy of a process that has all modules already."""
    os.environ.update(environment)
    for number, name in ((1, f"{out}.out"), (2, f"{out}.err")):
        fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(fd, number)
        os.close(fd)
    keeping.KEEP_EVERY, keeping.KEEP_BEST_EVERY = faults.keep, faults.keep_best  # type: ignore[misc]
    figures.draw = lambda *_: {}  # seconds, and not what is tested
    if faults.below is not None:
        _Touches(faults)
    status = cli.main(argv)
    sys.stdout.flush()
    sys.exit(status)


@dataclass
class Program:
    """A `bilevel` at work."""

    process: ForkServerProcess
    out: Path

    @property
    def pid(self) -> int:
        return int(self.process.pid or 0)

    @property
    def running(self) -> bool:
        return self.process.is_alive()

    def kill(self, number: int = signal.SIGKILL) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self, seconds: float = 120.0) -> int:
        """The exit status; the negative of the signal that it died of."""
        self.process.join(seconds)
        assert self.process.exitcode is not None, f"not ended within {seconds} s; {self.err}"
        return self.process.exitcode

    @property
    def err(self) -> str:
        return Path(f"{self.out}.err").read_text()

    @property
    def document(self) -> dict[str, Any]:
        """The last line of its standard output."""
        document: dict[str, Any] = json.loads(Path(f"{self.out}.out").read_text().splitlines()[-1])
        return document


@dataclass
class Programs:
    """Starts programs quickly: each is forked from a process that has imported everything, and is really one."""

    home: Path
    faults: Faults = field(default_factory=Faults)
    started: list[Program] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._context = multiprocessing.get_context("forkserver")
        self._context.set_forkserver_preload(["programs", "torch._dynamo"])
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))  # it ignores what it cannot import
        try:
            forkserver.ensure_running()
        finally:
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before

    def start(self, *argv: str, faults: Faults | None = None, environment: Mapping[str, str] | None = None) -> Program:
        """`bilevel ARGV...`, not waited for."""
        out = self.home / f"program-{len(self.started)}"
        given = (argv, str(out), faults or self.faults, environment or {})
        process = self._context.Process(target=_main, args=given)
        process.start()
        self.started.append(Program(process, out))
        return self.started[-1]

    def run(self, *argv: str, status: int = 0, faults: Faults | None = None) -> Program:
        """`bilevel ARGV...`, which must end with this status."""
        program = self.start(*argv, faults=faults)
        assert program.wait() == status, program.err
        return program

    def close(self) -> None:
        for program in self.started:
            if program.running:
                program.process.kill()
                program.process.join()


@contextlib.contextmanager
def programs(home: Path, faults: Faults | None = None) -> Iterator[Programs]:
    """Programs that write to `home` and end with the block."""
    made = Programs(home, faults or Faults())
    try:
        yield made
    finally:
        made.close()


# -- looking at what they do -------------------------------------------------------------------------------------------


def until(condition: Callable[[], object], seconds: float = 120.0, what: str = "it") -> None:
    """Wait for something that is bound to happen."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"{what} not within {seconds} s"
        time.sleep(0.005)


def run_folder(store: Path) -> Path | None:
    """The store's only run, once it is there."""
    found = list(store.glob("[!.]*/study.json"))
    return found[0].parent if found else None


def steps_done(store: Path) -> int:
    """The last step that the journal of the store's only run holds; -1 before there is a run."""
    folder = run_folder(store)
    if folder is None or not (folder / "journal.jsonl").exists():
        return -1
    step = 0
    for line in (folder / "journal.jsonl").read_bytes().splitlines()[-30:]:
        if b'"event":"reported"' in line and line.endswith(b"}"):
            with contextlib.suppress(ValueError):  # a line half written
                step = max(step, int(json.loads(line)["step"]))
    return step


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The journal's events of a kind."""
    entries = journal.read(folder / "journal.jsonl")
    return [entry.event for entry in entries if entry.event["event"] == kind]


def family(mark: str) -> dict[int, str]:
    """Processes with this mark in their environment that still live: their command lines by id."""
    found = {}
    entry = f"{MARK}={mark}".encode()
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone since
            if entry in (place / "environ").read_bytes().split(b"\0"):
                found[int(place.name)] = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return found


def gone(mark: str, seconds: float = 20.0) -> None:
    """Wait until nothing of a family lives."""
    deadline = time.monotonic() + seconds
    while left := family(mark):
        assert time.monotonic() < deadline, f"after {seconds} s there still is {left}"
        time.sleep(0.02)


def workers(mark: str) -> list[int]:
    """Process ids of a family's inner-loop workers (Ray has agents under `ray::` names, too)."""
    return sorted(pid for pid, command in family(mark).items() if command.startswith("ray::BilevelWorker"))


def node(mark: str) -> int:
    """Process id of a family's raylet, without which its cluster is dead."""
    return next(pid for pid, command in family(mark).items() if "/raylet/raylet " in command)


def metric_steps(store: Path, key: str) -> list[list[int]]:
    """In the store's MLflow database, the steps of a metric in every child run, in order; checked: one parent."""
    with contextlib.closing(sqlite3.connect(store / "mlflow.db")) as db:
        of_kind = "select run_uuid from tags where key = 'bilevel.kind' and value = ?"
        parents = [row[0] for row in db.execute(of_kind, ("study",))]
        assert len(parents) == 1, f"{len(parents)} parents"
        children = [row[0] for row in db.execute(of_kind, ("trial",))]
        above = "select value from tags where key = 'mlflow.parentRunId' and run_uuid = ?"
        assert [db.execute(above, (child,)).fetchone()[0] for child in children] == parents * len(children)
        steps = "select step from metrics where key = ? and run_uuid = ? order by step"
        return [[row[0] for row in db.execute(steps, (key, child))] for child in children]
