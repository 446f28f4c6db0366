"""Are outputs, loss and labels that do not go together refused, with what would?"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bilevel.batched import Network
from bilevel.episodes import Batch, Episode
from bilevel.errors import BadInput
from bilevel.inner.fits import fit
from bilevel.inner.labels import Labels, labels_of
from bilevel.inner.losses import Reading

X = torch.randn(4, 2, generator=torch.Generator().manual_seed(0))


def fitted(outputs: int, y: Any, loss: Any = None, labels: Labels | None = None) -> Any:
    torch.manual_seed(0)
    example = Episode(Batch(X, y), Batch(X + 1, y))
    return fit(Network(nn.Linear(2, outputs)), loss, example, labels or labels_of(None, [example]))


WHOLE = torch.tensor([0, 1, 2, 1])


@pytest.mark.parametrize(
    ("outputs", "y"),
    [(3, WHOLE), (10, WHOLE), (1, WHOLE % 2), (2, WHOLE % 2), (1, X[:, :1]), (1, X[:, 0]), (2, X)],
)
def test_the_default_losses_take_scores_of_classes_or_a_number_for_each(outputs: int, y: torch.Tensor) -> None:
    assert fitted(outputs, y) is None


@pytest.mark.parametrize(
    ("outputs", "y", "match"),
    [
        (2, WHOLE, r"gives \[4, 2\] for 4 samples, the tasks have 3 classes; it must give \[4, 3\], or more outputs"),
        (1, WHOLE, r"gives \[4, 1\] for 4 samples, the tasks have 3 classes"),
        (3, X, r"gives \[4, 3\] for 4 samples, the tasks have 2 numbers per label; it must give \[4, 2\] .*a loss= of"),
        (3, WHOLE - 100, "labels begin at -100, classes at 0; with loss=F.cross_entropy samples of -100 are left out"),
        (
            1,
            WHOLE[:, None],
            r"labels are int64 \[4, 1\]: classes are one whole number a sample, \[4\] \(y.squeeze\(1\)\)",
        ),
        (2, X > 0, r"labels are bool \[4, 2\]: .* give loss=F.binary_cross_entropy_with_logits"),
    ],
)
def test_what_does_not_go_together_is_refused_with_the_cure(outputs: int, y: torch.Tensor, match: str) -> None:
    with pytest.raises(BadInput, match=match):
        fitted(outputs, y)


def test_a_loss_of_ones_own_says_what_outputs_mean() -> None:
    reading = fitted(2, X > 0, F.binary_cross_entropy_with_logits)
    assert isinstance(reading, Reading)
    assert fitted(2, X > 0, reading) == reading, "what was read stays so, for other tasks"
    with pytest.raises(BadInput, match=r"rule.loss: for predictions \[8, 3\] and labels bool \[8, 2\] it raises"):
        fitted(3, X > 0, F.binary_cross_entropy_with_logits)


def test_declared_classes_count_not_those_that_are_shown() -> None:
    assert fitted(5, WHOLE, labels=Labels(5, 5)) is None
    with pytest.raises(BadInput, match="the tasks have 5 classes"):
        fitted(3, WHOLE, labels=Labels(5, 5))


def test_a_network_that_mixes_samples_is_no_scorer() -> None:
    example = Episode(Batch(X, WHOLE), Batch(X, WHOLE))
    pooled = nn.Sequential(nn.Linear(2, 3), nn.Flatten(0), nn.Unflatten(0, (1, -1)))
    with pytest.raises(BadInput, match=r"the network gives \[1, 12\] for 4 samples; it must give \[4, ...\]"):
        fit(Network(pooled, batched=False), None, example, Labels(3, 3))
