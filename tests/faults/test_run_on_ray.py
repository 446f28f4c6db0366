"""Does a study on Ray come to the same bits as in one process, with any number of workers and whatever kills them?"""

from __future__ import annotations

import contextlib
import json
import os
import random
import secrets
import signal
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

import programs
from bilevel import Inline, Ray, figures, run
from bilevel.drive import sources
from programs import MARK, TINY, events, run_folder, steps_done, until

SEED = int(os.environ.get("BILEVEL_FAULT_SEED", secrets.randbelow(10**6)))
"""Of the moments of the faults; it is part of the test's name, and the variable repeats a run."""
KILLS = int(os.environ.get("BILEVEL_FAULT_KILLS", "2"))
FREEZES = int(os.environ.get("BILEVEL_FAULT_FREEZES", "1"))

KILLER = (
    TINY
    + """
import os, signal
from dataclasses import dataclass

@dataclass(frozen=True)
class Killer(GradientDescent):
    def evaluate(self, adapted, query, keys):
        if keys is not None:  # in training
            os.kill(os.getpid(), signal.SIGKILL)
        return super().evaluate(adapted, query, keys)

killer = study.set("rule", Space(Killer, init=Learned(Space(mlp, hidden=(8,)), by=Adam(1e-2))))
"""
)


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take seconds, and are not what is tested."""
    monkeypatch.setattr(figures, "draw", lambda *_: {})


@pytest.mark.slow
def test_any_number_of_workers_gives_one_fingerprint(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(TINY)
    study, source = sources.load(str(tmp_path / "tiny.py"))
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        found = [
            run(study, on=on, store=tmp_path / "runs", track="none", source=source)
            for on in (Inline(), Ray(workers=1), Ray(workers=2), Ray(workers=3))
        ]
    finally:
        ray.shutdown()
    assert {result.status for result in found} == {"completed"}
    assert len({result.fingerprint for result in found}) == 1


@dataclass
class Driver:
    """A `bilevel` of its own, with its family."""

    process: subprocess.Popen[str]
    mark: str

    def end(self, seconds: float = 240.0) -> tuple[int, dict[str, Any], str]:
        out, err = self.process.communicate(timeout=seconds)
        return self.process.returncode, json.loads(out.splitlines()[-1]) if out else {}, err


@pytest.fixture
def drivers() -> Iterator[list[Driver]]:
    made: list[Driver] = []
    yield made
    for driver in made:
        for pid in programs.family(driver.mark):
            with contextlib.suppress(ProcessLookupError):  # gone since
                os.kill(pid, signal.SIGKILL)
        with driver.process:  # closes its pipes, and waits
            pass


def start(drivers: list[Driver], *argv: object) -> Driver:
    mark = uuid.uuid4().hex
    command = [*programs.PLAIN, *map(str, argv)]
    environment = {**os.environ, MARK: mark, "RAY_USAGE_STATS_ENABLED": "0"}
    pipe = subprocess.PIPE
    driver = Driver(subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment), mark)
    drivers.append(driver)
    return driver


def reach(store: Path, step: int) -> None:
    until(lambda: steps_done(store) >= step, what=f"step {step}")


@pytest.mark.slow
@pytest.mark.parametrize("seed", [SEED], ids=["chance"])
def test_workers_killed_and_frozen_change_no_bit(tmp_path: Path, drivers: list[Driver], seed: int) -> None:
    chance, steps = random.Random(seed), 120 * (KILLS + FREEZES)
    (tmp_path / "tiny.py").write_text(TINY)
    words = ["run", tmp_path / "tiny.py", "--steps", steps, "--track", "none", "--json"]
    undisturbed = start(drivers, *words, "--store", tmp_path / "undisturbed", "--workers", 0)
    assert undisturbed.end()[0] == 0
    driver = start(drivers, *words, "--store", tmp_path / "store", "--workers", 2)
    blows = [signal.SIGKILL] * KILLS + [signal.SIGSTOP] * FREEZES
    chance.shuffle(blows)
    moments = sorted(chance.sample(range(5, steps - 50), len(blows)))
    for moment, blow in zip(moments, blows, strict=True):
        reach(tmp_path / "store", moment)
        until(lambda: programs.workers(driver.mark), what="a worker")
        time.sleep(chance.uniform(0, 0.05))
        os.kill(chance.choice(programs.workers(driver.mark)), blow)
    status, document, err = driver.end()
    assert status == 0, err
    folder = run_folder(tmp_path / "undisturbed")
    assert folder is not None
    assert document["fingerprint"] == events(folder, "finished")[0]["result"]["fingerprint"], f"seed {seed}"
    programs.gone(driver.mark)


@pytest.mark.slow
def test_the_death_of_the_local_cluster_changes_no_bit(tmp_path: Path, drivers: list[Driver]) -> None:
    (tmp_path / "tiny.py").write_text(TINY)
    words = ["run", tmp_path / "tiny.py", "--steps", 200, "--track", "none", "--json"]
    undisturbed = start(drivers, *words, "--store", tmp_path / "undisturbed", "--workers", 0)
    fingerprint = undisturbed.end()[1]["fingerprint"]
    driver = start(drivers, *words, "--store", tmp_path / "store", "--workers", 1)
    reach(tmp_path / "store", 20)
    os.kill(programs.node(driver.mark), signal.SIGKILL)
    status, document, err = driver.end()
    if status:  # on a busy machine Ray may be first, and ends the driver with its node: that is a killed driver's case
        assert "Traceback" not in err
        driver = start(drivers, "resume", "last", "--json", "--store", tmp_path / "store")
        status, document, err = driver.end()
    assert status == 0, err
    assert document["fingerprint"] == fingerprint
    programs.gone(driver.mark)


@pytest.mark.slow
def test_a_unit_that_always_kills_its_worker_fails_the_study(tmp_path: Path, drivers: list[Driver]) -> None:
    (tmp_path / "tiny.py").write_text(KILLER)
    words = ["--store", tmp_path / "store", "--workers", 2, "--track", "none", "--json"]
    driver = start(drivers, "run", f"{tmp_path / 'tiny.py'}:killer", *words)
    status, document, err = driver.end()
    assert status == 1, err
    assert document["status"] == "failed"
    assert document["trials"]["failed"] == 1
    assert "trial 0 failed: unit (step 1, episodes " in err
    assert "Traceback" not in err
    programs.gone(driver.mark)


@pytest.mark.slow
def test_a_killed_driver_leaves_no_process_and_is_resumed(tmp_path: Path, drivers: list[Driver]) -> None:
    (tmp_path / "tiny.py").write_text(TINY)
    words = ["--store", tmp_path / "store", "--json"]
    driver = start(drivers, "run", tmp_path / "tiny.py", *words, "--workers", 2, "--steps", 5000)
    until(lambda: steps_done(tmp_path / "store") >= 20)
    assert len(programs.workers(driver.mark)) == 2
    driver.process.kill()
    programs.gone(driver.mark)
    resumed = start(drivers, "resume", "last", *words, "--workers", 0)
    until(lambda: steps_done(tmp_path / "store") >= 40)
    resumed.process.send_signal(signal.SIGINT)
    status, document, err = resumed.end()
    assert (status, document["status"]) == (130, "interrupted"), err
