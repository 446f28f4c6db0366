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


# -- what networks need ------------------------------------------------------------------------------------------------


def tokens() -> Episode:
    y = torch.arange(6) % 2
    x = torch.randint(0, 9, (6, 5), generator=torch.Generator().manual_seed(0))
    return Episode(Batch(x, y), Batch(x.flip(0), y))


@pytest.mark.parametrize("sparse", [False, True])
def test_without_a_second_derivative_order_1_works(sparse: bool) -> None:
    def bag() -> nn.Module:
        return nn.Sequential(nn.EmbeddingBag(9, 4, sparse=sparse), nn.Linear(4, 2))

    field = Learned(bag, by=Adam())
    with pytest.raises(BadInput, match=r"no second derivative.*order=1"):
        prepared(example=tokens(), init=field)
    plan = prepared(example=tokens(), init=field, order=1)
    assert plan.rule.init.batched
    values = {"init": {name: v.requires_grad_() for name, v in plan.start["init"].items()}}
    episode = trees.map_tensors(lambda tensor: tensor.unsqueeze(0), tokens())
    states = plan.rule.adapt(plan.meta(values), episode.support, None)
    next(states)
    loss, _ = plan.rule.evaluate(next(states), episode.query, None)
    slopes = torch.autograd.grad(loss.sum(), list(values["init"].values()))
    assert all(slope.layout is torch.strided and bool(slope.any()) for slope in slopes)


def test_a_lazy_network_is_given_its_shapes_by_the_example_and_its_weights_by_the_key() -> None:
    def lazy() -> nn.Module:
        return nn.Sequential(nn.LazyLinear(5), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(3))

    example = labelled(3, 4)
    plan = prepared(example=example, init=Learned(lazy, by=Adam()))
    assert plan.start["init"]["0.weight"].shape == (5, 4)
    assert plan.rule.init.module[1].num_batches_tracked == 0
    assert trees.digest(plan.start) == trees.digest(prepared(example=example, init=Learned(lazy, by=Adam())).start)
    assert trees.digest(plan.start) != trees.digest(prepared(1, example=example, init=Learned(lazy, by=Adam())).start)
    with pytest.raises(BadInput, match="lazy network does not work on inputs"):
        prepared(example=example, init=Learned(lambda: nn.Sequential(nn.LazyConv2d(2, 3)), by=Adam()))


def test_a_network_may_look_at_how_many_samples_there_are() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.view(6, 4))

    assert prepared(example=labelled(3, 4), init=Learned(Counts, by=Adam())).flops > 1


class Seen(nn.Module):
    """Normalizes by the batch, by hand in a layer of its own, or by training data."""

    class ByHand(nn.BatchNorm1d):
        def forward(self, x: Tensor) -> Tensor:
            return (x - x.mean(0)) / (x.var(0, correction=0) + self.eps).sqrt()

    def __init__(self, kind: str) -> None:
        super().__init__()
        norm: nn.Module = self.ByHand(5) if kind == "by hand" else nn.BatchNorm1d(5)
        self.first, self.norm, self.head = nn.Linear(4, 5), norm, nn.Linear(5, 3)
        self.unused = nn.BatchNorm1d(5)
        if kind == "frozen":
            self.norm.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.first(x)))


def test_which_statistics_a_network_takes_is_known() -> None:
    def of(kind: str, example: Episode, **rule: Any) -> Plan:
        return prepared(example=example, init=Learned(lambda: Seen(kind), by=Adam()), **rule)

    example = Episode(*(Batch(torch.randn(6, 4), torch.arange(6) % 3) for _ in range(2)))
    by_batch, by_hand, frozen = (of(kind, example).rule.init for kind in ("batch", "by hand", "frozen"))
    assert (by_batch.by_batch, by_batch.frozen, by_batch.unseen) == (("norm",), (), ())
    assert (by_hand.by_batch, by_hand.frozen, by_hand.unseen) == (("norm",), (), ("norm",))
    assert (frozen.by_batch, frozen.frozen, frozen.unseen) == ((), ("norm",), ())
    with pytest.raises(BadInput, match=r"'norm'.*out of sight.*batch"):
        of("by hand", example, normalization="support")
    padded = Episode(*(Batch(b.x, b.y, torch.ones(6, dtype=torch.bool)) for b in (example.support, example.query)))
    of("frozen", padded)
    with pytest.raises(BadInput, match="padded samples"):
        of("batch", padded)


def test_the_result_says_which_statistics_were_taken(tmp_path: Path) -> None:
    class Mixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.trunk = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4)).eval()
            self.norm, self.head = nn.BatchNorm1d(4), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(self.norm(self.trunk(x))))

    def counts(policy: str) -> dict[str, float]:
        rule = Space(GradientDescent, init=Learned(Mixed, by=Adam()), lr=0.01, normalization=policy)
        metrics = finished(tmp_path, maml(steps=1, rule=rule)).metrics
        assert any(name.startswith("test-") for name in metrics)
        return {name: value for name, value in metrics.items() if name.startswith("normalization/")}

    assert counts("batch") == {"normalization/batch": 1, "normalization/frozen": 1}
    assert counts("support") == {"normalization/support": 1, "normalization/frozen": 1}
