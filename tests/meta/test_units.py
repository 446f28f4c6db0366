"""Do units of work add up to the whole, whichever way the episodes are cut?"""

from __future__ import annotations

import dataclasses
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from bilevel import Adam, Learned, trees
from bilevel.episodes import Batch, Episode, Key, Split
from bilevel.errors import BadInput
from bilevel.inner import GradientDescent
from bilevel.meta.learned import Plan, prepare
from bilevel.meta.units import ExhibitUnit, JudgeUnit, Shard, TrainUnit, draw, shards
from bilevel.nets import mlp
from bilevel.tasks import Sinusoid

KEY = Key((0,))
TASKS = Sinusoid(shots=4, queries=4)


@dataclass(frozen=True)
class Blobs:
    """Two classes of three features; a test episode stems from one of two groups."""

    def episode(self, split: Split, key: Key) -> Episode:
        rng = key.child(split).numpy()
        x = torch.from_numpy(rng.standard_normal((8, 3))).float()
        y = torch.arange(2).repeat(4)
        x[:, 0] += 2.0 * y
        return Episode(Batch(x[:4], y[:4]), Batch(x[4:], y[4:]))

    def cluster(self, split: Split, key: Key) -> int:
        return key.integer() % 2


def planned(tasks: Any = TASKS, factory: Any = mlp, **changes: Any) -> Plan:
    values = {"init": Learned(factory, by=Adam()), "lr": Learned(0.1, by=Adam(), per="tensor"), "steps": 2, **changes}
    return prepare(GradientDescent(**values), tasks.episode("train", KEY), KEY)


def normalized(outputs: int, shape: tuple[int, ...]) -> nn.Module:
    return nn.Sequential(nn.Linear(shape[0], 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, outputs))


# -- shards ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 7, 32])
@pytest.mark.parametrize("unit", [1, 2, 3, 8, 100])
def test_shards_cover_every_episode_once_in_order(count: int, unit: int) -> None:
    cut = shards(5, count, unit)
    assert [index for shard in cut for index in range(shard.first, shard.last)] == list(range(count))
    sizes = [shard.last - shard.first for shard in cut]
    assert max(sizes) <= unit
    assert max(sizes) - min(sizes) <= 1
    assert {shard.step for shard in cut} == {5}


def test_a_shard_names_itself_to_the_user() -> None:
    assert str(Shard(7, 2, 4)) == "step 7, episodes 2 to 3"
    assert str(Shard(None, 0, 4)) == "episodes 0 to 3"


# -- training ----------------------------------------------------------------------------------------------------------


def test_the_gradient_of_a_shard_is_the_sum_over_its_episodes() -> None:
    plan = planned()
    unit = TrainUnit(plan, TASKS, KEY.child("train"))
    shared = {"learned": plan.start}
    whole = unit(shared, Shard(3, 0, 5))
    parts = [unit(shared, Shard(3, index, index + 1)) for index in range(5)]
    total = parts[0]
    for part in parts[1:]:
        total = trees.add(total, part)
    for (path, found), (_, wanted) in zip(trees.leaves(whole), trees.leaves(total), strict=True):
        assert torch.allclose(found, wanted, rtol=1e-4, atol=1e-6), path
    assert whole["gradient"].keys() == {"init", "lr"}
    assert {n: t.shape for n, t in whole["gradient"]["init"].items()} == {
        n: t.shape for n, t in plan.start["init"].items()
    }


def test_a_unit_is_pure() -> None:
    plan = planned()
    unit = TrainUnit(plan, TASKS, KEY.child("train"))
    shared = {"learned": plan.start}
    before = trees.digest(shared)
    first = trees.digest(unit(shared, Shard(1, 0, 3)))
    unit(shared, Shard(2, 0, 3))
    torch.rand(3)  # the global generator is not asked
    assert trees.digest(unit(shared, Shard(1, 0, 3))) == first
    assert trees.digest(shared) == before
    assert not any(t.requires_grad for named in plan.start.values() for t in named.values())
    assert trees.digest(unit(shared, Shard(2, 0, 3))) != first


def test_a_positive_value_gets_the_gradient_of_its_logarithm() -> None:
    """d loss / d log a = a d loss / d a; per tensor the parts add up to that of one rate for all."""
    each, one = planned(), planned(lr=Learned(0.1, by=Adam()))
    found = TrainUnit(each, TASKS, KEY)({"learned": each.start}, Shard(1, 0, 2))["gradient"]["lr"]
    whole = TrainUnit(one, TASKS, KEY)({"learned": one.start}, Shard(1, 0, 2))["gradient"]["lr"]["value"]
    assert sum(found.values()).item() == pytest.approx(whole.item(), rel=1e-4)
    plain = dataclasses.replace(one, positive=frozenset(), start={**one.start, "lr": {"value": torch.tensor(0.1)}})
    direct = TrainUnit(plain, TASKS, KEY)({"learned": plain.start}, Shard(1, 0, 2))["gradient"]["lr"]["value"]
    assert whole.item() == pytest.approx(0.1 * direct.item(), rel=1e-4)


# -- judging -----------------------------------------------------------------------------------------------------------


def test_each_episode_is_judged_after_each_number_of_steps() -> None:
    plan = planned()
    unit = JudgeUnit(plan, TASKS, "test", KEY, (0, 2, 3))
    together = unit({"learned": plan.start}, Shard(None, 0, 4))
    assert {name: tuple(value.shape) for name, value in together.items()} == {"loss": (4, 3), "mae": (4, 3)}
    alone = [unit({"learned": plan.start}, Shard(None, i, i + 1)) for i in range(4)]
    assert torch.allclose(together["loss"], torch.cat([part["loss"] for part in alone]), rtol=1e-4)
    one = JudgeUnit(plan, TASKS, "test", KEY, (2,))({"learned": plan.start}, Shard(None, 0, 4))
    assert torch.allclose(one["loss"][:, 0], together["loss"][:, 1], rtol=1e-5)


def test_both_policies_and_the_baselines_are_judged_on_the_same_episodes() -> None:
    tasks = Blobs()
    plans = {policy: planned(tasks, normalized, normalization=policy) for policy in ("batch", "support")}
    found = {
        policy: JudgeUnit(plan, tasks, "test", KEY, (0, 1), both=True)({"learned": plan.start}, Shard(None, 0, 3))
        for policy, plan in plans.items()
    }
    names = {"loss", "accuracy", "other/loss", "other/accuracy", "baseline/nearest_neighbour_accuracy", "cluster"}
    assert found["batch"].keys() == names
    assert torch.equal(found["batch"]["other/loss"], found["support"]["loss"])
    assert torch.equal(found["support"]["other/loss"], found["batch"]["loss"])
    assert not torch.equal(found["batch"]["loss"], found["support"]["loss"])
    assert found["batch"]["baseline/nearest_neighbour_accuracy"].shape == (3, 1)


def test_without_batch_normalization_there_is_no_other_policy() -> None:
    plan = planned()
    judged = JudgeUnit(plan, TASKS, "test", KEY, (0,), both=True)({"learned": plan.start}, Shard(None, 0, 2))
    assert not [name for name in judged if name.startswith("other/")]


def test_clusters_are_those_of_the_episodes_keys() -> None:
    tasks = Blobs()
    plan = planned(tasks)
    judged = JudgeUnit(plan, tasks, "test", KEY, (0,))({"learned": plan.start}, Shard(None, 2, 6))
    assert judged["cluster"].tolist() == [KEY.child(index).integer() % 2 for index in range(2, 6)]


# -- exhibits ----------------------------------------------------------------------------------------------------------


def test_an_exhibit_holds_predictions_after_every_step() -> None:
    plan = planned()
    shown = ExhibitUnit(plan, TASKS, KEY, 2)({"learned": plan.start}, Shard(None, 0, 3))
    assert shown["support"]["x"].shape == (3, 4, 1)
    assert shown["query"]["x"].shape == (3, 100, 1)
    assert shown["predictions"].shape == (3, 3, 100, 1)
    assert not shown["predictions"].requires_grad


# -- what is refused ---------------------------------------------------------------------------------------------------


def test_tasks_that_give_something_else_than_episodes_are_named() -> None:
    class Wrong:
        def episode(self, split: Split, key: Key) -> Any:
            return 1, 2

    with pytest.raises(BadInput, match=r"Wrong.episode gives a tuple; it takes an Episode\(support, query\)"):
        TrainUnit(planned(), Wrong(), KEY)({"learned": planned().start}, Shard(1, 0, 1))


# -- what draws from the process's own generators ----------------------------------------------------------------------


@dataclass(frozen=True)
class Augmented(Blobs):
    """A transform that asks torch, numpy and random for its numbers, as most do."""

    def episode(self, split: Split, key: Key) -> Episode:
        plain = super().episode(split, key)
        drawn = torch.tensor([float(torch.rand(())), np.random.rand(), random.random()])
        return Episode(Batch(plain.support.x + drawn, plain.support.y), plain.query)


def test_an_episodes_own_draws_do_not_depend_on_the_unit_or_what_ran_before() -> None:
    tasks = Augmented()
    keys = [KEY.child(index) for index in range(4)]
    whole = draw(tasks, "train", keys, torch.float32, torch.device("cpu")).support.x
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    assert torch.equal(draw(tasks, "train", keys[2:], torch.float32, torch.device("cpu")).support.x, whole[2:])
    assert not torch.equal(whole[0] - Blobs().episode("train", keys[0]).support.x, whole[1] - whole[1])


@dataclass(frozen=True)
class Noisy(GradientDescent):
    """A rule with noise of its own, in training and where it is judged."""

    def evaluate(self, adapted: Any, query: Any, keys: Any) -> Any:
        loss, metrics = super().evaluate(adapted, query, keys)
        return loss + np.random.rand() + random.random() + torch.rand(()), metrics


def test_a_units_own_draws_are_decided_by_its_key() -> None:
    plan = dataclasses.replace(planned(), rule=Noisy(**vars(planned().rule)))
    shared, shard = {"learned": plan.start}, Shard(3, 0, 2)
    for unit in (TrainUnit(plan, TASKS, KEY), JudgeUnit(plan, TASKS, "valid", KEY, (1,))):
        before = random.getstate()
        first = unit(shared, shard)["loss"]
        random.seed(5), np.random.seed(5), torch.manual_seed(5)
        assert torch.equal(unit(shared, shard)["loss"], first)
        assert not torch.equal(unit(shared, Shard(3, 1, 3))["loss"], first)
        random.setstate(before)
