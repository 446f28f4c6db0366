"""How do a user's own labelled arrays, or a torch data set with class labels, become few-shot tasks?"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import Any, get_args

import numpy as np
import torch
from torch import Tensor

from bilevel import trees
from bilevel.episodes import Batch, Episode, Key, Split
from bilevel.errors import BadInput
from bilevel.tasks.fewshot import Ints, check_counts, check_ways, draw_classes, draw_samples, labelled

SPLITS: tuple[Split, ...] = get_args(Split)
SHARES = (0.6, 0.8)  # of the shuffled classes: where the train split ends, and where the valid split ends


@dataclass(frozen=True, eq=False)
class Episodes:
    """Few-shot classification from a user's own samples; each split has classes of its own.

    `Episodes(x, y)`: `x` [n, *shape] numpy or torch, `y` [n] class labels of any kind (numbers, words).
    `Episodes(dataset)`: a `torch.utils.data.Dataset` of `(sample, label)`; the labels are taken from its `targets`
    where it has them, otherwise every item is read once. Its items must not change from one reading to the next.
    A class with fewer than `shots + queries` samples is left out.

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
    shuffled: bool = False
    """A control: labels are permuted within support and within query, so that there is nothing to be learned."""

    def check(self) -> None:
        """Raises BadInput for impossible counts, labels that do not fit the samples, or splits that overlap."""
        check_counts(self, ways=self.ways, shots=self.shots, queries=self.queries)
        check_ways(self, self.ways, {split: len(sizes) for split, (_, sizes) in self._pools.items()})

    def episode(self, split: Split, key: Key) -> Episode:
        """One task of `ways` classes."""
        rows, sizes = self._pools[split]
        rng = key.child(split).numpy()
        classes = draw_classes(rng, len(sizes), self.ways)
        samples = rows[classes[:, None], draw_samples(rng, sizes[classes], self.shots + self.queries)]
        x = _gather(self.x, samples.ravel())
        drawn = labelled(x.view(*samples.shape, *x.shape[1:]), self.shots)
        if not self.shuffled:
            return drawn
        return Episode(_permuted(drawn.support, rng), _permuted(drawn.query, rng))

    @functools.cached_property
    def _pools(self) -> dict[Split, tuple[Ints, Ints]]:
        """By split: the samples of its classes, [classes, most] padded with 0, and how many each has, [classes]."""
        samples: dict[Hashable, list[int]] = {}
        for row, label in enumerate(_labels(self.x, self.y)):
            samples.setdefault(label, []).append(row)
        pools: dict[Split, tuple[Ints, Ints]] = {}
        for split, classes in self._classes(sorted(samples, key=str)).items():
            rows = [samples[name] for name in classes if len(samples[name]) >= self.shots + self.queries]
            most = max(map(len, rows), default=0)
            padded = np.array([some + [0] * (most - len(some)) for some in rows], dtype=np.int64).reshape(-1, most)
            pools[split] = padded, np.array([len(some) for some in rows], dtype=np.int64)
        return pools

    def _classes(self, present: list[Hashable]) -> Mapping[Split, Sequence[Hashable]]:
        """The classes of each split."""
        if self.splits is None:
            order = np.random.default_rng(self.seed).permutation(len(present))
            ends = [round(len(present) * share) for share in SHARES]
            parts = np.split(order, ends)
            return {split: [present[i] for i in part] for split, part in zip(SPLITS, parts, strict=True)}
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
        """What travels to a worker: the fields, not what is worked out from them."""
        return trees.fields_of(self)


def _listed(values: Iterable[Hashable], most: int = 12) -> str:
    shown = [repr(value) for value in values]
    return ", ".join(shown[:most]) + (f", … ({len(shown)})" if len(shown) > most else "")


def _labels(x: Any, y: Any) -> list[Hashable]:
    """The label of each sample, as Python values."""
    source = y
    if source is None:
        source = getattr(x, "targets", None)
    if source is None:
        if isinstance(x, np.ndarray | Tensor | list | tuple) or not hasattr(x, "__len__"):
            raise BadInput("Episodes: samples without labels; give y, one label a sample, or a data set that has them")
        source = [x[row][1] for row in range(len(x))]
    array = source.detach().cpu().numpy() if isinstance(source, Tensor) else source
    labels = array.tolist() if hasattr(array, "tolist") else [getattr(one, "item", lambda v=one: v)() for one in array]
    if len(labels) != len(x):
        raise BadInput(f"Episodes: {len(x)} samples but {len(labels)} labels; give one label a sample")
    if labels and not isinstance(labels[0], Hashable):
        raise BadInput(f"Episodes: the first label is {labels[0]!r}; y must be [n], one class a sample")
    return list(labels)


def _gather(x: Any, rows: Ints) -> Tensor:
    """Samples `rows` of arrays or of a data set: [len(rows), *shape] float32."""
    if isinstance(x, Tensor):
        return x[torch.from_numpy(rows)].float()
    if isinstance(x, np.ndarray | list | tuple):
        return torch.from_numpy(np.asarray(x)[rows]).float()
    return torch.stack([torch.tensor(np.asarray(x[row][0])) for row in rows.tolist()]).float()


def _permuted(batch: Batch, rng: np.random.Generator) -> Batch:
    return replace(batch, y=batch.y[torch.from_numpy(rng.permutation(len(batch.y)))])
