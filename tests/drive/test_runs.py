"""Does a run from Python give its result, again when resumed, and the same whatever befell it?"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from bilevel import (
    Grid,
    Inline,
    OneOf,
    Report,
    Result,
    Run,
    Space,
    Study,
    figures,
    resume,
    run,
    trees,
)
from bilevel.drive import keeping, progress, results, runs, session
from bilevel.drive.progress import Progress
from bilevel.errors import BadInput, RunLocked, StudyChanged
from bilevel.record import checkpoints
from bilevel.record.folder import RunFolder
from bilevel.study import history as histories
from support.tiny import Said, finished, maml, walking

STEPS = 5


class Interrupting(Said):
    """Sends this process an interrupt at the n-th look."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at = at

    def progress(self, progress: Progress) -> None:
        super().progress(progress)
        if len(self.seen) == self.at:
            os.kill(os.getpid(), signal.SIGINT)


def resumed(folder: Path, study: Study, **more: Any) -> Result:
    with mock.patch.object(figures, "draw", return_value={}):
        return resume(str(folder), study=study, on=Inline(), track="none", **more)


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of a walk that was interrupted with checkpoints of several steps."""
    monkeypatch.setattr(keeping, "KEEP_EVERY", 0.0)
    monkeypatch.setattr(progress, "LOOK_EVERY", 0.0)
    result = run(walking(), on=Inline(), store=tmp_path, track="none", watch=Interrupting(14))
    assert result.status == "interrupted"
    return result.folder


def test_a_results_tables_hold_all_that_trials_said(tmp_path: Path) -> None:
    result = finished(tmp_path, maml())
    row = result.trials.iloc[0]
    assert (row["trial"], row["state"], row["step"], row["of"], row["reason"]) == (0, "completed", 4, None, None)
    assert row["metrics.valid/loss"] == result.metrics["valid/loss"]
    assert row["config.rule.steps"] == 1
    assert 0 < row["seconds"] < 600
    table = result.reports
    assert list(table["step"]) == [1, 2, 3, 4]
    assert set(table["trial"]) == {0}
    assert table["metrics.valid/loss"].iloc[-1] == result.metrics["valid/loss"]
    assert list(table["metrics.valid/loss"].notna()) == [False, True, False, True]


def test_a_trial_is_told_its_device_and_a_missing_card_is_said(tmp_path: Path) -> None:
    def train(config: dict[str, float], run: Run) -> dict[str, float]:
        assert run.device == ("cuda" if torch.cuda.is_available() else "cpu")
        return {"loss": config["x"]}

    said = Said()
    study = Study(name="card", objective=train, minimize="loss", space=Space(dict, x=1.0), gpus=1)
    with mock.patch.object(figures, "draw", return_value={}):
        result = run(study, on=Inline(), store=tmp_path, track="none", watch=said)
    assert result.status == "completed"
    assert any("gpus=1: torch finds no GPU here" in line for line in said.lines) is not torch.cuda.is_available()


def test_a_result_gives_the_best_trials_state_and_any_others(tmp_path: Path) -> None:
    result = finished(tmp_path, dataclasses.replace(walking(steps=OneOf(2, 3, 4)), search=Grid()))
    best = int(result.best["trial"])  # type: ignore[index]
    assert trees.digest(result.state()) == trees.digest(result.state(best))
    for number, steps in zip(result.trials["trial"], result.trials["config.steps"], strict=True):
        assert result.state(number)["step"] == steps
        assert set(result.state(number)) == {"step", "learned"}
    with pytest.raises(BadInput, match="no trial 9"):
        result.state(9)
    shutil.rmtree(result.folder / "checkpoints")
    with pytest.raises(BadInput, match="trial 1 has no state; its checkpoints are deleted"):
        result.state(1)


# -- results -----------------------------------------------------------------------------------------------------------


def test_a_result_holds_what_a_run_prints(tmp_path: Path) -> None:
    result = run(maml(), on=Inline(), store=tmp_path, track="none", watch=Said())  # with its figures, this once
    assert result.status == "completed"
    assert result.folder == tmp_path / result.run_id
    assert result.best is not None
    assert (result.best["trial"], result.best["objective"]) == (0, result.metrics["valid/loss"])
    assert result.best["config"]["rule.init"] == "mlp"
    assert set(result.document) == {
        *("run_id", "study", "status", "trials", "best", "metrics", "episodes", "fingerprint", "seconds"),
        "episodes_per_second",
    }
    assert json.loads(json.dumps(result.document, allow_nan=False)) == result.document
    assert result.document["trials"] == {"completed": 1, "stopped": 0, "failed": 0}
    assert len(result.fingerprint) == 64
    assert {p.name for p in result.folder.iterdir()} >= {
        "study.json",
        "journal.jsonl",
        "checkpoints",
        "model",
        "figures",
    }
    assert list((result.folder / "figures").glob("*.png"))
    assert not list(tmp_path.glob("*.db"))


def test_the_table_of_trials(tmp_path: Path) -> None:
    table = finished(tmp_path, dataclasses.replace(walking(), trials=3)).trials
    assert list(table["trial"]) == [0, 1, 2]
    assert list(table["state"]) == ["completed"] * 3
    assert list(table["config.steps"]) == [STEPS] * 3
    assert table["objective"].notna().all()


def test_seeds_decide_the_result_and_nothing_else_does(tmp_path: Path) -> None:
    first, again = finished(tmp_path), finished(tmp_path / "elsewhere")
    assert again.fingerprint == first.fingerprint
    assert again.metrics == first.metrics
    assert finished(tmp_path, dataclasses.replace(maml(), seed=8)).fingerprint != first.fingerprint


def test_a_metric_that_is_not_finite_is_null_in_the_result(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Empty:
        pass

    def train(config: Empty, run: Run) -> Iterator[Report]:
        yield Report(1, {"loss": 1.0, "other": float("inf")})

    result = finished(tmp_path, Study(name="inf", objective=train, minimize="loss", space=Space(Empty)))
    assert result.metrics == {"loss": 1.0, "other": None}


def test_nothing_is_begun_by_a_study_that_cannot_work(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with pytest.raises(BadInput, match="steps is 0"):
        finished(store, maml(steps=0))
    with pytest.raises(BadInput, match="gopher"):
        run(walking(), on=Inline(), store=store, track="gopher://x")
    assert not store.exists()


def test_a_store_that_cannot_be_written_is_bad_input(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="the store cannot be written"):
        finished(tmp_path / "file", walking())


# -- resuming ----------------------------------------------------------------------------------------------------------


def test_an_interrupted_run_goes_on_to_the_result_of_an_undisturbed_one(interrupted: Path, tmp_path: Path) -> None:
    went_on = resumed(interrupted, walking())
    undisturbed = finished(tmp_path / "other", walking())
    assert (went_on.status, went_on.folder) == ("completed", interrupted)
    assert went_on.fingerprint == undisturbed.fingerprint
    assert went_on.metrics == undisturbed.metrics


def test_an_interrupted_meta_training_goes_on_to_the_same_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "LOOK_EVERY", 0.0)
    undisturbed = finished(tmp_path / "other")
    for at in (4, 9, 14):
        half = finished(tmp_path, watch=Interrupting(at))
        assert half.status == "interrupted"
        assert resumed(half.folder, maml()).fingerprint == undisturbed.fingerprint


def test_resuming_a_finished_run_gives_its_result_again_and_writes_nothing(tmp_path: Path) -> None:
    first = finished(tmp_path, walking())
    before = (first.folder / "journal.jsonl").read_bytes()
    again = resumed(first.folder, walking())
    assert again.document == first.document
    assert (first.folder / "journal.jsonl").read_bytes() == before


def test_a_changed_study_is_refused_until_it_is_taken_on_purpose(interrupted: Path) -> None:
    with pytest.raises(StudyChanged, match="not the one that the run began with: units differ"):
        resumed(interrupted, walking(units=1))
    assert resumed(interrupted, walking()).status == "completed"


def test_without_a_file_the_study_must_be_given(interrupted: Path) -> None:
    with pytest.raises(BadInput, match=r"not from a file, so give the study: in Python, by study=\.\.\."):
        resume(str(interrupted), on=Inline(), track="none")


@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone"])
def test_a_damaged_newest_checkpoint_is_said_and_costs_nothing_but_time(
    damage: str, interrupted: Path, tmp_path: Path
) -> None:
    kept = histories.replay(RunFolder(interrupted).events()).trials[0].kept
    assert len(kept) >= 2
    file = checkpoints.folder(interrupted, 0, max(kept)) / "state.safetensors"
    data = file.read_bytes()
    if damage == "gone":
        file.unlink()
    else:
        file.write_bytes(data[: len(data) // 2] if damage == "truncated" else data[:-1] + bytes([data[-1] ^ 4]))
    watch = Said()
    went_on = resumed(interrupted, walking(), watch=watch)
    assert any("an older checkpoint is used" in line and "state.safetensors" in line for line in watch.lines)
    assert went_on.fingerprint == finished(tmp_path / "other", walking()).fingerprint


def test_a_second_driver_is_refused(interrupted: Path) -> None:
    with RunFolder(interrupted).locked(), pytest.raises(RunLocked, match="another driver"):
        resumed(interrupted, walking())


def test_a_change_of_hardware_is_said(interrupted: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "hardware", lambda: "abacus")
    watch = Said()
    resumed(interrupted, walking(), watch=watch)
    assert any("going on with abacus" in line for line in watch.lines)


def test_a_full_disk_stops_the_run_and_it_can_be_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, state: Any) -> str:
        raise checkpoints.StoreFailed("no space left on device; free space, then resume")

    watch = Said()
    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "save", full)
        half = finished(tmp_path, walking(), watch=watch)
    assert half.status == "interrupted"
    assert any("can be resumed: bilevel resume" in line for line in watch.lines)
    assert resumed(half.folder, walking()).fingerprint == finished(tmp_path, walking()).fingerprint


def test_the_fingerprint_is_that_of_the_learned_tensors_and_the_table(tmp_path: Path) -> None:
    result = finished(tmp_path, walking())
    history = histories.replay(RunFolder(result.folder).events())
    trial = history.trials[0]
    for name, value in (("learned", "f" * 64), ("objective", 0.0), ("state", "stopped"), ("config", {"steps": 1})):
        changed = dataclasses.replace(history, trials={0: dataclasses.replace(trial, **{name: value})})
        assert results.fingerprint(changed) != result.fingerprint, name
    slower = dataclasses.replace(history, trials={0: dataclasses.replace(trial, kept={}, seed=0)})
    assert results.fingerprint(slower) == result.fingerprint
    assert torch.get_num_threads() == 1


def test_a_run_begun_before_its_objective_was_recorded_goes_on_with_the_last_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = session.Session._started
    monkeypatch.setattr(
        session.Session, "_started", lambda self, window: dataclasses.replace(begun(self, window), value="")
    )
    watch = Said()
    before = runs._as_begun(RunFolder(finished(tmp_path, maml()).folder), maml(), watch)
    assert (before.value, before.counts) == ("last", "last")
    assert "goes on so; in new runs it is the best one" in watch.lines[0]
    monkeypatch.undo()
    now = runs._as_begun(RunFolder(finished(tmp_path, maml()).folder), maml(), watch)
    assert (now.value, now.counts, len(watch.lines)) == (None, "best", 1)


def test_a_field_that_came_with_a_later_version_changes_no_study(tmp_path: Path) -> None:
    """As `Grouped(missing=None)`; one that says something is a change."""
    folder = RunFolder(finished(tmp_path, maml(), seconds=-1.0).folder)
    document = folder.document()
    config = document["settings"]["config"]
    assert config.pop("test_steps") is None
    folder.change(document)
    runs.reload(folder, maml())
    with pytest.raises(StudyChanged, match="test_steps differ"):
        runs.reload(folder, maml(test_steps=3))
