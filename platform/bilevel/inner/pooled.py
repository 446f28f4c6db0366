"""How well does one model of all tasks' rows do, without and with what a task's support tells?"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from bilevel.episodes import Batch, Episode
from bilevel.inner.baselines import RIDGE, ridge, weights
from bilevel.inner.classifiers import judged_classes
from bilevel.inner.rule import metrics

ROWS = 20_000  # of training tasks' queries at most
TREES_FROM = 500  # rows: with fewer there is nothing for a boosted tree to find
OUTPUTS = 5  # columns of labels at most for which trees are grown

Rows = NDArray[np.float64]
Model = Callable[[Rows], Rows]
"""From features [rows, features] to numbers, or a number for each class: [rows, outputs]."""


def applies(episode: Episode, *, same_classes: bool) -> bool:
    """Whether episodes (stacked) are rows of a table: a vector of floats each, and labels that mean the same in all.

    Classes of few-shot tasks have another meaning in each task; `same_classes` says that these do not.
    """
    support = episode.support
    if not isinstance(support, Batch) or support.x.dim() != 3 or not support.x.is_floating_point():
        return False
    return support.y.is_floating_point() or (same_classes and support.y.dtype == torch.int64 and support.y.dim() == 2)


def pooled(train: Episode, test: Episode) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Metrics on test episodes by `<model>_<metric>`, each [tasks], of models of all rows of training episodes.

    `pooled_ridge` sees a row alone, `pooled_ridge_with_support` and `boosted_trees` also what the support of its task
    tells: means of features and labels, the labels' spread, and what a ridge fit to the support predicts for it.
    And why one failed, by name.
    """
    outputs = 1
    if train.support.y.dtype == torch.int64:
        parts = (train.support.y, train.query.y, test.support.y, test.query.y)
        outputs = max(2, max(int(y.max()) for y in parts) + 1)
    plain, told, y = _rows(train, outputs)
    kept = _counted(train.query)
    fits: dict[str, tuple[Callable[[Rows, Rows], Model], Rows, int]] = {
        "pooled_ridge": (_ridge_model, plain, 0),
        "pooled_ridge_with_support": (_ridge_model, told, 1),
    }
    if kept.sum() >= TREES_FROM and y.shape[1] <= OUTPUTS:
        fit = partial(_trees, classed=train.support.y.dtype == torch.int64)
        fits["boosted_trees"] = fit, told, 1
    unseen = _rows(test, outputs)
    found: dict[str, Tensor] = {}
    failed: dict[str, str] = {}
    for name, (fit_, features, which) in fits.items():
        try:
            guess = fit_(features[kept], y[kept])(unseen[which])
            shaped = torch.from_numpy(guess).reshape(*test.query.x.shape[:2], -1).to(test.query.x.dtype)
            classed = test.query.y.dtype == torch.int64
            judged = judged_classes(shaped, test.query) if classed else metrics(shaped, test.query)
        except Exception as error:  # noqa: BLE001 the result stands without what it is compared with
            failed[name] = f"{type(error).__name__}: {error}"
        else:
            found |= {f"{name}_{metric}": value for metric, value in judged.items()}
    return found, failed


def _rows(episode: Episode, outputs: int) -> tuple[Rows, Rows, Rows]:
    """Queries as rows: features, features with what the support tells, and labels (of classes one column each)."""
    support, query = (Batch(b.x.double(), _labels(b.y, outputs), b.mask) for b in (episode.support, episode.query))
    weight, tasks, queries = weights(support), len(support.x), query.x.shape[1]
    count = weight.sum(1, keepdim=True)
    x_mean, y_mean = ((weight * part).sum(1, keepdim=True) / count for part in (support.x, support.y))
    spread = ((weight * (support.y - y_mean).square()).sum(1, keepdim=True) / count).sqrt()
    fixed = torch.cat([x_mean, y_mean, spread], 2).expand(tasks, queries, -1)
    told = torch.cat([query.x, fixed, ridge(support, query)], 2)
    parts = (part.reshape(tasks * queries, -1).cpu().numpy() for part in (query.x, told, query.y))
    plain, with_support, y = (np.asarray(part, dtype=np.float64) for part in parts)
    return plain, with_support, y


def _labels(y: Tensor, outputs: int) -> Tensor:
    """[tasks, samples, outputs] float64."""
    return F.one_hot(y, outputs).double() if y.dtype == torch.int64 else y.double().reshape(*y.shape[:2], -1)


def _counted(query: Batch) -> NDArray[np.bool_]:
    """Which rows exist, [tasks * queries]."""
    return np.asarray((weights(query) > 0).reshape(-1).cpu().numpy(), dtype=bool)


def _ridge_model(x: Rows, y: Rows) -> Model:
    """Ridge regression on standardized features, its intercept free."""
    mean, std, middle = x.mean(0), x.std(0), y.mean(0)
    std = np.where(std > 1e-12 * np.abs(mean), std, 1.0)
    scaled = (x - mean) / std
    slopes = np.linalg.solve(scaled.T @ scaled + RIDGE * np.eye(x.shape[1]), scaled.T @ (y - middle))
    return lambda new: middle + (new - mean) / std @ slopes


def _trees(x: Rows, y: Rows, *, classed: bool) -> Model:
    """Boosted trees of scikit-learn: one model of the classes, or one for each column of labels."""
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor  # a second to import

    settled: dict[str, Any] = {"early_stopping": False, "random_state": 0}
    if not classed:
        models = [HistGradientBoostingRegressor(**settled).fit(x, column) for column in y.T]
        return lambda new: np.stack([np.asarray(model.predict(new), dtype=np.float64) for model in models], 1)
    model = HistGradientBoostingClassifier(**settled).fit(x, y.argmax(1))
    places = np.asarray(model.classes_, dtype=np.int64)  # of the classes that these rows have

    def scores(new: Rows) -> Rows:
        found = np.full((len(new), y.shape[1]), -700.0)
        found[:, places] = np.log(np.clip(model.predict_proba(new), 1e-300, None))
        return found

    return scores
