"""Does the batched computation of a module equal the loop, to the second derivative?"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bilevel.batched.network import Network
from bilevel.batched.tensors import Unsupported
from bilevel.episodes import Key
from bilevel.errors import BadInput

_TASKS = 3
_RATE = 0.1


@dataclass(frozen=True)
class Verdict:
    """Whether a module may be batched, the largest relative error found, and why not."""

    exact: bool
    error: float
    reason: str


def verify(module: nn.Module, x: Tensor, y: Tensor | None = None, *, tolerance: float = 1e-8) -> Verdict:
    """Compare the batched computation of `module` with the loop of torch's own layers, in float64.

    Three tasks with different weights: outputs, the gradient of a loss, and the gradient, back through one gradient
    step, of the loss after it (Finn et al. 2017, eq. 4). Dropout is at work, with the same
    masks, in the step and not in the loss after it. The module is copied.

    Args:
        module: any network with one tensor in and one out.
        x: inputs of one task, [samples, *shape].
        y: labels of one task, or None for random targets: int64 [samples] for classes, else as the outputs.
        tolerance: the relative error from which on a module is not exact.

    Raises:
        BadInput: the module does not work on `x` at all.
    """
    module = copy.deepcopy(module).double()
    x = x.double() if x.is_floating_point() else x
    generator = torch.Generator().manual_seed(0)
    weights, inputs = _several(Network(module).start(), generator), _inputs(x, generator)
    try:
        wanted = _trace(Network(module, batched=False), weights, inputs, y)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"the network does not work on inputs {tuple(x.shape)}: {_first_line(error)}") from error
    try:
        found = _trace(Network(module), weights, inputs, y)
    except Unsupported as error:
        return Verdict(False, float("inf"), str(error))
    except BadInput:
        raise
    except Exception as error:  # noqa: BLE001  whatever a user's module does under batching, the loop is the answer
        return Verdict(
            False, float("inf"), f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        )
    worst, where = 0.0, ""
    for stage, values in wanted.items():
        distance, name = _distance(found[stage], values)
        if not distance <= worst:
            worst, where = distance, f"{stage}{name and f' of {name!r}'}"
    if not worst <= tolerance:
        return Verdict(False, worst, f"{where} differs from the loop by {worst:.1e} (relative, float64)")
    return Verdict(True, worst, "")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"


def _several(start: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
    """Weights of each task: the start, moved at random by a tenth of its own size."""
    return {
        name: value
        + 0.1 * (value.std(correction=0) + 0.1) * torch.randn(_TASKS, *value.shape, generator=generator).to(value)
        for name, value in start.items()
    }


def _inputs(x: Tensor, generator: torch.Generator) -> Tensor:
    """Support and query of each task, [2, tasks, samples, *shape]: the samples, shuffled and jittered."""
    order = torch.stack([torch.randperm(len(x), generator=generator) for _ in range(2 * _TASKS)])
    drawn = x[order.to(x.device)]
    if x.is_floating_point():
        drawn = drawn + 0.05 * torch.randn(drawn.shape, generator=generator).to(x)
    return drawn.view(2, _TASKS, *x.shape)


def _trace(
    network: Network, weights: dict[str, Tensor], inputs: Tensor, y: Tensor | None
) -> dict[str, dict[str, Tensor]]:
    """Outputs, gradients and meta-gradients by name."""
    leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
    outputs = network(leaves, inputs[0], keys=[Key((7, task)) for task in range(_TASKS)], training=True)
    first = _gradient(_loss(outputs, y), leaves)
    moved = {name: value - _RATE * first[name] for name, value in leaves.items()}
    later = network(moved, inputs[1], training=False)
    meta = _gradient(_loss(later, y), leaves)
    return {
        "the output": {"": outputs.detach()},
        "the output after a step": {"": later.detach()},
        "the gradient": {name: value.detach() for name, value in first.items()},
        "the second-order gradient": {name: value.detach() for name, value in meta.items()},
    }


def _loss(outputs: Tensor, y: Tensor | None) -> Tensor:
    """Summed over tasks, so that each has the gradient of its own loss."""
    classed = y is not None and not y.is_floating_point() and outputs.ndim == 3 and outputs.shape[1:2] == y.shape
    if y is not None and classed and y.max() < outputs.shape[2]:  # not one logit, nor too few outputs
        log = torch.log_softmax(outputs, -1)
        return -log.gather(-1, y.view(1, -1, 1).expand(len(outputs), -1, 1)).mean((1, 2)).sum()
    target = torch.randn(outputs.shape[1:], generator=torch.Generator().manual_seed(1)).to(outputs)
    if y is not None and y.shape == target.shape:
        target = y.to(outputs)
    return ((outputs - target) ** 2).flatten(1).mean(1).sum()


def _gradient(loss: Tensor, leaves: dict[str, Tensor]) -> dict[str, Tensor]:
    if not leaves or not loss.requires_grad:
        return {name: torch.zeros_like(value) for name, value in leaves.items()}
    grads = torch.autograd.grad(
        loss, list(leaves.values()), create_graph=True, allow_unused=True, materialize_grads=True
    )
    return dict(zip(leaves, grads, strict=True))


def _distance(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> tuple[float, str]:
    """The largest difference relative to the largest value of all tensors together, and whose it is."""
    scale = max((value.abs().max().item() for value in wanted.values() if value.numel()), default=0.0) or 1.0
    worst = (0.0, "")
    for name, value in wanted.items():
        if found[name].shape != value.shape:
            return float("inf"), name
        error = (found[name] - value).abs().max().item() / scale if value.numel() else 0.0
        if not error <= worst[0]:
            worst = (error, name)
    return worst
