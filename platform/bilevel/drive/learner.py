"""How is a learned model used on a task of one's own?"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bilevel import manifest, trees
from bilevel.drive import inputs, results, runs
from bilevel.episodes import Batch, Episode, Scaling, keyed
from bilevel.errors import BadInput, RecordDamaged
from bilevel.inner.labels import settled
from bilevel.inner.losses import Reading
from bilevel.inner.rule import RuleTraits, classes
from bilevel.meta import MetaTraining
from bilevel.meta.learned import Plan, Values
from bilevel.meta.plan import plan
from bilevel.record import folder as folders
from bilevel.record import model
from bilevel.study import history as histories
from bilevel.study.given import Run
from bilevel.study.study import Study


@dataclass(frozen=True)
class Learner:
    """What a run learned, ready to adapt to a task."""

    plan: Plan
    values: Values
    scaling: Scaling | None
    like: Batch
    """The support of an example of its tasks: what inputs and labels look like, and their types."""

    @property
    def classed(self) -> bool:
        """Whether labels are classes, and outputs their scores (of counts, say, a loss takes them for numbers)."""
        loss = vars(self.plan.rule).get("loss")
        numbers = isinstance(loss, Reading) and loss.metric == "mae"
        return self.plan.labels.classes is not None and not numbers

    @property
    def outputs(self) -> int:
        """The classes, or the numbers of a label."""
        return (self.plan.labels.classes if self.classed else None) or math.prod(self.like.y.shape[1:])

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sample."""
        return tuple(self.like.x.shape[1:])

    def adapt(self, x: Any, y: Any, *, steps: int | None = None) -> nn.Module:
        """A plain torch module adapted to labelled samples; batch normalisation takes the support set's statistics.

        Args:
            x: [samples, *shape], in the units of the training data.
            y: [samples] class labels 0, 1, ..., or numbers [samples] or [samples, outputs].
            steps: inner steps; by default as in training.

        The module maps [queries, *shape] to scores [queries, ways], or to numbers in the units of `y`; one query at a
        time gives the same as all at once.

        Raises:
            BadInput: samples of another shape, or labels that do not fit.
        """
        support = self._support(x, inputs.array(y, "support: y"))
        stacked = trees.map_tensors(lambda tensor: tensor.unsqueeze(0), support)
        rule = self.plan.rule
        with _named("support"):
            states = rule.adapt(self.plan.meta(self.values), stacked, None)
            module: nn.Module = rule.module(next(islice(states, rule.steps if steps is None else steps, None)))
        return module if self.scaling is None else _Scaled(module, self.scaling, self.plan.dtype)

    def samples(self, x: Any, what: str, *, scaled: bool = False) -> Any:
        """Samples of `what` (support, query) as the model takes them: [samples, *shape], in the training data's type.

        Raises:
            BadInput: they are no finite numbers, of another shape, or not whole where the model takes whole numbers.
        """
        return inputs.like(x, self.like.x, what, self.scaling if scaled else None)

    def _support(self, x: Any, y: np.ndarray[Any, Any]) -> Batch:
        if y.ndim == 0:
            raise BadInput(f"support: y is a single {y.dtype}; it takes a label for each sample")
        count = inputs.counted(x)
        if count != len(y) or count == 0:
            given = "a single value" if count is None else f"{count} samples"
            raise BadInput(f"support: {given} and {len(y)} labels; each sample has one, and there is at least one")
        samples = self.samples(x, "support", scaled=True)
        inputs.check_numbers(y, "support: y", inputs.largest(self.like.y, self.scaling))
        if self.classed:
            most = max(2, self.outputs)
            if y.ndim != 1 or (y != y.astype(np.int64)).any() or y.min() < 0 or y.max() >= most:
                found = f"labels {y.min()} to {y.max()}" if y.ndim == 1 else f"labels of shape {list(y.shape)}"
                raise BadInput(f"support: {found}; the model has classes 0 to {most - 1}, one whole number a sample")
            return Batch(samples, torch.from_numpy(y.astype(np.int64)))
        if y[0].size != self.outputs:
            raise BadInput(f"support: {y[0].size} numbers per label; the model gives {self.outputs}")
        if not self.like.y.is_floating_point():
            inputs.check_whole(y, self.like.y.dtype, "support: y")
        labels = torch.from_numpy(y.astype(np.float64)).reshape(len(y), *self.like.y.shape[1:])
        return Batch(samples, (labels if self.scaling is None else self.scaling.encode_y(labels)).to(self.like.y.dtype))


@contextmanager
def _named(what: str) -> Iterator[None]:
    """Within, what a network raises (a token beyond its table, say) is said of the samples that it was given."""
    try:
        yield
    except (IndexError, RuntimeError) as error:
        raise BadInput(f"{what}: the network does not work on these samples: {error}") from error


class _Scaled(nn.Module):
    """A module between the user's units and the model's."""

    def __init__(self, module: nn.Module, scaling: Scaling, dtype: torch.dtype) -> None:
        super().__init__()
        self.module = module
        self.scaling = scaling
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """Numbers in the user's units for `x` in the user's units."""
        return self.scaling.decode_y(self.module(self.scaling.encode_x(x).to(self.dtype)))


def load(run: str, *, store: str | Path = "runs", study: Study | None = None) -> Learner:
    """What a run learned (the weights that did best in validation).

    Args:
        run: its id, the beginning or end of it, or its folder.
        store: directory of runs.
        study: needed where the run was not begun from a file.

    Raises:
        BadInput: no such run, or it has learned nothing yet.
    """
    folder = folders.find(Path(store), run)
    study, _ = runs.reload(folder, study)
    if study.space.target is not MetaTraining:
        raise BadInput(
            f"{folder.run_id}: {study.name} is not a meta-training; there is nothing to adapt: "
            "what its best trial reported is in Result.state() (see `bilevel help Result`)"
        )
    if not (folder.path / "model" / "model.json").is_file():
        raise BadInput(f"{folder.run_id}: no learned model yet; finish it with `bilevel resume {folder.run_id}`")
    values, described, scaling = model.read(folder.path / "model")
    if not manifest.is_there(folder.path / "model"):  # an earlier version's: the journal knows what was learned
        for fault in results.model_faults(folder, histories.replay(folder.events())):
            raise RecordDamaged(f"{fault}; {model.WITHOUT}")
    config: MetaTraining = study.build(described.get("point", {}))
    view = Run(0, int(described.get("trial", 0)), study.key)  # what was recorded without buffers is built again
    with keyed(study.key.child("example")):
        example: Episode = config.tasks.episode("train", study.key.child("example"))
    if not isinstance(example.support, Batch) or RuleTraits(config.rule).module is None:
        raise BadInput(f"{folder.run_id}: {type(config.rule).__name__} gives no module that could be adapted")
    ready = plan(dataclasses.replace(config, test_tasks={}), view)
    missing = ready.unrecorded(values)
    if missing:
        warnings.warn(
            f"{folder.run_id}: recorded without {', '.join(missing)}; built again from the study's seed and trial "
            f"{view.trial}, which is right as long as the study is the same",
            stacklevel=2,
        )
    ready = ready.standing_on(values)
    return Learner(ready, ready.moving(values), scaling, settled(example, ready.dtype).support)


def predictions(module: nn.Module, x: np.ndarray[Any, Any], learner: Learner) -> list[list[Any]]:
    """Rows for a CSV, the header first: the class and each class's probability, or the numbers.

    Raises:
        BadInput: samples of another shape, or predictions that are not finite.
    """
    shaped = learner.samples(x, "query")
    with torch.no_grad(), _named("query"):
        scores = module(shaped).flatten(1)
    if not bool(torch.isfinite(scores).all()):
        first = int((~torch.isfinite(scores)).flatten(1).any(1).nonzero()[0])
        raise BadInput(
            f"query: the prediction for sample {first} (counted from 0) is not finite: it, or the support, is far from"
            " what the model was trained on; check their units, or adapt with fewer --steps"
        )
    if not learner.classed:
        names = ["y"] if scores.shape[1] == 1 else [f"y{i}" for i in range(scores.shape[1])]
        return [names, *scores.tolist()]
    chosen = classes(scores).tolist()
    odds = torch.softmax(scores, 1) if scores.shape[1] > 1 else torch.cat([1 - scores.sigmoid(), scores.sigmoid()], 1)
    header = ["y", *(f"p{i}" for i in range(odds.shape[1]))]
    return [header, *([label, *row] for label, row in zip(chosen, odds.tolist(), strict=True))]
