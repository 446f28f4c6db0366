"""How is a module computed for one task after another, with torch's own layers?

What cannot be batched exactly runs through here: the user's own forwards, of which only the functions that they call
are given our policies (whose statistics normalize, which key decides a dropout mask).
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from bilevel import trees
from bilevel.batched.attention import attend, dot_product
from bilevel.batched.functions import as_functional, note_batch
from bilevel.batched.layers import RECURRENT, recurrence, refuse_single_value, watched
from bilevel.batched.modes import Part, changed
from bilevel.batched.normalization import apply
from bilevel.batched.tensors import Call, Statistics
from bilevel.episodes import keyed
from bilevel.errors import BadInput

_DROPOUTS = ("dropout", "dropout1d", "dropout2d", "dropout3d")


def forward(module: nn.Module, parts: Sequence[Part], weights: Mapping[str, Tensor], x: Any, call: Call) -> Tensor:
    """Outputs [tasks, samples, ...], task by task; `parts` are the module's by name; else as for `Network`."""
    outputs, recorded = [], []
    for task in range(call.tasks):
        one = replace(
            call,
            tasks=1,
            keys=None if call.keys is None else call.keys[task : task + 1],
            record=None if call.record is None else Statistics(),
            use=None if call.use is None else _slice(call.use, task),
            passes={},
            inside=[],
        )
        with (
            seeded(one),
            double_differentiable(),
            changed(parts, one, partial(_watched, one), batched=False),
            _Functions(one),
        ):
            own = {name: weight[task] for name, weight in weights.items()}
            inputs = trees.map_tensors(lambda tensor: tensor[task].clone(), x)  # noqa: B023 it may write into its input
            outputs.append(torch.func.functional_call(module, own, (inputs,)))
        recorded.append(one.record)
    if call.record is not None:
        kept = [statistics for statistics in recorded if statistics is not None]
        for name in kept[0].mean:
            call.record.mean[name] = torch.cat([statistics.mean[name] for statistics in kept])
            call.record.var[name] = torch.cat([statistics.var[name] for statistics in kept])
        call.record.frozen |= kept[0].frozen
        call.record.unseen |= kept[0].unseen
    if not all(isinstance(output, Tensor) for output in outputs):
        raise BadInput(f"the network returns a {type(outputs[0]).__name__}; it must return one tensor [samples, ...]")
    return torch.stack(outputs)


def _slice(statistics: Statistics, task: int) -> Statistics:
    return Statistics(
        {name: value[task : task + 1] for name, value in statistics.mean.items()},
        {name: value[task : task + 1] for name, value in statistics.var.items()},
    )


def _watched(call: Call, part: Part) -> Callable[..., Any] | None:
    return watched(part, call, part.module.forward) if part.batch else None


class Keyed(TorchFunctionMode):
    """Dropout masks come from the task's key, as in the batched computation, and recurrence has a second derivative."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """`func`, unless it is dropout at work."""
        return self.compute(func, getattr(func, "__name__", ""), args, dict(kwargs or {}))

    def compute(self, func: Callable[..., Any], name: str, args: Sequence[Any], given: dict[str, Any]) -> Any:
        """`func`, of this name, of its arguments."""
        if name == "multi_head_attention_forward" and given.get("training", True) and args[10] > 0:
            with self:  # its dropout is out of reach from here: our own, whose dropout is not
                return attend(func, *args, **given)
        if name == "scaled_dot_product_attention" and (
            given.get("dropout_p", 0) > 0 or (len(args) > 4 and args[4] > 0)
        ):
            with self:
                return dot_product(func, *args, **given)
        if name in RECURRENT:
            if isinstance(args[3], bool) and args[5] > 0 and args[6]:
                with self:
                    return recurrence(func, *args, **given)
            with plain_kernels():
                return func(*args, **given)
        if name not in _DROPOUTS:
            return func(*args, **given)
        bound = dict(zip(("input", "p", "training"), args, strict=False)) | given
        x, p = bound["input"], bound.get("p", 0.5)
        if not bound.get("training", bound.get("train", True)) or p == 0:
            return x
        shape = list(x.shape)
        if name != "dropout":
            shape[2:] = [1] * (len(shape) - 2)
        return x * self.call.mask(shape, p, x)[0]


class _Functions(Keyed):
    """And batch normalization follows the call's policy, whoever calls it; gradients are dense."""

    def compute(self, func: Callable[..., Any], name: str, args: Sequence[Any], given: dict[str, Any]) -> Any:
        """`func`, of this name, of its arguments."""
        if name in ("batch_norm", "instance_norm"):
            return self._normalize(name, as_functional(func, args, given))
        if func in (F.embedding, F.embedding_bag):
            return func(**_dense_gradient(func, args, given))
        return super().compute(func, name, args, given)

    def _normalize(self, name: str, given: dict[str, Any]) -> Tensor:
        """By the statistics at hand, which are noted and never move running ones; or by those that it is given."""
        x, mean, var = (given[key] for key in ("input", "running_mean", "running_var"))
        weight, bias, eps = (given[key] for key in ("weight", "bias", "eps"))
        if name == "instance_norm":
            if given["training"] or mean is None:
                return F.instance_norm(x, None, None, weight, bias, True, 0.0, eps)
            return F.instance_norm(x, mean, var, weight, bias, False, 0.0, eps)
        if not given["training"] and mean is not None:
            wide = (1, -1, *[1] * (x.ndim - 2))  # torch's own kernel has no derivative in the statistics
            scale, shift = (None if value is None else value.view(wide) for value in (weight, bias))
            return apply(x, mean.view(wide), var.view(wide), eps, scale, shift)
        if self.call.inside:
            refuse_single_value(self.call.inside[-1].name, x.shape)
        if self.call.record is not None:
            axes = [axis for axis in range(x.ndim) if axis != 1]
            note_batch(self.call, x.shape, x.mean(axes)[None], x.var(axes, correction=0)[None])
        return F.batch_norm(x, None, None, weight, bias, True, 0.0, eps)


def _dense_gradient(func: Callable[..., Any], args: Sequence[Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of an embedding by name, without `sparse`: a sparse gradient is a dense one, stored otherwise."""
    bound = inspect.signature(func).bind(*args, **given)
    return {**bound.arguments, "sparse": False}


@contextmanager
def plain_kernels() -> Iterator[None]:
    """Within, recurrent layers do without the fused kernels that have no second derivative."""
    mkldnn, cudnn = torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled
    torch.backends.mkldnn.enabled = torch.backends.cudnn.enabled = False  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled = mkldnn, cudnn


@contextmanager
def double_differentiable() -> Iterator[None]:
    """Within, attention is computed by plain products: the fused kernels have no second derivative."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def seeded(call: Call) -> Iterator[None]:
    """Within, other random numbers of the user's own layers come from the task's key too; afterwards the module is as
    before, whatever its forward has changed.
    """
    key = None if call.keys is None else call.keys[0].child("layers")
    with ExitStack() as stack:
        if call.state is not None:
            stack.enter_context(call.state.kept(key))
        if key is not None:
            stack.enter_context(keyed(key))
        yield
