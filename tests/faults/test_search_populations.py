"""Do members of a population, and searched meta-trainings, come to the same whatever happens to them?"""

from __future__ import annotations

import dataclasses
import os
import random
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest

from bilevel import (
    ASHA,
    PBT,
    Grid,
    Inline,
    Log,
    OneOf,
    Report,
    Run,
    Space,
    Study,
    Uniform,
    figures,
    run,
)
from bilevel.drive import results
from bilevel.record import checkpoints
from bilevel.study.events import Moved, Reported, Turned
from support.stages import timed
from support.tiny import maml
from support.trying import (
    Hill,
    check_once,
    count_events,
    drifting,
    fingerprint,
    fresh,
    live,
    population,
    searched,
    undisturbed,
)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drivers die here, power stays; a fsync takes longer than a trial."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


# -- populations -------------------------------------------------------------------------------------------------------


def test_members_exchange_at_every_turn_and_go_on_from_the_donors_checkpoint(tmp_path: Path) -> None:
    study = population()
    folder, history = searched(tmp_path, study, slots=4)
    assert history.ended == {"completed": 4, "stopped": 0, "failed": 0}
    events = list(folder.events())
    assert [e.turn for e in events if isinstance(e, Turned)] == [0, 1, 2]
    moves = [e for e in events if isinstance(e, Moved)]
    assert [m.step for m in moves] == [2, 4, 6]
    for number, trial in history.trials.items():
        (step, manifest) = max(trial.kept.items())
        state = checkpoints.load(checkpoints.folder(folder.path, number, step), manifest)
        assert step == 8
        assert float(state["w"]) == pytest.approx(10.0 - sum(rate for _, rate in state["line"]), abs=1e-5)
        own = [m for m in moves if m.trial == number]
        if own:
            last = own[-1]
            assert [who for who, _ in state["line"]][last.step - 1] != number  # the weights are the donor's
            assert {rate for _, rate in state["line"][last.step :]} == {last.point["x"]}
            assert trial.config["x"] == last.point["x"] == trial.point["x"]
    check_once(folder)


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_a_population_does_not_depend_on_slots_or_timing(slots: int, tmp_path: Path) -> None:
    study = population()
    expected = fingerprint(searched(tmp_path, study, slots=4)[0])
    for seed in range(3):
        folder = fresh(tmp_path, study)
        assert live(folder, study, slots=slots, stage=timed(seed)).status == "completed"
        assert fingerprint(folder) == expected


@pytest.mark.parametrize("lose", [False, True], ids=["all on disk", "the last of it lost"])
def test_a_population_killed_after_any_event_ends_as_undisturbed(lose: bool, tmp_path: Path) -> None:
    study = population(members=3, steps=4)
    expected, count = undisturbed(tmp_path, study, slots=3)
    for number in range(1, count + 1):
        folder = fresh(tmp_path, study)
        assert live(folder, study, slots=3, kill_after=number, lose=lose).status == "killed"
        assert live(folder, study, slots=3).status == "completed"
        assert fingerprint(folder) == expected, f"killed after event {number} of {count}"
        check_once(folder)


def test_a_population_interrupted_again_and_again_ends_as_undisturbed(tmp_path: Path) -> None:
    study = population()
    expected, count = undisturbed(tmp_path, study, slots=4)
    chance = random.Random(4)
    for _ in range(4):
        folder, lives = fresh(tmp_path, study), 0
        while live(folder, study, slots=4, kill_after=chance.randint(5, 20), stage=timed(lives)).status == "killed":
            lives += 1
            assert lives < count
        assert fingerprint(folder) == expected
        check_once(folder)


def diverging(config: Hill, run: Run) -> Iterator[Report]:
    """Trial 0 raises in every turn that it begins with weights of its own, trial 2 once it has done three steps."""
    for report in drifting(config, run):
        assert report.state is not None
        own = all(who == run.trial for who, _ in report.state["line"])
        if own and ((run.trial == 0 and report.step == 1) or (run.trial == 2 and report.step == 3)):
            raise FloatingPointError("diverged")
        yield report


def test_a_member_that_diverges_goes_on_from_another(tmp_path: Path) -> None:
    study = dataclasses.replace(population(), objective=diverging)
    folder, history = searched(tmp_path, study, slots=4)
    assert history.ended == {"completed": 4, "stopped": 0, "failed": 0}
    moves = {e.trial: e for e in reversed([e for e in folder.events() if isinstance(e, Moved)])}
    assert {0, 2} <= set(moves)
    assert moves[0].step == 2
    expected, count = fingerprint(folder), count_events(folder)
    assert {fingerprint(searched(tmp_path, study, slots=slots)[0]) for slots in (1, 2, 3)} == {expected}
    for number in range(1, count, 4):
        folder = fresh(tmp_path, study)
        live(folder, study, slots=4, kill_after=number)
        assert live(folder, study, slots=4).status == "completed"
        assert fingerprint(folder) == expected, f"killed after event {number} of {count}"
        check_once(folder)


def test_a_member_that_moves_at_its_very_end_counts_as_what_it_was(tmp_path: Path) -> None:
    """Who does not say in its configuration how long a trial is is asked to move after the last step, too."""

    def train(config: dict[str, float], run: Run) -> Iterator[Report]:
        state = run.state or {"done": 0, "w": 10.0}
        for step in range(state["done"] + 1, 9):
            state = {"done": step, "w": state["w"] - config["x"]}
            yield Report(step, {"loss": state["w"]}, state)

    search = PBT(members=4, every=4, resample=0.0)
    study = Study(name="short", objective=train, minimize="loss", space=Space(dict, x=Uniform(0.0, 1.0)), search=search)
    folder, history = searched(tmp_path, study, slots=4)
    last = {event.trial: event for event in folder.events() if isinstance(event, Moved) and event.step == 8}
    assert len(last) == 1
    assert history.ended == {"completed": 4, "stopped": 0, "failed": 0}
    own = {event.trial: event.metrics["loss"] for event in folder.events() if isinstance(event, Reported)}
    assert {trial.number: trial.objective for trial in history.trials.values()} == own
    for number, event in last.items():
        trial, track = history.trials[number], results.search(folder).tracks[number]
        assert trial.point != event.point, "its values are those that it had trained with"
        assert [move.step for move in track.moves] == [e.step for e in folder.events() if e in track.moves]
        assert all(move.step < 8 for move in track.moves)
        assert track.curve[-1].tolist() == [8, own[number]]
    assert set(results.search(folder).history.trials) == {t.number for t in results.search(folder).valued()}
    expected, count = fingerprint(folder), count_events(folder)
    for number in range(count - 12, count):
        again = fresh(tmp_path, study)
        live(again, study, slots=4, kill_after=number)
        assert live(again, study, slots=4).status == "completed"
        assert fingerprint(again) == expected, f"killed after event {number} of {count}"


def test_a_population_without_states_is_told_what_it_lacks(tmp_path: Path) -> None:
    def stateless(config: Hill, run: Run) -> Iterator[Report]:
        for step in range(1, config.steps + 1):
            yield Report(step, {"loss": config.x})

    _, history = searched(tmp_path, dataclasses.replace(population(), objective=stateless), slots=4)
    assert history.ended["failed"] == 4
    assert "Report(step, metrics, state=...)" in (history.trials[0].reason or "")


def test_a_population_of_meta_trainings_interrupted_anywhere_ends_as_undisturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = maml().set("rule.init.by.lr", Log(1e-3, 1e-1))
    study = dataclasses.replace(study, search=PBT(members=3, every=2), minimize="train/loss")
    expected, count = undisturbed(tmp_path, study, slots=3)
    for number in range(1, count + 1, 4):
        folder = fresh(tmp_path, study)
        live(folder, study, slots=3, kill_after=number)
        assert live(folder, study, slots=3).status == "completed"
        assert fingerprint(folder) == expected, f"killed after event {number} of {count}"
        check_once(folder)


# -- meta-training, searched -------------------------------------------------------------------------------------------


def test_a_searched_rate_is_the_rate_that_each_trial_learns_with(tmp_path: Path) -> None:
    """The first trial too, for which a plan is made before anything starts."""
    rates = (1e-3, 1e-2, 1e-1)
    study = maml().set("rule.init.by.lr", OneOf(*rates))
    study = dataclasses.replace(study, search=Grid())
    with mock.patch.object(figures, "draw", return_value={}):
        result = run(study, on=Inline(), store=tmp_path, track="none")
        one = run(maml().set("rule.init.by.lr", rates[0]), on=Inline(), store=tmp_path, track="none")
    table = result.trials
    assert list(table["config.rule.init.by.lr"]) == list(rates)
    assert table["objective"][0] == one.trials["objective"][0]
    assert len(set(table["objective"])) == 3


def test_searched_meta_training_with_halving_killed_anywhere_ends_as_undisturbed(tmp_path: Path) -> None:
    study = maml().set("rule.init.by.lr", OneOf(1e-2, 1e-5, 1e-6))
    study = dataclasses.replace(study, search=Grid(), minimize="train/loss", stop=ASHA(first=2, factor=3, last=4))
    folder, history = searched(tmp_path, study)
    assert "stopped" in {t.state for t in history.trials.values()}
    expected, count = fingerprint(folder), count_events(folder)
    for number in range(1, count + 1, 2):
        folder = fresh(tmp_path, study)
        live(folder, study, kill_after=number)
        assert live(folder, study).status == "completed"
        assert fingerprint(folder) == expected, f"killed after event {number} of {count}"
        check_once(folder)
