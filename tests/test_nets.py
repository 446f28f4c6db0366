"""Are the reference networks those of the papers?"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bilevel.errors import BadInput
from bilevel.nets import conv4, mlp


def test_conv4_for_omniglot() -> None:
    net = conv4(5)
    assert sum(p.numel() for p in net.parameters()) == 112_261  # as learn2learn's OmniglotCNN(5)
    assert net(torch.randn(3, 1, 28, 28)).shape == (3, 5)
    convolutions = [part for part in net if isinstance(part, nn.Conv2d)]
    assert [c.stride for c in convolutions] == [(2, 2)] * 4
    assert not any(isinstance(part, nn.MaxPool2d) for part in net)


def test_conv4_with_pooling_for_miniimagenet() -> None:
    net = conv4(ways=5, shape=(3, 84, 84), hidden=32, pool=True)
    assert sum(p.numel() for p in net.parameters()) == 32_901  # Finn et al. 2017
    assert net(torch.randn(2, 3, 84, 84)).shape == (2, 5)


def test_weights_come_from_torchs_generator() -> None:
    nets = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        nets.append(torch.cat([p.flatten() for p in conv4(5).parameters()]))
    assert torch.equal(nets[0], nets[1])
    assert not torch.equal(nets[0], nets[2])


def test_conv4_starts_as_learn2learn_does() -> None:
    torch.manual_seed(0)
    net = conv4(20)
    bound = (6 / (9 * (64 + 64))) ** 0.5
    assert 0.99 * bound < net[3].weight.abs().max() <= bound
    assert net[1].weight.min() >= 0
    assert 0.4 < net[1].weight.mean() < 0.6
    assert net[-1].weight.std().item() == pytest.approx(1, abs=0.1)
    assert all(part.bias.abs().max() == 0 for part in net if getattr(part, "bias", None) is not None)


def test_mlp_is_the_sinusoid_network() -> None:
    net = mlp(1)
    assert [(p.in_features, p.out_features) for p in net if isinstance(p, nn.Linear)] == [(1, 40), (40, 40), (40, 1)]
    assert net(torch.randn(10, 1)).shape == (10, 1)
    assert mlp(3, (2, 4), hidden=(), activation="gelu")(torch.randn(5, 2, 4)).shape == (5, 3)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: conv4(5, (16,)), "images"),
        (lambda: conv4(5, (1, 8, 8), pool=True), "halves"),
        (lambda: mlp(1, activation="step"), "'step' is none of relu"),
    ],
)
def test_bad_input(build: object, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        build()  # type: ignore[operator]
