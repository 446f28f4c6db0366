"""Is a study on Ray Tune the same study: its trials, its stops, its record, whatever befalls it?"""

from __future__ import annotations

import os
import signal
import sys
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray

import programs
from bilevel import (
    ASHA,
    PBT,
    TPE,
    Inline,
    Log,
    OneOf,
    Ray,
    Report,
    Result,
    Run,
    Space,
    Study,
    Tune,
    Uniform,
    figures,
    resume,
    run,
)
from bilevel.cli import cli
from bilevel.drive import keeping, progress, sources
from bilevel.drive.progress import Progress
from bilevel.drive.session import On
from bilevel.errors import BadInput
from bilevel.record.folder import RunFolder
from bilevel.study.events import Asked, Begun, Ended, Fault, Moved, Reported
from support.tiny import Said, maml

SLOW = """
import time
from dataclasses import dataclass
from bilevel import Log, Report, Space, Study, TPE

@dataclass(frozen=True)
class Config:
    lr: float

def slow(config, run):
    for step in range(1, 6):
        time.sleep(0.05)
        yield Report(step, {"loss": config.lr / step}, {"step": step})

space = Space(Config, lr=Log(1e-3, 1.0))
study = Study(name="slow", objective=slow, minimize="loss", space=space, search=TPE(), trials=4)
"""


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A cluster that all find, as in a notebook."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers have no such module
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No figures (seconds), and every state kept. Tune's thread leaves with each study."""
    monkeypatch.setattr(figures, "draw", lambda *_, **__: {})
    monkeypatch.setattr(keeping, "KEEP_EVERY", 0.0)
    monkeypatch.setattr(keeping, "KEEP_BEST_EVERY", 0.0)
    yield
    assert "bilevel-tune" not in [thread.name for thread in threading.enumerate()]


@dataclass(frozen=True, kw_only=True)
class Sgd:
    momentum: float


@dataclass(frozen=True, kw_only=True)
class Net:
    lr: float
    opt: Any = None
    epochs: int = 9


def fit(config: Net, run: Run) -> Iterator[Report]:
    """A loss that falls from epoch to epoch, lowest for lr=0.01; what it goes on from is the loss."""
    state = run.state or {"epoch": 0, "loss": 10.0 + run.seed % 10}
    for epoch in range(state["epoch"] + 1, config.epochs + 1):
        momentum = config.opt.momentum if isinstance(config.opt, Sgd) else 0.5
        state = {"epoch": epoch, "loss": state["loss"] * (0.5 + 10 * abs(config.lr - 0.01) + 0.1 * momentum)}
        yield Report(epoch, {"loss": state["loss"]}, state)


def study(objective: Any = fit, **more: Any) -> Study:
    space = Space(Net, lr=Log(1e-4, 1e-1), opt=OneOf(Space(Sgd, momentum=Uniform(0.0, 1.0)), "adam"))
    values = {"name": "net", "objective": objective, "minimize": "loss", "space": space, "search": TPE(), "trials": 6}
    return Study(**values | more)


def searched(study: Study, store: Path, on: On, slots: int = 1, **more: Any) -> Result:
    return run(study, on=on, store=store, track="none", slots=slots, **more)


def events(result: Result, kind: type) -> list[Any]:
    return [event for event in RunFolder(result.folder).events() if isinstance(event, kind)]


def same(*results: Result) -> None:
    """The same trials, fates and values, to the last bit."""
    assert len({result.fingerprint for result in results}) == 1
    for kind in (Asked, Reported, Ended):
        assert all(events(result, kind) == events(results[0], kind) for result in results), kind


# -- the same study ----------------------------------------------------------------------------------------------------


def test_the_trials_and_their_values_are_those_of_our_own_executor(tmp_path: Path) -> None:
    found = [searched(study(), tmp_path, on) for on in (Inline(), Ray(workers=1), Tune(workers=1))]
    assert {result.status for result in found} == {"completed"}
    same(*found)
    assert {begun.worker.partition(" ")[0] for begun in events(found[2], Begun)} == {"Tune"}


def test_the_same_trials_are_stopped(tmp_path: Path) -> None:
    halving = study(stop=ASHA(first=1, last=9), trials=9)
    here, there = (searched(halving, tmp_path, on) for on in (Inline(), Tune(workers=1)))
    same(here, there)
    assert there.document["trials"]["stopped"] > 0


@pytest.mark.slow
def test_the_same_members_go_on_from_each_other(tmp_path: Path) -> None:
    space = Space(Net, lr=Log(1e-4, 1e-1), epochs=6)
    population = study(space=space, search=PBT(members=2, every=2), trials=2)
    here, there = (searched(population, tmp_path, on, slots=2) for on in (Inline(), Tune(workers=2)))
    assert events(there, Moved) == events(here, Moved) != []
    assert there.fingerprint == here.fingerprint


def test_an_objective_that_spreads_its_work_runs_as_on_ray(tmp_path: Path) -> None:
    watch = Said()
    here, there = (searched(maml(), tmp_path, on, watch=watch) for on in (Inline(), Tune(workers=1)))
    same(here, there)
    assert [line for line in watch.lines if "Tune places no trials" in line]


# -- what befalls it ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_process_loses_nothing(tmp_path: Path) -> None:
    marker = tmp_path / "killed"

    def dies_once(config: Net, run: Run) -> Iterator[Report]:
        for report in fit(config, run):
            yield report
            if run.trial == 1 and report.step == 4 and not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)

    result = searched(study(dies_once, trials=3), tmp_path, Tune(workers=1))
    same(result, searched(study(trials=3), tmp_path, Inline()))
    (fault,) = events(result, Fault)
    assert fault.kind == "died"
    begun = [(b.trial, b.attempt, b.step, b.why) for b in events(result, Begun)]
    assert begun == [(0, 1, 0, ""), (1, 1, 0, ""), (1, 2, 4, "lost"), (2, 1, 0, "")]


@pytest.mark.slow
def test_a_stopped_process_is_found_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bilevel.execute.tune_stage.SILENCE", 0.3)
    marker = tmp_path / "stopped"

    def freezes_once(config: Net, run: Run) -> Iterator[Report]:
        if not marker.exists():
            marker.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        yield from fit(config, run)

    result = searched(study(freezes_once, trials=1), tmp_path, Tune(workers=1))
    same(result, searched(study(trials=1), tmp_path, Inline()))
    assert [b.why for b in events(result, Begun)] == ["", "lost"]


@pytest.mark.slow
def test_a_trial_that_raises_fails_alone(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def fragile(config: Net, run: Run) -> Iterator[Report]:
        sys.stdout.write(f"trial {run.trial} speaks\n")
        yield Report(1, {"loss": 1.0})
        if run.trial % 2:
            raise ValueError(f"no luck with {run.trial}")

    watch = Said()
    result = searched(study(fragile, trials=4), tmp_path, Tune(workers=2), slots=2, watch=watch)
    assert result.document["trials"] == {"completed": 2, "stopped": 0, "failed": 2}
    reasons = {event.trial: event.reason for event in events(result, Ended) if event.state == "failed"}
    assert reasons == {1: "ValueError: no luck with 1", 3: "ValueError: no luck with 3"}
    assert "trial 3 speaks" in (result.folder / "logs" / "trial-0003.txt").read_text()
    seen = capfd.readouterr()
    assert (seen.out, seen.err) == ("", "")


@pytest.mark.slow
def test_an_interrupted_study_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOOK_EVERY", 0.0)

    class Interrupting(Said):
        def progress(self, progress: Progress) -> None:
            if progress.history.trials.get(2) and progress.history.trials[2].step == 3 and not self.seen:
                self.seen.append(progress)
                os.kill(os.getpid(), signal.SIGINT)

    half = searched(study(), tmp_path, Tune(workers=1), watch=Interrupting())
    assert half.status == "interrupted"
    whole = resume(str(half.folder), study=study(), track="none")
    assert whole.status == "completed"
    assert whole.fingerprint == searched(study(), tmp_path, Inline()).fingerprint
    assert {begun.worker.partition(" ")[0] for begun in events(whole, Begun)} == {"Tune"}


def test_a_study_that_finds_no_place_gives_up(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no node has 64 CPUs"):
        searched(study(cpus=64), tmp_path, Tune())
    others = ray.util.placement_group([{"CPU": 4}])
    assert others.wait(60), f"earlier tests have left {ray.util.placement_group_table()}"
    watch = Said()
    result = searched(study(), tmp_path, Tune(workers=1, patience=1.0), watch=watch)
    ray.util.remove_placement_group(others)
    assert result.status == "interrupted"
    assert "no trial has found a place for 1 s; a trial takes 1 CPUs" in watch.lines[-1]


def test_tune_needs_a_process_for_each_trial(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "slow.py").write_text(SLOW)
    assert cli.main(["run", str(tmp_path / "slow.py"), "--on", "tune", "--workers", "0"]) == 2
    assert "--workers 0" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_driver_leaves_nothing_and_is_resumed(tmp_path: Path) -> None:
    """As a command, with a cluster of its own."""
    (tmp_path / "slow.py").write_text(SLOW)
    undisturbed = searched(sources.load(str(tmp_path / "slow.py"))[0], tmp_path / "undisturbed", Inline())
    mark = uuid.uuid4().hex
    words = ["--store", str(tmp_path / "store"), "--json", "--track", "none", "--slots", "1"]
    with programs.programs(tmp_path) as started:
        first = ["run", str(tmp_path / "slow.py"), "--on", "tune", "--workers", "1", *words]
        program = started.start(*first, environment={programs.MARK: mark, "RAY_ADDRESS": ""})
        programs.until(lambda: programs.steps_done(tmp_path / "store") >= 3)
        program.kill()
        programs.gone(mark)
        again = ["resume", "last", "--workers", "1", *words]
        resumed = started.start(*again, environment={programs.MARK: mark, "RAY_ADDRESS": ""})
        assert resumed.wait() == 0, resumed.err
        assert resumed.document["fingerprint"] == undisturbed.fingerprint
        assert "Warning" not in resumed.err
        folder = programs.run_folder(tmp_path / "store")
        assert folder is not None
        begun = programs.events(folder, "begun")
        assert {event["worker"].partition(" ")[0] for event in begun} == {"Tune"}
        programs.gone(mark)
