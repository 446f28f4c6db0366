"""A search as the program that it is, whose driver and workers are killed at random moments until it is done."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import time
import uuid
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import programs
from bilevel.record import journal
from bilevel.study import history as histories
from programs import MARK, run_folder, until

SEARCH = """
import os
import time
from dataclasses import dataclass

import torch

from bilevel import ASHA, PBT, TPE, Log, OneOf, Report, Space, Study, Uniform
from bilevel.drive import keeping

keeping.KEEP_EVERY = keeping.KEEP_BEST_EVERY = 0.1  # [s]; a trial takes about one
PACE = float(os.environ.get("BILEVEL_TEST_PACE", "0.03"))


@dataclass(frozen=True, kw_only=True)
class Slope:
    lr: float
    decay: float
    act: str
    steps: int = 27


def train(config, run):
    state = run.state or {"done": 0, "w": torch.tensor(4.0)}
    began = state["done"]
    for step in range(began + 1, config.steps + 1):
        time.sleep(PACE)
        rate = config.lr * (1 - config.decay) ** step * (1.5 if config.act == "gelu" else 1.0)
        w = state["w"] * (1 - rate) + 0.01 * torch.randn((), generator=torch.Generator().manual_seed(run.seed + step))
        state = {"done": step, "w": w}
        with open(os.environ["BILEVEL_TEST_LOG"], "a") as file:
            file.write(f"{time.time()} {run.trial} {step} {began} {os.getpid()}\\n")
        yield Report(step, {"loss": float(w.abs())}, state)


space = Space(Slope, lr=Log(1e-3, 1.0), decay=Uniform(0.0, 0.2), act=OneOf("relu", "gelu"))
study = Study(
    name="storm", objective=train, minimize="loss", trials=40, seed=5, space=space, search=TPE(startup=8),
    stop=ASHA(first=3, factor=2, last=27),
)
ordered = Study(
    name="storm", objective=train, minimize="loss", trials=40, seed=5, space=space, search=TPE(startup=8),
    stop=ASHA(first=3, factor=2, last=27), deterministic=True,
)
members = Study(
    name="storm", objective=train, minimize="loss", seed=5, space=space.__class__(
        Slope, lr=Log(1e-3, 1.0), decay=Uniform(0.0, 0.2), act="relu", steps=24),
    search=PBT(members=20, every=6),
)
"""
"""A study of about 400 steps, each of 0.03 s; a line in a file for each step that is computed."""


# -- the program -------------------------------------------------------------------------------------------------------


@dataclass
class Searching:
    """A `bilevel` of its own, with its family."""

    process: subprocess.Popen[str]
    mark: str

    def end(self, seconds: float = 300.0) -> tuple[int, dict[str, Any], str]:
        """Its status, its result and what it said on standard error."""
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, json.loads(out.splitlines()[-1]) if out else {}, err


@dataclass
class Home:
    """A folder with a study, its stores, and the programs that were started there."""

    path: Path
    command: Sequence[str] = programs.PLAIN
    started: list[Searching] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.path / "storm.py").write_text(SEARCH)

    def log(self, store: str) -> Path:
        """Where the trials of a store write what they compute."""
        return self.path / f"{store}.log"

    def start(self, store: str, *words: object, pace: float = 0.03) -> Searching:
        """`bilevel WORDS --store ... --json`."""
        mark = uuid.uuid4().hex
        command = [*self.command, *map(str, words), "--store", str(self.path / store), "--json"]
        environment = {
            **os.environ,
            MARK: mark,
            "BILEVEL_TEST_LOG": str(self.log(store)),
            "BILEVEL_TEST_PACE": str(pace),
            "MPLBACKEND": "Agg",
        }
        pipe = subprocess.PIPE
        process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment)
        self.started.append(Searching(process, mark))
        return self.started[-1]

    def run(self, store: str, name: str, *words: object, pace: float = 0.03) -> Searching:
        """A study of the file, from its beginning."""
        return self.start(store, "run", f"{self.path / 'storm.py'}:{name}", *words, pace=pace)

    def resume(self, store: str, *words: object, pace: float = 0.03) -> Searching:
        """Going on with it."""
        return self.start(store, "resume", "last", *words, pace=pace)

    def close(self) -> None:
        """End what still lives."""
        for searching in self.started:
            for pid in programs.family(searching.mark):
                with contextlib.suppress(ProcessLookupError):  # gone since
                    os.kill(pid, signal.SIGKILL)
            with searching.process:  # closes its pipes, and waits
                pass


@contextlib.contextmanager
def home(path: Path, command: Sequence[str] = programs.PLAIN) -> Iterator[Home]:
    """A home that is left clean."""
    made = Home(path, command)
    try:
        yield made
    finally:
        made.close()


def reported(store: Path) -> int:
    """Steps in the journal of the store's only run."""
    folder = run_folder(store)
    if folder is None:
        return 0
    return (folder / "journal.jsonl").read_bytes().count(b'"event":"reported"')


# -- the storm ---------------------------------------------------------------------------------------------------------


@dataclass
class Weather:
    """What happened to a run: how often it was struck, and its result in the end."""

    drivers: int = 0
    workers: int = 0
    document: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0


def weather(
    place: Home,
    store: str,
    name: str,
    words: tuple[object, ...],
    chance: random.Random,
    *,
    drivers: int,
    workers: int,
    gap: int,
    counts: tuple[int, ...] = (),
    track: str | None = None,
) -> Weather:
    """Run a study; kill its driver and its workers so often, each after at most `gap` more steps; go on each time.

    `counts`: of workers, one for each time that it is gone on with, in turn; otherwise as it began.
    """
    found, begun = Weather(), time.monotonic()
    blows = ["driver"] * drivers + ["worker"] * workers
    chance.shuffle(blows)
    tracked = () if track is None else ("--track", track)
    program = place.run(store, name, *words, *tracked)
    fresh = False  # gone on with just now
    for blow in blows:
        early = blow == "driver" and fresh and chance.random() < 0.25
        if early:  # while it starts, or recomputes what came after the last checkpoint
            time.sleep(chance.uniform(0.0, 4.0))
        else:
            target = reported(place.path / store) + chance.randint(1, gap)
            done = lambda: reported(place.path / store) >= target or program.process.poll() is not None  # noqa: E731, B023
            until(done, seconds=120, what=f"step {target}")
            time.sleep(chance.uniform(0.0, 0.05))
        assert program.process.poll() is None, f"{found}: the next {blow} came too late; {program.end()[2]}"
        if blow == "worker":
            until(lambda: programs.workers(program.mark), what="a worker")  # noqa: B023
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(programs.workers(program.mark)), signal.SIGKILL)
            found.workers += 1
            fresh = False
            continue
        program.process.kill()
        program.process.communicate()
        programs.gone(program.mark)
        found.drivers += 1
        again = ("--workers", counts[found.drivers % len(counts)]) if counts else ()
        program, fresh = place.resume(store, *again), True
    status, found.document, err = program.end()
    assert status == 0, err
    programs.gone(program.mark)
    found.seconds = time.monotonic() - begun
    return found


# -- what must hold afterwards -----------------------------------------------------------------------------------------


def check(place: Home, store: str, trials: int) -> dict[str, int]:
    """Figures of a run that is over; nothing is missing in it, and nothing was done twice."""
    folder = run_folder(place.path / store)
    assert folder is not None
    entries = list(journal.read(folder / "journal.jsonl"))
    asked = [e.event["trial"] for e in entries if e.event["event"] == "asked"]
    ended = {e.event["trial"]: e.t for e in entries if e.event["event"] == "ended"}
    assert asked == list(range(trials)), f"{len(asked)} asked"
    assert sorted(ended) == asked, f"{len(ended)} ended"
    assert sum(e.event["event"] == "ended" for e in entries) == trials
    steps: dict[int, list[int]] = defaultdict(list)
    kept: dict[int, int] = defaultdict(int)
    again = 0
    for entry in entries:
        event = entry.event
        match event["event"]:
            case "reported":
                steps[event["trial"]].append(event["step"])
            case "kept":
                kept[event["trial"]] = event["step"]
            case "moved":
                steps[event["trial"]], kept[event["trial"]] = [], event["step"]
            case "begun":
                again += event["attempt"] > 1
                assert event["step"] == kept[event["trial"]], f"{event} goes on from another step than the last kept"
    for trial, seen in steps.items():
        assert seen == sorted(set(seen)), f"trial {trial} reported {seen}"
    computed = [line.split() for line in place.log(store).read_text().splitlines()]
    late = [line for line in computed if float(line[0]) > ended[int(line[1])] + 0.01]
    assert not late, f"computed after the trial's end: {late}"
    return {
        "trials": trials,
        "attempts again": again,
        "steps": sum(map(len, steps.values())),
        "steps computed": len(computed),
    }


def tracked(place: Home, store: str) -> bool:
    """Whether the store's MLflow has a run of the study."""
    path = place.path / store / "mlflow.db"
    if not path.is_file():
        return False
    with contextlib.closing(sqlite3.connect(path)) as db:
        try:
            return bool(db.execute("select count(*) from tags").fetchone()[0])
        except sqlite3.OperationalError:  # its tables are being made
            return False


def statuses(place: Home, store: str) -> dict[str, int]:
    """In the store's MLflow, runs by their status; checked: one parent, and each trial once below it, as it ended."""
    folder = run_folder(place.path / store)
    assert folder is not None
    fates = {
        str(e.event["trial"]): e.event["state"]
        for e in journal.read(folder / "journal.jsonl")
        if e.event["event"] == "ended"
    }
    with contextlib.closing(sqlite3.connect(place.path / store / "mlflow.db")) as db:
        tags: dict[str, dict[str, str]] = defaultdict(dict)
        for run, key, value in db.execute("select run_uuid, key, value from tags"):
            tags[run][key] = value
        found = dict(db.execute("select run_uuid, status from runs"))
    parents = [run for run, of in tags.items() if of.get("bilevel.kind") == "study"]
    assert len(parents) == 1, f"{len(parents)} parents"
    assert found[parents[0]] == "FINISHED"
    children = {of["bilevel.trial"]: run for run, of in tags.items() if of.get("bilevel.kind") == "trial"}
    assert children.keys() == fates.keys()
    assert len(found) == 1 + len(children), "a run that is neither the study nor a trial of its own"
    word = {"completed": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
    for trial, run in children.items():
        assert tags[run]["mlflow.parentRunId"] == parents[0]
        assert tags[run]["bilevel.state"] == fates[trial]
        assert found[run] == word[fates[trial]], f"trial {trial} is {found[run]}, it {fates[trial]}"
    counts: dict[str, int] = defaultdict(int)
    for status in found.values():
        counts[status] += 1
    return dict(counts)


def differences(place: Home, one: str, other: str) -> str:
    """What differs between two runs, trial by trial; empty if their tables of trials are the same."""
    tables = []
    for store in (one, other):
        folder = run_folder(place.path / store)
        assert folder is not None
        trials = histories.replay(entry.typed() for entry in journal.read(folder / "journal.jsonl")).trials
        tables.append({n: (dict(t.config), t.state, t.step, t.objective, t.learned) for n, t in trials.items()})
    rows = [n for n in sorted(tables[0] | tables[1]) if tables[0].get(n) != tables[1].get(n)]
    return "\n".join(f"trial {n}: {tables[0].get(n)} in {one}, {tables[1].get(n)} in {other}" for n in rows[:3])
