"""What does `verify` say of networks as users write them, and is it so beside plain torch, one task at a time?"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from bilevel.batched import Network, initialized, verify
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
