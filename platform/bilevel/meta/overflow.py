"""Which episodes overflow and are left out, when are they too many, and when has a training diverged?"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from bilevel import trees
from bilevel.episodes import Key, TaskTraits
from bilevel.study.events import Tree

STEP, RUN = 0.5, 0.1  # the share of a step's episodes, and of those of all steps, from which on they are too many
STEPS = 10  # steps after which those of all steps are looked at
NAMED = 3  # episodes that are named one by one
HUGE = 1e6  # a mean loss that is worth a look; and that has diverged if it is
TIMES = 1e4  # times that of the network that nothing was learned by
CURE = "try a smaller rule.lr or outer rate, fewer rule.steps, or clip=10.0 in the mover"


def finite(sums: Tree) -> bool:
    """Whether loss and gradient of a shard are numbers."""
    return why(sums) is None


def why(sums: Tree) -> str | None:
    """What of a shard (or of one episode) is no number."""
    loss = float(sums["loss"])
    if not math.isfinite(loss):
        return f"its loss is {loss}"
    if all(bool(torch.isfinite(tensor).all()) for _, tensor in trees.leaves(sums["gradient"])):
        return None
    return "its gradient is not finite"


def place(tasks: Any, key: Key, index: int) -> str:
    """An episode by name, with the group that it is about."""
    cluster = TaskTraits(tasks).cluster
    return f"episode {index}" + ("" if cluster is None else f" (group {cluster('train', key)})")


def nought(sums: Tree) -> Tree:
    """The same tree, of no episodes."""
    zero: Tree = trees.map_tensors(torch.zeros_like, sums)
    return zero


def parted(results: list[Tree]) -> tuple[list[Tree], list[str]]:
    """The results of a step's shards without the word on what they left out; and that."""
    left = [word for result in results for word in result.get("left_out", ())]
    return [{name: part for name, part in result.items() if name != "left_out"} for result in results], left


def noted(state: Tree, left: list[str], step: int) -> Tree:
    """The state with the episodes left out so far counted; the first ones are named to the user."""
    before = int(state.get("left_out", 0))
    if not left:
        return state
    for word in left[: max(0, NAMED - before)]:
        warnings.warn(f"step {step}: {word}; it is left out of the step (train/left_out counts them)", stacklevel=3)
    return {**state, "left_out": before + len(left)}


def too_many(state: Tree, left: list[str], episodes: int, step: int) -> str | None:
    """Why a training cannot go on, if it cannot: most of a step's episodes overflow, or many of all steps'."""
    total = int(state.get("left_out", 0))
    if len(left) > STEP * episodes:
        return f"step {step}: {len(left)} of {episodes} episodes overflow, the first: {left[0]}; {CURE}"
    if left and step >= STEPS and total > RUN * episodes * step:
        return f"step {step}: {total} of {episodes * step} episodes so far overflow, the last: {left[-1]}; {CURE}"
    return None


def summed(loss: float, gradient: Tree, step: int) -> str | None:
    """Why a step cannot be taken, if it cannot: numbers that are finite by themselves may overflow together."""
    reason = why({"loss": loss, "gradient": gradient})
    return None if reason is None else f"step {step}: of all episodes together {reason}; {CURE}"


def kept(columns: Mapping[str, Tensor], split: str) -> tuple[dict[str, Tensor], int]:
    """Columns [episodes, ...] without episodes whose loss is no number, where these are few; and how many they are.

    Where they are many all are kept: means are no numbers then.
    """
    good = torch.isfinite(columns["loss"].flatten(1)).all(1)
    left = int((~good).sum())
    if not left or left > RUN * len(good):
        return dict(columns), 0
    first = int((~good).nonzero()[0])
    warnings.warn(
        f"{left} of {len(good)} {split} episodes overflow and are left out of the means, the first: episode {first} "
        f"({split}/left_out counts them)",
        stacklevel=3,
    )
    return {name: column[good] for name, column in columns.items()}, left


def diverged(loss: float, untrained: float) -> bool:
    """Whether a mean loss, though finite, is no result: out of all proportion to what no training gives."""
    return loss > HUGE and loss > TIMES * untrained
