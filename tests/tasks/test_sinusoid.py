"""Are the tasks of `Sinusoid` the curves of Finn et al. 2017?"""

import math

import numpy as np
import torch

from bilevel.episodes import Batch, Key
from bilevel.tasks import Sinusoid


def fitted(batch: Batch) -> tuple[float, float, float]:
    """Amplitude and phase of the curve through the points, and the largest distance from it.

    A sin(x - p) = A cos(p) sin(x) - A sin(p) cos(x): linear in two unknowns.
    """
    x, y = batch.x[:, 0].double().numpy(), batch.y[:, 0].double().numpy()
    basis = np.stack([np.sin(x), -np.cos(x)], axis=1)
    (cos, sin), *_ = np.linalg.lstsq(basis, y, rcond=None)
    return math.hypot(cos, sin), math.atan2(sin, cos), float(np.abs(basis @ [cos, sin] - y).max())


def test_points_lie_on_one_curve_with_amplitude_and_phase_in_the_papers_ranges() -> None:
    tasks = Sinusoid(shots=10, queries=30)
    amplitudes, phases = [], []
    for i in range(200):
        episode = tasks.episode("train", Key((i,)))
        for batch in (episode.support, episode.query):
            amplitude, phase, distance = fitted(batch)
            assert distance < 1e-4
            assert batch.x.abs().max() <= 5
        amplitudes.append(amplitude)
        phases.append(phase)
    assert 0.1 <= min(amplitudes) < 0.4
    assert 4.7 < max(amplitudes) <= 5.0001
    assert -1e-3 <= min(phases) < 0.2
    assert math.pi - 0.2 < max(phases) <= math.pi + 1e-3


def test_support_and_query_share_the_curve_and_no_point() -> None:
    episode = Sinusoid().episode("test", Key((0,)))
    assert np.allclose(fitted(episode.support)[:2], fitted(episode.query)[:2], atol=1e-4)
    assert not set(episode.support.x.flatten().tolist()) & set(episode.query.x.flatten().tolist())


def test_an_exhibit_is_the_test_task_of_the_key_on_a_grid() -> None:
    tasks = Sinusoid(shots=5)
    shown, drawn = tasks.exhibit(Key((3,))), tasks.episode("test", Key((3,)))
    assert torch.equal(shown.support.x, drawn.support.x)
    assert torch.equal(shown.support.y, drawn.support.y)
    assert torch.allclose(shown.query.x[:, 0], torch.linspace(-5, 5, 100))
    assert np.allclose(fitted(shown.query)[:2], fitted(drawn.query)[:2], atol=1e-4)
