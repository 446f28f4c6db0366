"""What may an objective report, return, print and keep, and what of it fails its trial alone?"""

from __future__ import annotations

import functools
import math
import os
import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bilevel import (
    TPE,
    Report,
    Run,
)
from bilevel.drive import keeping
from support.spying import Spy
from support.trying import (
    Hill,
    climb,
    fingerprint,
    fresh,
    hill,
    live,
    nan_at_last,
    searched,
    undisturbed,
)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drivers die here, power stays; a fsync takes longer than a trial."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


# -- what an objective may do ------------------------------------------------------------------------------------------


def test_an_objective_may_return_a_number_or_metrics(tmp_path: Path) -> None:
    answers = {0: 1.5, 1: {"loss": 2.5, "size": 3}, 2: np.float32(0.5), 3: torch.tensor(0.25), 4: "bad"}

    def train(config: Hill, run: Run) -> Any:
        return answers[run.trial]

    _, history = searched(tmp_path, hill(train))
    assert [t.objective for t in history.trials.values()] == [1.5, 2.5, 0.5, 0.25, None]
    assert history.trials[1].metrics == {"loss": 2.5, "size": 3.0}
    assert history.trials[4].reason == "TypeError: the objective returned a str; it takes a number or metrics by name"


class Trainer:
    """An objective that is an object."""

    def __init__(self, shift: float) -> None:
        self.shift = shift

    def __call__(self, config: Hill, run: Run) -> Iterator[Report]:
        for step in (1, 2):
            yield Report(step, {"loss": config.x + self.shift})


def test_an_objective_may_be_an_object_or_part_of_one(tmp_path: Path) -> None:
    for objective in (Trainer(1.0), Trainer(1.0).__call__, functools.partial(Trainer.__call__, Trainer(1.0))):
        _, history = searched(tmp_path, hill(objective, trials=1))
        trial = history.trials[0]
        assert (trial.step, trial.objective) == (2, trial.config["x"] + 1.0)
    _, history = searched(tmp_path, hill(lambda config, run: climb(config, run), trials=1))
    assert history.trials[0].reason is not None
    assert "write `yield from` instead of `return`" in history.trials[0].reason


def test_a_returned_result_comes_after_the_reported_steps(tmp_path: Path) -> None:
    def train(config: Hill, run: Run) -> float:
        for step in (1, 2):
            run.report(step, {"loss": 9.0})
        return config.x

    _, history = searched(tmp_path, hill(train, trials=1))
    assert (history.trials[0].step, history.trials[0].objective) == (3, history.trials[0].config["x"])


def test_what_a_trial_prints_goes_to_its_log_and_nowhere_else(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def train(config: Hill, run: Run) -> Iterator[Report]:
        print(f"trial {run.trial} begins")  # noqa: T201
        yield Report(1, {"loss": config.x})
        sys.stderr.write("and ends\n")

    folder, _ = searched(tmp_path, hill(train, trials=2), slots=2)
    logs = folder.path / "logs"
    assert {p.name: p.read_text() for p in logs.iterdir()} == {
        "trial-0000.txt": "trial 0 begins\nand ends\n",
        "trial-0001.txt": "trial 1 begins\nand ends\n",
    }
    assert capfd.readouterr() == ("", "")


def test_a_value_that_is_not_finite_fails_its_trial_and_never_reaches_the_search(tmp_path: Path) -> None:
    spy = Spy(TPE(startup=1))
    folder, history = searched(tmp_path, hill(nan_at_last, search=spy, trials=4))
    assert history.trials[1].state == "failed"
    assert history.trials[1].reason == "step 2: loss is nan"
    assert spy.told[1].values is None
    assert all(math.isfinite(v) for told in spy.told.values() for v in told.values or ())
    assert fingerprint(folder)  # NaN in the journal is read again


def many(config: Hill, run: Run) -> Iterator[Report]:
    yield Report(1, {"loss": torch.ones(3)})  # type: ignore[dict-item]


def no_mapping(config: Hill, run: Run) -> Iterator[Report]:
    yield Report(1, 0.5)  # type: ignore[arg-type]


def nameless(config: Hill, run: Run) -> Iterator[Report]:
    yield Report(1, {1: 0.5})  # type: ignore[dict-item]


def odd_state(config: Hill, run: Run) -> Iterator[Report]:
    yield Report(1, {"loss": 0.5}, {"model": {"net": object()}})


def deep_exit(config: Hill, run: Run) -> Iterator[Report]:
    yield Report(1, {"loss": 0.5})
    sys.exit(3)


@pytest.mark.parametrize(
    ("objective", "reason"),
    [
        (many, "step 1: metric 'loss' is a Tensor; it takes a number"),
        (no_mapping, "step 1: metrics are a float; they take numbers by name"),
        (nameless, "step 1: metric 1 is named by a int; names are text"),
        (
            odd_state,
            "step 1: state cannot be kept: model.net is a object; it takes tensors, numpy arrays, numbers, words, lists"
            " and dicts",
        ),
        (deep_exit, "SystemExit: 3"),
    ],
)
def test_what_an_objective_does_wrong_fails_its_trials_and_not_the_run(
    objective: Any, reason: str, tmp_path: Path
) -> None:
    _, history = searched(tmp_path, hill(objective, trials=2))
    assert [t.state for t in history.trials.values()] == ["failed", "failed"]
    assert history.trials[0].reason == reason


def test_a_state_comes_back_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An optimizer's is what everybody puts into it: keys that are whole numbers, tuples, numpy arrays."""
    monkeypatch.setattr(keeping, "KEEP_EVERY", 0.0)
    seen: list[Any] = []

    def train(config: Hill, run: Run) -> Iterator[Report]:
        model = torch.nn.Linear(2, 1)
        adam = torch.optim.Adam(model.parameters(), lr=config.x)
        model(torch.ones(2)).backward()
        adam.step()
        if run.state is not None:
            seen.append(run.state)
            adam.load_state_dict(run.state["adam"])
            assert adam.state_dict()["state"].keys() == {0, 1}
            assert torch.equal(adam.state_dict()["state"][0]["exp_avg"], run.state["adam"]["state"][0]["exp_avg"])
        state = {"adam": adam.state_dict(), "array": np.arange(3.0), "none": None, "text": "a"}
        yield Report(1 if run.state is None else 2, {"loss": 0.5}, state)
        if run.state is None:
            raise RuntimeError("again")

    _, history = searched(tmp_path, hill(train, trials=1, retries=1))
    assert history.trials[0].state == "completed", history.trials[0].reason
    (state,) = seen
    assert state["none"] is None
    assert state["text"] == "a"
    assert np.asarray(state["array"]).tolist() == [0.0, 1.0, 2.0]


def drawn() -> dict[str, float]:
    return {"loss": random.random() + float(np.random.rand()) + float(torch.rand(()))}


def drawing(config: Hill, run: Run) -> Iterator[Report]:
    for step in range(1, 4):
        yield Report(step, drawn())


def drawing_back(config: Hill, run: Run) -> None:
    for step in range(1, 4):
        run.report(step, drawn())


def test_code_that_uses_global_generators_gives_the_same_numbers_in_any_slot(tmp_path: Path) -> None:
    found = {
        fingerprint(searched(tmp_path, hill(objective), slots=slots)[0])
        for slots in (1, 2, 5)
        for objective in (drawing, drawing_back)
    }
    assert len(found) == 1


def drawing_on(config: Hill, run: Run) -> Iterator[Report]:
    """Its numbers go on from where they were, not from the beginning."""
    for step in range(1 if run.state is None else run.state["done"] + 1, 5):
        yield Report(step, drawn(), {"done": step})


def test_code_that_uses_global_generators_goes_on_with_them_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "KEEP_EVERY", 0.0)
    study = hill(drawing_on, trials=2)
    expected, count = undisturbed(tmp_path, study)
    for number in range(1, count + 1, 2):
        folder = fresh(tmp_path, study)
        live(folder, study, kill_after=number)
        live(folder, study)
        assert fingerprint(folder) == expected
