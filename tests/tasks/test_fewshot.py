"""Are classes and samples of an episode drawn evenly, and without repeats?"""

import numpy as np
import pytest
import torch

from bilevel.tasks.fewshot import draw_classes, draw_samples, labelled


def test_classes_are_distinct_and_every_place_is_as_likely() -> None:
    rng = np.random.default_rng(0)
    drawn = np.stack([draw_classes(rng, 4, 3) for _ in range(4000)])
    assert all(len(set(row)) == 3 for row in drawn.tolist())
    for place in range(3):  # 1000 expected; 5 standard deviations are 137
        assert np.abs(np.bincount(drawn[:, place], minlength=4) - 1000).max() < 137


def test_samples_are_distinct_while_a_class_has_enough_and_never_beyond_its_size() -> None:
    sizes = np.array([6, 9, 20])
    for seed in range(50):
        drawn = draw_samples(np.random.default_rng(seed), sizes, 6)
        assert drawn.shape == (3, 6)
        assert all(len(set(row)) == 6 for row in drawn.tolist())
        assert (drawn < sizes[:, None]).all()
    assert set(drawn[0].tolist()) == set(range(6))


def test_a_class_that_is_too_small_begins_again_only_when_it_is_used_up() -> None:
    drawn = draw_samples(np.random.default_rng(0), np.array([3]), 7)[0].tolist()
    assert sorted(drawn[:3]) == [0, 1, 2]
    assert drawn[3:6] == drawn[:3]


@pytest.mark.parametrize("shots", [1, 2])
def test_support_and_query_are_grouped_by_class(shots: int) -> None:
    x = torch.arange(12.0).view(3, 4, 1)
    episode = labelled(x, shots)
    assert episode.support.y.tolist() == [label for label in range(3) for _ in range(shots)]
    assert episode.query.y.tolist() == [label for label in range(3) for _ in range(4 - shots)]
    assert (episode.support.x[:, 0] // 4).tolist() == episode.support.y.tolist()
    assert (episode.query.x[:, 0] // 4).tolist() == episode.query.y.tolist()
    assert sorted(torch.cat([episode.support.x, episode.query.x]).flatten().tolist()) == list(range(12))
