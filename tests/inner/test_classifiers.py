"""Are classifiers of one support, balanced accuracy and AUC those of scikit-learn?"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.neighbors import NearestCentroid

from bilevel.episodes import Batch, Episode
from bilevel.inner import classifiers
from bilevel.inner.classifiers import NORM, area, balanced_accuracy, compared, logistic_regression, prototypes


def drawn(tasks: int = 2, samples: int = 12, queries: int = 20, width: int = 3, ways: int = 3) -> Episode:
    draw = torch.Generator().manual_seed(0)
    y = torch.arange(samples).remainder(ways).expand(tasks, -1)
    qy = torch.randint(0, ways, (tasks, queries), generator=draw)
    centers = 2 * torch.randn(tasks, ways, width, generator=draw)
    x, qx = (
        torch.stack([centers[task][labels[task]] for task in range(tasks)])
        + torch.randn(tasks, labels.shape[1], width, generator=draw)
        for labels in (y, qy)
    )
    return Episode(Batch(x, y), Batch(qx, qy))


def test_prototypes_are_nearest_centroids() -> None:
    episode = drawn()
    scores = prototypes(episode.support, episode.query)
    for task in range(2):
        model = NearestCentroid().fit(episode.support.x[task].numpy(), episode.support.y[task].numpy())
        assert scores[task].argmax(1).tolist() == model.predict(episode.query.x[task].numpy()).tolist()


@pytest.mark.parametrize(("samples", "width"), [(12, 3), (12, 40)], ids=["few features", "more features than samples"])
def test_logistic_regression_is_that_of_scikit_learn(samples: int, width: int) -> None:
    episode = drawn(samples=samples, width=width)
    scores = logistic_regression(episode.support, episode.query)
    for task in range(2):
        x, q = (batch.x[task].double().numpy() for batch in (episode.support, episode.query))
        mean, norm = x.mean(0), math.sqrt(np.square(x - x.mean(0)).sum(1).mean())
        x, q = (np.c_[(part - mean) * NORM / norm, np.full(len(part), NORM)] for part in (x, q))
        model = LogisticRegression(fit_intercept=False, tol=1e-8, max_iter=10_000).fit(x, episode.support.y[task])
        odds = torch.softmax(scores[task], 1).numpy()
        assert np.allclose(odds, model.predict_proba(q), atol=2e-3)


def test_out_of_balance_the_majority_is_right_often_and_knows_nothing() -> None:
    support = Batch(torch.randn(1, 10, 2), torch.tensor([[0] * 9 + [1]]))
    query = Batch(torch.randn(1, 20, 2), torch.tensor([[0] * 18 + [1] * 2]))
    found, failed = compared(Episode(support, query))
    assert not failed
    assert found["majority_accuracy"].item() == pytest.approx(0.9)
    assert found["majority_balanced_accuracy"].item() == 0.5
    assert found["majority_auc"].item() == 0.5
    kinds = ("accuracy", "balanced_accuracy", "auc")
    names = ("majority", "nearest_neighbour", "prototypes", "logistic_regression")
    assert found.keys() == {f"{name}_{kind}" for name in names for kind in kinds}


@pytest.mark.parametrize("ways", [2, 4])
def test_balanced_accuracy_and_auc_are_those_of_scikit_learn(ways: int) -> None:
    draw = torch.Generator().manual_seed(1)
    y = torch.randint(0, ways, (3, 40), generator=draw)
    scores = torch.randn(3, 40, ways, generator=draw).mul(2).round()  # with ties
    query = Batch(torch.zeros(3, 40, 1), y)
    ours, areas = balanced_accuracy(scores, query), area(scores, query)
    for task in range(3):
        odds = torch.softmax(scores[task].double(), 1).numpy()
        truth = y[task].numpy()
        assert ours[task].item() == pytest.approx(balanced_accuracy_score(truth, scores[task].argmax(1).numpy()))
        wanted = roc_auc_score(truth, odds[:, 1] if ways == 2 else odds, multi_class="ovr")
        assert areas[task].item() == pytest.approx(wanted)
    padded = Batch(torch.zeros(3, 50, 1), torch.cat([y, torch.zeros(3, 10, dtype=torch.int64)], 1))
    padded = Batch(padded.x, padded.y, torch.arange(50).expand(3, -1) < 40)
    longer = torch.cat([scores, torch.full((3, 10, ways), 9.0)], 1)
    assert torch.allclose(area(longer, padded), areas)
    assert torch.allclose(balanced_accuracy(longer, padded), ours)


def test_one_logit_is_a_score_of_class_1() -> None:
    query = Batch(torch.zeros(1, 4, 1), torch.tensor([[0, 1, 0, 1]]))
    scores = torch.tensor([[[-1.0], [2.0], [3.0], [4.0]]])
    assert area(scores, query).item() == 0.75
    assert balanced_accuracy(scores, query).item() == 0.75


def test_one_class_in_the_query_has_no_auc() -> None:
    query = Batch(torch.zeros(1, 3, 1), torch.tensor([[1, 1, 1]]))
    assert area(torch.zeros(1, 3, 2), query).isnan().all()
    assert balanced_accuracy(torch.tensor([[[0.0, 1.0]] * 3]), query).item() == 1.0


def test_tokens_have_a_majority_and_numbers_have_no_classes() -> None:
    words = Batch(torch.zeros(1, 2, 3, dtype=torch.int64), torch.tensor([[0, 1]]))
    assert {name.rsplit("_", 1)[0] for name in compared(Episode(words, words))[0]} == {"majority", "majority_balanced"}
    numbers = Batch(torch.zeros(1, 2, 3), torch.zeros(1, 2, 1))
    assert compared(Episode(numbers, numbers)) == ({}, {})
    assert compared(Episode("an environment", "another")) == ({}, {})


def test_a_baseline_that_fails_is_named_and_the_others_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(support: Batch, query: Batch) -> torch.Tensor:
        raise RuntimeError("singular")

    monkeypatch.setattr(classifiers, "CLASSIFIERS", {"prototypes": broken, "majority": classifiers.majority})
    found, failed = compared(drawn())
    assert failed == {"prototypes": "RuntimeError: singular"}
    assert "majority_auc" in found
