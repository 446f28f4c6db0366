"""What would one reach on the same test tasks without meta-learning, and how do classes out of balance look?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Generator
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from bilevel.episodes import Batch, Episode, Key, Tasks, TaskTraits
from bilevel.inner.classifiers import area, balanced_accuracy, compared
from bilevel.inner.labels import single
from bilevel.inner.pooled import ROWS, applies, pooled
from bilevel.inner.rule import RuleTraits
from bilevel.meta.learned import Plan, Values
from bilevel.meta.units import Shard, clusters, comparable, device_of, draw, fresh, shards
from bilevel.study.events import Report, Tree, Units

EPISODES = 1000  # training tasks at most whose rows are pooled

Columns = dict[str, Tensor]
"""Metrics by name, each [episodes], and `cluster` where the tasks have groups."""
Compared = tuple[Columns, dict[str, str]]
"""Metrics by name, and why a baseline failed, by its name."""


@dataclass(frozen=True)
class SupportUnit:
    """Some test episodes, by classifiers of their support alone; and ours beyond accuracy, after `steps` steps."""

    plan: Plan
    tasks: Tasks
    key: Key
    steps: int

    def __call__(self, shared: Tree, shard: Shard) -> Tree:
        """`{"columns": {metric: [episodes]}, "failed": {baseline: reason}}`; ours are called as the metric alone."""
        keys = [self.key.child(index) for index in range(shard.first, shard.last)]
        values = fresh(shared["learned"])
        episode = draw(self.tasks, "test", keys, self.plan.dtype, device_of(values))
        found, failed = compared(single(episode)) if comparable(episode) else ({}, {})
        if found and RuleTraits(self.plan.rule).predict is not None:
            judged, reasons = attempted("ours", lambda: self._ours(values, episode))
            found, failed = found | judged, failed | reasons
        found = {name: value.detach().cpu() for name, value in found.items()}
        return {"columns": found | clusters(self.tasks, "test", keys), "failed": failed}

    def _ours(self, values: Values, episode: Episode) -> Compared:
        states = self.plan.rule.adapt(self.plan.meta(values), episode.support, None)
        adapted = next(islice(states, self.steps, None))
        with torch.no_grad():
            scores = self.plan.rule.predict(adapted, episode.query.x)
        query = episode.query
        return {"balanced_accuracy": balanced_accuracy(scores, query), "auc": area(scores, query)}, {}


@dataclass(frozen=True)
class PooledUnit:
    """All test episodes, by models of the rows of `train` training tasks."""

    tasks: Tasks
    key: Key
    """Of the test episodes."""
    train: int

    def __call__(self, shared: Tree, shard: Shard) -> Tree:  # noqa: ARG002  a unit is handed what is learned
        """`{"columns": {metric: [episodes]}, "failed": {baseline: reason}}`."""
        keys = [self.key.child(index) for index in range(shard.first, shard.last)]
        found, failed = attempted("of all tasks' rows", lambda: self._pooled(keys))
        return {"columns": found | clusters(self.tasks, "test", keys), "failed": failed}

    def _pooled(self, keys: list[Key]) -> Compared:
        cpu = torch.device("cpu")
        first = draw(self.tasks, "train", [self.key.child("pooled", 0)], torch.float32, cpu)
        count = max(1, min(self.train, EPISODES, ROWS // first.query.x.shape[1]))
        train = draw(
            self.tasks, "train", [self.key.child("pooled", index) for index in range(count)], torch.float32, cpu
        )
        return pooled(train, draw(self.tasks, "test", keys, torch.float32, cpu))


def classified(episode: Episode) -> bool:
    """Whether episodes (stacked) have a class for each sample, which classifiers of a support can learn."""
    support = episode.support
    plain = isinstance(support, Batch) and support.y.dtype == torch.int64 and support.y.dim() == 2
    return plain and comparable(episode)


def pooled_applies(episode: Episode, tasks: Tasks) -> bool:
    """Whether episodes (stacked) are rows of a table, whose labels mean the same in all tasks."""
    return comparable(episode) and applies(episode, same_classes=TaskTraits(tasks).scaling is not None)


def attempted(name: str, compute: Callable[[], Compared]) -> Compared:
    """What `compute` gives; where it raises, why: the result stands without what it is compared with."""
    try:
        return compute()
    except Exception as error:  # noqa: BLE001 the user's tasks and rule are at work in it, too
        return {}, {name: f"{type(error).__name__}: {error}"}


def support_columns(
    unit: SupportUnit, values: Values, episodes: int, size: int
) -> Generator[Report | Units, list[Tree], Columns]:
    """What `SupportUnit` finds on `episodes` test episodes, `size` of them a unit; what failed is a warning."""
    results = yield Units(unit, {"learned": values}, shards(None, episodes, size))
    return _together(results)


def pooled_columns(unit: PooledUnit, values: Values, episodes: int) -> Generator[Report | Units, list[Tree], Columns]:
    """What `PooledUnit` finds on `episodes` test episodes; what failed is a warning."""
    results = yield Units(unit, {"learned": values}, shards(None, episodes, episodes))
    return _together(results)


def _together(results: list[Tree]) -> Columns:
    for name, reason in {name: reason for result in results for name, reason in result["failed"].items()}.items():
        warnings.warn(f"a comparison ({name}) failed and is left out: {reason}", stacklevel=2)
    parts = [result["columns"] for result in results]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0] if all(name in part for part in parts)}
