"""What is an episode (support, query), and which random numbers are its own (keys)?"""

from __future__ import annotations

import hashlib
import itertools
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor

from bilevel import trees
from bilevel.errors import BadInput
from bilevel.traits import Trait, Traits

__all__ = ["Batch", "Episode", "Key", "Scaling", "TaskTraits", "Tasks", "stack"]

Split = Literal["train", "valid", "test"]


@dataclass(frozen=True)
class Key:
    """A place in the tree of random numbers; the same key gives the same numbers anywhere, at any time.

    Built on `numpy.random.SeedSequence`: children are independent of each other and of their parent.
    """

    path: tuple[int, ...]

    def child(self, *parts: int | str) -> Key:
        """The key below this one for `parts` (integers ≥ 0, or words)."""
        return Key(self.path + tuple(zlib.crc32(p.encode()) if isinstance(p, str) else p for p in parts))

    def numpy(self) -> np.random.Generator:
        """A fresh numpy generator, the same at every call."""
        return np.random.Generator(np.random.PCG64(self._sequence()))

    def integer(self) -> int:
        """63 bits that stand for this key where a library wants one integer seed."""
        return int(self._sequence().generate_state(1, np.uint64)[0] >> np.uint64(1))

    def word(self) -> int:
        """Another such integer, quicker: for what needs one seed per episode."""
        return int.from_bytes(hashlib.blake2b(repr(self.path).encode(), digest_size=8).digest()) >> 1

    def torch(self) -> torch.Generator:
        """A fresh CPU generator of torch, the same at every call."""
        return torch.Generator().manual_seed(self.integer())

    def _sequence(self) -> np.random.SeedSequence:
        # With its length behind it: numpy pads short entropy with zeros, and child(0) would be its parent.
        return np.random.SeedSequence((*self.path, len(self.path)))


_guarded: ContextVar[bool] = ContextVar("guarded", default=False)
_around: ContextVar[tuple[Key, Iterator[int]] | None] = ContextVar("around", default=None)


@contextmanager
def guarded(*, save: bool = True) -> Iterator[None]:
    """Within, the process's own random generators (`random`, `numpy.random`, torch's) may be seeded anew; afterwards
    they are as before. `save=False`: nobody in this process wants them back.
    """
    if _guarded.get():
        yield
        return
    before = (random.getstate(), np.random.get_state(), torch.get_rng_state()) if save else None
    token = _guarded.set(True)
    try:
        yield
    finally:
        _guarded.reset(token)
        if before is not None:
            random.setstate(before[0])
            np.random.set_state(before[1])
            torch.set_rng_state(before[2])


@contextmanager
def keyed(key: Key) -> Iterator[None]:
    """Within, the process's own random generators give what the key decides, whoever draws from them."""
    with guarded():
        before = torch.get_rng_state()
        on_card = torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
        token = _around.set((key, itertools.count()))
        seed(key.integer())
        try:
            yield
        finally:
            _around.reset(token)
            torch.set_rng_state(before)
            if on_card is not None:
                torch.cuda.set_rng_state(on_card)


def ambient() -> Key | None:
    """Another key at each call, decided by that of the `keyed` around it; None outside of any."""
    around = _around.get()
    return None if around is None else around[0].child("ambient", next(around[1]))


def seed(number: int) -> None:
    """Seed the process's own random generators."""
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.default_generator.manual_seed(number)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(number)


@dataclass(frozen=True)
class Batch:
    """Labelled samples of one task, or of many tasks with one more leading axis.

    Shapes: `x` [samples, *shape]; `y` [samples] int64 for classes, [samples, outputs] float32 for regression;
    `mask` [samples] bool, False where a sample only pads a ragged task, or None where all count.
    """

    x: Tensor
    y: Tensor
    mask: Tensor | None = None


@dataclass(frozen=True)
class Episode:
    """One task, to be learned from `support` and judged on `query`; the engine looks into neither."""

    support: Any
    query: Any


@dataclass(frozen=True)
class Scaling:
    """Standardised features and labels, kept with the model: `x` and `y` in the user's units, inside in ours.

    Shapes: `x_mean`, `x_std` [features]; `y_mean`, `y_std` numbers (0 and 1 for classes). Beyond `bound` standard
    deviations a feature goes on as the logarithm of its distance: an indicator that is 1 once in 10,000 rows, 100
    deviations wide, would else outgrow the inner loop's numbers in a few steps.
    """

    x_mean: tuple[float, ...]
    x_std: tuple[float, ...]
    y_mean: float = 0.0
    y_std: float = 1.0
    bound: float | None = None

    def encode_x(self, x: Tensor) -> Tensor:
        """[..., features] in the user's units to ours (float32)."""
        mean, std = torch.tensor(self.x_mean, dtype=torch.float64), torch.tensor(self.x_std, dtype=torch.float64)
        scaled = (x.double() - mean) / std
        if self.bound is not None:
            over = (scaled.abs() - self.bound).clamp(min=0.0)
            scaled = torch.where(over > 0, scaled.sign() * (self.bound + over.log1p()), scaled)
        return scaled.float()

    def encode_y(self, y: Tensor) -> Tensor:
        """Labels in the user's units to ours (float32)."""
        return ((y.double() - self.y_mean) / self.y_std).float()

    def decode_y(self, y: Tensor) -> Tensor:
        """Predictions in our units to the user's."""
        return y * self.y_std + self.y_mean


class Tasks(Protocol):
    """A distribution over tasks: any object with this one method, a pure function of its arguments.

    `episode("train", key)` draws one task; classes (or groups) of different splits are disjoint. Episodes of one
    distribution have the same shapes; ragged ones are padded and masked (`Batch.mask`).

    What else it may have, each optional, is in `TaskTraits`.
    """

    def episode(self, split: Split, key: Key) -> Episode:
        """One task of the split, decided by the key alone."""
        ...


class TaskTraits(Traits):
    """What a distribution over tasks may have beside `episode`."""

    classes = Trait[int | Sequence[Any] | None](None)
    """How many classes the labels tell apart, or which: an episode need not show all of them."""
    outputs = Trait[int | None](None)
    """What a factory with a parameter `ways` or `outputs` is handed; None: as many as classes, or numbers per label."""
    scaling = Trait[Scaling | None](None)
    """Units of features and labels; then metrics such as `mae` are given in the user's units."""
    cluster = Trait[Callable[[Split, Key], int] | None](None)
    """`cluster(split, key)`: which group an episode comes from; intervals are then clustered by it."""
    digest = Trait[Callable[[], str] | None](None)
    """`digest()`: a hash of the data, the same in every process, for the record; else a few episodes are hashed."""
    check = Trait[Callable[[], None]](lambda: None)
    """`check()` raises BadInput or MissingData before anything starts."""
    exhibit = Trait[Callable[[Key], Episode] | None](None)
    """`exhibit(key)`: an episode worth drawing; by default one of the test split."""


def stack(episodes: list[Episode]) -> Episode:
    """Episodes side by side: every tensor gets a leading axis [episodes, ...].

    Raises:
        BadInput: episodes of one batch differ in shape.
    """
    try:
        stacked: Episode = trees.stack(episodes)
    except ValueError as error:
        raise BadInput(
            f"episodes of one batch differ: {error}; pad them and set Batch.mask, which says which samples count (of "
            "sequences of unequal length pad the steps, and give the lengths beside them: x may be a dict of tensors)"
        ) from error
    return stacked
