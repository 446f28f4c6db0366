"""How do a user's own labelled arrays, or a torch data set with class labels, become few-shot tasks?"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, get_args

import numpy as np
import torch

from bilevel import trees
from bilevel.episodes import Batch, Episode, Key, Split
from bilevel.errors import BadInput
from bilevel.tasks.fewshot import Ints, check_counts, check_ways, draw_classes, draw_samples, labelled
from bilevel.tasks.samples import Place, digest, gather, labels, packed, plain, unpacked

SPLITS: tuple[Split, ...] = get_args(Split)
SHOWN = 32  # classes of which a sample is looked at beforehand
SHARES = (0.6, 0.8)  # of the shuffled classes: where the train split ends, and where the valid split ends


@dataclass(frozen=True, eq=False)
class Episodes:
    """Few-shot classification from a user's own samples; each split has classes of its own.

    `Episodes(x, y)`: `x` [n, *shape] numpy or torch, `y` [n] class labels of any kind (numbers, words), or one-hot. A
    memory map travels to workers as its file's path.
    `Episodes(dataset)`: a `torch.utils.data.Dataset` of `(sample, label, ...)` or of dicts (`item` says where these
    are); the labels are taken from its `targets` where it has them, otherwise every item is read once. Its items must
    not change from one reading to the next.
    A class with fewer than `shots + queries` samples is left out, which is said.

    Shapes: `x` [ways * shots, *shape] float32, not scaled; `y` [ways * shots] int64; the query likewise. Both are
    grouped by class; which class has which label is random. With `ways=2` and a network of one output the tasks are
    binary, `y` 0 or 1.
    """

    x: Any = field(repr=False)
    y: Any = field(default=None, repr=False)
    _: KW_ONLY
    ways: int = 5
    """Classes in an episode."""
    shots: int = 1
    """Samples of each class to learn from."""
    queries: int = 5
    """Samples of each class to be judged on."""
    splits: Mapping[Split, Sequence[Hashable]] | None = None
    """The classes of "train", "valid" and "test"; None: 60, 20 and 20 % of them, shuffled by `seed`."""
    seed: int = 0
    """Decides which class is in which split, where `splits` does not."""
    item: tuple[Place, Place] | None = None
    """Where an item of a data set has its sample and its label, as ("image", "label") or (0, 2); None: the first two of
    a tuple, or the usual keys of a dict."""
    shuffled: bool = False
    """A control: labels are permuted within support and within query, so that there is nothing to be learned."""

    def check(self) -> None:
        """Raises BadInput for impossible counts, labels that do not fit the samples, or splits that overlap."""
        check_counts(self, ways=self.ways, shots=self.shots, queries=self.queries)
        small = self._found.small
        if small:
            warnings.warn(
                f"Episodes: {len(small)} classes have fewer than shots + queries = {self.shots + self.queries} samples "
                f"and are left out: {_listed(small)}",
                stacklevel=2,
            )
        counts: dict[str, int] = {split: len(sizes) for split, (_, sizes) in self._pools.items()}
        if self.ways >= 2 and min(counts.values()) < self.ways:
            raise BadInput(self._too_few(counts))
        check_ways(self, self.ways, counts)
        gather(self._x, np.array(self._found.first, dtype=np.int64), self.item)  # a sample of each class: of one size?

    def _too_few(self, counts: Mapping[str, int]) -> str:
        """What is wrong where a split has fewer classes than `ways`."""
        small, each = len(self._found.small), self.shots + self.queries
        name = min(SPLITS, key=lambda split: counts[split])
        left = f" ({small} have fewer than shots + queries = {each} samples: lower these)" if small else ""
        if self.splits is not None:
            return f"Episodes: ways={self.ways}, but the {name} split has {counts[name]} classes{left}; name more"
        there = sum(counts.values())
        return (
            f"Episodes: ways={self.ways} takes {self.ways} classes in each of train, valid and test, none in two of "
            f"them: {3 * self.ways} in all, and there are {there}{left}; lower ways, or if all tasks have the same "
            "classes (one task a person or site) use Grouped"
        )

    def digest(self) -> str:
        """A hash of labels and samples (where they are many, of some)."""
        return digest(self.x, self._found.labels, self.item)

    def episode(self, split: Split, key: Key) -> Episode:
        """One task of `ways` classes."""
        rows, sizes = self._pools[split]
        rng = key.child(split).numpy()
        classes = draw_classes(rng, len(sizes), self.ways)
        samples = rows[classes[:, None], draw_samples(rng, sizes[classes], self.shots + self.queries)]
        x = gather(self._x, samples.ravel(), self.item)
        drawn = labelled(x.view(*samples.shape, *x.shape[1:]), self.shots)
        if not self.shuffled:
            return drawn
        return Episode(_permuted(drawn.support, rng), _permuted(drawn.query, rng))

    @functools.cached_property
    def _x(self) -> Any:
        """The samples; of pandas as one array, which is not to be made for every episode."""
        return plain(self.x)

    @functools.cached_property
    def _found(self) -> _Found:
        """The labels, and where the samples of each class are."""
        found = labels(self.x, self.y, self.item)
        samples: dict[Hashable, list[int]] = {}
        for row, label in enumerate(found):
            samples.setdefault(label, []).append(row)
        each = self.shots + self.queries
        small = [name for name in sorted(samples, key=str) if len(samples[name]) < each]
        return _Found(found, samples, small, [rows[0] for rows in samples.values()][:SHOWN])

    @functools.cached_property
    def _pools(self) -> dict[Split, tuple[Ints, Ints]]:
        """By split: the samples of its classes, [classes, most] padded with 0, and how many each has, [classes]."""
        samples = self._found.samples
        pools: dict[Split, tuple[Ints, Ints]] = {}
        for split, classes in self._classes(sorted(samples, key=str)).items():
            rows = [samples[name] for name in classes if len(samples[name]) >= self.shots + self.queries]
            most = max(map(len, rows), default=0)
            padded = np.array([some + [0] * (most - len(some)) for some in rows], dtype=np.int64).reshape(
                len(rows), most
            )
            pools[split] = padded, np.array([len(some) for some in rows], dtype=np.int64)
        return pools

    def _classes(self, present: list[Hashable]) -> Mapping[Split, Sequence[Hashable]]:
        """The classes of each split."""
        if self.splits is None:
            order = np.random.default_rng(self.seed).permutation(len(present))
            ends = [round(len(present) * share) for share in SHARES]
            parts = [[present[i] for i in part] for part in np.split(order, ends)]
            small = set(self._found.small)
            if (
                min(sum(name not in small for name in part) for part in parts) < self.ways
            ):  # divide what there is evenly
                usable = [present[i] for i in order if present[i] not in small]
                test = max(self.ways, round(len(usable) * (1 - SHARES[1])))
                ends = [max(0, len(usable) - 2 * test), max(0, len(usable) - test)]
                parts = [usable[: ends[0]], usable[ends[0] : ends[1]], usable[ends[1] :]]
            return dict(zip(SPLITS, parts, strict=True))
        if set(self.splits) != set(SPLITS):
            raise BadInput(
                f"Episodes: splits has {sorted(self.splits)}; give the classes of 'train', 'valid' and 'test'"
            )
        seen: dict[Hashable, Split] = {}
        for split in SPLITS:
            for name in self.splits[split]:
                if name in seen:
                    raise BadInput(
                        f"Episodes: class {name!r} is in {seen[name]} and {split}; splits share no class, list it once"
                    )
                if name not in present:
                    raise BadInput(
                        f"Episodes: class {name!r} of {split} is not among the labels; there are {_listed(present)}"
                    )
                seen[name] = split
        return self.splits

    def __getstate__(self) -> dict[str, Any]:
        """What travels to a worker: the fields, not what is worked out from them; a memory map by its path."""
        return {name: packed(value) for name, value in trees.fields_of(self).items()}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        self.__dict__.update({name: unpacked(value) for name, value in state.items()})


@dataclass(frozen=True)
class _Found:
    """Labels of all samples, the samples of each class, classes with too few of them, and a sample of some classes."""

    labels: list[Hashable]
    samples: dict[Hashable, list[int]]
    small: list[Hashable]
    first: list[int]


def _listed(values: Iterable[Hashable], most: int = 12) -> str:
    shown = [repr(value) for value in values]
    return ", ".join(shown[:most]) + (f", … ({len(shown)})" if len(shown) > most else "")


def _permuted(batch: Batch, rng: np.random.Generator) -> Batch:
    return replace(batch, y=batch.y[torch.from_numpy(rng.permutation(len(batch.y)))])
