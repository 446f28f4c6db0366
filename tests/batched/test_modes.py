"""Is a user's own layer left to itself, and does a normalization that she keeps in eval mode use its statistics?"""

# ruff: noqa: A002  signatures are torch's

from __future__ import annotations

import types
import warnings
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bilevel.batched import Network, Statistics, verify
from bilevel.batched.modes import changed, parts_of
from bilevel.batched.tensors import Call
from bilevel.errors import BadInput

TASKS = 3


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class WithReLU(nn.BatchNorm1d):
    """As timm has it: normalization and activation in one."""

    def forward(self, input: Tensor) -> Tensor:
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        use = self.training or not self.track_running_stats
        mean, var = self.running_mean, self.running_var
        out = F.batch_norm(input, mean, var, self.weight, self.bias, use, self.momentum or 0.1, self.eps)
        return torch.relu(out)


class Ghost(nn.BatchNorm1d):
    """Normalizes parts of the batch, each by itself."""

    def forward(self, input: Tensor) -> Tensor:
        return (
            torch.cat([super(Ghost, self).forward(part) for part in input.chunk(2)])
            if self.training
            else super().forward(input)
        )


class Conditional(nn.BatchNorm1d):
    def forward(self, input: Tensor, gamma: Tensor | None = None) -> Tensor:
        out = super().forward(input)
        return out if gamma is None else out * (1 + gamma)


class ByHand(nn.BatchNorm1d):
    def forward(self, input: Tensor) -> Tensor:
        if self.training:
            mean, var = input.mean(0), input.var(0, correction=0)
            with torch.no_grad():
                self.running_mean += 0.1 * (mean - self.running_mean)
        else:
            mean, var = self.running_mean, self.running_var
        return (input - mean) / (var + self.eps).sqrt() * self.weight + self.bias


class Shifted(nn.InstanceNorm1d):
    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) + 0.65


class Conditioned(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm, self.gamma = nn.Linear(3, 4), Conditional(4), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(x), self.gamma(x))


class Doubled(nn.GRU):
    def forward(self, input: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        out, last = super().forward(2 * input, hx)
        return out + 1, last


class Tuned(nn.LSTM):
    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> Tensor:  # type: ignore[override]
        return super().forward(input, hx)[0][:, -1]


class LastOf(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x)
        return out if isinstance(out, Tensor) else out[0][:, -1]


def around(norm: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), norm, nn.Linear(4, 2))


def overridden() -> nn.Module:
    net = around(nn.BatchNorm1d(4))
    own = net[1].forward
    net[1].forward = lambda x: torch.tanh(own(x))  # type: ignore[method-assign]
    return net


def bound() -> nn.Module:
    net = around(nn.BatchNorm1d(4))
    net[1].forward = types.MethodType(lambda self, x: x * self.weight + self.bias, net[1])  # type: ignore[method-assign]
    return net


def hooked() -> nn.Module:
    net = around(nn.BatchNorm1d(4))
    net[1].register_forward_hook(lambda part, inputs, out: out + inputs[0])
    net[1].register_forward_pre_hook(lambda part, inputs: (inputs[0] * 2,))
    return net


def subclassed_kindly() -> nn.Module:
    class Named(nn.BatchNorm1d):
        def __init__(self) -> None:
            super().__init__(4, eps=1e-3)

    return around(Named())


OWN: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "batch normalization and ReLU": lambda: (around(WithReLU(4)), torch.randn(6, 3)),
    "ghost batch normalization": lambda: (around(Ghost(4)), torch.randn(6, 3)),
    "conditional batch normalization": lambda: (Conditioned(), torch.randn(6, 3)),
    "by hand": lambda: (around(ByHand(4)), torch.randn(6, 3)),
    "SyncBatchNorm": lambda: (around(nn.SyncBatchNorm(4)), torch.randn(6, 3)),
    "InstanceNorm": lambda: (nn.Sequential(nn.Conv1d(2, 3, 2), Shifted(3, affine=True)), torch.randn(6, 2, 5)),
    "GRU": lambda: (LastOf(Doubled(3, 4, batch_first=True)), torch.randn(5, 4, 3)),
    "LSTM": lambda: (LastOf(Tuned(3, 4, batch_first=True)), torch.randn(5, 4, 3)),
    "an instance's own forward": lambda: (overridden(), torch.randn(6, 3)),
    "a bound method": lambda: (bound(), torch.randn(6, 3)),
    "hooks": lambda: (hooked(), torch.randn(6, 3)),
    "a subclass that changes nothing": lambda: (subclassed_kindly(), torch.randn(6, 3)),
}


def several(module: nn.Module) -> dict[str, Tensor]:
    return {name: v + 0.1 * torch.randn(TASKS, *v.shape).to(v) for name, v in Network(module).start().items()}


def alone(module: nn.Module, weights: dict[str, Tensor], x: Tensor) -> Tensor:
    """Plain torch, nothing of ours: the module in the mode in which it is, on one task after another."""
    buffers = {name: value.clone() for name, value in module.named_buffers()}
    each = ({**buffers, **{n: w[task] for n, w in weights.items()}} for task in range(TASKS))
    return torch.stack([torch.func.functional_call(module, state, (x,)) for state in each])


@pytest.mark.parametrize("case", OWN)
def test_a_layers_own_forward_is_what_is_computed(case: str) -> None:
    module, x = OWN[case]()
    module, x = module.double(), x.double()
    verdict = verify(module, x)
    assert verdict.exact, verdict
    weights, wide = several(module), x.expand(TASKS, *x.shape)
    wanted = alone(module, weights, x)
    state = {name: value.clone() for name, value in module.state_dict().items()}
    for batched in (True, False):
        network = Network(module, batched=batched)
        torch.testing.assert_close(network(weights, wide), wanted)
        torch.testing.assert_close(network(weights, wide, training=False), wanted)  # no dropout here; by the batch
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())


@pytest.mark.parametrize("case", ["batch normalization and ReLU", "conditional batch normalization", "SyncBatchNorm"])
@pytest.mark.parametrize("batched", [True, False])
def test_a_layer_with_a_forward_of_its_own_follows_the_policy(case: str, batched: bool) -> None:
    module, x = OWN[case]()
    module, x = module.double(), x.double()
    network, weights, statistics = Network(module, batched=batched), several(module), Statistics()
    wide = x.expand(TASKS, *x.shape)
    own = network(weights, wide, record=statistics)
    assert statistics.mean
    assert not statistics.unseen
    torch.testing.assert_close(network(weights, wide, use=statistics), own)
    one = torch.cat([network(weights, wide[:, i : i + 1], use=statistics) for i in range(len(x))], 1)
    torch.testing.assert_close(one, own)
    for task in range(TASKS):
        plain = network.adapted({n: w[task] for n, w in weights.items()}, statistics.task(task))
        torch.testing.assert_close(torch.cat([plain(sample[None]) for sample in x]), own[task])


def test_statistics_out_of_sight_are_said() -> None:
    module, x = OWN["by hand"]()
    weights, wide = several(module), x.expand(TASKS, *x.shape)
    for batched in (True, False):
        network, statistics = Network(module, batched=batched), Statistics()
        out = network(weights, wide, record=statistics)
        assert statistics.unseen == {"1"}
        with pytest.raises(BadInput, match=r"'1'.*out of sight"):
            network(weights, wide, use=statistics)
        plain = network.adapted({n: w[0] for n, w in weights.items()}, statistics.task(0))
        torch.testing.assert_close(plain(x), out[0])


# -- normalization that its user keeps in eval mode --------------------------------------------------------------------


def backbone() -> nn.Module:
    part = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(0.5))
    part[1].running_mean = torch.randn(4)
    part[1].running_var = torch.rand(4) + 0.5
    return part


class Head(nn.Module):
    """A backbone and a head with a normalization that is not frozen."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.backbone, self.norm, self.head = part, nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.backbone(x)))


class OverridesTrain(Head):
    def train(self, mode: bool = True) -> OverridesTrain:
        super().train(mode)
        self.backbone.eval()
        return self


class EvalInForward(Head):
    def forward(self, x: Tensor) -> Tensor:
        self.backbone.eval()
        return super().forward(x)


def built_in_eval() -> nn.Module:
    return Head(backbone().eval())


FROZEN: dict[str, Callable[[], nn.Module]] = {
    "built in eval mode": built_in_eval,
    "train() overridden": lambda: OverridesTrain(backbone()),
    "eval() in forward": lambda: EvalInForward(backbone()),
}


@pytest.mark.parametrize("case", FROZEN)
def test_a_frozen_normalization_uses_its_running_statistics(case: str) -> None:
    module, x = FROZEN[case]().double(), torch.randn(6, 3).double()
    assert verify(module, x).exact
    weights, wide = several(module), x.expand(TASKS, *x.shape)
    inner = [p for p in weights if p.startswith("backbone")]
    assert inner
    module.train() if case == "train() overridden" else None
    wanted = alone(module, weights, x)  # frozen part in eval mode, without dropout; the rest by the batch
    for batched in (True, False):
        network, statistics = Network(module, batched=batched), Statistics()
        torch.testing.assert_close(network(weights, wide, record=statistics), wanted)
        assert set(statistics.mean) == {"norm"}
        assert statistics.frozen | set(network.frozen) == {"backbone.1"}
        torch.testing.assert_close(network(weights, wide, use=statistics), wanted)
        for task in range(TASKS):
            plain = network.adapted({n: w[task] for n, w in weights.items()}, statistics.task(task))
            torch.testing.assert_close(torch.cat([plain(sample[None]) for sample in x]), wanted[task])


def test_a_frozen_instance_normalization_uses_its_running_statistics() -> None:
    norm = nn.InstanceNorm1d(3, affine=True, track_running_stats=True).eval()
    norm.running_mean, norm.running_var = torch.randn(3), torch.rand(3) + 0.5
    module, x = nn.Sequential(nn.Conv1d(2, 3, 2), norm).double(), torch.randn(4, 2, 5).double()
    assert verify(module, x).exact
    weights, wide = several(module), x.expand(TASKS, *x.shape)
    for batched in (True, False):
        network = Network(module, batched=batched)
        torch.testing.assert_close(network(weights, wide), alone(module, weights, x))
        torch.testing.assert_close(network.adapted({n: w[0] for n, w in weights.items()})(x), network(weights, wide)[0])


def test_the_function_itself_does_as_its_arguments_say() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3, 4)
            self.register_buffer("mean", torch.randn(4))
            self.register_buffer("var", torch.rand(4) + 0.5)

        def forward(self, x: Tensor) -> Tensor:
            h = F.batch_norm(self.linear(x), self.mean, self.var)
            h = torch.batch_norm(h, None, None, self.mean, self.var, True, 0.0, 1e-3, False)
            return F.instance_norm(
                h[..., None].expand(-1, -1, 2) * h[:, :1, None], self.mean, self.var, None, None, False
            )

    assert verify(Functional(), torch.randn(6, 3)).exact


def test_a_scripted_part_is_put_in_the_mode_of_a_call() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, about scripts
        part = torch.jit.script(nn.Sequential(nn.Linear(3, 4), nn.Tanh()))
    module, x = nn.Sequential(part, nn.Linear(4, 2)), torch.randn(6, 3)
    weights = several(module)
    found = Network(module, batched=False)(weights, x.expand(TASKS, *x.shape), training=False)
    torch.testing.assert_close(found, alone(module, weights, x))
    assert part.training
    with changed(parts_of(module), Call(1, False, None, None, None), lambda part: None, batched=False):
        assert not part.training
    assert part.training
