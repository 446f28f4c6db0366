"""Does the one loop that acts lose nothing, whenever it is interrupted and whatever an objective does?"""

from __future__ import annotations

import math
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from bilevel import Inline, Report, Run, Space, Study, trees
from bilevel.drive import keeping, results
from bilevel.drive.driver import Driver
from bilevel.errors import NotReproduced, RecordDamaged
from bilevel.execute import opening
from bilevel.execute.inline import InlineStage
from bilevel.execute.trial_runner import Script
from bilevel.record import checkpoints
from bilevel.record import folder as folders
from bilevel.record.folder import RunFolder
from bilevel.record.journal import Journal
from bilevel.study import history as histories
from bilevel.study.events import Asked, Event, Interrupted, Kept, Reported, Started, Units
from support.tiny import Said, Walk, drift, walking


@dataclass(frozen=True, kw_only=True)
class Plain:
    """A configuration for objectives that need none."""

    n: int = 3


def study(objective: Any, **changes: Any) -> Study:
    return Study(name="one", objective=objective, minimize="loss", space=Space(Plain), **changes)


def driving(folder: RunFolder, of: Study, said: Said, **more: Any) -> Driver:
    script = Script(of.objective, of.space, of.key, of.metric, of.sign > 0)
    return Driver(of, folder, lambda: InlineStage(script, {}), lambda: opening.executor(Inline()), said, **more)


def drive(
    folder: RunFolder, of: Study, *, stop_after: int | None = None, first: Event | None = None, **more: Any
) -> tuple[str, Said]:
    """One driver's life; with `stop_after` it is interrupted once it has taken so many units' results."""
    said = Said()
    made = driving(folder, of, said, **more)
    taken = 0
    take = made._trials.answered

    def counting(*answer: Any) -> bool:
        nonlocal taken
        further = take(*answer)
        taken += 1
        if taken == stop_after:
            signal.raise_signal(signal.SIGTERM)
        return further

    made._trials.answered = counting  # type: ignore[method-assign]
    try:
        if first is not None:
            made.ledger.record(first)
            return "begun", said
        return made.drive(), said
    finally:
        made.ledger.close()


def fresh(store: Path, of: Study) -> RunFolder:
    folder = folders.create(store, of.name, {})
    drive(folder, of, first=Started(of.name, folder.run_id, of.metric, of.minimize is not None, of.seed))
    return folder


def summary(folder: RunFolder) -> tuple[str, list[Event]]:
    history = histories.replay(folder.events())
    return results.fingerprint(history), [event for event in folder.events() if isinstance(event, Reported)]


# -- interruptions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keep_every", [0.0, math.inf], ids=["kept at every step", "kept when leaving"])
def test_interrupted_at_every_step_it_ends_as_undisturbed(
    keep_every: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "KEEP_EVERY", keep_every)
    undisturbed = fresh(tmp_path, walking())
    assert drive(undisturbed, walking())[0] == "completed"
    for stop in range(1, 6):
        folder = fresh(tmp_path, walking())
        lives = [drive(folder, walking(), stop_after=stop)[0] for _ in range(3)]
        assert drive(folder, walking())[0] == "completed"
        assert summary(folder) == summary(undisturbed), stop
        assert sum(isinstance(event, Interrupted) for event in folder.events()) == lives.count("interrupted") > 0


def test_what_was_lost_after_the_last_checkpoint_is_computed_again_and_written_once(tmp_path: Path) -> None:
    """As after kill -9: reports in the journal, no checkpoint."""
    undisturbed = fresh(tmp_path, walking())
    drive(undisturbed, walking())
    folder = fresh(tmp_path, walking())
    events = [e for e in undisturbed.events() if isinstance(e, Asked | Reported)][:4]
    journal = Journal(folder.journal)
    for event in events:
        journal.append(event)
    journal.close()
    assert drive(folder, walking())[0] == "completed"
    assert summary(folder) == summary(undisturbed)


def test_a_recomputed_value_must_equal_the_recorded_one(tmp_path: Path) -> None:
    undisturbed = fresh(tmp_path, walking())
    drive(undisturbed, walking())
    folder = fresh(tmp_path, walking())
    asked, one, *_ = [e for e in undisturbed.events() if isinstance(e, Asked | Reported)]
    assert isinstance(one, Reported)
    journal = Journal(folder.journal)
    journal.append(asked)
    journal.append(Reported(0, 1, {"loss": one.metrics["loss"] + 1e-6}, one.units))
    journal.close()
    with pytest.raises(NotReproduced, match="trial 0, step 1: recomputed, it is not what was recorded"):
        drive(folder, walking())
    status, said = drive(folder, walking(), same_hardware=False)
    assert status == "completed"
    assert [line for line in said.lines if "hardware or libraries differ" in line]


def test_a_damaged_checkpoint_is_said_and_an_older_one_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "KEEP_EVERY", 0.0)
    undisturbed = fresh(tmp_path, walking())
    drive(undisturbed, walking())
    folder = fresh(tmp_path, walking())
    drive(folder, walking(), stop_after=4)
    kept = [event.step for event in folder.events() if isinstance(event, Kept)]
    assert len(kept) >= 2
    file = checkpoints.folder(folder.path, 0, kept[-1]) / "state.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(RecordDamaged):
        checkpoints.load(file.parent)
    status, said = drive(folder, walking())
    assert status == "completed"
    assert any("state.safetensors is not what was written" in line and "older" in line for line in said.lines)
    assert summary(folder) == summary(undisturbed)


def test_a_time_limit_stops_the_trial_and_ends_the_study(tmp_path: Path) -> None:
    def endless(config: Plain, run: Run) -> Iterator[Report]:
        step = 0
        while True:
            step += 1
            yield Report(step, {"loss": 1.0 / step}, {"learned": {"w": torch.tensor(float(step))}})

    folder = fresh(tmp_path, study(endless))
    status, _ = drive(folder, study(endless), seconds=0.05)
    trial = histories.replay(folder.events()).trials[0]
    assert (status, trial.state, trial.reason) == ("completed", "stopped", "time limit")
    assert trial.objective == pytest.approx(1.0 / trial.step)
    assert checkpoints.load(checkpoints.folder(folder.path, 0, trial.step))["learned"]["w"] == trial.step


# -- checkpoints -------------------------------------------------------------------------------------------------------


def test_the_last_state_is_kept_and_hashed(tmp_path: Path) -> None:
    folder = fresh(tmp_path, walking())
    drive(folder, walking())
    trial = histories.replay(folder.events()).trials[0]
    assert max(trial.kept) == 5
    state = checkpoints.load(checkpoints.folder(folder.path, 0, 5), trial.kept[5])
    assert trial.learned == trees.digest(state["learned"])


def test_checkpoints_are_pruned_as_they_come(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "KEEP_EVERY", 0.0)
    folder = fresh(tmp_path, walking(steps=40, units=1))
    drive(folder, walking(steps=40, units=1))
    left = list((folder.path / "checkpoints" / "trial-0000").iterdir())
    assert len(left) <= checkpoints.LAST + checkpoints.SPREAD + 1
    assert checkpoints.folder(folder.path, 0, 40) in left


# -- objectives --------------------------------------------------------------------------------------------------------


def ended(store: Path, objective: Any, **changes: Any) -> Any:
    folder = fresh(store, study(objective, **changes))
    drive(folder, study(objective, **changes))
    return histories.replay(folder.events()).trials[0], folder


def test_what_a_users_code_raises_ends_the_trial_with_reason_and_traceback(tmp_path: Path) -> None:
    def train(config: Plain, run: Run) -> Iterator[Report]:
        yield Report(1, {"loss": 1.0})
        raise KeyError("width")

    trial, folder = ended(tmp_path, train)
    assert (trial.state, trial.step, trial.reason) == ("failed", 1, "KeyError: 'width'")
    assert "in train" in (folder.path / "errors" / "trial-0000.txt").read_text()


def test_a_function_that_calls_back_is_an_objective_too(tmp_path: Path) -> None:
    def train(config: Plain, run: Run) -> None:
        for step in range(1, config.n + 1):
            assert run.report(step, {"loss": 1.0 / step}, {"learned": {"w": torch.tensor(step)}}) is False

    trial, folder = ended(tmp_path, train)
    assert (trial.state, trial.step, trial.objective) == ("completed", 3, pytest.approx(1 / 3))
    assert checkpoints.load(checkpoints.folder(folder.path, 0, 3))["learned"]["w"] == 3


def test_a_callback_is_told_to_stop_and_never_sees_an_exception(tmp_path: Path) -> None:
    told: list[bool] = []

    def train(config: Plain, run: Run) -> None:
        step = 0
        while not told or not told[-1]:
            step += 1
            told.append(run.report(step, {"loss": 1.0}))
        told.append(run.report(step + 1, {"loss": 0.0}))  # once more than asked for: the answer stays the same

    folder = fresh(tmp_path, study(train))
    status, _ = drive(folder, study(train), seconds=0.05)
    assert status == "completed"
    assert histories.replay(folder.events()).trials[0].state == "stopped"
    for thread in threading.enumerate():
        if thread.name == "trial-0":
            thread.join(5.0)
    assert told[-2:] == [True, True]
    assert not any(told[:-2])


def test_what_a_callback_raises_is_the_trials_end(tmp_path: Path) -> None:
    def train(config: Plain, run: Run) -> None:
        run.report(1, {"loss": 1.0})
        raise ValueError("no data")

    trial, _ = ended(tmp_path, train)
    assert (trial.state, trial.reason) == ("failed", "ValueError: no data")


def silent(config: Plain, run: Run) -> Iterator[Report]:
    yield Report(1, {"acc": 1.0})


def backwards(config: Plain, run: Run) -> Iterator[Report]:
    yield Report(2, {"loss": 1.0})
    yield Report(2, {"loss": 0.5})


def dict_for_report(config: Plain, run: Run) -> Iterator[Any]:
    yield {"loss": 1.0}


def text_for_number(config: Plain, run: Run) -> Iterator[Report]:
    yield Report(1, {"loss": "low"})  # type: ignore[dict-item]


def not_finite(config: Plain, run: Run) -> Iterator[Report]:
    yield Report(1, {"loss": 1.0})
    yield Report(2, {"loss": math.nan})


def fails_in_unit(config: Plain, run: Run) -> Iterator[Report | Units]:
    yield Units(divide, {"x": torch.tensor(1.0)}, (1, 0))
    yield Report(1, {"loss": 1.0})


def divide(shared: dict[str, Any], item: int) -> dict[str, Any]:
    return {"x": shared["x"] * (1 // item)}


def nothing(config: Plain, run: Run) -> Iterator[Report]:
    yield from ()


@pytest.mark.parametrize(
    ("objective", "reason"),
    [
        (silent, "never reported 'loss'; it reported acc"),
        (nothing, "never reported 'loss'; it reported nothing"),
        (backwards, "step 2 reported after step 2; steps are whole numbers that grow"),
        (dict_for_report, "yielded a dict; it takes Report(...) or Units(...)"),
        (text_for_number, "step 1: metric 'loss' is a str; it takes a number"),
        (not_finite, "step 2: loss is nan"),
        (fails_in_unit, "unit (0): ZeroDivisionError: integer division or modulo by zero"),
    ],
)
def test_what_an_objective_does_wrong_is_its_trials_reason(objective: Any, reason: str, tmp_path: Path) -> None:
    trial, _ = ended(tmp_path, objective)
    assert (trial.state, trial.objective, trial.reason) == ("failed", None, reason)


def test_one_failed_trial_does_not_end_the_others(tmp_path: Path) -> None:
    def train(config: Plain, run: Run) -> Iterator[Report]:
        if run.trial == 1:
            raise RuntimeError("this one")
        yield Report(1, {"loss": float(run.trial)})

    folder = fresh(tmp_path, study(train, trials=3))
    status, said = drive(folder, study(train, trials=3))
    trials = histories.replay(folder.events()).trials
    assert status == "completed"
    assert [trials[n].state for n in range(3)] == ["completed", "failed", "completed"]
    assert said.lines == ["trial 1 failed: RuntimeError: this one"]


def test_what_is_dear_is_built_once(tmp_path: Path) -> None:
    built: list[int] = []

    def train(config: Plain, run: Run) -> Iterator[Report]:
        yield Report(1, {"loss": float(run.cache("data", lambda: built.append(run.trial) or 3))})

    folder = fresh(tmp_path, study(train, trials=3))
    drive(folder, study(train, trials=3))
    assert built == [0]


def test_units_without_items_are_answered_at_once(tmp_path: Path) -> None:
    def train(config: Plain, run: Run) -> Iterator[Any]:
        results = yield Units(drift, {}, ())
        yield Report(1, {"loss": float(len(results))})

    trial, _ = ended(tmp_path, train)
    assert trial.objective == 0.0


def test_slots_run_trials_side_by_side_with_the_same_result(tmp_path: Path) -> None:
    one, two = (fresh(tmp_path, Study(**{**vars(walking()), "trials": 3})) for _ in range(2))
    for folder, slots in ((one, 1), (two, 3)):
        made = driving(folder, Study(**{**vars(walking()), "trials": 3}), Said())
        try:
            assert made.drive(slots) == "completed"
        finally:
            made.ledger.close()
    assert summary(one)[0] == summary(two)[0]
    assert Walk().steps == 5


def from_zero(config: Plain, run: Run) -> Iterator[Report]:
    for step in range(config.n):
        yield Report(step, {"loss": float(step)})


@pytest.mark.parametrize("reports", [0, 1, 2])
def test_a_first_step_may_be_0(reports: int, tmp_path: Path) -> None:
    undisturbed = fresh(tmp_path, study(from_zero))
    assert drive(undisturbed, study(from_zero))[0] == "completed"
    events = [e for e in undisturbed.events() if isinstance(e, Asked | Reported)]
    assert [e.step for e in events if isinstance(e, Reported)] == [0, 1, 2]
    folder = fresh(tmp_path, study(from_zero))
    journal = Journal(folder.journal)
    for event in events[: 1 + reports]:
        journal.append(event)
    journal.close()
    status, said = drive(folder, study(from_zero))
    assert (status, said.lines) == ("completed", [])
    assert summary(folder) == summary(undisturbed)
