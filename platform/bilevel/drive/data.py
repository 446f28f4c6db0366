"""Which data did a run begin with, and are today's the same?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bilevel import space as spaces
from bilevel import trees
from bilevel.episodes import Batch, Episode, Key, Split, Tasks, TaskTraits, keyed
from bilevel.errors import BilevelError
from bilevel.meta import MetaTraining
from bilevel.study.study import Study

SPLITS: tuple[Split, ...] = ("train", "valid", "test")
DRAWN = 2  # episodes of each split that stand for the data of tasks which do not say what they are made of


def digests(study: Study) -> dict[str, str]:
    """By dotted path, what the tasks of a meta-training are made of, as a hash; of any other study nothing.

    Searched values are in the middle of their ranges.
    """
    try:
        config = study.build(spaces.complete(study.space, {}))
    except Exception:  # noqa: BLE001 the user's class refuses the middle of the space; elsewhere it need not
        return {}
    if not isinstance(config, MetaTraining):
        return {}
    named = {"tasks": config.tasks, **{f"test_tasks.{name}": tasks for name, tasks in config.test_tasks.items()}}
    found = {path: _digest(tasks, study.key.child("data")) for path, tasks in named.items()}
    return {path: value for path, value in found.items() if value is not None}


def difference(recorded: Mapping[str, str], study: Study) -> str | None:
    """A sentence where the data of a study are not those that a run began with; None where they are, or are not known.

    Runs of earlier versions recorded nothing of their data.
    """
    if not recorded:
        return None
    now = digests(study)
    lost = sorted(path for path in recorded if path not in now)
    if lost:
        return (
            f"the data cannot be compared with those that the run began with: {', '.join(lost)} could be drawn "
            "then and cannot now"
        )
    changed = sorted(path for path in recorded if path in now and now[path] != recorded[path])
    if not changed:
        return None
    return (
        f"the data are not those that the run began with: {', '.join(changed)} hold other rows, values or groups now; "
        "what was learned may not fit them (a table that is built by code must be built the same in every process: "
        "seed it, and sort what comes from a set)"
    )


def _digest(tasks: Tasks, key: Key) -> str | None:
    """A hash of what tasks say they are made of, or of a few of their episodes; None for what are no tensors."""
    try:
        digest = TaskTraits(tasks).digest
        if digest is not None:
            return digest()
        drawn = [_drawn(tasks, split, key.child(index)) for split in SPLITS for index in range(DRAWN)]
    except BilevelError:
        raise
    except Exception:  # noqa: BLE001 what cannot be drawn is said where it is needed, with the episode's own name
        return None
    parts = [_tree(episode) for episode in drawn]
    return None if None in parts else trees.digest(parts)


def _drawn(tasks: Tasks, split: Split, key: Key) -> Episode:
    with keyed(key):
        return tasks.episode(split, key)


def _tree(episode: Any) -> dict[str, Any] | None:
    if not isinstance(episode, Episode):
        return None
    batches = {"support": episode.support, "query": episode.query}
    if not all(isinstance(batch, Batch) for batch in batches.values()):
        return None
    return {name: {"x": batch.x, "y": batch.y} for name, batch in batches.items()}
