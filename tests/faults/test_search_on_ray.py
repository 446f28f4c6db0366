"""Does a search on Ray lose nothing and come to the same, whatever kills its driver and its workers?"""

from __future__ import annotations

import dataclasses
import os
import random
import secrets
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from bilevel import ASHA, TPE, Grid, Inline, OneOf, Ray, Report, Run, Study, Tune, figures, run
from bilevel.errors import BadInput
from bilevel.execute import stage as stages
from bilevel.record.folder import RunFolder
from bilevel.study.events import Fault, Kept, Reported
from programs import family, run_folder, until
from support import storms, trying
from support.storms import Home, Searching
from support.trying import Hill, check_once, climb, hill, population

SEED = int(os.environ.get("BILEVEL_FAULT_SEED", secrets.randbelow(10**6)))
"""Of the moments of the faults; it is part of the test's name, and the variable repeats a run."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Home]:
    with storms.home(tmp_path) as made:
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("seed", [SEED], ids=["chance"])
def test_drivers_and_workers_killed_lose_nothing_and_change_nothing(place: Home, seed: int) -> None:
    """One slot: the fingerprint is that of an undisturbed run in one process."""
    chance = random.Random(seed)
    expected = place.run("undisturbed", "study", "--workers", 0, "--track", "none", pace=0.0).end()[1]
    found = storms.weather(
        place, "store", "study", ("--workers", 2, "--slots", 1), chance, drivers=2, workers=2, gap=40
    )
    assert (found.drivers, found.workers) == (2, 2)
    figures = storms.check(place, "store", 40)
    same = found.document["fingerprint"] == expected["fingerprint"]
    assert same, storms.differences(place, "undisturbed", "store")
    assert found.document["trials"] == expected["trials"]
    assert found.document["trials"]["stopped"] > 10
    assert figures["attempts again"] > 0
    assert "RUNNING" not in storms.statuses(place, "store")


@pytest.mark.slow
def test_who_is_asked_to_leave_leaves_in_good_order_whenever_that_is(place: Home) -> None:
    """While the cluster starts, while trials run, and after the last one: there is a result, and it can be resumed."""

    def told(about: str) -> int:
        folder = run_folder(place.path / "store")
        return 0 if folder is None else (folder / "journal.jsonl").read_text().count(f'"{about}"')

    def leave(program: Searching, when: Callable[[], bool]) -> tuple[int, dict[str, Any], str]:
        until(when)
        program.process.send_signal(signal.SIGTERM)
        return program.end()

    words = ("--workers", 2, "--slots", 2, "--trials", 12)
    starting = place.run("store", "study", *words, pace=0.2)
    status, document, said = leave(starting, lambda: told("opened") == 1)
    assert (status, document["status"]) == (130, "interrupted"), said
    assert "resume with: bilevel resume" in said
    again = place.resume("store", pace=0.2)
    status, document, said = leave(again, lambda: told("reported") >= 3)
    assert (status, document["status"]) == (130, "interrupted"), said
    last = place.resume("store", pace=0.0)
    # Where the tracker has begun: on a busy machine it may need longer than the search, and `sync` is for that.
    status, document, said = leave(last, lambda: told("finished") == 1 and storms.tracked(place, "store"))
    assert (status, document["status"]) == (0, "completed"), said
    assert sum(document["trials"].values()) == 12
    assert "RUNNING" not in storms.statuses(place, "store")
    for program in place.started:
        until(lambda mark=program.mark: not family(mark))  # type: ignore[misc]


# -- runs of this process ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """One for all, with room for three workers."""
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    here = (trying, sys.modules[__name__])
    for module in here:
        ray.cloudpickle.register_pickle_by_value(module)  # workers know no folder of tests
    yield
    for module in here:
        ray.cloudpickle.unregister_pickle_by_value(module)
    ray.shutdown()


@pytest.fixture
def plain(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figures: they take seconds, and are not what is tested."""
    monkeypatch.setattr(figures, "draw", lambda *_: {})


def searched(store: Path, study: Study, workers: int, slots: int) -> tuple[str, RunFolder]:
    """The fingerprint of a run; 0 workers: in this process."""
    on = Ray(workers=workers) if workers else Inline()
    result = run(study, on=on, store=store, track="none", slots=slots)
    assert result.status == "completed"
    folder = RunFolder(result.folder)
    check_once(folder)
    return result.fingerprint, folder


def learning(config: Hill, run: Run) -> Iterator[Report]:
    """As `climb`, with something learned in its state: its hash is in the fingerprint."""
    for report in climb(config, run):
        assert report.state is not None
        yield dataclasses.replace(report, state={**report.state, "learned": {"w": report.state["w"]}})


@pytest.mark.usefixtures("cluster", "plain")
def test_a_search_comes_to_the_same_on_workers_as_in_this_process(tmp_path: Path) -> None:
    halved = ASHA(first=1, factor=2, last=9)
    one = hill(learning, search=TPE(startup=3), trials=12, values={"steps": 9}, stop=halved)
    four = dataclasses.replace(one, deterministic=True)
    for study, slots in ((one, 1), (four, 4)):
        found = {workers: searched(tmp_path, study, workers, slots)[0] for workers in (0, 1, 2)}
        assert len(set(found.values())) == 1, found


@pytest.mark.usefixtures("cluster", "plain")
def test_a_population_comes_to_the_same_on_workers_and_is_kept_at_its_turns(tmp_path: Path) -> None:
    study = population(members=4, every=4, steps=12)
    found = {workers: searched(tmp_path, study, workers, 4) for workers in (0, 2)}
    assert found[0][0] == found[2][0]
    kept = [event.step for event in found[2][1].events() if isinstance(event, Kept)]
    assert {4, 8, 12} <= set(kept)
    assert len(kept) <= 4 * 3 + 2 + 4, "a checkpoint at every step"


@pytest.mark.usefixtures("cluster", "plain")
@pytest.mark.parametrize("place", [Ray, Tune])
def test_without_a_number_as_many_trials_run_as_the_cluster_has_room_for(
    place: type[Ray | Tune], tmp_path: Path
) -> None:
    result = run(hill(learning, trials=2), on=place(), store=tmp_path, track="none")
    assert RunFolder(result.folder).document()["execution"]["slots"] == 3


class Data:
    """Two megabytes that write down when they are packed and unpacked, and in which process."""

    def __init__(self, log: Path, x: torch.Tensor, what: str = "made") -> None:
        self.log, self.x = log, x
        self.note(what)

    def note(self, what: str) -> None:
        with self.log.open("a") as out:
            out.write(f"{what} {os.getpid()}\n")

    def __reduce__(self) -> tuple[Any, ...]:
        self.note("packed")
        return Data, (self.log, self.x, "unpacked")


@pytest.mark.usefixtures("cluster", "plain")
def test_what_an_objective_names_is_packed_once_and_unpacked_once_in_each_worker(tmp_path: Path) -> None:
    data = Data(tmp_path / "log", torch.ones(500_000))

    def train(config: Hill, run: Run) -> Iterator[Report]:
        while data.log.read_text().count("unpacked") < 2:  # the other worker is still starting
            time.sleep(0.05)
        yield Report(1, {"loss": float(data.x.sum()) * config.x, "worker": os.getpid()})

    result = run(hill(train, trials=12), on=Ray(workers=2), store=tmp_path / "store", track="none", slots=2)
    reported = [event for event in RunFolder(result.folder).events() if isinstance(event, Reported)]
    workers = {int(event.metrics["worker"]) for event in reported}
    assert len(reported) == 12
    assert len(workers) == 2
    noted = [line.split() for line in data.log.read_text().splitlines()]
    assert [what for what, _ in noted].count("packed") == 1
    assert sorted(int(pid) for what, pid in noted if what == "unpacked") == sorted(workers)


def deadly(config: Hill, run: Run) -> Iterator[Report]:
    for report in climb(config, run):
        if config.x == 0.5 and report.step == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        yield report


@pytest.mark.usefixtures("cluster", "plain")
def test_a_trial_that_kills_its_workers_fails_and_the_others_are_done(tmp_path: Path) -> None:
    study = hill(deadly, values={"x": OneOf(0.1, 0.5, 0.9, 0.2)}, search=Grid(), trials=None)
    result = run(study, on=Ray(workers=2), store=tmp_path, track="none", slots=2)
    assert result.document["trials"] == {"completed": 3, "stopped": 0, "failed": 1}
    folder = RunFolder(result.folder)
    check_once(folder)
    assert sum(isinstance(event, Fault) for event in folder.events()) == 4
    table = result.trials.set_index("config.x")
    assert table["state"][0.5] == "failed"


def stopping(config: Hill, run: Run) -> Iterator[Report]:
    for report in climb(config, run):
        if report.step == 2 and run.state is None and run.trial == 1:
            os.kill(os.getpid(), signal.SIGSTOP)
        yield report


@pytest.mark.usefixtures("cluster", "plain")
def test_a_worker_that_is_stopped_costs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stops itself once: the trial goes on from the state that it had reported."""
    monkeypatch.setattr(stages, "SILENCE", 1.0)
    monkeypatch.setattr("bilevel.drive.keeping.KEEP_EVERY", 0.0)
    expected = searched(tmp_path, hill(trials=3), 0, 1)[0]
    found, folder = searched(tmp_path, hill(stopping, trials=3), 1, 1)
    assert found == expected
    assert [event.kind for event in folder.events() if isinstance(event, Fault)] == ["frozen"]


@pytest.mark.usefixtures("cluster")
@pytest.mark.parametrize("needs", [{"cpus": 64}, {"gpus": 2}])
def test_what_no_node_can_hold_is_refused_before_anything_starts(tmp_path: Path, needs: dict[str, int]) -> None:
    with pytest.raises(BadInput, match=r"no node has (64 CPUs|2 GPUs)"):
        run(hill(**needs), on=Ray(workers=1), store=tmp_path, track="none")
    assert not list(tmp_path.iterdir())
