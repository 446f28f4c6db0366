"""Does a run come to the same result when its driver is killed, its disk fills up or its checkpoints are damaged?"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import programs
from programs import TINY, Faults, Program, Programs, events, metric_steps, run_folder, steps_done, until

SEED = int(os.environ.get("BILEVEL_FAULT_SEED", secrets.randbelow(10**6)))
"""Of the moments of the faults; it is part of the test's name, and the variable repeats a run."""
KILLS = int(os.environ.get("BILEVEL_FAULT_KILLS", "4"))


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Programs]:
    """Programs that keep a checkpoint every 0.2 s, and a study for them."""
    (tmp_path / "tiny.py").write_text(TINY)
    with programs.programs(tmp_path, Faults(keep=0.2, keep_best=0.2)) as made:
        yield made


def run_words(home: Path, steps: int, store: str = "store", track: str = "none") -> list[str]:
    words = ["run", str(home / "tiny.py"), "--store", str(home / store), "--steps", str(steps)]
    return [*words, "--set", "validate_every=10", "--workers", "0", "--track", track, "--json"]


def resume_words(home: Path, store: str = "store") -> list[str]:
    return ["resume", "last", "--store", str(home / store), "--json"]


def undisturbed(started: Programs, steps: int) -> str:
    program = started.run(*run_words(started.home, steps, "undisturbed"))
    return str(program.document["fingerprint"])


def reach(store: Path, step: int, program: Program) -> None:
    until(lambda: steps_done(store) >= step or not program.running)


def checkpoints_of(store: Path) -> int:
    """How many its only run has kept so far."""
    folder = run_folder(store)
    return len(events(folder, "kept")) if folder is not None and (folder / "journal.jsonl").exists() else 0


@pytest.mark.slow
@pytest.mark.parametrize("seed", [SEED], ids=["chance"])
def test_a_driver_killed_at_random_moments_loses_nothing(started: Programs, seed: int) -> None:
    chance = random.Random(seed)
    home, steps = started.home, 60 * KILLS + 50
    expected = undisturbed(started, steps)
    moments = sorted(chance.randrange(steps - 80) for _ in range(KILLS))  # 80 steps are about 0.3 s
    program = started.start(*run_words(home, steps, track=f"sqlite:///{home / 'store' / 'mlflow.db'}"))
    for number, moment in enumerate(moments):
        if number % 3 == 2:  # while it starts, or recomputes what came after the last checkpoint
            time.sleep(chance.uniform(0, 0.3))
        else:
            reach(home / "store", moment, program)
            time.sleep(chance.uniform(0, 0.02))
        if run_folder(home / "store") is None:  # nothing to resume yet
            until(lambda: run_folder(home / "store"))
        program.kill()
        assert program.wait() == -signal.SIGKILL, f"kill {number} came too late"
        program = started.start(*resume_words(home))
    assert program.wait() == 0, program.err
    assert program.document["fingerprint"] == expected
    folder = run_folder(home / "store")
    assert folder is not None
    assert [event["step"] for event in events(folder, "reported")] == list(range(1, steps + 1))
    assert metric_steps(home / "store", "train/loss") == [list(range(1, steps + 1))]


@pytest.mark.slow
def test_a_driver_killed_at_any_step_of_writing_a_checkpoint_resumes(started: Programs) -> None:
    home, keep = started.home, Faults(keep=0, keep_best=0)
    store, log = home / "counted", home / "touches"
    expected = undisturbed(started, 4)
    words = run_words(home, 4, "counted")
    started.run(*words, faults=Faults(0, 0, below=str(store), touches=str(log)))
    touched = log.read_text().splitlines()
    about = [n for n, line in enumerate(touched, 1) if "step-00000002" in line]
    assert len(about) >= 9, "the checkpoint's files are not among the touches"
    for number in range(about[0] - 2, about[-1] + 4):  # and of writing the journal, before and after it
        shutil.rmtree(store)
        faults = Faults(0, 0, below=str(store), die_at=number)
        assert started.start(*words, faults=faults).wait() == -signal.SIGKILL
        resumed = started.run(*resume_words(home, "counted"), faults=keep)
        assert resumed.document["fingerprint"] == expected, f"killed before {touched[number - 1]}"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "damage"),
    [("state.safetensors", "truncated"), ("MANIFEST.json", "flipped")],
)
def test_of_a_damaged_checkpoint_an_older_one_is_used(started: Programs, name: str, damage: str) -> None:
    chance = random.Random(SEED)
    home = started.home
    program = started.start(*run_words(home, 400), faults=Faults(keep=0.05, keep_best=0.05))
    until(lambda: checkpoints_of(home / "store") >= 2)
    program.kill()
    assert program.wait() == -signal.SIGKILL, "it ended before it was killed"
    folder = run_folder(home / "store")
    assert folder is not None
    kept = events(folder, "kept")[-1]["step"]
    newest = folder / "checkpoints" / "trial-0000" / f"step-{kept:08d}" / name
    data = bytearray(newest.read_bytes())
    place = chance.randrange(len(data))
    if damage == "truncated":
        del data[place:]
    else:
        data[place] ^= 1 << chance.randrange(8)
    newest.write_bytes(data)
    resumed = started.run(*resume_words(home))
    assert "an older checkpoint is used" in resumed.err, f"seed {SEED}"
    assert newest.parent.name in resumed.err
    assert resumed.document["fingerprint"] == undisturbed(started, 400)


def test_a_disk_that_is_full_stops_the_run_and_loses_nothing(started: Programs) -> None:
    """At random touches of the store's files, from which on none can be written."""
    chance, home = random.Random(SEED), started.home
    store, log = home / "store", home / "touches"
    words = run_words(home, 6)
    started.run(*words, faults=Faults(0, 0, below=str(store), touches=str(log)))
    count = len(log.read_text().splitlines())
    first = 1 + next(n for n, line in enumerate(log.read_text().splitlines()) if "journal.jsonl" in line)
    expected = undisturbed(started, 6)
    for number in chance.sample(range(first + 4, count), 5):
        shutil.rmtree(store)
        stopped = started.start(*words, faults=Faults(0, 0, below=str(store), full_at=number))
        about = f"seed {SEED}, touch {number}: {stopped.wait()}"
        assert stopped.wait() == 130, about + stopped.err
        assert "No space left on device" in stopped.err, about
        assert "bilevel resume" in stopped.err, about
        assert "Traceback" not in stopped.err, about
        assert stopped.document["status"] == "interrupted"
        resumed = started.run(*resume_words(home))
        assert resumed.document["fingerprint"] == expected, about


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 kB."""
    disk = tmp_path / "store"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {mounted.stderr.decode().strip()} (it takes root)")
    yield disk
    subprocess.run(["umount", str(disk)], check=True)


def test_a_small_disk_fills_up_and_is_freed(started: Programs, small_disk: Path) -> None:
    home = started.home
    expected = undisturbed(started, 120)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(450_000))
    stopped = started.run(*run_words(home, 120), status=130, faults=Faults(keep=0, keep_best=0))
    assert "No space left on device" in stopped.err
    assert "bilevel resume" in stopped.err
    assert stopped.document["status"] == "interrupted"
    filler.unlink()
    assert started.run(*resume_words(home)).document["fingerprint"] == expected


def test_a_second_driver_is_refused(started: Programs) -> None:
    home = started.home
    program = started.start(*run_words(home, 1200))
    until(lambda: steps_done(home / "store") >= 1)
    refused = started.run(*resume_words(home), status=2)
    assert f"another driver (process {program.pid}) is at work" in refused.err
    assert len(refused.err.splitlines()) == 1
    assert program.running
    program.kill(signal.SIGTERM)
    assert program.wait() == 130


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_an_interrupted_run_is_kept_and_resumed(started: Programs, number: signal.Signals) -> None:
    home = started.home
    program = started.start(*run_words(home, 400))
    until(lambda: steps_done(home / "store") >= 40)
    program.kill(number)
    assert program.wait() == 130
    assert program.document["status"] == "interrupted"
    assert "resume with: bilevel resume" in program.err
    folder = run_folder(home / "store")
    assert folder is not None
    done = steps_done(home / "store")
    assert events(folder, "kept")[-1]["step"] == done  # nothing is computed twice
    assert events(folder, "interrupted")[-1]["reason"] == number.name
    resumed = started.run(*resume_words(home))
    assert resumed.document["fingerprint"] == undisturbed(started, 400)
    again = started.run(*resume_words(home))  # a finished run gives its result again
    assert again.document == resumed.document
