"""What does `verify` say of networks as users write them, and is it so beside plain torch, one task at a time?"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bilevel.batched import Network, initialized, verify
from bilevel.batched.tensors import RULES, PerTask
from bilevel.episodes import Key
from bilevel.errors import BadInput
from support.networks import NETWORKS

TASKS = 2
TOLERANCE = {torch.float64: 1e-8, torch.float32: 2e-4, torch.bfloat16: 0.1}

Forward = Callable[[dict[str, Tensor]], Tensor]


def plain(module: nn.Module, x: Tensor) -> Forward:
    """The module as torch runs it on one task, nothing of ours; running statistics stay as they were."""

    def forward(weights: dict[str, Tensor]) -> Tensor:
        buffers = {name: value.clone() for name, value in module.named_buffers()}
        return torch.func.functional_call(module, {**buffers, **weights}, (x.clone(),))

    return forward


def derivatives(forward: Forward, weights: dict[str, Tensor], order: int) -> list[Tensor]:
    """The output, the gradient of a loss, and that of the loss after a step."""
    leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
    out = forward(leaves)
    grads = torch.autograd.grad(
        (out**2).sum(), list(leaves.values()), create_graph=order > 1, allow_unused=True, materialize_grads=True
    )
    grads = tuple(grad.to_dense() if grad.is_sparse else grad for grad in grads)
    moved = {name: value - 0.01 * grad for (name, value), grad in zip(leaves.items(), grads, strict=True)}
    later = torch.autograd.grad(
        (forward(moved) ** 2).sum(), list(leaves.values()), allow_unused=True, materialize_grads=True
    )
    return [value.detach().to_dense() for value in (out, *grads, *later)]


def ready(name: str) -> tuple[nn.Module, Tensor, int, str]:
    torch.manual_seed(0)
    make, inputs, order, by = NETWORKS[name]
    x = inputs()
    return initialized(make(), x), x, order, by


def train(module: nn.Module, *, quiet: bool) -> None:
    """As before a training, what is kept in eval mode left so; `quiet` turns off what draws random numbers."""
    still = [part for part in module.modules() if not part.training]
    module.train()
    for part in still:
        part.training = False
    for part in module.modules():
        if quiet and not isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.training = False


@pytest.mark.parametrize("name", NETWORKS)
def test_what_is_verified_is_what_torch_computes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    module, x, order, by = ready(name)
    if by == "refused":
        with pytest.raises(BadInput, match=r"order=1|does not work"):
            verify(module, x, order=order)
        weights = {name: p.detach() for name, p in module.named_parameters()}
        with pytest.raises((RuntimeError, NotImplementedError)):  # so does torch
            derivatives(plain(module, x), weights, order)
        return
    verdict = verify(module, x, order=order)
    assert ("batched" if verdict.exact else "loop") == by, verdict
    network = Network(module, batched=verdict.exact)
    weights = {n: v + 0.1 * torch.randn(TASKS, *v.shape).to(v) for n, v in network.start().items()}
    quiet = "drop" in name or "transformer encoder" in name
    keys = [Key((task,)) for task in range(TASKS)]
    wide = x.expand(TASKS, *x.shape)
    train(module, quiet=quiet)
    monkeypatch.setattr(torch.backends.mkldnn, "enabled", False)  # has no second derivative of recurrence
    with sdpa_kernel(SDPBackend.MATH):
        alone = [
            derivatives(plain(module, x), {n: w[task] for n, w in weights.items()}, order) for task in range(TASKS)
        ]
    together = derivatives(lambda given: network(given, wide, training=not quiet, keys=keys), weights, order)
    narrow = max(
        TOLERANCE[v.dtype] for v in (*module.parameters(), *module.buffers(), *alone[0]) if v.dtype in TOLERANCE
    )
    tolerance = TOLERANCE[torch.bfloat16] if "bfloat16" in verdict.types else narrow
    for found, wanted in zip(together, zip(*alone, strict=True), strict=True):
        assert found.dtype == wanted[0].dtype
        gap = (found.double() - torch.stack(wanted).double()).abs().max()
        assert gap <= tolerance * max(1.0, torch.stack(wanted).double().abs().max().item())


def test_there_are_sixty() -> None:
    ways = [by for *_, by in NETWORKS.values()]
    assert len(ways) >= 60
    assert ways.count("refused") <= 3  # each has no derivative in torch either


# -- in which types ----------------------------------------------------------------------------------------------------


class OnlyFloat32(nn.Module):
    """Float64 does not go."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        if x.dtype != torch.float32:
            raise TypeError(f"{x.dtype}")
        return self.b(torch.tanh(self.a(x)))


def test_a_verdict_says_in_which_types_it_was_found() -> None:
    torch.manual_seed(0)
    x = torch.randn(6, 3)
    plain, own = verify(nn.Linear(3, 2), x), verify(OnlyFloat32(), x)
    assert (plain.types, plain.tolerance) == ("float64", 1e-8)
    assert "(tolerance 1.0e-08) in float64" in str(plain)
    assert own.exact
    assert own.types == "its own (float32)"
    assert own.error < own.tolerance < 1e-4
    assert str(own).endswith("in its own (float32)")
    lifted = verify(NETWORKS["gru with its own zeros"][0](), torch.randn(6, 5, 3))
    assert lifted.types == "float64 and its own (float32)"


def test_types_that_do_not_meet_are_refused_though_float64_hides_it() -> None:
    with pytest.raises(BadInput, match="does not work on inputs"):
        verify(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2).bfloat16()), torch.randn(6, 3))


@pytest.mark.parametrize("factor", [1 + 1e-3, 1 - 1e-4])
def test_a_wrong_value_is_caught_where_float64_does_not_go(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    right = RULES["tanh"]
    monkeypatch.setitem(RULES, "tanh", lambda func, x: PerTask(right(func, x).each * factor))
    verdict = verify(OnlyFloat32(), torch.randn(6, 3))
    assert not verdict.exact
    assert "not exact in its own (float32)" in str(verdict)


def test_a_slight_error_is_caught_in_a_network_that_fixes_its_types(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too slight for float32 to show: what the module casts is lifted to float64."""
    right = RULES["tanh"]
    monkeypatch.setitem(RULES, "tanh", lambda func, x: PerTask(right(func, x).each * (1 + 1e-7)))
    module, x = NETWORKS["gru with its own zeros"][0](), torch.randn(6, 5, 3)
    assert not verify(module, x).exact
