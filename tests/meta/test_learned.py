"""Is what a meta-training learns built from its key, started where asked, and refused where it does not fit?"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from bilevel import Adam, Learned, Space, trees
from bilevel.episodes import Batch, Episode, Key
from bilevel.errors import BadInput, MissingData
from bilevel.inner import GradientDescent
from bilevel.meta.learned import Plan, prepare
from bilevel.nets import conv4, mlp
from bilevel.record import checkpoints
from bilevel.tasks import Sinusoid
from support.tiny import finished, maml

EXAMPLE = Sinusoid(shots=4, queries=4).episode("train", Key((0,)))


def prepared(key: int = 0, example: Episode = EXAMPLE, **rule: Any) -> Plan:
    values = {"init": Learned(Space(mlp, hidden=(8,)), by=Adam()), **rule}
    return prepare(GradientDescent(**values), example, Key((key,)))


def labelled(ways: int, *shape: int, samples: int = 6) -> Episode:
    y = torch.arange(samples) % ways
    return Episode(Batch(torch.zeros(samples, *shape), y), Batch(torch.ones(samples, *shape), y))


# -- the start ---------------------------------------------------------------------------------------------------------


def test_the_key_decides_the_weights_whatever_torch_was_seeded_with() -> None:
    torch.manual_seed(1)
    first = trees.digest(prepared(0).start)
    torch.manual_seed(2)
    state = torch.random.get_rng_state()
    assert trees.digest(prepared(0).start) == first
    assert trees.digest(prepared(1).start) != first
    assert torch.equal(torch.random.get_rng_state(), state)


def test_seed_and_trial_reach_the_weights(tmp_path: Path) -> None:
    """One outer step with a vanishing rate: what is learned is the start."""
    study = maml(steps=1, rule=Space(GradientDescent, init=Learned(Space(mlp, hidden=(3,)), by=Adam(1e-12)), lr=0.01))
    two = finished(tmp_path, dataclasses.replace(study, trials=2))
    again = finished(tmp_path, dataclasses.replace(study, trials=2))
    other = finished(tmp_path, dataclasses.replace(study, trials=2, seed=8))

    def weights(result: Any, trial: int) -> Tensor:
        state = checkpoints.load(checkpoints.folder(result.folder, trial, 1))
        weight: Tensor = state["learned"]["init"]["0.weight"]
        return weight

    assert not torch.equal(weights(two, 0), weights(two, 1))
    assert not torch.equal(weights(two, 0), weights(other, 0))
    assert torch.equal(weights(two, 0), weights(again, 0))
    assert torch.equal(weights(two, 1), weights(again, 1))


def test_rates_are_learned_in_log_space_and_seen_positive() -> None:
    plan = prepared(lr=Learned(0.2, by=Adam()))
    assert plan.positive == {"lr"}
    assert plan.start["lr"]["value"].item() == pytest.approx(math.log(0.2))
    assert plan.meta(plan.start)["lr"].item() == pytest.approx(0.2)
    far = {**plan.start, "lr": {"value": torch.tensor(-30.0)}}
    assert plan.meta(far)["lr"].item() > 0


def test_per_tensor_there_is_one_rate_for_each_of_the_networks() -> None:
    plan = prepared(lr=Learned(0.2, by=Adam(), per="tensor"))
    assert plan.start["lr"].keys() == plan.start["init"].keys()
    assert plan.meta(plan.start)["lr"]["0.weight"].item() == pytest.approx(0.2)
    values = [tensor.data_ptr() for tensor in plan.start["lr"].values()]
    assert len(set(values)) == len(values)


def test_the_factory_is_handed_what_the_tasks_fix() -> None:
    plan = prepared(example=labelled(3, 1, 28, 28), init=Learned(Space(conv4, hidden=2), by=Adam()))
    assert plan.start["init"]["13.weight"].shape == (3, 2)
    assert plan.movers == {"init": Adam()}
    assert plan.rule.init.batched


def test_a_binary_task_may_have_one_logit() -> None:
    plan = prepared(example=labelled(2, 3), init=Learned(Space(mlp, outputs=1), by=Adam()))
    assert plan.start["init"]["4.weight"].shape == (1, 40)


def test_the_size_of_a_unit_falls_with_that_of_the_network() -> None:
    small = prepared(init=Learned(Space(mlp, hidden=(8,)), by=Adam()))
    large = prepared(init=Learned(Space(mlp, hidden=(1000, 1000)), by=Adam()))
    assert small.flops == 8 * 2 * (8 + 8)  # 4 samples and 4 queries; two products of 8 numbers, 2 FLOPs each
    assert small.unit(32) == 32  # not worth a dispatch
    assert 1 <= large.unit(32) < 32
    assert prepared(key=5, init=Learned(Space(mlp, hidden=(8,)), by=Adam())).unit(32) == small.unit(32)


# -- an earlier start --------------------------------------------------------------------------------------------------


def test_it_starts_from_what_an_earlier_run_learned(tmp_path: Path) -> None:
    earlier = finished(tmp_path)
    values = safetensors.torch.load_file(earlier.folder / "model" / "learned.safetensors")
    plan = prepared(
        init=Learned(Space(mlp, hidden=(8,)), by=Adam(), start=str(earlier.folder)),
        lr=Learned(0.5, by=Adam(), per="tensor", start=str(earlier.folder)),
    )
    for name, tensor in plan.start["init"].items():
        assert torch.equal(tensor, values[f"init/{name}"])
        assert torch.equal(plan.start["lr"][name], values[f"lr/{name}"])


def test_it_starts_from_a_file_of_plain_weights(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    module = mlp(1, (1,), (8,))
    safetensors.torch.save_file(module.state_dict(), file)
    plan = prepared(init=Learned(Space(mlp, hidden=(8,)), by=Adam(), start=str(file)))
    assert torch.equal(plan.start["init"]["2.bias"], module[2].bias.detach())


def test_a_start_that_does_not_fit_says_what_and_where(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"

    def starting() -> Plan:
        return prepared(init=Learned(Space(mlp, hidden=(8,)), by=Adam(), start=str(file)))

    with pytest.raises(MissingData, match=r"rule.init.start: no file .*weights.safetensors; give the folder of"):
        starting()
    safetensors.torch.save_file({"other": torch.zeros(1)}, file)
    with pytest.raises(BadInput, match=r"rule.init.start: .* has no tensor '0.weight'; it has other"):
        starting()
    safetensors.torch.save_file(mlp(1, (1,), (5,)).state_dict(), file)
    with pytest.raises(BadInput, match=r"rule.init.start: '0.weight' is \[5, 1\] in .*, here \[8, 1\]"):
        starting()
    file.write_bytes(b"noise")
    with pytest.raises(BadInput, match=r"rule.init.start: .* cannot be read"):
        starting()


# -- what does not fit -------------------------------------------------------------------------------------------------


class _Flat(nn.Module):
    """One number a sample, without the axis of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.w).sum(1)


@pytest.mark.parametrize(
    ("rule", "example", "match"),
    [
        ({"init": 3}, EXAMPLE, "rule: nothing is learned; give a field such as init=Learned"),
        (
            {"init": Learned(lambda: 3, by=Adam())},
            EXAMPLE,
            "rule.init: the factory gives a int; it takes one that gives an nn",
        ),
        (
            {"init": Learned(lambda: nn.Linear(1, 4), by=Adam())},
            EXAMPLE,
            r"rule.init: the network gives \[4, 4\] for 4 samples, .* have 1 numbers per label; it must give \[4, 1\]",
        ),
        ({"init": Learned(_Flat, by=Adam())}, EXAMPLE, r"rule.init: the network gives \[4\] for 4 samples"),
        (
            {"init": Learned(Space(mlp, outputs=2), by=Adam())},
            labelled(3, 2),
            r"the network gives \[6, 2\] for 6 samples, the tasks have 3 classes; it must give \[6, 3\]",
        ),
        (
            {"lr": Learned(-0.1, by=Adam())},
            EXAMPLE,
            "rule.lr: starts from -0.1; it is positive and learned in log-space",
        ),
        (
            {"init": 1, "lr": Learned(0.1, by=Adam(), per="tensor")},
            EXAMPLE,
            "rule.lr: per='tensor' needs a learned network",
        ),
    ],
    ids=["nothing", "no module", "outputs", "no axis", "ways", "negative", "no network"],
)
def test_what_cannot_be_learned_is_refused(rule: dict[str, Any], example: Episode, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        prepared(example=example, **rule)


def test_padded_tasks_and_batch_normalization_do_not_go_together() -> None:
    plain = labelled(2, 3)
    padded = Episode(dataclasses.replace(plain.support, mask=torch.ones(6, dtype=torch.bool)), plain.query)

    def factory() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))

    assert prepared(example=plain, init=Learned(factory, by=Adam())).rule.init.normalizes
    with pytest.raises(BadInput, match="batch normalisation would take padded samples"):
        prepared(example=padded, init=Learned(factory, by=Adam()))


class _Odd(nn.Module):
    """Branches on a value, which is another one for each task."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        return 2 * y if bool(y.sum() > 0) else y


def test_a_network_that_cannot_be_batched_goes_through_the_loop_and_says_so() -> None:
    with pytest.warns(UserWarning, match="rule.init: _Odd cannot be batched exactly .* right, but slower"):
        plan = prepared(init=Learned(_Odd, by=Adam()))
    assert not plan.rule.init.batched
