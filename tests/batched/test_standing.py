"""Is what a module stands on found, copied and put back, and only that?"""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

from bilevel.batched import Network, Statistics
from bilevel.batched.standing import persistent
from bilevel.errors import BadInput


class Standing(nn.Module):
    """Buffers (one that `state_dict` leaves out), a frozen trunk, a tensor that is a plain attribute."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Linear(3, 4).requires_grad_(False)
        self.head = nn.Linear(4, 2)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("f", torch.randn(4))
        self.register_buffer("hidden", torch.randn(4), persistent=False)
        self.register_buffer("none", None)
        self.register_buffer("graph", torch.eye(4).to_sparse())  # a checkpoint cannot hold it
        self.plain = torch.randn(4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.norm(self.trunk(x)) * self.f + self.hidden + self.plain)
        return out


NAMES = {"trunk.weight", "trunk.bias", "f", "hidden", "plain"}


def test_what_no_step_moves_is_named() -> None:
    network = Network(Standing())
    assert network.constants().keys() == NAMES
    assert persistent(network.module) & NAMES == NAMES - {"hidden", "plain"}
    assert Network(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.InstanceNorm1d(2))).constants() == {}


def test_running_statistics_count_where_they_say_something() -> None:
    norm = nn.BatchNorm1d(2)
    norm(torch.randn(5, 2))
    assert Network(norm).constants().keys() == {"running_mean", "running_var", "num_batches_tracked"}


@pytest.mark.parametrize("batched", [True, False])
def test_a_network_stands_on_what_it_is_given(batched: bool) -> None:
    torch.manual_seed(0)
    one, other = Network(Standing(), batched=batched), Network(Standing(), batched=batched)
    x = torch.randn(2, 5, 3)
    weights = one.spread(one.start(), 2)
    wanted, before = one(weights, x), other(weights, x)
    assert not torch.equal(before, wanted)
    moved = other.holding(one.constants())
    assert torch.equal(moved(weights, x), wanted)
    assert torch.equal(other(weights, x), before)
    assert all(torch.equal(value, moved.constants()[name]) for name, value in one.constants().items())


def test_what_is_in_several_places_counts_once_and_stays_one() -> None:
    shared = nn.Linear(2, 2).requires_grad_(False)
    network = Network(nn.Sequential(shared, nn.Tanh(), shared, nn.Linear(2, 1)))
    assert network.constants().keys() == {"0.weight", "0.bias"}
    moved = network.holding({"0.weight": torch.ones(2, 2)}).module
    assert isinstance(moved, nn.Sequential)
    assert moved[0] is moved[2]
    assert torch.equal(moved[2].weight, torch.ones(2, 2))  # type: ignore[union-attr,arg-type]


def test_a_weight_that_a_hook_computes_is_no_constant() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # old, and still in use
        module = nn.Sequential(nn.utils.weight_norm(nn.Linear(2, 3)), nn.utils.spectral_norm(nn.Linear(3, 1)))
    assert Network(module).constants().keys() == {"1.weight_u", "1.weight_v"}


def test_values_that_do_not_fit_are_named() -> None:
    network = Network(Standing())
    with pytest.raises(BadInput, match=r"no buffer or frozen weight 'g'; it has f, hidden"):
        network.holding({"g": torch.zeros(1)})
    with pytest.raises(BadInput, match=r"'f' is \[4\]; it cannot take \[5\]"):
        network.holding({"f": torch.zeros(5)})


def test_an_adapted_modules_state_dict_is_the_factorys() -> None:
    network = Network(Standing(), batched=False)
    weights = {name: value + 1 for name, value in network.start().items()}
    x = torch.randn(5, 3)
    statistics = Statistics()
    wide = {name: value[None] for name, value in weights.items()}
    wanted = network(wide, x[None], record=statistics)[0]
    module = network.adapted(weights, statistics.task(0))
    fresh = Standing()
    fresh.load_state_dict(module.state_dict())
    fresh.hidden, fresh.plain = network.module.hidden, network.module.plain
    torch.testing.assert_close(fresh.eval()(x), wanted)
    torch.testing.assert_close(module(x), wanted)
    tracking = Network(nn.Sequential(nn.InstanceNorm1d(2, affine=True, track_running_stats=True), nn.BatchNorm1d(2)))
    plain = tracking.adapted(tracking.start(), Statistics())  # of layers that forward did not pass
    nn.Sequential(nn.InstanceNorm1d(2, affine=True, track_running_stats=True), nn.BatchNorm1d(2)).load_state_dict(
        plain.state_dict()
    )
