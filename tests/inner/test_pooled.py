"""Do models of all tasks' rows see what they should, and nothing of the test's labels?"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from bilevel.episodes import Batch, Episode
from bilevel.inner.pooled import applies, pooled


def users(tasks: int, seed: int, *, level: float = 5.0) -> Episode:
    """Each user has a level of her own, and all have one slope: y = 2 x + level."""
    draw = np.random.default_rng(seed)
    x = draw.normal(size=(tasks, 15, 2))
    y = 2 * x[:, :, :1] + level * draw.normal(size=(tasks, 1, 1)) + 0.1 * draw.normal(size=(tasks, 15, 1))
    x, y = torch.from_numpy(x).float(), torch.from_numpy(y).float()
    return Episode(Batch(x[:, :5], y[:, :5]), Batch(x[:, 5:], y[:, 5:]))


def test_a_users_level_is_known_from_the_support_alone() -> None:
    found, failed = pooled(users(100, 0), users(50, 1))
    assert not failed
    mean = {name: value.mean().item() for name, value in found.items()}
    assert mean.keys() == {"pooled_ridge_mae", "pooled_ridge_with_support_mae", "boosted_trees_mae"}
    assert mean["pooled_ridge_mae"] > 3.0  # about 0.8 of the levels' deviation
    assert mean["pooled_ridge_with_support_mae"] < 1.2  # 1 is what five rows leave of the slope, known as it is
    assert mean["boosted_trees_mae"] < 1.5
    assert all(value.shape == (50,) for value in found.values())


def test_the_same_rows_give_the_same_numbers() -> None:
    first, again = (pooled(users(60, 0), users(10, 1))[0] for _ in range(2))
    assert all(torch.equal(value, again[name]) for name, value in first.items())


def test_few_rows_grow_no_trees() -> None:
    assert "boosted_trees_mae" not in pooled(users(12, 0), users(3, 1))[0]


def test_classes_that_mean_the_same_in_all_tasks_are_pooled() -> None:
    def classed(episode: Episode) -> Episode:
        parts = (Batch(b.x, (b.y[:, :, 0] > 0).long() + (b.y[:, :, 0] > 2).long()) for b in vars(episode).values())
        return Episode(*parts)

    train, test = classed(users(100, 0)), classed(users(20, 1))
    assert applies(train, same_classes=True)
    assert not applies(train, same_classes=False)
    found, failed = pooled(train, test)
    assert not failed
    kinds = ("accuracy", "balanced_accuracy", "auc")
    names = ("pooled_ridge", "pooled_ridge_with_support", "boosted_trees")
    assert found.keys() == {f"{name}_{kind}" for name in names for kind in kinds}
    assert found["boosted_trees_accuracy"].mean() > found["pooled_ridge_accuracy"].mean() + 0.1


def test_padded_rows_are_not_learned_from() -> None:
    train, test = users(100, 0), users(20, 1)
    y = train.query.y.clone()
    y[:, 7:] = 1e6
    mask = torch.arange(10).expand(100, -1) < 7
    padded = Episode(train.support, Batch(train.query.x, y, mask))
    short = Episode(train.support, Batch(train.query.x[:, :7], train.query.y[:, :7]))
    found, wanted = pooled(padded, test)[0], pooled(short, test)[0]
    assert all(torch.allclose(value, wanted[name], rtol=1e-5) for name, value in found.items())


@pytest.mark.parametrize("kind", ["an environment", "images", "tokens"])
def test_what_is_no_table_is_not_pooled(kind: str) -> None:
    y = torch.zeros(1, 2, 1)
    x = {"images": torch.zeros(1, 2, 3, 8, 8), "tokens": torch.zeros(1, 2, 3).long()}
    support = Batch(x[kind], y) if kind in x else kind
    assert not applies(Episode(support, support), same_classes=True)
