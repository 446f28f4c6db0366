"""Are the baselines what their names say, by hand and by scikit-learn?"""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import Ridge
from sklearn.neighbors import KNeighborsClassifier

from bilevel.episodes import Batch, Episode
from bilevel.inner.baselines import RIDGE, baselines


def test_the_mean_of_the_support_by_hand() -> None:
    support = Batch(torch.zeros(1, 3, 1), torch.tensor([[[1.0], [2.0], [6.0]]]))
    query = Batch(torch.zeros(1, 2, 1), torch.tensor([[[3.0], [5.0]]]))
    assert baselines(Episode(support, query))["mean_of_support_mae"].tolist() == [1.0]


def test_ridge_is_that_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 6, 3, generator=generator), torch.randn(2, 6, 1, generator=generator)
    qx, qy = torch.randn(2, 4, 3, generator=generator), torch.randn(2, 4, 1, generator=generator)
    found = baselines(Episode(Batch(x, y), Batch(qx, qy)))["ridge_mae"]
    for task in range(2):
        model = Ridge(alpha=RIDGE).fit(x[task].numpy(), y[task].numpy())
        gap = torch.from_numpy(model.predict(qx[task].numpy())).reshape(4, 1) - qy[task]
        assert found[task].item() == pytest.approx(float(gap.abs().mean()), rel=1e-4)


def test_nearest_neighbour_is_that_of_scikit_learn() -> None:
    generator = torch.Generator().manual_seed(0)
    x, qx = torch.randn(2, 6, 2, 2, generator=generator), torch.randn(2, 20, 2, 2, generator=generator)
    y = torch.arange(3).repeat(2).expand(2, -1)
    qy = torch.randint(0, 3, (2, 20), generator=generator)
    found = baselines(Episode(Batch(x, y), Batch(qx, qy)))["nearest_neighbour_accuracy"]
    for task in range(2):
        model = KNeighborsClassifier(1).fit(x[task].flatten(1).numpy(), y[task].numpy())
        assert found[task].item() == pytest.approx(model.score(qx[task].flatten(1).numpy(), qy[task].numpy()))


def test_a_query_class_that_the_support_lacks_is_simply_missed() -> None:
    support = Batch(torch.zeros(1, 2, 1), torch.tensor([[0, 0]]))
    query = Batch(torch.zeros(1, 4, 1), torch.tensor([[0, 0, 1, 2]]))
    assert baselines(Episode(support, query))["nearest_neighbour_accuracy"].tolist() == [0.5]


def test_padded_samples_do_not_count() -> None:
    generator = torch.Generator().manual_seed(3)
    x, y = torch.randn(1, 5, 2, generator=generator), torch.randn(1, 5, 1, generator=generator)
    mask = torch.tensor([[True, True, True, False, False]])
    query = Batch(torch.randn(1, 3, 2, generator=generator), torch.randn(1, 3, 1, generator=generator))
    padded = baselines(Episode(Batch(x, y, mask), query))
    short = baselines(Episode(Batch(x[:, :3], y[:, :3]), query))
    for name, value in short.items():
        assert torch.allclose(padded[name], value, rtol=1e-5), name
    labels = torch.tensor([[0, 1, 0, 1, 1]])
    near = Batch(x[:, 3:4], torch.tensor([[1]]))  # its nearest sample is padding
    found = baselines(Episode(Batch(x, labels, mask), near))["nearest_neighbour_accuracy"]
    gaps = (x[0, :3] - x[0, 3]).norm(dim=1)
    assert found.item() == float(labels[0, int(gaps.argmin())] == 1)


def test_what_are_not_samples_has_no_baselines() -> None:
    assert baselines(Episode("an environment", "another")) == {}
    words = Batch(torch.zeros(1, 2, 3, dtype=torch.int64), torch.tensor([[0, 1]]))
    assert baselines(Episode(words, words)) == {}
