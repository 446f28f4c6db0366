"""Is a trial the same wherever and in however many pieces it runs?"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bilevel import Report, Run, Space, trees
from bilevel.episodes import Key
from bilevel.events import Completed, Order, Raised
from bilevel.execute.host import RANDOM, Hosted, Script
from bilevel.record import checkpoints


@dataclass(frozen=True, kw_only=True)
class Plain:
    """A configuration for objectives that need little."""

    steps: int = 6


def noisy(config: Plain, run: Run) -> Iterator[Report]:
    """A sum of draws from every global generator."""
    state = run.state or {"step": 0, "sum": 0.0}
    for step in range(state["step"] + 1, config.steps + 1):
        drawn = random.random() + np.random.rand() + random.gauss(0, 1) + float(torch.rand(()))
        state = {"step": step, "sum": state["sum"] + drawn}
        yield Report(step, {"loss": state["sum"]}, state)


def growing(config: Plain, run: Run) -> Iterator[Report]:
    """A tensor that is changed in place after it was reported."""
    weights = torch.zeros(2)
    for step in range(1, config.steps + 1):
        weights += 1
        yield Report(step, {"loss": 0.0}, {"weights": weights, "array": np.arange(2), "number": np.int64(step)})


def script(objective: Any) -> Script:
    return Script(objective, Space(Plain), Key((0,)), "loss", True)


def values(hosted: Hosted) -> list[float]:
    found = []
    while isinstance(said := hosted.advance(None), Report):
        found.append(said.metrics["loss"])
    assert isinstance(said, Completed)
    return found


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_global_generators_go_on_from_a_checkpoint_where_they_were(stop: int, tmp_path: Path) -> None:
    whole = values(script(noisy).host(Order(0, 1, 11, {}), {}))
    first = script(noisy).host(Order(0, 1, 11, {}), {})
    for _ in range(stop):
        first.advance(None)
    state = first.kept()
    assert state is not None
    checkpoints.save(tmp_path / "c", state)
    random.random(), np.random.rand(), torch.rand(())  # what else this process draws does not count
    rest = values(script(noisy).host(Order(0, 2, 11, {}, checkpoints.load(tmp_path / "c")), {}))
    assert rest == whole[stop:]


def test_trials_on_one_worker_do_not_share_random_numbers() -> None:
    alone = values(script(noisy).host(Order(1, 1, 12, {}), {}))
    before = torch.get_rng_state()
    one, other = (script(noisy).host(Order(n, 1, 11 + n, {}), {}) for n in range(2))
    mixed = []
    for _ in range(6):
        one.advance(None)
        said = other.advance(None)
        assert isinstance(said, Report)
        mixed.append(said.metrics["loss"])
    assert mixed == alone
    assert torch.equal(torch.get_rng_state(), before)


def test_a_state_is_that_of_its_step_whatever_is_done_to_its_tensors_later() -> None:
    hosted = script(growing).host(Order(0, 1, 1, {}), {})
    said = hosted.advance(None)
    hosted.advance(None)
    assert isinstance(said, Report)
    assert said.state is not None
    assert said.state["weights"].tolist() == [1.0, 1.0]
    assert (said.state["array"].tolist(), said.state["number"]) == ([0, 1], 1)
    kept = hosted.kept()
    assert kept is not None
    assert kept["weights"].tolist() == [2.0, 2.0]
    assert RANDOM in kept


def test_what_cannot_be_kept_fails_the_trial_and_says_where() -> None:
    def bad(config: Plain, run: Run) -> Iterator[Report]:
        yield Report(1, {"loss": 0.0}, {"model": {"layer": object()}})

    said = script(bad).host(Order(0, 1, 1, {}), {}).advance(None)
    assert isinstance(said, Raised)
    assert said.reason == (
        "step 1: state cannot be kept: model.layer is a object; it takes tensors, numpy arrays, numbers, words, lists"
        " and dicts"
    )


def test_an_optimizers_state_comes_back_with_its_numbered_entries(tmp_path: Path) -> None:
    model = torch.nn.Linear(2, 1)
    adam = torch.optim.Adam(model.parameters())
    model(torch.ones(1, 2)).sum().backward()
    adam.step()
    odd = {"tensor": "a word", "items": {"items": [1]}, "adam": adam.state_dict()}
    checkpoints.save(tmp_path / "c", trees.storable(odd))
    back = checkpoints.load(tmp_path / "c")
    other = torch.optim.Adam(model.parameters())
    other.load_state_dict(back["adam"])
    assert torch.equal(other.state_dict()["state"][0]["exp_avg"], adam.state_dict()["state"][0]["exp_avg"])
    assert (back["tensor"], back["items"]) == ("a word", {"items": [1]})


def test_what_is_printed_is_taken_and_standard_output_left_alone(capsys: pytest.CaptureFixture[str]) -> None:
    def talking(config: Plain, run: Run) -> Iterator[Report]:
        print("before")  # noqa: T201
        yield Report(1, {"loss": 0.0})
        print("x" * 3_000_000)  # noqa: T201

    hosted = script(talking).host(Order(0, 1, 1, {}), {})
    hosted.advance(None)
    assert hosted.output() == "before\n"
    hosted.advance(None)
    assert "characters left out" in hosted.output()
    assert capsys.readouterr().out == ""


class Network(torch.nn.Module):
    """A configuration that is a network."""

    def __init__(self, width: int = 2) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, width)


def test_a_configuration_that_draws_is_the_trials_own_too() -> None:
    def weights(config: Network, run: Run) -> Iterator[Report]:
        yield Report(1, {"loss": float(config.layer.weight.sum().item())})

    script = Script(weights, Space(Network), Key((0,)), "loss", True)
    before = torch.get_rng_state()
    first, again, other = (script.host(Order(0, 1, seed, {}), {}).advance(None) for seed in (11, 11, 12))
    assert isinstance(first, Report)
    assert isinstance(other, Report)
    assert first == again
    assert first.metrics != other.metrics
    assert torch.equal(torch.get_rng_state(), before)


def stumbling(config: Plain, run: Run) -> Iterator[Report]:
    try:
        yield Report(1, {"loss": 0.0})
    finally:
        raise KeyError("left open")


def test_what_is_raised_on_the_way_out_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    hosted = script(stumbling).host(Order(4, 1, 11, {}), {})
    assert isinstance(hosted.advance(None), Report)
    assert hosted.close()
    assert [record.getMessage() for record in caplog.records] == ["trial 4, when it was stopped: KeyError: 'left open'"]
