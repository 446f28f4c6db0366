"""Do our movers take the steps that torch's optimisers take, as pure functions?"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from bilevel import SGD, Adam, AdamW, Log, trees
from bilevel.errors import BadInput
from bilevel.meta.movers import Cosine, Linear
from bilevel.meta.movers.gradient import Mover
from bilevel.record import checkpoints

STEPS = 20
CASES: dict[str, tuple[Mover, Callable[[list[Tensor]], torch.optim.Optimizer]]] = {
    "sgd": (SGD(0.1), lambda p: torch.optim.SGD(p, lr=0.1)),
    "momentum": (SGD(0.1, momentum=0.9), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    "nesterov": (
        SGD(0.1, momentum=0.8, nesterov=True),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, nesterov=True),
    ),
    "adam": (Adam(3e-2, betas=(0.8, 0.99), eps=1e-6), lambda p: torch.optim.Adam(p, 3e-2, (0.8, 0.99), 1e-6)),
    "adamw": (AdamW(3e-2, weight_decay=0.2), lambda p: torch.optim.AdamW(p, 3e-2, weight_decay=0.2)),
}


def start() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    single = {"w": torch.randn(3, 2, generator=generator), "b": torch.randn(2, generator=generator)}
    return {**single, "rate": torch.tensor(-0.7), "double": torch.tensor([0.3, 0.4], dtype=torch.float64)}


def slope(values: dict[str, Tensor], step: int) -> dict[str, Tensor]:
    """A gradient that depends on values and step, the same bits for both sides."""
    return {name: torch.sin(3 * value + step) for name, value in values.items()}


@pytest.mark.parametrize("case", CASES)
def test_twenty_steps_are_those_of_torch(case: str) -> None:
    mover, make = CASES[case]
    values, state = start(), {}
    theirs = {name: value.clone().requires_grad_() for name, value in start().items()}
    optimizer = make(list(theirs.values()))
    for step in range(STEPS):
        values, state = mover.move(values, slope(values, step), state, done=step / STEPS)
        for name, gradient in slope({n: t.detach() for n, t in theirs.items()}, step).items():
            theirs[name].grad = gradient
        optimizer.step()
        for name, value in values.items():
            assert torch.equal(value, theirs[name].detach()), (step, name)


@pytest.mark.parametrize("case", CASES)
def test_nothing_is_changed_in_place(case: str) -> None:
    mover, _ = CASES[case]
    values, state = mover.move(start(), slope(start(), 0), {}, done=0.0)
    gradient = slope(values, 1)
    before = [trees.digest(tree) for tree in (values, gradient, state)]
    moved, _ = mover.move(values, gradient, state, done=0.5)
    assert [trees.digest(tree) for tree in (values, gradient, state)] == before
    assert not any(torch.equal(moved[name], values[name]) for name in values)


@pytest.mark.parametrize("case", CASES)
def test_state_survives_a_checkpoint_bit_by_bit(case: str, tmp_path: Path) -> None:
    mover, _ = CASES[case]
    values, state = start(), {}
    for step in range(3):
        values, state = mover.move(values, slope(values, step), state, done=0.0)
    checkpoints.save(tmp_path / "c", {"values": values, "state": state})
    read = checkpoints.load(tmp_path / "c")
    again, _ = mover.move(read["values"], slope(read["values"], 3), read["state"], done=0.0)
    assert trees.digest(again) == trees.digest(mover.move(values, slope(values, 3), state, done=0.0)[0])


def test_clipping_bounds_the_norm_over_all_tensors() -> None:
    values = {"a": torch.zeros(1), "b": torch.zeros(1)}
    gradient = {"a": torch.tensor([3.0]), "b": torch.tensor([4.0])}  # norm 5
    moved, _ = SGD(1.0, clip=1.0).move(values, gradient, {}, done=0.0)
    assert moved["a"].item() == pytest.approx(-0.6, rel=1e-5)
    assert moved["b"].item() == pytest.approx(-0.8, rel=1e-5)
    assert gradient["a"].item() == 3.0
    free, _ = SGD(1.0, clip=10.0).move(values, gradient, {}, done=0.0)
    assert (free["a"].item(), free["b"].item()) == (-3.0, -4.0)


@pytest.mark.parametrize(
    ("schedule", "points"),
    [
        (Linear(), {0.0: 1.0, 0.25: 0.75, 1.0: 0.0}),
        (Linear(final=0.2), {0.5: 0.6, 1.0: 0.2}),
        (Linear(warmup=0.2), {0.0: 0.0, 0.1: 0.5, 0.2: 1.0, 0.6: 0.5, 1.0: 0.0}),
        (Cosine(), {0.0: 1.0, 1 / 3: 0.75, 0.5: 0.5, 1.0: 0.0}),
        (Cosine(final=0.1), {0.5: 0.55, 1.0: 0.1}),
        (Cosine(warmup=0.5), {0.25: 0.5, 0.5: 1.0, 0.75: 0.5, 1.0: 0.0}),
        (Linear(warmup=1.0), {0.5: 0.5, 1.0: 0.0}),
    ],
)
def test_schedules_have_their_closed_forms(schedule: Any, points: dict[float, float]) -> None:
    for done, factor in points.items():
        assert schedule(done) == pytest.approx(factor, abs=1e-12)


def test_a_schedule_scales_the_step() -> None:
    values, gradient = {"w": torch.tensor([0.0])}, {"w": torch.tensor([1.0])}
    moved, _ = SGD(0.5, schedule=Cosine()).move(values, gradient, {}, done=1 / 3)
    assert moved["w"].item() == pytest.approx(-0.5 * 0.75)


@pytest.mark.parametrize("mover", [SGD, Adam, AdamW])
@pytest.mark.parametrize(
    ("value", "match"), [({"lr": -1.0}, "lr is -1.0"), ({"lr": math.nan}, "lr is nan"), ({"clip": 0.0}, "clip is 0.0")]
)
def test_what_cannot_move_is_refused(mover: Any, value: dict[str, float], match: str) -> None:
    with pytest.raises(BadInput, match=f"{mover.__name__}: {match}"):
        mover(**value)


def test_a_searched_rate_is_to_be_said_as_a_space() -> None:
    with pytest.raises(BadInput, match=r"Adam: lr=Log\(.*\) is searched: write Space\(Adam, lr=Log"):
        Adam(Log(1e-4, 1e-1))  # type: ignore[arg-type]
