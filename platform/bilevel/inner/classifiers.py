"""How well do classifiers do that see nothing but one task's support, and how is that judged out of balance?"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from bilevel.episodes import Batch, Episode
from bilevel.inner.baselines import nearest, weights
from bilevel.inner.rule import classes, metrics

NORM = (
    4.0  # root mean square of a sample's norm before logistic regression, so that its penalty means the same anywhere
)
STEPS = 300  # of accelerated gradient descent on it at most, and the change of a weight at which it has arrived
ARRIVED = 1e-4

Scores = Callable[[Batch, Batch], Tensor]
"""`(support, query) -> [tasks, queries, classes]`."""


def majority(support: Batch, query: Batch) -> Tensor:
    """How frequent each class is in the support, whatever the query: [tasks, queries, classes]."""
    share = (_one_hot(support, query) * weights(support)).sum(1, keepdim=True)
    return (share / share.sum(2, keepdim=True)).expand(-1, query.y.shape[1], -1)


def prototypes(support: Batch, query: Batch) -> Tensor:
    """Minus the squared distance to each class's mean of the raw features (Snell et al. 2017): [tasks, queries, ways].

    A class that the support lacks is never chosen.
    """
    x, q, hot = _floats(support.x), _floats(query.x), _one_hot(support, query) * weights(support)
    count = hot.sum(1)
    means = hot.transpose(1, 2) @ x / count.clamp(min=1).unsqueeze(2)
    gaps = q.square().sum(2, keepdim=True) - 2 * q @ means.transpose(1, 2) + means.square().sum(2).unsqueeze(1)
    return (-gaps).masked_fill((count == 0).unsqueeze(1), -torch.inf)


def logistic_regression(support: Batch, query: Batch) -> Tensor:
    """Multinomial logistic regression with the penalty |w|^2 / 2, fitted to each task's support.

    Features are centered and scaled to the norm `NORM` by the support. In as many coordinates as there are samples,
    where features are more: the penalty keeps the weights in their span.
    """
    weight = weights(support).double()
    x, q = _floats(support.x), _floats(query.x)
    mean = (weight * x).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
    x, q = weight * (x - mean), q - mean
    square = x.square().sum((1, 2), keepdim=True) / weight.sum(1, keepdim=True)
    scale = NORM / square.sqrt().clamp(min=1e-12)
    x, q = x * scale, q * scale
    if x.shape[2] > x.shape[1]:
        values, vectors = torch.linalg.eigh(x @ x.transpose(1, 2))
        keep = values > 1e-9 * values[:, -1:].clamp(min=1e-300)
        turn = vectors * torch.where(keep, values.clamp(min=1e-300).rsqrt(), 0.0).unsqueeze(1)
        x, q = x @ (x.transpose(1, 2) @ turn), q @ (x.transpose(1, 2) @ turn)
    x, q = (torch.cat([part, part.new_full((*part.shape[:2], 1), NORM)], 2) for part in (x, q))
    return q @ _fitted(x, _one_hot(support, query).double(), weight)


def _fitted(x: Tensor, hot: Tensor, weight: Tensor) -> Tensor:
    """The weights [tasks, features, classes] of least cross-entropy: Nesterov's method with restarts."""
    gram = x.transpose(1, 2) @ (weight * x)
    rate = 1 / (0.5 * torch.linalg.matrix_norm(gram, ord=2) + 1).reshape(-1, 1, 1)  # of the steepest curvature
    w = x.new_zeros(len(x), x.shape[2], hot.shape[2])
    ahead, momentum = w, x.new_ones(len(x), 1, 1)
    for step in range(STEPS):
        slope = x.transpose(1, 2) @ (weight * (torch.softmax(x @ ahead, 2) - hot)) + ahead
        moved = ahead - rate * slope
        uphill = (slope * (moved - w)).sum((1, 2), keepdim=True) > 0
        following = torch.where(uphill, 1.0, (1 + (1 + 4 * momentum**2).sqrt()) / 2)
        ahead = moved + torch.where(uphill, 0.0, (momentum - 1) / following) * (moved - w)
        arrived = step % 10 == 9 and bool((moved - w).abs().max() < ARRIVED)
        w, momentum = moved, following
        if arrived:
            break
    return w


CLASSIFIERS: Mapping[str, Scores] = {
    "majority": majority,
    "nearest_neighbour": nearest,
    "prototypes": prototypes,
    "logistic_regression": logistic_regression,
}
"""What is fitted to the support alone, by name."""


def compared(episode: Episode) -> tuple[dict[str, Tensor], dict[str, str]]:
    """`accuracy`, `balanced_accuracy` and `auc` of each, as `<name>_<metric>` [tasks]; and why one failed, by name.

    Classifiers of features are for floating-point tensors; where the labels are no classes there are none.
    """
    support, query = episode.support, episode.query
    found: dict[str, Tensor] = {}
    failed: dict[str, str] = {}
    if not isinstance(support, Batch) or support.y.dtype != torch.int64 or support.y.dim() != 2:
        return found, failed
    for name, scores in CLASSIFIERS.items():
        if name != "majority" and not support.x.is_floating_point():
            continue
        try:
            judged = judged_classes(scores(support, query), query)
        except Exception as error:  # noqa: BLE001 the result stands without what it is compared with
            failed[name] = f"{type(error).__name__}: {error}"
        else:
            found |= {f"{name}_{metric}": value for metric, value in judged.items()}
    return found, failed


def judged_classes(scores: Tensor, query: Batch) -> dict[str, Tensor]:
    """`accuracy`, `balanced_accuracy` and `auc` of scores [tasks, queries, outputs], each [tasks]."""
    return {
        **metrics(scores, query),
        "balanced_accuracy": balanced_accuracy(scores, query),
        "auc": area(scores, query),
    }


def balanced_accuracy(scores: Tensor, query: Batch) -> Tensor:
    """The mean over the classes that the query has of how many of each are recognized: [tasks]."""
    counted = weights(query).squeeze(2).double()
    right = (classes(scores) == query.y) * counted
    hot = F.one_hot(query.y, int(query.y.max()) + 1) * counted.unsqueeze(2)
    each, there = hot.sum(1), hot.sum(1) > 0
    recall = (hot * right.unsqueeze(2)).sum(1) / each.clamp(min=1)
    return (recall * there).sum(1) / there.sum(1)


def area(scores: Tensor, query: Batch) -> Tensor:
    """The area under the ROC curve, of several classes the mean over each against the rest: [tasks].

    NaN where the query has one class only. Ties count half.
    """
    odds = torch.cat([-scores, scores], 2) if scores.shape[2] == 1 else torch.softmax(scores.double(), 2)
    counted = weights(query).squeeze(2) > 0
    values = odds.double().nan_to_num(0.0, 1e300, -1e300).transpose(1, 2).contiguous()  # [tasks, classes, queries]
    values = values.masked_fill(~counted.unsqueeze(1), -torch.inf)
    ordered = values.sort(2).values
    lower, upper = (torch.searchsorted(ordered, values, right=right) for right in (False, True))
    rank = (lower + upper + 1) / 2 - (~counted).sum(1).reshape(-1, 1, 1)  # among those that count, from 1 on
    hot = (F.one_hot(query.y, max(values.shape[1], int(query.y.max()) + 1)) * counted.unsqueeze(2)).transpose(1, 2)
    hot = hot[:, : values.shape[1]].double()
    positive = hot.sum(2)
    negative = counted.sum(1, keepdim=True) - positive
    under = ((rank * hot).sum(2) - positive * (positive + 1) / 2) / (positive * negative)
    return under.nanmean(1)


def _one_hot(support: Batch, query: Batch) -> Tensor:
    """[tasks, samples, classes] float64; at least two classes, as one column would be read as a logit."""
    most = max(2, int(max(support.y.max(), query.y.max())) + 1)
    return F.one_hot(support.y, most).double()


def _floats(x: Tensor) -> Tensor:
    return x.flatten(2).double()
