"""Does a search outlive full disks, kills in the middle of a write, and trackers that are dead, slow or locked?"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import shutil
import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import programs
from bilevel.record import journal
from programs import Faults, Programs, events, run_folder, until

SEED = int(os.environ.get("BILEVEL_FAULT_SEED", secrets.randbelow(10**6)))
"""Of the moments of the faults; it is part of the test's name, and the variable repeats a run."""

QUICK = """
from dataclasses import dataclass

import torch

from bilevel import ASHA, PBT, TPE, Log, Report, Space, Study


@dataclass(frozen=True, kw_only=True)
class Slope:
    lr: float
    steps: int = 9


def train(config, run):
    state = run.state or {"done": 0, "w": torch.tensor(4.0)}
    print(f"trial {run.trial} goes on after step {state['done']}")
    if run.trial == 3:
        raise ValueError("this one")
    for step in range(state["done"] + 1, config.steps + 1):
        state = {"done": step, "w": state["w"] * (1 - config.lr)}
        print(f"step {step}")
        yield Report(step, {"loss": float(state["w"].abs())}, state)


study = Study(
    name="quick", objective=train, minimize="loss", trials=8, seed=5, space=Space(Slope, lr=Log(1e-3, 1.0)),
    search=TPE(startup=3), stop=ASHA(first=1, factor=2, last=9), retries=1,
)
members = Study(
    name="members", objective=train, minimize="loss", seed=5, space=Space(Slope, lr=Log(1e-3, 1.0)),
    search=PBT(members=4, every=3),
)
"""
"""Milliseconds a trial; they print, and one of them raises."""


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Programs]:
    (tmp_path / "quick.py").write_text(QUICK)
    with programs.programs(tmp_path, Faults(keep=0.0, keep_best=0.0)) as made:
        yield made


def run_words(home: Path, store: str = "store", track: str = "none", *more: str) -> list[str]:
    words = ["run", str(home / "quick.py"), "--store", str(home / store), "--workers", "0", "--track", track, "--json"]
    return [*words, *more]


def resume_words(home: Path, store: str = "store") -> list[str]:
    return ["resume", "last", "--store", str(home / store), "--json"]


def undisturbed(started: Programs) -> str:
    return str(started.run(*run_words(started.home, "undisturbed")).document["fingerprint"])


def folder_of(home: Path, store: str = "store") -> Path:
    found = run_folder(home / store)
    assert found is not None
    return found


def check(folder: Path, trials: int = 8) -> None:
    """All asked, all ended, each step once."""
    ended = [event["trial"] for event in events(folder, "ended")]
    assert [event["trial"] for event in events(folder, "asked")] == sorted(ended) == list(range(trials))
    steps = [(event["trial"], event["step"]) for event in events(folder, "reported")]
    assert len(steps) == len(set(steps))


def touches(started: Programs, about: str) -> tuple[list[str], list[int]]:
    """All touches of the store's files in a run, and the numbers of those whose path has something in it."""
    store, log = started.home / "store", started.home / "touches"
    started.run(*run_words(started.home), faults=Faults(0, 0, below=str(store), touches=str(log)))
    lines = log.read_text().splitlines()
    shutil.rmtree(store)
    return lines, [number for number, line in enumerate(lines, 1) if about in line]


@pytest.mark.slow
@pytest.mark.parametrize("about", ["/journal.jsonl", "/checkpoints/", "/logs/", "/errors/"])
def test_a_driver_killed_in_the_middle_of_a_write_resumes(started: Programs, about: str) -> None:
    chance, home, store = random.Random(SEED), started.home, started.home / "store"
    expected = undisturbed(started)
    lines, numbers = touches(started, about)
    first = next(n for n, line in enumerate(lines, 1) if "journal.jsonl" in line) + 4
    numbers = [number for number in numbers if number > first]
    for number in chance.sample(numbers, min(5, len(numbers))):
        faults = Faults(0, 0, below=str(store), die_at=number)
        assert started.start(*run_words(home), faults=faults).wait() == -signal.SIGKILL
        resumed = started.run(*resume_words(home))
        assert resumed.document["fingerprint"] == expected, f"seed {SEED}: killed before {lines[number - 1]}"
        check(folder_of(home))
        shutil.rmtree(store)


@pytest.mark.parametrize("about", ["/journal.jsonl", "/checkpoints/", "/logs/", "/errors/"])
def test_a_disk_that_is_full_stops_the_search_and_loses_nothing(started: Programs, about: str) -> None:
    chance, home, store = random.Random(SEED), started.home, started.home / "store"
    expected = undisturbed(started)
    lines, numbers = touches(started, about)
    first = next(n for n, line in enumerate(lines, 1) if "journal.jsonl" in line) + 4
    numbers = [n for n in numbers if n > first and not lines[n - 1].startswith("os.rem")]
    for number in chance.sample(numbers, min(3, len(numbers))):
        stopped = started.start(*run_words(home), faults=Faults(0, 0, below=str(store), full_at=number))
        said = f"seed {SEED}: full at {lines[number - 1]}: {stopped.wait()}, {stopped.err}"
        assert stopped.wait() == 130, said
        assert "No space left on device" in stopped.err, said
        assert "bilevel resume" in stopped.err, said
        assert "Traceback" not in stopped.err, said
        resumed = started.run(*resume_words(home))
        assert resumed.document["fingerprint"] == expected, said
        check(folder_of(home))
        shutil.rmtree(store)


# -- trackers ----------------------------------------------------------------------------------------------------------


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.slow
def test_a_tracker_that_is_not_there_costs_no_trial(started: Programs) -> None:
    home = started.home
    expected = undisturbed(started)
    program = started.run(*run_words(home, "store", f"http://127.0.0.1:{closed_port()}"))
    assert program.document["fingerprint"] == expected
    assert program.document["trials"]["failed"] == 1  # the one that raises
    check(folder_of(home))
    assert "bilevel sync" in program.err
    database = f"sqlite:///{home / 'later.db'}"
    started.run("sync", "last", "--store", str(home / "store"), "--track", database)
    check_database(home / "later.db", folder_of(home))


@pytest.mark.slow
def test_a_database_that_another_program_holds_costs_no_trial(started: Programs) -> None:
    """SQLite is locked for as long as the search lasts, and longer than anybody waits for a lock."""
    home, database = started.home, started.home / "mlflow.db"
    expected = undisturbed(started)
    started.run(*run_words(home, "first", f"sqlite:///{database}"))  # the tables are there
    holder = sqlite3.connect(database, isolation_level=None)
    holder.execute("begin exclusive")
    try:
        program = started.start(*run_words(home, "store", f"sqlite:///{database}"))
        until(lambda: run_folder(home / "store") and events(folder_of(home), "finished"), what="the search's end")
        assert program.running or program.wait() == 0
        time.sleep(1.0)
    finally:
        holder.execute("rollback")
        holder.close()
    assert program.wait() == 0, program.err
    assert program.document["fingerprint"] == expected
    started.run("sync", "last", "--store", str(home / "store"))
    check_database(database, folder_of(home))


@pytest.mark.slow
def test_a_driver_killed_while_mlflow_is_written_leaves_no_trial_running(started: Programs) -> None:
    home, chance = started.home, random.Random(SEED)
    database = home / "mlflow.db"
    track = f"sqlite:///{database}"
    program = started.start(*run_words(home, "store", track))
    for share in (2, 4, 6):
        asked = lambda: run_folder(home / "store") and len(events(folder_of(home), "asked")) >= share  # noqa: E731, B023
        until(lambda: asked() or not program.running, what=f"{share} trials")  # noqa: B023
        time.sleep(chance.uniform(0.0, 0.5))
        program.kill()
        program.wait()
        program = started.start(*resume_words(home))
    assert program.wait() == 0, program.err
    check(folder_of(home))
    check_database(database, folder_of(home))


def test_a_population_is_in_mlflow_without_a_word(started: Programs) -> None:
    """Where Ray Tune's own recorder ends the run: a member's values change under way, MLflow's parameters cannot."""
    home = started.home
    words = run_words(home, "store", f"sqlite:///{home / 'mlflow.db'}")
    words[1] += ":members"
    program = started.run(*words)
    folder = folder_of(home)
    check(folder, 4)
    assert events(folder, "moved")
    assert program.document["trials"] == {"completed": 3, "stopped": 0, "failed": 1}  # one raises from the start
    loud = [line for line in program.err.splitlines() if "warn" in line.lower() or "MLflow:" in line]
    assert loud == []
    check_database(home / "mlflow.db", folder)


def check_database(database: Path, folder: Path) -> None:
    """One parent; each trial once below it, with the status that it ended with."""
    word = {"completed": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}
    entries = [entry.event for entry in journal.read(folder / "journal.jsonl")]
    fates = {str(event["trial"]): word[event["state"]] for event in entries if event["event"] == "ended"}
    with contextlib.closing(sqlite3.connect(database)) as db:
        tagged = "select run_uuid, status from runs join tags using (run_uuid) where key = ? and value = ?"
        parents = db.execute(tagged, ("bilevel.run_id", folder.name)).fetchall()
        parents = [row for row in parents if not db.execute(ABOVE, (row[0],)).fetchall()]
        assert [status for _, status in parents] == ["FINISHED"]
        children = db.execute(tagged, ("mlflow.parentRunId", parents[0][0])).fetchall()
        named = "select value from tags where key = 'bilevel.trial' and run_uuid = ?"
        found = [(db.execute(named, (run,)).fetchone()[0], status) for run, status in children]
    assert len(found) == len(fates)
    assert dict(found) == fates


ABOVE = "select value from tags where key = 'mlflow.parentRunId' and run_uuid = ?"
