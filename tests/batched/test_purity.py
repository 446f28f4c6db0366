"""Is a pass of any module a function of weights, inputs and key, and is it said by name where it is not?"""

from __future__ import annotations

import itertools
import os
import pickle
import random
import warnings
from collections.abc import Callable

import cloudpickle
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bilevel import verify
from bilevel.batched import Network
from bilevel.episodes import Key
from bilevel.errors import BadInput

RANDOM = np.random.default_rng(0)  # a generator of the module, as many keep one
COUNT = itertools.count()


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.calls, self.log, self.last = 0, [0], None  # type: ignore[var-annotated]
        self.register_buffer("count", torch.zeros(()))
        self.torch, self.numpy, self.python = torch.Generator(), np.random.default_rng(1), random.Random(2)
        self.old = {"rng": np.random.RandomState(3)}


class Kept(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.last = torch.tanh(self.linear(x))
        return self.last  # type: ignore[return-value]


class Calls(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.calls * self.linear(x)  # type: ignore[no-any-return]


class Written(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return self.count * self.linear(x)  # type: ignore[no-any-return]


class Bound(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.count = 0.9 * self.count + x.mean()
        return self.count + self.linear(x)  # type: ignore[no-any-return]


class Around(Base):
    """Goes around autograd, as many codebooks do."""

    def forward(self, x: Tensor) -> Tensor:
        self.count.data.add_(1)
        return self.count * self.linear(x)  # type: ignore[no-any-return]


class Logs(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.log.append(len(self.log))
        return len(self.log) * self.linear(x)  # type: ignore[no-any-return]


class Recurs(Base):
    def forward(self, x: Tensor) -> Tensor:
        self.last = self.linear(x) + (0 if self.last is None else self.last)
        return self.last  # type: ignore[no-any-return]


class Numpy(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x + torch.from_numpy(np.random.randn(3)).to(x))  # type: ignore[no-any-return]


class Python(Base):
    def forward(self, x: Tensor) -> Tensor:
        return random.gauss(1, 1) * self.linear(x)  # type: ignore[no-any-return]


class LayerDrop(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if torch.rand([]) < 0.5 else 2 * self.linear(x)  # type: ignore[no-any-return]


class OwnTorch(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x + torch.randn(3, generator=self.torch).to(x))  # type: ignore[no-any-return]


class OwnNumpy(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.numpy.random() * self.linear(x)  # type: ignore[no-any-return]


class OwnPython(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.python.random() * self.linear(x)  # type: ignore[no-any-return]


class OwnOld(Base):
    def forward(self, x: Tensor) -> Tensor:
        return self.old["rng"].rand() * self.linear(x)  # type: ignore[no-any-return]


class Global(Base):
    def forward(self, x: Tensor) -> Tensor:
        return RANDOM.random() * self.linear(x)  # type: ignore[no-any-return]


class System(Base):
    def forward(self, x: Tensor) -> Tensor:
        return (1 + int.from_bytes(os.urandom(4))) * self.linear(x)  # type: ignore[no-any-return]


class Counts(Base):
    def forward(self, x: Tensor) -> Tensor:
        return next(COUNT) * self.linear(x)  # type: ignore[no-any-return]


STATEFUL = {Calls: "calls", Written: "count", Bound: "count", Around: "count", Logs: "log", Recurs: "last"}
DRAWING = [Numpy, Python, LayerDrop, OwnTorch, OwnNumpy, OwnPython, OwnOld, Global]
X = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


def several(network: Network) -> dict[str, Tensor]:
    return {name: value.expand(2, *value.shape) for name, value in network.start().items()}


def outputs(network: Network, keys: tuple[int, ...] = (1, 2)) -> Tensor:
    out = network(several(network), X.expand(2, 5, 3), keys=[Key((key,)) for key in keys])
    return torch.cat([out, network(several(network), X.expand(2, 5, 3), training=False)])


@pytest.mark.parametrize("kind", [Kept, *STATEFUL])
@pytest.mark.parametrize("batched", [True, False])
def test_a_pass_does_not_depend_on_those_before_nor_on_its_neighbours(kind: type[Base], batched: bool) -> None:
    torch.manual_seed(0)
    network = Network(kind(), batched=batched)
    first = outputs(network)
    assert all(torch.equal(outputs(network), first) for _ in range(5))
    torch.testing.assert_close(first[0], first[1])
    assert network.module.calls == 0
    assert network.module.last is None
    assert network.module.log == [0]
    assert network.module.count == 0
    assert len(network.state._clones) <= 2  # nothing piles up
    moved = pickle.loads(cloudpickle.dumps(network))
    assert torch.equal(outputs(moved), first)


def test_gradients_go_through_what_was_written_and_put_back() -> None:
    for batched in (True, False):
        network = Network(Written(), batched=batched)
        weights = {name: value.clone().requires_grad_() for name, value in several(network).items()}
        one, two = (network(weights, X.expand(2, 5, 3), training=False) for _ in range(2))
        (one * two).sum().backward()
        assert all(weight.grad is not None for weight in weights.values())


@pytest.mark.parametrize("kind", STATEFUL)
def test_what_forward_changes_is_said_by_name(kind: type[Base]) -> None:
    verdict = verify(kind(), X)
    assert verdict.exact
    assert verdict.notes == (
        f"forward changes {STATEFUL[kind]}: every pass begins from the values at the start, as if it were the first",
    )
    assert not verdict.unkeyed


def test_an_activation_that_is_kept_and_not_read_is_nobodys_business() -> None:
    assert verify(Kept(), X).notes == ()
    plain = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.3), nn.Linear(4, 2))
    assert verify(plain, X).notes == ()


@pytest.mark.parametrize("kind", DRAWING)
def test_what_is_drawn_is_decided_by_the_tasks_key(kind: type[Base]) -> None:
    verdict = verify(kind(), X)
    assert not verdict.exact
    assert "forward draws random numbers of its own, from " in verdict.reason
    assert verdict.notes == ()
    network = Network(kind(), batched=False)
    first = outputs(network)
    random.random(), np.random.rand(), torch.rand(1), RANDOM.random()
    again = Network(network.module, batched=False)
    assert torch.equal(outputs(again)[:2], first[:2])
    assert torch.equal(outputs(again, (2, 1))[:2].flip(0), first[:2])
    assert any(not torch.equal(first[0], outputs(network, (key, 2))[0]) for key in range(3, 12))


def test_generators_of_the_process_are_as_before() -> None:
    modules = [kind() for kind in (Numpy, Python, LayerDrop)]
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()  # type: ignore[index]
    for module in modules:
        verify(module, X)
        network = Network(module, batched=False)
        network(several(network), X.expand(2, 5, 3), keys=[Key((1,)), Key((2,))])
    assert before[0] == random.getstate()
    assert before[1] == np.random.get_state()[1].tolist()  # type: ignore[index]
    assert torch.equal(before[2], torch.get_rng_state())


@pytest.mark.parametrize(("kind", "named"), [(System, " (System names urandom)"), (Counts, "")])
def test_what_no_key_decides_is_said_by_name(kind: type[Base], named: str) -> None:
    verdict = verify(kind(), X)
    assert verdict.notes[-1] == verdict.unkeyed
    assert verdict.unkeyed.startswith(f"two passes on the same inputs under the same key differ{named}: the same bits")


class ByText(Base):
    """Its numbers are the same in every pass, and others in every process."""

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(x) * (1 + (hash("text") % 7) / 10)
        return out


class Hashable(Base):
    def forward(self, x: Tensor) -> Tensor:
        return torch.as_tensor(self.linear(self.hash(x)))

    def hash(self, x: Tensor) -> Tensor:
        return x.sign()

    def __hash__(self) -> int:
        return hash(id(self))

    def __eq__(self, other: object) -> bool:
        return hash(self) == hash(other)


def test_what_differs_by_process_is_said_by_name() -> None:
    verdict = verify(ByText(), X)
    assert verdict.notes == (verdict.unkeyed,)
    assert verdict.unkeyed.startswith("its code may give other numbers in each process (ByText names hash)")
    assert not verify(Hashable(), X).unkeyed


def old(function: Callable[..., nn.Module]) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # old, and still in use
        return function(nn.Linear(3, 9))


@pytest.mark.parametrize("function", [nn.utils.parametrizations.spectral_norm, nn.utils.spectral_norm])
def test_a_power_iteration_begins_anew_in_every_pass(function: Callable[..., nn.Module]) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(old(function), nn.Tanh())
    verdict = verify(module, X)
    assert verdict.notes[0].startswith("forward changes ")
    assert "_u" in verdict.notes[0]
    assert not verdict.unkeyed
    network = Network(module, batched=False)
    first = outputs(network)
    assert torch.equal(outputs(network), first)


def test_a_frozen_weight_that_forward_writes_is_refused_by_name() -> None:
    class Momentum(Base):
        def forward(self, x: Tensor) -> Tensor:
            with torch.no_grad():
                self.linear.bias.mul_(0.9)
            return self.linear(x)  # type: ignore[no-any-return]

    module = Momentum()
    module.linear.bias.requires_grad_(False)
    with pytest.raises(BadInput, match=r"writes into its frozen weight 'linear.bias'"):
        Network(module, batched=False)(several(Network(module)), X.expand(2, 5, 3))
