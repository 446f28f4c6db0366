"""Does a configuration fit together, and what does a trial of it learn and start from?"""

from __future__ import annotations

import warnings

import torch

from bilevel import trees
from bilevel.episodes import Batch, Episode, Key, Split, Tasks, keyed
from bilevel.errors import BadInput, NotPromised
from bilevel.inner.labels import Labels, labels_of, settled
from bilevel.meta.configuration import MetaTraining
from bilevel.meta.learned import Plan, check_fits, prepare
from bilevel.meta.units import one
from bilevel.study.events import Tree
from bilevel.study.given import Run

SPLITS: tuple[Split, ...] = ("train", "valid", "test")
LOOKED_AT = 3  # episodes of each split, besides the example, to count classes in


def plan(config: MetaTraining, run: Run) -> Plan:
    """What a trial of this configuration learns and starts from; the same at every call.

    Raises:
        BadInput: the configuration does not fit together.
    """
    if not isinstance(config, MetaTraining):
        raise BadInput(f"meta_train takes a MetaTraining; the space gives a {type(config).__name__}")
    config.check()
    key = run.key.child("example")
    example, again = (_example(config.tasks, "train", key) for _ in range(2))
    if not _same(example, again):
        warnings.warn(
            f"tasks: {type(config.tasks).__name__}.episode gives other samples for the same key: the same bits cannot "
            "be promised, nor can an audit compare; draw from key.numpy() or key.torch()",
            NotPromised,
            stacklevel=2,
        )
    labels = _labels(config.tasks, SPLITS, key)
    prepared = prepare(config.rule, example, run.key.child("trial", run.trial, "learned"), labels)
    for name, tasks in config.test_tasks.items():
        try:
            check_fits(prepared, _example(tasks, "test", key), _labels(tasks, ("test",), key))
        except BadInput as error:
            raise BadInput(f"test_tasks.{name}: {error}") from error
    return prepared


def _example(tasks: Tasks, split: Split, key: Key) -> Episode:
    with keyed(key):
        return one(tasks, split, key)


def _same(example: Episode, again: Episode) -> bool:
    """Whether two episodes hold the same tensors; what is in other episodes is not ours to know."""
    if not isinstance(example.support, Batch):
        return True
    first, second = (settled(episode, torch.float32) for episode in (example, again))
    return trees.digest(_held(first)) == trees.digest(_held(second))


def _held(episode: Episode) -> Tree:
    parts = {"support": episode.support, "query": episode.query}
    return {name: {"x": part.x, "y": part.y} for name, part in parts.items() if isinstance(part, Batch)}


def _labels(tasks: Tasks, splits: tuple[Split, ...], key: Key) -> Labels:
    """What the labels are: not every episode shows all classes, so some of each split are looked at."""
    keys = (key, *(key.child(index) for index in range(LOOKED_AT)))
    drawn = (settled(_example(tasks, split, key), torch.float32) for split in splits for key in keys)
    return labels_of(tasks, drawn)


def check(config: MetaTraining, run: Run) -> None:
    """Make the plan before anything starts, so that what does not fit is known; `meta_train` then finds it made.

    Raises:
        BadInput: the configuration does not fit together.
    """
    run.cache(("plan", run.trial), lambda: plan(config, run))
