"""Is any module copied and sent to a worker, and is it there what it was?"""

from __future__ import annotations

import copy
import pickle
import threading
import warnings
from collections.abc import Callable

import cloudpickle
import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from bilevel import verify
from bilevel.batched import Network, Statistics, duplicate
from bilevel.episodes import Key
from bilevel.errors import BadInput

X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


class Keeps(nn.Module):
    """Keeps an activation, and one in a list: both stem from other tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.log: list[Tensor] = []
        self.last = self(torch.zeros(2, 3))  # as some do to learn their shapes

    def forward(self, x: Tensor) -> Tensor:
        self.last: Tensor = self.linear(x)
        self.log.append(self.last)
        return self.last


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = parametrizations.spectral_norm(parametrizations.weight_norm(nn.Linear(3, 2)))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x)
        return out


def old(function: Callable[..., nn.Module]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # old, and still in use
        return nn.Sequential(function(nn.Linear(3, 2)), nn.Tanh())


KINDS: dict[str, Callable[[], nn.Module]] = {
    "weight norm": lambda: nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 2)), nn.Tanh()),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Linear(3, 2)),
    "orthogonal": lambda: parametrizations.orthogonal(nn.Linear(3, 2)),
    "two of them": Twice,
    "old weight norm": lambda: old(nn.utils.weight_norm),
    "old spectral norm": lambda: old(nn.utils.spectral_norm),
    "keeps an activation": Keeps,
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_is_the_same_where_it_has_travelled(kind: str) -> None:
    torch.manual_seed(0)
    network = Network(KINDS[kind](), batched=False)
    weights = {name: value.expand(2, *value.shape) for name, value in network.start().items()}
    wide, keys = X.expand(2, 5, 3), [Key((1,)), Key((2,))]
    wanted = network(weights, wide, keys=keys), network(weights, wide, training=False)
    moved = pickle.loads(cloudpickle.dumps(network))
    again = pickle.loads(cloudpickle.dumps(moved))  # and on from there
    for one in (moved, again, Network(duplicate(moved.module), batched=False)):
        assert one.start().keys() == network.start().keys()
        assert torch.equal(one(weights, wide, keys=keys), wanted[0])
        assert torch.equal(one(weights, wide, training=False), wanted[1])


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_is_verified_and_made_plain_torch(kind: str) -> None:
    torch.manual_seed(0)
    module = KINDS[kind]()
    if kind != "orthogonal":  # its Householder product has no second derivative
        assert verify(module, X).reason in ("", verify(duplicate(module), X).reason)
    network = Network(module, batched=False)
    moved = {name: value + 0.1 for name, value in network.start().items()}
    wanted = network({name: value[None] for name, value in moved.items()}, X[None], training=False)[0]
    torch.testing.assert_close(network.adapted(moved, Statistics())(X), wanted)


def test_a_copy_shares_nothing_and_keeps_what_is_tied() -> None:
    module = Keeps()
    twin = duplicate(module)
    with torch.no_grad():
        twin.linear.weight.zero_()
    assert module.linear.weight.abs().sum() > 0
    assert twin.last is twin.log[0]
    assert torch.equal(twin.last, module.last)
    with pytest.raises(RuntimeError, match="deepcopy"):
        copy.deepcopy(module)


def test_what_cannot_be_copied_is_named() -> None:
    module = nn.Linear(3, 2)
    module.lock = threading.Lock()  # type: ignore[assignment]
    with pytest.raises(BadInput, match=r"the network Linear cannot be copied: TypeError: cannot pickle '_thread.lock'"):
        duplicate(module)


def test_a_parametrized_recurrent_layer_travels() -> None:
    module = parametrizations.weight_norm(nn.GRU(3, 4), "weight_hh_l0")
    moved = pickle.loads(cloudpickle.dumps(Network(module, batched=False))).module
    assert type(moved).__name__ == "ParametrizedGRU"
    assert torch.equal(moved.weight_hh_l0, module.weight_hh_l0)
