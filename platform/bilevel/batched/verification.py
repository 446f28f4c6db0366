"""Does the batched computation of a module equal the module itself, to the second derivative?"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bilevel.batched import purity
from bilevel.batched.copies import duplicate
from bilevel.batched.lazy import initialized
from bilevel.batched.network import Network
from bilevel.batched.precision import Lifted, Narrowest
from bilevel.batched.reference import Untouched
from bilevel.batched.tensors import Unsupported
from bilevel.episodes import Key, guarded
from bilevel.errors import BadInput

_TASKS = 3
_RATE = 0.1
_SLACK = 8  # times the rounding error that the module itself shows, where its own types are compared
_COARSEST = 0.1  # relative error from which on nothing can be told

Trace = dict[str, dict[str, Tensor]]
"""Outputs, gradients and meta-gradients: by stage, then by the tensor's name, each [tasks, *shape]."""


@dataclass(frozen=True)
class Verdict:
    """Whether a module may be batched, the largest relative error found, why not, and in which types it was compared.

    `types` is "float64", "float64 and its own (float32)" for a module that fixes some of its types itself, or "its own
    (float32)" where float64 does not go; `tolerance` is the relative error from which on it is not exact. `notes` are
    what must be known of the module besides: what its forward changes, and for what reason the same bits could not be
    promised; `unkeyed` is the latter, or empty.
    """

    exact: bool
    error: float
    reason: str
    types: str = "float64"
    tolerance: float = 1e-8
    notes: tuple[str, ...] = ()
    unkeyed: str = ""

    def __str__(self) -> str:
        if self.exact:
            return f"exact to {self.error:.1e} (tolerance {self.tolerance:.1e}) in {self.types}"
        return f"not exact in {self.types}: {self.reason}"


def verify(
    module: nn.Module, x: Tensor, y: Tensor | None = None, *, tolerance: float = 1e-8, order: int = 2
) -> Verdict:
    """Compare the batched computation of `module` with the module itself, untouched, on one task at a time.

    Three tasks with different weights: outputs, the gradient of a loss, and the gradient, back through one gradient
    step, of the loss after it (Finn et al. 2017, eq. 4). Dropout is at work, with the same
    masks, in the step and not in the loss after it. The module is copied; a lazy one is given its shapes first. It is
    also run again and again, to see what its forward changes and which random numbers it draws (`Verdict.notes`).

    All is compared in float64, where what the module casts or makes in narrower types is float64 too. Where it does so,
    or does not work in float64, it is compared in its own types, to some times the error that rounding makes there.

    Args:
        module: any network with one tensor in and one out.
        x: inputs of one task, [samples, *shape].
        y: labels of one task, or None for random targets: int64 [samples] for classes, else as the outputs.
        tolerance: the relative error from which on a module is not exact, in float64.
        order: 1 leaves second derivatives out, for rules that need none.

    Raises:
        BadInput: the module does not work on `x` at all, or has no second derivative.
    """
    with guarded():
        module = duplicate(initialized(module, x))
        verdict = _compared(module, x, y, tolerance, order)
    found = purity.look(module, x)
    if found.draws:  # what was compared was the luck of the draw
        verdict = replace(verdict, exact=False, error=float("inf"), reason=found.draws)
    return replace(verdict, notes=found.notes, unkeyed=found.unkeyed)


def _compared(module: nn.Module, x: Tensor, y: Tensor | None, tolerance: float, order: int) -> Verdict:
    wide = _Comparison(duplicate(module).double(), x.double() if x.is_floating_point() else x, y, order)
    lift = Lifted()
    failed = wide.reference(lift)
    if failed is None and wide.rounding <= torch.finfo(torch.float64).eps:
        verdict = wide.verdict(lift, tolerance, "float64")
        if not verdict.exact or not (lift.lifted or _narrow(module)):
            return verdict
        types = "float64 and its own"
    else:
        verdict, types = None, "its own"
    own = _Comparison(module, _of_its_type(module, x), y, order)
    failed = own.reference(None)
    if failed is not None:
        raise own.refusal(failed)
    return own.verdict(None, own.noise(), f"{types} ({own.names})")


def _of_its_type(module: nn.Module, x: Tensor) -> Tensor:
    """Numbers of another type than any of the module's as its first parameter's."""
    types = [p.dtype for p in module.parameters() if p.is_floating_point()]
    return x.to(types[0]) if types and x.is_floating_point() and x.dtype not in types else x


def _narrow(module: nn.Module) -> bool:
    return any(p.dtype in (torch.float16, torch.bfloat16) for p in (*module.parameters(), *module.buffers()))


class _Comparison:
    """One module in certain types, on tasks of its own weights and inputs."""

    def __init__(self, module: nn.Module, x: Tensor, y: Tensor | None, order: int) -> None:
        self.y, self.order = y, order
        self.shape = tuple(x.shape)
        generator = torch.Generator().manual_seed(0)
        self.network, self.untouched = Network(module), Untouched(module)
        self.weights, self.inputs = _several(self.network.start(), generator), _inputs(x, generator)
        self.narrowest = Narrowest()
        self.wanted: Trace = {}

    @property
    def rounding(self) -> float:
        """Of the narrowest type that values of the module pass through, as its reference has shown."""
        return self.narrowest.rounding

    @property
    def names(self) -> str:
        """The types that values of the module pass through."""
        return ", ".join(sorted(str(dtype).removeprefix("torch.") for dtype in self.narrowest.found))

    def reference(self, lift: Lifted | None) -> Exception | None:
        """Fill `wanted` with what the module itself gives; or why it gives nothing."""
        try:
            self.wanted = self._alone(self.weights, lift)
        except Exception as error:  # noqa: BLE001  whatever a user's module raises is told, by `refusal`
            return error
        return None

    def _alone(self, weights: dict[str, Tensor], lift: Lifted | None) -> Trace:
        traces = [self._of_one(task, weights, lift) for task in range(_TASKS)]
        return {
            stage: {
                name: (torch.cat if name == "" else torch.stack)([trace[stage][name] for trace in traces])
                for name in values
            }
            for stage, values in traces[0].items()
        }

    def _of_one(self, task: int, weights: dict[str, Tensor], lift: Lifted | None) -> Trace:
        def forward(leaves: dict[str, Tensor], x: Tensor, training: bool) -> Tensor:
            with self.narrowest:
                out = self.untouched(leaves, x, key=Key((7, task)), training=training, within=lift)
            return out.unsqueeze(0)

        own = {name: value[task] for name, value in weights.items()}
        return _trace(forward, own, self.inputs[:, task], self.y, self.order)

    def noise(self) -> float:
        """A tolerance: how far weights that differ by a rounding error move what the module itself gives."""
        generator = torch.Generator().manual_seed(2)
        nearby = {
            name: value * (1 + self.rounding * torch.randn(value.shape, generator=generator).to(value))
            for name, value in self.weights.items()
        }
        moved, _ = _farthest(self._alone(nearby, None), self.wanted)
        return min(_SLACK * max(self.rounding, moved), _COARSEST)

    def verdict(self, lift: Lifted | None, tolerance: float, types: str) -> Verdict:
        """Whether the batched computation gives the same."""
        keys = [Key((7, task)) for task in range(_TASKS)]

        def forward(leaves: dict[str, Tensor], x: Tensor, training: bool) -> Tensor:
            with nullcontext() if lift is None else lift:
                return self.network(leaves, x, keys=keys, training=training)

        try:
            found = _trace(forward, self.weights, self.inputs, self.y, self.order)
        except Unsupported as error:
            return Verdict(False, float("inf"), str(error), types, tolerance)
        except Exception as error:  # noqa: BLE001  whatever a user's module does under batching, the loop is the answer
            return Verdict(False, float("inf"), _first_line(error), types, tolerance)
        worst, where = _farthest(found, self.wanted)
        if not worst <= tolerance:
            reason = f"{where} differs from the module's own by {worst:.1e} (relative, in {types})"
            return Verdict(False, worst, reason, types, tolerance)
        return Verdict(True, worst, "", types, tolerance)

    def refusal(self, error: Exception) -> BadInput:
        """What is wrong with a module that gives nothing."""
        if isinstance(error, BadInput):
            return error
        if self.order > 1:
            self.order = 1
            if self.reference(None) is None:
                return BadInput(
                    f"the network has no second derivative ({_first_line(error)}); give the rule order=1, which needs "
                    "none"
                )
        return BadInput(f"the network does not work on inputs {self.shape}: {_first_line(error)}")


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
    """Support and query of each task, [2, tasks, samples, *shape]: the samples, shuffled; numbers that are not whole
    are moved by a twentieth of their size.
    """
    order = torch.stack([torch.randperm(len(x), generator=generator) for _ in range(2 * _TASKS)])
    drawn = x[order.to(x.device)]
    if x.is_floating_point() and not torch.equal(x, x.round()):
        drawn = drawn * (1 + 0.05 * torch.randn(drawn.shape, generator=generator).to(x))
    return drawn.view(2, _TASKS, *x.shape)


def _trace(
    forward: Callable[[dict[str, Tensor], Tensor, bool], Tensor],
    weights: dict[str, Tensor],
    inputs: Tensor,
    y: Tensor | None,
    order: int,
) -> Trace:
    """Outputs, gradients and meta-gradients by name, of a function of weights, inputs and whether it trains."""
    leaves = {name: value.detach().clone().requires_grad_() for name, value in weights.items()}
    outputs = forward(leaves, inputs[0], True)
    first = _gradient(_loss(outputs, y), leaves, exact=order > 1)
    moved = {name: value - _RATE * first[name] for name, value in leaves.items()}
    later = forward(moved, inputs[1], False)
    meta = _gradient(_loss(later, y), leaves, exact=False)
    return {
        "the output": {"": outputs.detach()},
        "the output after a step": {"": later.detach()},
        "the gradient": {name: value.detach() for name, value in first.items()},
        "the second-order gradient" if order > 1 else "the gradient after a step": meta,
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


def _gradient(loss: Tensor, leaves: dict[str, Tensor], *, exact: bool) -> dict[str, Tensor]:
    """By name, dense; itself differentiable where `exact`."""
    if not leaves or not loss.requires_grad:
        return {name: torch.zeros_like(value) for name, value in leaves.items()}
    grads = torch.autograd.grad(
        loss, list(leaves.values()), create_graph=exact, allow_unused=True, materialize_grads=True
    )
    return {name: grad.to_dense() if grad.is_sparse else grad for name, grad in zip(leaves, grads, strict=True)}


def _farthest(found: Trace, wanted: Trace) -> tuple[float, str]:
    """The largest relative difference over all stages, and where it is."""
    worst, where = 0.0, ""
    for stage, values in wanted.items():
        distance, name = _distance(found[stage], values)
        if not distance <= worst:
            worst, where = distance, f"{stage}{name and f' of {name!r}'}"
    return worst, where


def _distance(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> tuple[float, str]:
    """The largest difference relative to the largest value of all tensors together, and whose it is."""
    scale = max((value.abs().max().item() for value in wanted.values() if value.numel()), default=0.0) or 1.0
    worst = (0.0, "")
    for name, value in wanted.items():
        if found[name].shape != value.shape or found[name].dtype != value.dtype:
            return float("inf"), name
        error = (found[name].double() - value.double()).abs().max().item() / scale if value.numel() else 0.0
        if not error <= worst[0]:
            worst = (error, name)
    return worst
