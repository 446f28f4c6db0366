"""How well does one do on the same episodes without meta-learning?"""

from __future__ import annotations

import torch
from torch import Tensor

from bilevel.episodes import Batch, Episode
from bilevel.inner.rule import metrics

RIDGE = 1.0  # strength of the ridge fit, features as they come (standardised by `Grouped`)


def baselines(episode: Episode) -> dict[str, Tensor]:
    """Metrics by `<baseline>_<metric>`, each [tasks]: nearest neighbour for classes, mean and ridge for numbers.

    Needs tensors; for any other kind of support there are none.
    """
    support, query = episode.support, episode.query
    if not isinstance(support, Batch) or not support.x.is_floating_point():
        return {}
    support, query = _solvable(support), _solvable(query)
    if support.y.dtype == torch.int64:
        found = {"nearest_neighbour": nearest(support, query)}
    else:
        found = {"mean_of_support": _mean(support, query), "ridge": ridge(support, query)}
    return {f"{name}_{metric}": value for name, p in found.items() for metric, value in metrics(p, query).items()}


def _solvable(batch: Batch) -> Batch:
    """In types that linear algebra takes: half precision and numbers that are no floats as float32."""
    x = batch.x if batch.x.dtype == torch.float64 else batch.x.float()
    y = batch.y if batch.y.dtype in (torch.int64, torch.float32, torch.float64) else batch.y.float()
    return Batch(x, y if y.dtype == torch.int64 else y.to(x.dtype), batch.mask)


def weights(batch: Batch) -> Tensor:
    """[tasks, samples, 1]: 1 where a sample counts."""
    counted = torch.ones(batch.y.shape[:2]) if batch.mask is None else batch.mask
    return counted.to(batch.x).unsqueeze(-1)


def nearest(support: Batch, query: Batch) -> Tensor:
    """One-nearest-neighbour in Euclidean distance on the raw features, as one-hot scores."""
    gaps = torch.cdist(query.x.flatten(2), support.x.flatten(2))
    gaps = gaps.masked_fill(weights(support).transpose(1, 2) == 0, torch.inf)
    labels = support.y.gather(1, gaps.argmin(2))
    # At least two columns: one would be read as a logit.
    scores: Tensor = torch.nn.functional.one_hot(labels, max(2, int(support.y.max()) + 1)).to(query.x)
    return scores


def _mean(support: Batch, query: Batch) -> Tensor:
    weight = weights(support)
    y = support.y.reshape(*support.y.shape[:2], -1)
    mean = (weight * y).sum(1, keepdim=True) / weight.sum(1, keepdim=True)
    return mean.expand(-1, query.x.shape[1], -1)


def ridge(support: Batch, query: Batch) -> Tensor:
    """Ridge regression of each task's labels on its features about their support means, in its dual form."""
    weight = weights(support)
    count = weight.sum(1, keepdim=True)
    x, y = support.x.flatten(2), support.y.reshape(*support.y.shape[:2], -1)
    x_mean, y_mean = (weight * x).sum(1, keepdim=True) / count, (weight * y).sum(1, keepdim=True) / count
    x, y = weight * (x - x_mean), weight * (y - y_mean)
    gram = x @ x.transpose(1, 2) + RIDGE * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    fitted: Tensor = y_mean + (query.x.flatten(2) - x_mean) @ x.transpose(1, 2) @ torch.linalg.solve(gram, y)
    return fitted
