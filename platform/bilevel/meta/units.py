"""What is computed for a few episodes at once, on a worker or here? Pure functions of learned values and keys."""

from __future__ import annotations

import dataclasses
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice, pairwise
from typing import Any

import torch
from torch import Tensor

from bilevel import episodes as episodes_
from bilevel import trees
from bilevel.batched import Network
from bilevel.episodes import Batch, Episode, Key, Split, Tasks, TaskTraits, guarded, keyed, seed
from bilevel.errors import BadInput
from bilevel.inner.baselines import baselines
from bilevel.inner.labels import settled, single
from bilevel.inner.rule import RuleTraits
from bilevel.meta import overflow
from bilevel.meta.learned import Plan, Values
from bilevel.study.events import Tree


@dataclass(frozen=True)
class Shard:
    """Some consecutive episodes of an outer step (of the validation or test set where `step` is None)."""

    step: int | None
    first: int
    last: int
    """The first episode behind the shard."""

    def __str__(self) -> str:
        place = "" if self.step is None else f"step {self.step}, "
        return f"{place}episodes {self.first} to {self.last - 1}"


def shards(step: int | None, count: int, unit: int) -> tuple[Shard, ...]:
    """`count` episodes cut into units of `unit`, as even as they come."""
    parts = -(-count // unit)
    edges = [count * part // parts for part in range(parts + 1)]
    return tuple(Shard(step, first, last) for first, last in pairwise(edges))


def _keyed(key: Key, shard: Shard) -> AbstractContextManager[None]:
    """Within, what draws from the process's own generators gets what the unit's key decides."""
    return keyed(key.child("unit", shard.step or 0, shard.first))


def one(tasks: Tasks, split: Split, key: Key) -> Episode:
    """The episode of a key, as the tasks give it.

    Raises:
        BadInput: they give something else.
    """
    drawn = tasks.episode(split, key)
    if not isinstance(drawn, Episode):
        raise BadInput(
            f"{type(tasks).__name__}.episode gives a {type(drawn).__name__}; it takes an Episode(support, query)"
        )
    return drawn


def draw(tasks: Tasks, split: Split, keys: list[Key], dtype: torch.dtype, device: torch.device) -> Episode:
    """The episodes of these keys side by side, in the networks' type, on a device."""
    drawn = []
    with guarded():
        for key in keys:
            seed(key.word())  # a user's transforms may draw from the process's own generators
            drawn.append(one(tasks, split, key))
    return _stacked(drawn, dtype, device)


def _stacked(episodes: list[Episode], dtype: torch.dtype, device: torch.device) -> Episode:
    stacked: Episode = trees.to_device(episodes_.stack([settled(episode, dtype) for episode in episodes]), device)
    return stacked


@dataclass(frozen=True)
class TrainUnit:
    """The meta-gradient of a shard: sums over its episodes of gradient, loss and metrics."""

    plan: Plan
    tasks: Tasks
    key: Key
    """Of the trial's training episodes."""

    def __call__(self, shared: Tree, shard: Shard) -> Tree:
        """`{"gradient": {field: {name: tensor}}, "loss": sum, "metrics": {name: sum}}`.

        An episode whose loss or gradient is not finite is in none of the sums; "left_out" names it then.
        """
        with _keyed(self.key, shard):
            return self._finite(shared, shard)

    def _finite(self, shared: Tree, shard: Shard) -> Tree:
        sums = self._sums(shared, shard)
        if overflow.finite(sums):
            return sums
        total, left = overflow.nought(sums), []
        for index in range(shard.first, shard.last):  # one by one: in a common gradient each is in all
            alone = self._sums(shared, Shard(shard.step, index, index + 1))
            reason = overflow.why(alone)
            if reason is None:
                total = trees.add(total, alone)
            else:
                left.append(f"{overflow.place(self.tasks, self._key(shard, index), index)}: {reason}")
        return {**total, "left_out": left} if left else total

    def _key(self, shard: Shard, index: int) -> Key:
        return self.key.child(shard.step or 0, index)

    def _sums(self, shared: Tree, shard: Shard) -> Tree:
        values: Values = trees.map_tensors(lambda tensor: tensor.requires_grad_(), fresh(shared["learned"]))
        keys = [self._key(shard, index) for index in range(shard.first, shard.last)]
        episode = draw(self.tasks, "train", keys, self.plan.dtype, device_of(values))
        rule = self.plan.rule
        states = rule.adapt(self.plan.meta(values), episode.support, keys)
        adapted = next(islice(states, rule.steps, None))
        loss, metrics = rule.evaluate(adapted, episode.query, keys)
        leaves = [(field, name, tensor) for field, tensors in values.items() for name, tensor in tensors.items()]
        slopes = torch.autograd.grad(
            loss.sum(), [tensor for _, _, tensor in leaves], allow_unused=True, materialize_grads=True
        )
        gradient: Values = {field: {} for field in values}
        for (field, name, _), slope in zip(leaves, slopes, strict=True):
            gradient[field][name] = slope
        sums = {name: value.detach().sum() for name, value in metrics.items()}
        return {"gradient": gradient, "loss": loss.detach().sum(), "metrics": sums}


@dataclass(frozen=True)
class JudgeUnit:
    """Loss and metrics of a shard's episodes after 0, 1, 2, ... steps, the same episodes for every trial."""

    plan: Plan
    tasks: Tasks
    split: Split
    key: Key
    steps: tuple[int, ...]
    """The numbers of inner steps after which to judge, ascending."""
    both: bool = False
    """Judge under the other normalisation policy too, and by baselines."""

    def __call__(self, shared: Tree, shard: Shard) -> Tree:
        """`{metric: [episodes, len(steps)]}`; the other policy's under "other/", baselines under "baseline/".

        Baselines that fail are left out, and "missing" says why.
        """
        with _keyed(self.key, shard):
            return self._compute(shared, shard)

    def _compute(self, shared: Tree, shard: Shard) -> Tree:
        values = fresh(shared["learned"])
        keys = [self.key.child(index) for index in range(shard.first, shard.last)]
        episode = draw(self.tasks, self.split, keys, self.plan.dtype, device_of(values))
        rule = self.plan.rule
        rules = {"": rule} | ({"other/": self._other(rule)} if self.both and self._other(rule) else {})
        found: dict[str, list[Tensor]] = {}
        states = rule.adapt(self.plan.meta(values), episode.support, None)
        for step, adapted in enumerate(islice(states, max(self.steps) + 1)):
            if step not in self.steps:
                continue
            for prefix, judge in rules.items():
                with torch.no_grad():
                    loss, metrics = judge.evaluate(adapted, episode.query, None)
                for name, value in {"loss": loss, **metrics}.items():
                    found.setdefault(prefix + name, []).append(value.detach())
        result: Tree = {name: torch.stack(columns, 1) for name, columns in found.items()}
        if self.both and comparable(episode):
            try:
                beside = baselines(single(episode))
                result |= {f"baseline/{name}": value.unsqueeze(1) for name, value in beside.items()}
            except Exception as error:  # noqa: BLE001 what was trained is not lost for want of a comparison
                result["missing"] = f"the baselines: {type(error).__name__}: {error}"
        return result | clusters(self.tasks, self.split, keys)

    @staticmethod
    def _other(rule: Any) -> Any:
        """The rule under the other normalisation policy, where that makes a difference."""
        networks = [n for n in vars(rule).values() if isinstance(n, Network) and n.normalizes]
        policy = RuleTraits(rule).normalization
        if not networks or any(network.unseen for network in networks) or policy is None:
            return None
        return dataclasses.replace(rule, normalization="support" if policy == "batch" else "batch")


@dataclass(frozen=True)
class ExhibitUnit:
    """A few test tasks worth drawing, with the predictions after 0, 1, 2, ... steps."""

    plan: Plan
    tasks: Tasks
    key: Key
    steps: int

    def __call__(self, shared: Tree, shard: Shard) -> Tree:
        """`{"support", "query": {x, y}, "predictions": [episodes, steps + 1, samples, outputs]}`, or nothing.

        Where it cannot be made, `{"missing": why}`.
        """
        try:
            with _keyed(self.key, shard):
                return self._shown(shared, shard)
        except Exception as error:  # noqa: BLE001 what was trained is not lost for want of a picture
            return {"missing": f"the exhibit: {type(error).__name__}: {error}"}

    def _shown(self, shared: Tree, shard: Shard) -> Tree:
        values = fresh(shared["learned"])
        keys = [self.key.child(index) for index in range(shard.first, shard.last)]
        own = TaskTraits(self.tasks).exhibit
        rule = self.plan.rule
        if own is not None:
            drawn = []
            for key in keys:
                seed(key.word())
                drawn.append(own(key))
            episode = _stacked(drawn, self.plan.dtype, device_of(values))
        else:
            episode = draw(self.tasks, "test", keys, self.plan.dtype, device_of(values))
        predict = RuleTraits(rule).predict
        if not comparable(episode) or predict is None:
            return {}
        states = rule.adapt(self.plan.meta(values), episode.support, None)
        predictions = []
        for adapted in islice(states, self.steps + 1):
            with torch.no_grad():
                predictions.append(predict(adapted, episode.query.x))
        shown: Tree = {"support": _plain(episode.support), "query": _plain(episode.query)}
        shown["predictions"] = torch.stack(predictions, 1)
        if shown["predictions"].dim() != 4 or not _shows(shown["predictions"], episode.query.y):
            return {}  # outputs of which the loss alone knows what they mean
        return single(shown)  # type: ignore[no-any-return]


def comparable(episode: Episode) -> bool:
    """Whether its labels are classes, one a sample, or numbers: what baselines learn and figures show."""
    batches = (episode.support, episode.query)
    if not all(isinstance(batch, Batch) and isinstance(batch.x, Tensor) for batch in batches):
        return False
    return all(
        batch.y.is_floating_point()
        or (batch.y.dtype == torch.int64 and batch.y.dim() == 2 and batch.y.numel() > 0 and int(batch.y.min()) >= 0)
        for batch in batches
    )


def _shows(predictions: Tensor, y: Tensor) -> bool:
    """Whether predictions [tasks, steps, samples, outputs] are scores of the classes, or a number for each label's."""
    if y.is_floating_point():
        return predictions[:, 0].numel() == y.numel()
    return int(y.max()) < max(2, predictions.shape[-1])


def clusters(tasks: Tasks, split: Split, keys: list[Key]) -> dict[str, Tensor]:
    """Which group each episode is about, under the name `cluster`; nothing where the tasks have no groups."""
    cluster = TaskTraits(tasks).cluster
    return {} if cluster is None else {"cluster": torch.tensor([cluster(split, key) for key in keys])}


def _plain(batch: Batch) -> Tree:
    return {"x": batch.x, "y": batch.y} | ({} if batch.mask is None else {"mask": batch.mask})


def fresh(values: Values) -> Values:
    """A copy that gradients may be taken in."""
    copied: Values = trees.map_tensors(lambda tensor: tensor.detach().clone(), values)
    return copied


def device_of(values: Values) -> torch.device:
    """Where learned tensors lie."""
    return next(tensor.device for tensors in values.values() for tensor in tensors.values())
