"""Does a search lose nothing, and decide the same, wherever its driver dies and whenever its trials answer?"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from bilevel import (
    ASHA,
    TPE,
    Grid,
    OneOf,
    Report,
    Run,
    Uniform,
)
from bilevel.drive import keeping
from bilevel.study.events import Begun, Fault, Said
from support.spying import Spy
from support.stages import Lossy, timed
from support.trying import (
    Hill,
    check_once,
    climb,
    fingerprint,
    fresh,
    halving,
    hill,
    live,
    nan_at_last,
    noisy,
    population,
    replayed,
    undisturbed,
)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drivers die here, power stays; a fsync takes longer than a trial."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


# -- drivers that die --------------------------------------------------------------------------------------------------


STUDIES = {
    "random": hill(trials=3),
    "tpe": hill(search=TPE(startup=2), trials=4, values={"steps": 1}),
    "asha": halving(0.6, 0.5, 0.3, 0.7, 0.4, steps=3, factor=2),
    "where": hill(where=lambda config: config.x < 0.4, trials=3, values={"steps": 1}),
    "repeats and confirm": hill(noisy, repeats=2, confirm=2, trials=3, values={"steps": 1}),
    "failing": hill(nan_at_last, trials=3),
    "points": hill(points=[{"x": 0.5}], values={"x": Uniform(0.0, 1.0, center=0.2)}, trials=3),
    "target": hill(values={"x": OneOf(0.9, 0.3, 0.5), "steps": 1}, search=Grid(), trials=None, target=1e-6),
    "plateau": hill(values={"x": OneOf(0.9, 0.3, 0.5, 0.6), "steps": 1}, search=Grid(), trials=None, plateau=2),
}


@pytest.mark.parametrize("lose", [False, True], ids=["all on disk", "the last of it lost"])
@pytest.mark.parametrize("name", list(STUDIES))
def test_killed_after_any_event_it_ends_as_undisturbed(
    name: str, lose: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "KEEP_EVERY", 0.0)
    study = STUDIES[name]
    expected, count = undisturbed(tmp_path, study)
    for number in range(1, count + 1, 1 if count < 40 else 2):
        folder = fresh(tmp_path, study)
        assert live(folder, study, kill_after=number, lose=lose).status == "killed"
        done = {n for n, t in replayed(folder).trials.items() if t.state != "running"}
        life = live(folder, study)
        assert life.status == "completed"
        assert fingerprint(folder) == expected, f"killed after event {number} of {count}"
        check_once(folder)
        begun = [e.trial for e in folder.events() if isinstance(e, Begun) and e.why == "resumed"]
        assert not done & set(begun), "a trial that had ended ran again"


@pytest.mark.parametrize("name", ["tpe", "asha", "repeats and confirm"])
def test_killed_again_and_again_it_ends_as_undisturbed(name: str, tmp_path: Path) -> None:
    study = STUDIES[name]
    expected, count = undisturbed(tmp_path, study)
    chance = random.Random(1)
    for _ in range(5):
        folder = fresh(tmp_path, study)
        lives = 1
        while live(folder, study, kill_after=chance.randint(3, 9)).status == "killed":
            lives += 1
            assert lives < count
        assert fingerprint(folder) == expected
        check_once(folder)


def test_interrupted_after_any_event_it_ends_as_undisturbed(tmp_path: Path) -> None:
    study = STUDIES["asha"]
    expected, count = undisturbed(tmp_path, study)
    for number in range(1, count, 3):
        folder = fresh(tmp_path, study)
        assert live(folder, study, interrupt_after=number).status == "interrupted"
        assert live(folder, study).status == "completed"
        assert fingerprint(folder) == expected
        check_once(folder)


def test_a_trial_in_flight_goes_on_from_its_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "KEEP_EVERY", 0.0)
    ran: list[tuple[int, int]] = []

    def train(config: Hill, run: Run) -> Iterator[Report]:
        for report in climb(config, run):
            ran.append((run.trial, report.step))
            yield report

    study = hill(train, trials=3)
    expected, count = undisturbed(tmp_path, study)
    for number in range(1, count):
        folder = fresh(tmp_path, study)
        ran.clear()
        live(folder, study, kill_after=number)
        live(folder, study)
        again = [pair for pair in set(ran) if ran.count(pair) > 1]
        assert len(again) <= 1, f"killed after event {number}: {sorted(again)} ran again"
        assert fingerprint(folder) == expected


def test_checkpoints_of_ended_trials_do_not_fill_the_disk(tmp_path: Path) -> None:
    """The best ones are kept, however often the run was resumed."""
    study = hill(trials=40)
    folder = fresh(tmp_path, study)
    while live(folder, study, kill_after=31).status == "killed":
        assert len(list((folder.path / "checkpoints").iterdir())) <= 11
    kept = {p.name for p in (folder.path / "checkpoints").iterdir()}
    ranked = [f"trial-{leader.trial.number:04d}" for leader in replayed(folder).leaders(10)]
    assert set(ranked) <= kept
    assert len(kept) <= 10


# -- whatever the timing -----------------------------------------------------------------------------------------------


DETERMINISTIC = {
    "tpe": hill(search=TPE(startup=3), trials=12, values={"steps": 2}, deterministic=True),
    "tpe and asha": hill(
        search=TPE(startup=3),
        trials=14,
        values={"steps": 9},
        stop=ASHA(first=1, factor=3, last=9),
        deterministic=True,
    ),
    "repeats": hill(
        search=TPE(startup=2),
        repeats=3,
        confirm=1,
        trials=5,
        values={"steps": 9},
        stop=ASHA(first=1, factor=2, last=9),
        deterministic=True,
    ),
    "where": hill(where=lambda config: config.x < 0.5, search=TPE(startup=2), trials=8, deterministic=True),
    "target": hill(search=TPE(startup=3), trials=12, values={"steps": 4}, target=0.005, deterministic=True),
    "plateau": hill(search=TPE(startup=3), trials=12, values={"steps": 2}, plateau=4, deterministic=True),
}


@pytest.mark.parametrize("name", list(DETERMINISTIC))
def test_a_deterministic_study_does_not_depend_on_timing(name: str, tmp_path: Path) -> None:
    study = DETERMINISTIC[name]
    found = set()
    for seed in range(4):
        folder = fresh(tmp_path, study)
        assert live(folder, study, slots=4, window=4, stage=timed(seed)).status == "completed"
        check_once(folder)
        found.add(fingerprint(folder))
    assert len(found) == 1


@pytest.mark.parametrize("name", ["tpe and asha", "repeats", "target", "plateau"])
def test_a_deterministic_study_killed_anywhere_comes_to_the_same(name: str, tmp_path: Path) -> None:
    study = DETERMINISTIC[name]
    folder = fresh(tmp_path, study)
    live(folder, study, slots=4, window=4, stage=timed(0))
    expected, chance = fingerprint(folder), random.Random(2)
    for seed in range(6):
        folder, lives = fresh(tmp_path, study), 0
        while lives < 30:
            death = None if lives > 12 else chance.randint(2, 25)
            lives += 1
            if live(folder, study, slots=4, window=4, stage=timed(seed), kill_after=death).status != "killed":
                break
        assert fingerprint(folder) == expected
        check_once(folder)


def test_trials_of_many_slots_are_all_recorded_whatever_the_order(tmp_path: Path) -> None:
    study = hill(search=TPE(startup=3), trials=12)
    for seed in range(3):
        folder = fresh(tmp_path, study)
        lives = 0
        while live(folder, study, slots=4, stage=timed(seed), kill_after=11).status == "killed":
            lives += 1
            assert lives < 40
        history = replayed(folder)
        assert history.ended == {"completed": 12, "stopped": 0, "failed": 0}
        check_once(folder)


def test_a_search_is_rebuilt_by_the_same_talk_as_it_was_led_by(tmp_path: Path) -> None:
    spy = Spy(TPE(startup=3))
    study = hill(search=spy, trials=8, where=lambda config: config.x < 0.6)
    folder = fresh(tmp_path, study)
    live(folder, study, slots=3, stage=timed(1))
    led = spy.talks[-1]
    live(folder, study, slots=3)
    assert spy.talks[-1] == led


# -- workers that die --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep", [0.0, math.inf], ids=["states kept", "no state kept"])
@pytest.mark.parametrize("name", ["random", "asha", "repeats and confirm", "failing"])
def test_lost_workers_are_nobodys_failure(
    name: str, keep: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "KEEP_EVERY", keep)
    study = STUDIES[name]
    expected, _ = undisturbed(tmp_path, study)
    for seed in range(5):
        folder = fresh(tmp_path, study)
        life = live(folder, study, stage=lambda script, seed=seed: Lossy(script, seed, 3))
        assert life.status == "completed"
        assert fingerprint(folder) == expected
        check_once(folder)
        begun = [e for e in folder.events() if isinstance(e, Begun)]
        assert sum(e.why == "lost" for e in begun) == sum(isinstance(e, Fault) for e in folder.events())
        assert not any("not what was recorded" in line for line in life.said.lines)


def test_a_trial_that_kills_its_workers_fails_and_the_others_are_done(tmp_path: Path) -> None:
    study = hill(trials=4)
    folder = fresh(tmp_path, study)

    class Deadly(Lossy):
        def _strikes(self, said: Said) -> bool:
            return said.trial == 2 and said.reports != () and said.reports[0].step == 2

    live(folder, study, slots=2, stage=lambda script: Deadly(script, 0, 99))
    history = replayed(folder)
    assert [t.state for t in history.trials.values()] == ["completed", "completed", "failed", "completed"]
    assert history.trials[2].reason == (
        "its worker was lost 4 times without a new report in between; at last: worker 7 on here: killed"
    )
    check_once(folder)


def test_a_long_trial_outlives_any_number_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "KEEP_EVERY", 0.0)

    class Weak(Lossy):
        def _strikes(self, said: Said) -> bool:
            return said.reports != () and said.reports[0].step == 2 * said.attempt

    study = hill(trials=2, values={"steps": 12})
    expected, _ = undisturbed(tmp_path, study)
    folder = fresh(tmp_path, study)
    live(folder, study, stage=lambda script: Weak(script, 0, 99))
    assert fingerprint(folder) == expected
    assert sum(isinstance(e, Fault) for e in folder.events()) == 12


@pytest.mark.parametrize("seed", range(3))
def test_a_population_does_not_depend_on_workers_that_die(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = population()
    expected, _ = undisturbed(tmp_path, study, slots=4)
    folder = fresh(tmp_path, study)
    assert live(folder, study, slots=4, stage=lambda script: Lossy(script, seed, 3)).status == "completed"
    assert fingerprint(folder) == expected
    check_once(folder)
