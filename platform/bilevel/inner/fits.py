"""Do a network's outputs, a loss and the labels of an example episode go together?"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from bilevel import trees
from bilevel.batched import Network
from bilevel.episodes import Batch, Episode
from bilevel.errors import BadInput
from bilevel.inner.labels import Labels
from bilevel.inner.losses import Reading, check, read
from bilevel.inner.rule import Loss

HANDED = "a factory with a parameter `ways` or `outputs` is handed it"


def fit(network: Network, loss: Loss | Reading | None, example: Episode, labels: Labels) -> Loss | Reading | None:
    """The loss as it is to be read of such tasks; without one, whether outputs and labels are those of the default.

    Raises:
        BadInput: they do not go together; the message says what would.
    """
    if not isinstance(example.support, Batch):
        return loss
    predictions = _predictions(network, example)
    if loss is None:
        _check_default(list(predictions.shape[2:]), example, labels)
        return None
    answers = _labels(example)
    answers = answers.expand(len(predictions), *answers.shape)
    if isinstance(loss, Reading):
        check(loss, predictions, answers)
        return loss
    return read(loss, predictions, answers)


def _labels(example: Episode) -> Tensor:
    """Of support and query, [samples, ...]; of the support alone where those of the query are of another kind."""
    support, query = example.support.y, example.query.y
    return torch.cat([support, query]) if support.shape[1:] == query.shape[1:] else support


def _predictions(network: Network, example: Episode) -> Tensor:
    """Outputs [2, samples, ...] for two tasks whose weights differ a little, so that no two predictions are equal."""
    both = len(_labels(example)) > len(example.support.y)
    generator = torch.Generator().manual_seed(0)
    weights = {
        name: value
        + 0.1 * (value.std(correction=0) + 0.1) * torch.randn(2, *value.shape, generator=generator).to(value)
        for name, value in network.start().items()
    }
    inputs = [example.support.x, example.query.x] if both else [example.support.x]  # as they come, never as one batch
    with torch.no_grad():
        outputs = [
            network(weights, trees.map_tensors(lambda one: one.expand(2, *one.shape), x), training=False)
            for x in inputs
        ]
    for output, labels in zip(outputs, (example.support.y, example.query.y), strict=False):
        shape = list(output.shape[1:])
        if not shape or shape[0] != len(labels):
            raise BadInput(
                f"the network gives {shape} for {len(labels)} samples; "
                f"it must give [{len(labels)}, ...], one row a sample"
            )
    return torch.cat(outputs, 1)


def _check_default(shape: list[int], example: Episode, labels: Labels) -> None:
    """Cross-entropy wants scores of the classes (of two, one logit will do), squared error a number for each."""
    y, samples = example.support.y, len(example.support.y)
    if labels.classes is not None and not y.is_floating_point():
        enough = len(shape) == 1 and (shape[0] >= labels.classes or (shape[0] == 1 and labels.classes == 2))
        kind, wanted = f"{labels.classes} classes", f"[{samples}, {labels.classes}], or more outputs"
        if int(y.min()) < 0:
            raise BadInput(
                f"labels begin at {int(y.min())}, classes at 0; with loss=F.cross_entropy samples of -100 are left out"
            )
    elif y.is_floating_point():
        size = math.prod(y.shape[1:])
        enough = len(shape) > 0 and math.prod(shape) == size
        kind, wanted = f"{size} numbers per label", f"[{samples}, {size}]"
    else:
        raise BadInput(
            f"labels are {str(y.dtype).removeprefix('torch.')} {list(y.shape)}: classes are one whole number a sample, "
            f"[{samples}] (y.squeeze(1)), numbers are floats (y.float()), and for several marks a sample give "
            "loss=F.binary_cross_entropy_with_logits"
        )
    if not enough:
        given = [samples, *shape]
        raise BadInput(
            f"the network gives {given} for {samples} samples, the tasks have {kind}; it must give {wanted} ({HANDED}; "
            "a loss= of your own says what other outputs mean)"
        )


def works(network: Network, x: Any) -> None:
    """Raises BadInput where the network does not work on inputs [samples, ...]."""
    weights = {name: weight.unsqueeze(0) for name, weight in network.start().items()}
    try:
        with torch.no_grad():
            network(weights, trees.map_tensors(lambda one: one.unsqueeze(0), x), training=False)
    except (RuntimeError, IndexError, TypeError, ValueError) as error:
        shapes = trees.map_tensors(lambda one: tuple(one.shape), x)
        raise BadInput(f"the network does not work on inputs {shapes}: {error}") from error
