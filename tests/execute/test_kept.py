"""Does one cluster serve all runs of a process, and does it go when it should, wholly?"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

import bilevel
from bilevel import Random, Ray, Result, Space, Study, Tune, Uniform, run
from bilevel.errors import BadInput
from bilevel.execute import guard, kept
from bilevel.execute.cluster import Cluster
from bilevel.record import journal
from bilevel.record.folder import RunFolder
from bilevel.study.events import Begun

FAILING = """
from bilevel.execute import kept
made = kept.connect(None, 1, 1)
kept.release(made)
print(made.guard.mark, made.guard.home, flush=True)
raise KeyboardInterrupt
"""
FORKING = """
import os, sys
from bilevel.errors import BadInput
from bilevel.execute import kept
made = kept.connect(None, 1, 1)
kept.release(made)
pid = os.fork()
if pid == 0:
    try:
        kept.connect(None, 1, 1)
    except BadInput as error:
        sys.exit("forked" not in str(error))
    sys.exit(2)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
again = kept.connect(None, 1, 1)
assert again.guard is made.guard and not again.dead()
print("ok")
"""


@pytest.fixture(autouse=True)
def nothing_before() -> Iterator[None]:
    bilevel.shutdown()
    yield
    kept._end()


def used_and_left(workers: int = 1) -> Cluster:
    made = kept.connect(None, workers, 1)
    kept.release(made)
    return made


def gone(made: Cluster) -> bool:
    assert made.guard is not None
    return not made.guard.home.exists() and not guard.family(made.guard.mark)


def test_without_a_cluster_there_is_nothing_to_end_and_ray_is_not_loaded() -> None:
    program = "import bilevel, sys; bilevel.shutdown(); print('ray' in sys.modules)"
    assert subprocess.check_output([sys.executable, "-c", program], text=True).strip() == "False"


@pytest.mark.slow
def test_one_cluster_serves_one_run_after_the_other(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = kept.connect(None, 1, 1)
    beside = kept.connect(None, 64, 1)  # while one is at work, there is no other
    assert beside.guard is first.guard
    kept.release(first)
    kept.release(first)  # again
    with pytest.raises(BadInput, match="a run is at work"):
        bilevel.shutdown()
    kept.release(beside)
    assert used_and_left().guard is first.guard
    more = used_and_left((os.cpu_count() or 1) + 1)
    assert more.guard is not first.guard
    assert gone(first)
    monkeypatch.setenv("ASKED", "otherwise")  # what workers are to see
    monkeypatch.chdir(tmp_path)
    other = used_and_left()
    assert other.guard is not more.guard
    assert gone(more)
    bilevel.shutdown()
    assert gone(other)
    assert not ray.is_initialized()


@pytest.mark.slow
def test_who_ends_ray_by_hand_or_begins_it_is_noticed() -> None:
    first = used_and_left()
    ray.shutdown()
    ray.init(address="local", num_cpus=1, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    theirs = kept.connect(None, 1, 1)
    assert theirs == Cluster()
    assert gone(first)
    kept.release(theirs)
    bilevel.shutdown()
    assert ray.is_initialized()
    ray.shutdown()
    second = used_and_left()
    assert second.guard is not None
    ray.shutdown()
    assert used_and_left().guard is not second.guard
    assert gone(second)


@pytest.mark.slow
def test_a_cluster_that_loses_its_head_while_nobody_uses_it_is_ended() -> None:
    made = used_and_left()
    assert made.guard is not None
    for pid in guard.family(made.guard.mark):
        if b"gcs_server" in Path(f"/proc/{pid}/cmdline").read_bytes().partition(b"\0")[0]:
            os.kill(pid, signal.SIGKILL)
    stop = time.monotonic() + 45  # Ray ends this process after 60
    while ray.is_initialized():
        assert time.monotonic() < stop
        time.sleep(0.1)
    assert used_and_left().guard is not made.guard
    assert gone(made)


@pytest.mark.slow
def test_a_program_that_ends_by_an_exception_leaves_nothing() -> None:
    program = subprocess.run([sys.executable, "-c", FAILING], capture_output=True, text=True)
    assert "KeyboardInterrupt" in program.stderr
    mark, home = program.stdout.split()
    assert not guard.family(mark)
    assert not Path(home).exists()


@pytest.mark.slow
def test_a_child_that_was_forked_neither_uses_the_cluster_nor_ends_it() -> None:
    program = subprocess.run([sys.executable, "-c", FORKING], capture_output=True, text=True)
    assert program.stdout.strip() == "ok", program.stderr


@pytest.mark.slow
def test_a_second_run_knows_nothing_of_the_modules_of_the_first(tmp_path: Path) -> None:
    found: list[float] = []
    places: list[set[str]] = []
    space = Space(dict, x=Uniform(0, 1))
    for value in (1.0, 2.0):
        (tmp_path / "bilevel_test_helper.py").write_text(f"VALUE = {value}\n")

        def objective(config: dict[str, float], run: bilevel.Run) -> float:
            sys.path.insert(0, str(tmp_path))
            import bilevel_test_helper

            return float(bilevel_test_helper.VALUE)

        study = Study(name="helped", objective=objective, space=space, minimize="loss", search=Random(), trials=2)
        result = run(study, on=Ray(workers=1), store=tmp_path / "runs", track="none")
        found.append(result.metrics["loss"])
        places.append(places_of(result))
    assert found == [1.0, 2.0]
    assert places[0] == places[1]  # though the worker is the same


@pytest.mark.slow
def test_workers_wait_for_a_run_that_wants_the_same_of_them_and_make_room_for_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def objective(config: dict[str, float], run: bilevel.Run) -> float:
        return float(run.cache("count", lambda: config["x"]) == config["x"])

    space = Space(dict, x=Uniform(0, 1))

    def runs(on: Ray | Tune, **more: Any) -> Result:
        study = Study(name="warm", objective=objective, space=space, minimize="v", search=Random(), trials=1, **more)
        return run(study, on=on, store=tmp_path, track="none")

    first, second = runs(Ray(workers=1)), runs(Ray(workers=1), seed=3)
    assert places_of(first) == places_of(second)
    assert second.metrics == {"v": 1.0}  # what the first had cached is gone
    began = [began_at(result) for result in (first, second)]
    assert began[1] < 2.0 < began[0] or began[1] < began[0] / 4, began
    assert places_of(runs(Ray(workers=1), isolation="process")) != places_of(second)
    assert runs(Tune(workers=os.cpu_count())).status == "completed"  # which needs all CPUs
    (waiting,) = kept._kept.waiting if kept._kept and runs(Ray(workers=1)) else [None]
    ray.kill(waiting)
    assert runs(Ray(workers=1)).status == "completed"
    monkeypatch.setattr(kept, "WAIT", 0.0)
    until = time.monotonic() + 60
    while kept._kept is not None and kept._kept.waiting:
        assert time.monotonic() < until
        time.sleep(0.1)


def places_of(result: Result) -> set[str]:
    return {event.worker for event in RunFolder(result.folder).events() if isinstance(event, Begun)}


def began_at(result: Result) -> float:
    """Seconds from the beginning of the record to that of the first trial."""
    times = [(at, event) for at, event in journal.events(RunFolder(result.folder).journal)]
    return next(at for at, event in times if isinstance(event, Begun)) - times[0][0]
