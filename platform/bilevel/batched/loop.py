"""How is a module computed for one task after another, with torch's own layers?

What cannot be batched exactly runs through here; and what is batched is checked against it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from bilevel.batched.attention import attend, dot_product
from bilevel.batched.layers import recurrent, refuse_single_value
from bilevel.batched.modes import changed
from bilevel.batched.tensors import Call, Statistics
from bilevel.errors import BadInput

_DROPOUTS = ("dropout", "dropout1d", "dropout2d", "dropout3d")


def forward(
    module: nn.Module, parts: Sequence[tuple[str, nn.Module]], weights: Mapping[str, Tensor], x: Tensor, call: Call
) -> Tensor:
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
        )
        with _double_differentiable(), changed(parts, call.training, _Layers(one)), _Dropout(one), _seeded(one):
            outputs.append(torch.func.functional_call(module, {n: w[task] for n, w in weights.items()}, (x[task],)))
        recorded.append(one.record)
    if call.record is not None:
        kept = [statistics for statistics in recorded if statistics is not None]
        for name in kept[0].mean:
            call.record.mean[name] = torch.cat([statistics.mean[name] for statistics in kept])
            call.record.var[name] = torch.cat([statistics.var[name] for statistics in kept])
    if not all(isinstance(output, Tensor) for output in outputs):
        raise BadInput(f"the network returns a {type(outputs[0]).__name__}; it must return one tensor [samples, ...]")
    return torch.stack(outputs)


def _slice(statistics: Statistics, task: int) -> Statistics:
    return Statistics(
        {name: value[task : task + 1] for name, value in statistics.mean.items()},
        {name: value[task : task + 1] for name, value in statistics.var.items()},
    )


class _Layers:
    """The forward of layers that follow a policy of ours, or whose fast kernel has no second derivative."""

    def __init__(self, call: Call) -> None:
        self.call = call

    def __call__(self, name: str, part: nn.Module) -> Callable[..., Any] | None:
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            return self._normalization(name, part)
        if isinstance(part, nn.modules.instancenorm._InstanceNorm):
            return lambda x: F.instance_norm(x, None, None, part.weight, part.bias, True, 0.0, part.eps)
        if isinstance(part, nn.GRU | nn.LSTM | nn.RNN):
            return recurrent(part) if part.dropout and self.call.training else _plain_kernels(part.forward)
        return None

    def _normalization(self, name: str, layer: nn.modules.batchnorm._BatchNorm) -> Callable[[Tensor], Tensor]:
        call = self.call

        def forward(x: Tensor) -> Tensor:
            wide = (1, -1, *[1] * (x.ndim - 2))
            if call.use is None:
                refuse_single_value(name, x.shape)
                if call.record is not None:
                    axes = [axis for axis in range(x.ndim) if axis != 1]
                    call.note(name, x.mean(axes)[None], x.var(axes, correction=0)[None])
                return F.batch_norm(x, None, None, layer.weight, layer.bias, True, 0.0, layer.eps)
            if name not in call.use.mean:
                raise BadInput(f"no statistics were recorded for the layer '{name}'")
            out = (x - call.use.mean[name].view(wide)) * torch.rsqrt(call.use.var[name].view(wide) + layer.eps)
            if layer.weight is not None:
                out = out * layer.weight.view(wide)
            return out if layer.bias is None else out + layer.bias.view(wide)

        return forward


def _plain_kernels(forward: Callable[..., Any]) -> Callable[..., Any]:
    """A recurrent layer's own forward, without the fused kernels that have no second derivative."""

    def plain(*args: Any, **kwargs: Any) -> Any:
        mkldnn, cudnn = torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled
        torch.backends.mkldnn.enabled = torch.backends.cudnn.enabled = False  # type: ignore[assignment]
        try:
            return forward(*args, **kwargs)
        finally:
            torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled = mkldnn, cudnn

    return plain


class _Dropout(TorchFunctionMode):
    """Dropout masks from the task's key, as in the batched computation."""

    def __init__(self, call: Call) -> None:
        super().__init__()
        self.call = call

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """`func`, unless it is dropout at work."""
        name, given = getattr(func, "__name__", ""), dict(kwargs or {})
        if name == "multi_head_attention_forward" and given.get("training", True) and args[10] > 0:
            with self:  # its dropout is out of reach from here: our own, whose dropout is not
                return attend(func, *args, **given)
        if name == "scaled_dot_product_attention" and (
            given.get("dropout_p", 0) > 0 or (len(args) > 4 and args[4] > 0)
        ):
            with self:
                return dot_product(func, *args, **given)
        if name not in _DROPOUTS:
            return func(*args, **given)
        bound = dict(zip(("input", "p", "training"), args, strict=False)) | given
        x, p = bound["input"], bound.get("p", 0.5)
        if not bound.get("training", True) or p == 0:
            return x
        shape = list(x.shape)
        if name != "dropout":
            shape[2:] = [1] * (len(shape) - 2)
        return x * self.call.mask(shape, p, x)[0]


@contextmanager
def _double_differentiable() -> Iterator[None]:
    """Within, attention is computed by plain products: the fused kernels have no second derivative."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def _seeded(call: Call) -> Iterator[None]:
    """Within, other random numbers of the user's own layers come from the task's key too."""
    if call.keys is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(call.keys[0].child("layers").integer())
        yield
