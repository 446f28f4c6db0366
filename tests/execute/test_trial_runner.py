"""Is a trial the same wherever and in however many pieces it runs?"""

from __future__ import annotations

import asyncio
import copy
import functools
import json
import pickle
import random
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bilevel import Int, Report, Run, Space, trees
from bilevel.episodes import Key
from bilevel.errors import TrialFailed
from bilevel.execute.inline import InlineStage
from bilevel.execute.random_states import Remembered
from bilevel.execute.trial_runner import RANDOM, Hosted, Script
from bilevel.execute.worker import compute
from bilevel.record import checkpoints
from bilevel.study.events import Completed, Order, Raised, Said


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


def fitted(config: Plain, run: Run, *, late: bool = False, whole: bool = False) -> Iterator[Report]:
    """Weights are drawn for a network, and then loaded; `late`: the step is read before."""
    state = run.state
    step = state["step"] if late and state else 0
    net, other = torch.nn.Linear(2, 1), torch.nn.Linear(3, 1)
    if state and whole:
        loaded = dict(state)
        net.load_state_dict(loaded["net"])
        step = loaded["step"]
    elif state:
        net.load_state_dict(state["net"])
        other = torch.nn.Linear(3, 1)
        other.load_state_dict(state["other"])
        step = state.get("step", 0)
    while step < config.steps:
        step += 1
        with torch.no_grad():
            net.weight += torch.rand(()) + random.random() + np.random.rand()
        loss = net.weight.sum().item() + (0 if state is None else 0 * state["step"])  # read in the middle of a step
        yield Report(step, {"loss": loss}, {"net": net.state_dict(), "other": other.state_dict(), "step": step})


@pytest.mark.parametrize("stop", [1, 4])
@pytest.mark.parametrize("how", [{}, {"late": True}, {"whole": True}])
def test_what_is_drawn_for_a_network_before_its_weights_are_loaded_does_not_count(stop: int, how: Any) -> None:
    fit = functools.partial(fitted, **how)
    whole = values(script(fit).host(Order(0, 1, 11, {}), {}))
    first = script(fit).host(Order(0, 1, 11, {}), {})
    for _ in range(stop):
        first.advance(None)
    rest = values(script(fit).host(Order(0, 2, 11, {}, first.kept()), {}))
    assert rest == whole[stop:]


def test_a_remembered_state_travels_and_is_copied_as_a_dict() -> None:
    state = Remembered({"a": torch.ones(1), "b": 2}, lambda: None)
    for again in (copy.deepcopy(state), pickle.loads(pickle.dumps(state))):
        assert type(again) is dict
        assert again.keys() == {"a", "b"}
    assert json.dumps(Remembered({"b": 2}, lambda: None)) == '{"b": 2}'


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


SMALL = torch.zeros(2)
CANNOT = {
    "a.k has the key (0, 1), a tuple; keys are words or numbers": {"a": {"k": {(0, 1): SMALL}}},
    "w is a tensor of complex128; a checkpoint cannot hold it": {"w": SMALL.to(torch.complex128)},
    "w is a tensor of sparse_coo; a checkpoint cannot hold it": {"w": torch.eye(2).to_sparse()},
    "w is a ndarray; it takes": {"w": np.zeros(2, dtype="complex128")},
    "n is a complex64; it takes": {"n": np.complex64(1)},
    "n is a datetime64; it takes": {"n": np.datetime64("2020-01-01")},
    "state is a Tensor; it takes a dict": SMALL,
    "state is a list; it takes a dict": [SMALL],
}


@pytest.mark.parametrize("reason", CANNOT)
def test_a_state_that_no_checkpoint_can_hold_fails_its_trial_alone(reason: str) -> None:
    def bad(config: Plain, run: Run) -> Iterator[Report]:
        yield Report(1, {"loss": 0.0}, CANNOT[reason])  # type: ignore[arg-type]

    said = script(bad).host(Order(0, 1, 1, {}), {}).advance(None)
    assert isinstance(said, Raised)
    assert reason in said.reason


def test_a_state_of_many_kinds_comes_back(tmp_path: Path) -> None:
    numbers = np.arange(3.0)
    state = {
        "turned": numbers[::-1],
        "foreign": numbers.astype(">f4"),
        "half": SMALL.bfloat16(),
        "complex": torch.tensor([1 + 2j]).conj(),
        "none": torch.empty(0),
        "mixed": {1: SMALL, "a": SMALL + 1, None: "n"},
        "learned": {"w": SMALL.bfloat16(), 3: SMALL},
    }
    kept = trees.storable(state, copy=True)
    trees.digest(kept)
    checkpoints.save(tmp_path / "c", trees.unpack(trees.pack(kept)))
    back = checkpoints.load(tmp_path / "c")
    assert back["turned"].tolist() == [2.0, 1.0, 0.0]
    assert back["foreign"].tolist() == [0.0, 1.0, 2.0]
    assert back["half"].dtype == torch.bfloat16
    assert back["complex"].tolist() == [1 - 2j]
    assert back["mixed"].keys() == {1, "a", None}
    assert back["mixed"]["a"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_trial_that_waits_within_no_grad_leaves_the_others_theirs(mode: Any) -> None:
    def looks(config: Plain, run: Run) -> Iterator[Report]:
        for step in range(1, 4):
            inside = torch.is_grad_enabled()
            with mode():
                yield Report(step, {"before": inside, "within": torch.is_grad_enabled()})
                assert not torch.is_grad_enabled()
                assert torch.is_inference_mode_enabled() is (mode is torch.inference_mode)

    def trains(config: Plain, run: Run) -> Iterator[Report]:
        w = torch.ones(2, requires_grad=True)
        for step in range(1, 4):
            (w * 2).sum().backward()
            yield Report(step, {"loss": 0.0})

    first, second = (script(each).host(Order(0, 1, 1, {}), {}) for each in (looks, trains))
    for _ in range(3):
        said, other = first.advance(None), second.advance(None)
        assert isinstance(said, Report)
        assert said.metrics == {"before": True, "within": False}
        assert isinstance(other, Report), other
        assert torch.is_grad_enabled()
        assert not torch.is_inference_mode_enabled()
    assert isinstance(first.advance(None), Completed)


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


@pytest.mark.parametrize("alone", [True, False])
def test_a_keyboard_interrupt_is_a_trials_own_only_where_nobody_presses_ctrl_c(alone: bool) -> None:
    def stops(config: Plain, run: Run) -> Iterator[Report]:
        yield Report(1, {"loss": 0.0})
        raise KeyboardInterrupt("by hand")

    hosted = script(stops).host(Order(0, 1, 1, {}), {}, alone=alone)
    hosted.advance(None)
    if alone:
        said = hosted.advance(None)
        assert isinstance(said, Raised)
        assert said.reason == "KeyboardInterrupt: by hand"
    else:
        with pytest.raises(KeyboardInterrupt):
            hosted.advance(None)


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


# -- what objectives raise and report ----------------------------------------------------------------------------------


class Mute(Exception):
    """Cannot even say what is wrong."""

    def __str__(self) -> str:
        raise ValueError("no words")


class Odd:
    """A number that is none."""

    def __float__(self) -> float:
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (Mute(), "Mute (its message cannot be shown: __str__ raised ValueError)"),
        (GeneratorExit(), "GeneratorExit: "),
        (asyncio.CancelledError("x"), "CancelledError: x"),
        (OSError("\udc80.txt"), "OSError: \\udc80.txt"),
        (TrialFailed("of my own"), "of my own"),
    ],
)
@pytest.mark.parametrize("form", ["generator", "function", "configuration", "unit"])
def test_whatever_is_raised_is_the_trials_own_failure(error: BaseException, reason: str, form: str) -> None:
    def fails(config: Any, run: Run) -> float:
        raise error

    def generated(config: Any, run: Run) -> Iterator[Report]:
        yield Report(1, {"loss": fails(config, run)})

    def refuses(**_: Any) -> Any:
        raise error

    if form == "unit":
        said: Any = compute(fails, {}, None)
    elif form == "configuration":
        stage = InlineStage(Script(generated, Space(refuses, n=Int(0, 3)), Key((0,)), "loss", True), {})
        stage.begin(Order(0, 1, 1, {"n": 1}))
        said = next(said.end for said in stage.poll(0.0) if isinstance(said, Said))
    else:
        said = script(fails if form == "function" else generated).host(Order(0, 1, 1, {}), {}).advance(None)
    assert isinstance(said, Raised)
    assert said.reason.endswith(reason)
    said.traceback.encode()


HUGE = 10**400
REPORTED = {
    "a whole number": ({"loss": HUGE}, "metric 'loss' is a number that no float can hold"),
    "a fraction": ({"loss": Fraction(HUGE, 7)}, "metric 'loss' is a number that no float can hold"),
    "a longer one": ({"loss": 10**5000}, "metric 'loss' is a number that no float can hold"),
    "a second metric": ({"loss": 1.0, "n": HUGE}, "metric 'n' is a number that no float can hold"),
    "no number": ({"loss": Odd()}, "what it reported after step -1 cannot be read: ZeroDivisionError: "),
}


@pytest.mark.parametrize("name", REPORTED)
@pytest.mark.parametrize("form", ["generator", "returned"])
def test_a_number_that_no_float_can_hold_fails_its_trial_alone(name: str, form: str) -> None:
    metrics, reason = REPORTED[name]

    def yields(config: Any, run: Run) -> Iterator[Report]:
        yield Report(1, metrics)  # type: ignore[arg-type]

    def returns(config: Any, run: Run) -> Any:
        return metrics["loss"] if len(metrics) == 1 else metrics

    said = script(yields if form == "generator" else returns).host(Order(0, 1, 1, {}), {}).advance(None)
    assert isinstance(said, Raised)
    assert reason in said.reason


@pytest.mark.parametrize(("returned", "metrics"), [(0.5, {"loss": 0.5}), ({"loss": 1, "n": 2}, {"loss": 1, "n": 2})])
@pytest.mark.parametrize("steps", [0, 3])
def test_what_a_generator_returns_is_its_last_report(returned: Any, metrics: dict[str, float], steps: int) -> None:
    def trains(config: Any, run: Run) -> Generator[Report, None, Any]:
        for step in range(steps):
            yield Report(step, {"loss": 9.0})
        return returned

    hosted = script(trains).host(Order(0, 1, 1, {}), {})
    said = [hosted.advance(None) for _ in range(steps + 2)]
    assert said[-2:] == [Report(max(steps, 1), metrics), Completed()]


def test_a_generator_that_returns_no_result_fails() -> None:
    def trains(config: Any, run: Run) -> Generator[Report, None, Any]:
        yield Report(1, {"loss": 1.0})
        return "good"

    hosted = script(trains).host(Order(0, 1, 1, {}), {})
    hosted.advance(None)
    said = hosted.advance(None)
    assert isinstance(said, Raised)
    assert "the objective returned a str; it takes a number or metrics by name" in said.reason


@pytest.mark.parametrize("step", [2**63, HUGE, -HUGE, -(10**5000)], ids=["64 bits", "far", "behind", "far behind"])
def test_a_step_beyond_all_databases_fails_its_trial_alone(step: int) -> None:
    def far(config: Any, run: Run) -> Iterator[Report]:
        yield Report(step, {"loss": 1.0})

    said = script(far).host(Order(0, 1, 1, {}), {}).advance(None)
    assert isinstance(said, Raised)
    assert "step" in said.reason


def test_what_is_printed_is_text_that_a_file_can_hold() -> None:
    def prints(config: Any, run: Run) -> Iterator[Report]:
        sys.stdout.write("\udc80.txt")
        yield Report(1, {"loss": 1.0})

    hosted = script(prints).host(Order(0, 1, 1, {}), {})
    hosted.advance(None)
    assert hosted.output() == "\\udc80.txt"
