"""How is each function computed for many tasks at once, exactly to the second derivative?

What is neither here nor in `attention.py` and `layers.py` goes through `torch.func.vmap`, one function at a time. A
rule is entered under the name of the function that it computes, and takes that function and its arguments.
"""

# ruff: noqa: ARG001, A002  signatures are torch's

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bilevel.batched.convolution import convolve
from bilevel.batched.normalization import apply, moments, normalize, widened
from bilevel.batched.tensors import Call, PerTask, Unsupported, align, by_vmap, current, raw, rule, tasks_of

# -- value by value ----------------------------------------------------------------------------------------------------


@rule(
    """relu6 gelu silu elu selu celu leaky_relu hardtanh hardsigmoid hardswish mish softplus softsign logsigmoid
    tanh sigmoid exp expm1 log log1p sqrt rsqrt square reciprocal abs neg sin cos erf sign floor ceil round
    clamp clamp_min clamp_max nan_to_num threshold detach clone contiguous float double half bfloat16 long bool
    __neg__ __invert__ logical_not negative absolute softshrink hardshrink tanhshrink"""
)
def _each_value(func: Callable[..., Any], x: Any, *args: Any, **kwargs: Any) -> Any:
    if any(isinstance(value, Tensor) for value in (*args, *kwargs.values())):
        return _broadcast(func, x, *args, **kwargs)
    kwargs.pop("memory_format", None)
    return PerTask(func(x.each, *args, **kwargs))


@rule(
    """add sub mul div true_divide divide multiply subtract pow maximum minimum where addcmul addcdiv lerp fmod
    remainder atan2 rsub __add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __pow__ __rpow__
    eq ne lt le gt ge __eq__ __ne__ __lt__ __le__ __gt__ __ge__ logical_and logical_or logical_xor __and__ __or__
    masked_fill"""
)
def _broadcast(func: Callable[..., Any], *args: Any, **kwargs: Any) -> PerTask:
    values = align([*args, *kwargs.values()])
    if not isinstance(values[0], Tensor) and getattr(func, "__objclass__", None) is not None:
        values[0] = torch.as_tensor(values[0])
    return PerTask(func(*values[: len(args)], **dict(zip(kwargs, values[len(args) :], strict=True))))


@rule("to type_as")
def _like(func: Callable[..., Any], x: Any, *args: Any, **kwargs: Any) -> Any:
    """Of the other tensor only type and device count: a value that is the same for all tasks stays so."""
    kwargs.pop("memory_format", None)
    other = next((value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)), None)
    inner = x.each if isinstance(x, PerTask) else x
    out = func(inner, *args, **kwargs) if other is None else inner.to(dtype=other.dtype, device=other.device)
    return PerTask(out) if isinstance(x, PerTask) else out


@rule("expand_as view_as reshape_as")
def _shaped_like(func: Callable[..., Any], x: Any, other: Any) -> Any:
    """Of the other tensor only the shape counts."""
    return getattr(x, func.__name__.removesuffix("_as"))(other.shape)


@rule("relu")
def _relu(func: Callable[..., Any], x: Any) -> PerTask:
    return PerTask(x.pending(True) if x.held is None else torch.relu(x.each))


# -- products ----------------------------------------------------------------------------------------------------------


@rule("linear")
def _linear(func: Callable[..., Any], input: Any, weight: Any, bias: Any = None) -> PerTask:
    tasks = tasks_of(input, weight, bias)
    if not isinstance(weight, PerTask):
        out = func(input.each if isinstance(input, PerTask) else raw(input, tasks), weight)
        return PerTask(out if bias is None else out + _behind(bias, tasks, out.ndim))
    x, w = raw(input, tasks), weight.each
    rows, back = x if x.ndim == 3 else x.reshape(tasks, -1, x.shape[-1]), w.transpose(1, 2)
    out = torch.bmm(rows, back) if bias is None else torch.baddbmm(raw(bias, tasks).unsqueeze(1), rows, back)
    return PerTask(out if x.ndim == 3 else out.view(*x.shape[:-1], w.shape[1]))


def _behind(value: Any, tasks: int, ndim: int) -> Tensor:
    """[tasks, channels] as [tasks, 1, ..., channels] of `ndim` axes."""
    inner = raw(value, tasks)
    return inner.view(inner.shape[0], *[1] * (ndim - 2), inner.shape[1])


@rule("matmul __matmul__ __rmatmul__ bmm mm")
def _matmul(func: Callable[..., Any], left: Any, right: Any) -> Any:
    if func.__name__ == "__rmatmul__":
        left, right = right, left
    if left.dim() < 2 or right.dim() < 2:
        return by_vmap(torch.matmul, (left, right), {})
    a, b = align([left, right])
    return PerTask(torch.matmul(a, b))


@rule("baddbmm")
def _baddbmm(func: Callable[..., Any], input: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:
    return input * beta + torch.matmul(a, b) * alpha


@rule("conv1d conv2d")
def _convolution(
    func: Callable[..., Any],
    input: Any,
    weight: Any,
    bias: Any = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    spatial, tasks = weight.dim() - 2, tasks_of(input, weight, bias)
    if input.dim() != spatial + 2:
        return by_vmap(func, (input, weight, bias, stride, padding, dilation, groups), {})
    x = raw(input, tasks)
    if not isinstance(weight, PerTask):
        out = func(x.flatten(0, 1), weight, None, stride, padding, dilation, groups).unflatten(0, (tasks, -1))
    else:
        steps, gaps = _sizes(stride, spatial), _sizes(dilation, spatial)
        pads = _pads(padding, weight.shape[2:], gaps, spatial)
        return PerTask(convolve(x, weight.each, None if bias is None else raw(bias, tasks), steps, pads, gaps, groups))
    return PerTask(out if bias is None else out + raw(bias, tasks)[(slice(None), None, ..., *[None] * spatial)])


def _sizes(value: Any, spatial: int) -> tuple[int, ...]:
    return (value,) * spatial if isinstance(value, int) else tuple(value) * (spatial // len(value))


def _pads(padding: Any, kernel: Sequence[int], dilation: Sequence[int], spatial: int) -> tuple[tuple[int, int], ...]:
    """(before, after) of each spatial axis."""
    if padding == "valid":
        return ((0, 0),) * spatial
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((p, p) for p in _sizes(padding, spatial))


@rule("embedding")
def _embedding(
    func: Callable[..., Any],
    input: Any,
    weight: Any,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    if func is torch.embedding:
        return _embedding(F.embedding, weight, input, padding_idx)
    if max_norm is not None or scale_grad_by_freq:
        raise Unsupported("'embedding' with max_norm or scale_grad_by_freq")
    tasks = tasks_of(input, weight)
    index = raw(input, tasks)
    if not isinstance(weight, PerTask):
        return PerTask(func(index, weight, padding_idx))
    table, rows = weight.each, weight.shape[0]
    if padding_idx is not None and padding_idx >= 0:
        constant = (torch.arange(rows, device=table.device) == padding_idx)[:, None]
        table = torch.where(constant, table.detach(), table)
    offset = torch.arange(tasks, device=index.device).mul(rows).view(tasks, *[1] * (index.ndim - 1))
    picked = table.reshape(tasks * rows, -1).index_select(0, (index + offset).flatten())
    return PerTask(picked.view(*index.shape, -1))


@rule("embedding_bag")
def _embedding_bag(
    func: Callable[..., Any],
    input: Any,
    weight: Any,
    offsets: Any = None,
    max_norm: float | None = None,
    norm_type: float = 2,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Any = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Any:
    """Sums or means over the rows of bags of one size."""
    if offsets is not None or input.dim() != 2 or mode not in ("sum", "mean") or max_norm or scale_grad_by_freq:
        raise Unsupported("'embedding_bag' with offsets, max_norm, scale_grad_by_freq or mode='max'")
    counts = (
        torch.ones_like(input, dtype=weight.dtype) if padding_idx is None else (input != padding_idx).to(weight.dtype)
    )
    weights = counts if per_sample_weights is None else counts * per_sample_weights
    total = (F.embedding(input, weight) * weights.unsqueeze(-1)).sum(1)
    return total if mode == "sum" else total / counts.sum(1, keepdim=True).clamp(min=1)


# -- normalization -----------------------------------------------------------------------------------------------------


@rule("layer_norm")
def _layer_norm(
    func: Callable[..., Any],
    input: Any,
    normalized_shape: Sequence[int],
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> PerTask:
    x, tasks = raw(input, (count := tasks_of(input, weight, bias))), count
    axes = tuple(range(x.ndim - len(normalized_shape), x.ndim))
    scale, shift = (None if p is None else _lift(p, tasks, x.ndim) for p in (weight, bias))
    return PerTask(normalize(x, axes, eps, scale, shift))


def _lift(parameter: Any, tasks: int, ndim: int) -> Tensor:
    """[tasks, *shape] as [tasks, 1, ..., *shape] of `ndim` axes."""
    inner = raw(parameter, tasks)
    return inner[(slice(None),) + (None,) * (ndim - inner.ndim)]


def per_channel(parameter: Any, tasks: int, ndim: int) -> Any:
    """[tasks, channels] as [tasks, 1, channels, 1, ...] of `ndim` axes; None stays None."""
    if parameter is None:
        return None
    inner = raw(parameter, tasks)
    return inner.view(inner.shape[0], 1, inner.shape[1], *[1] * (ndim - 3))


@rule("group_norm")
def _group_norm(
    func: Callable[..., Any],
    input: Any,
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> PerTask:
    x, tasks = raw(input, (count := tasks_of(input, weight, bias))), count
    grouped = normalize(
        x.reshape(*x.shape[:2], num_groups, -1, *x.shape[3:]), tuple(range(3, x.ndim + 1)), eps, None, None
    ).flatten(2, 3)
    scale, shift = per_channel(weight, tasks, x.ndim), per_channel(bias, tasks, x.ndim)
    grouped = grouped if scale is None else grouped * scale
    return PerTask(grouped if shift is None else grouped + shift)


def as_functional(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of `batch_norm` or `instance_norm` by name, also where torch's own function orders them otherwise."""
    scales, running = ("weight", "bias"), ("running_mean", "running_var")
    order = (*scales, *running) if func in (torch.batch_norm, torch.instance_norm) else (*running, *scales)
    names = ("input", *order, "training", "momentum", "eps", "cudnn_enabled")
    given = dict(zip(names, args, strict=False)) | dict(kwargs)
    given["training"] = given.pop("use_input_stats", given.get("training", func is F.instance_norm))
    missing: dict[str, Any] = dict.fromkeys((*scales, *running))
    return missing | {"momentum": 0.1, "eps": 1e-5} | given


@rule("instance_norm")
def _instance_norm(func: Callable[..., Any], *args: Any, **kwargs: Any) -> PerTask:
    given = as_functional(func, args, kwargs)
    count = tasks_of(*given.values())
    x = raw(given["input"], count)
    if x.ndim < 4:
        raise Unsupported("'instance_norm' of one sample without its axis")
    scale, shift = (per_channel(given[name], count, x.ndim) for name in ("weight", "bias"))
    if given["training"] or given["running_mean"] is None:
        return PerTask(normalize(x, tuple(range(3, x.ndim)), given["eps"], scale, shift))
    mean, var = (per_channel(given[name], count, x.ndim) for name in ("running_mean", "running_var"))
    return PerTask(apply(x, mean, var, given["eps"], scale, shift))


@rule("batch_norm")
def _batch_norm(func: Callable[..., Any], *args: Any, **kwargs: Any) -> PerTask:
    """The function itself, called by a user's own code: as its arguments say, but running statistics never move."""
    given, call = as_functional(func, args, kwargs), current.get()
    x = raw(given["input"], call.tasks)
    scale, shift = (per_channel(given[name], call.tasks, x.ndim) for name in ("weight", "bias"))
    if not given["training"] and given["running_mean"] is not None:
        mean, var = (per_channel(given[name], call.tasks, x.ndim) for name in ("running_mean", "running_var"))
        return PerTask(apply(x, mean, var, given["eps"], scale, shift))
    axes = (1, *range(3, x.ndim))
    mean, var = moments(widened(x), axes)
    note_batch(call, x.shape[1:], mean.flatten(1), var.flatten(1))
    return PerTask(apply(x, mean, var, given["eps"], scale, shift))


def note_batch(call: Call, shape: Sequence[int], mean: Tensor, var: Tensor) -> None:
    """Statistics [tasks, channels] of a batch of this shape, taken inside a user's own batch normalization."""
    part = call.inside[-1] if call.inside else None
    if part is not None and shape[1] == part.module.num_features:
        call.note(part.name, mean, var)


# -- random numbers ----------------------------------------------------------------------------------------------------


@rule("dropout dropout1d dropout2d dropout3d feature_dropout")
def _dropout(func: Callable[..., Any], input: Any, p: float = 0.5, training: bool = True, **_: Any) -> Any:
    if not training or p == 0:
        return input
    x = input.each
    shape = list(x.shape[1:])
    if func.__name__ != "dropout":
        shape[2:] = [1] * (len(shape) - 2)
    return PerTask(x * current.get().mask(shape, p, x))


# -- windows and shapes ------------------------------------------------------------------------------------------------

WINDOWS = {f"{kind}_pool{d}d": d for kind in ("max", "avg", "adaptive_avg", "adaptive_max", "lp") for d in (1, 2, 3)}


@rule(" ".join(WINDOWS))
def _pool(func: Callable[..., Any], input: Any, *args: Any, **kwargs: Any) -> Any:
    """Each sample for itself: tasks and samples become one axis."""
    x = input.each
    if x.ndim != WINDOWS[func.__name__] + 3:
        return by_vmap(func, (input, *args), kwargs)
    return PerTask(func(x.flatten(0, 1), *args, **kwargs).unflatten(0, x.shape[:2]))


@rule("flatten")
def _flatten(func: Callable[..., Any], x: Any, start_dim: int = 0, end_dim: int = -1) -> PerTask:
    rank = x.each.ndim - 1
    return PerTask(x.each.flatten(start_dim % max(rank, 1) + 1, end_dim % max(rank, 1) + 1))


@rule("view reshape")
def _reshape(func: Callable[..., Any], x: Any, *shape: Any, **kwargs: Any) -> Any:
    sizes = kwargs.pop("shape", None) or (shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)
    if isinstance(sizes, torch.dtype):
        return by_vmap(func, (x, sizes), kwargs)
    # A layer may keep its result in another order in memory, so that `view` must be free to copy.
    return PerTask(x.each.reshape(x.each.shape[0], *sizes))


@rule("mean sum")
def _reduce(func: Callable[..., Any], x: Any, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
    inner = x.each
    dim = kwargs.pop("axis", dim)
    rank = inner.ndim - 1
    axes = range(rank) if dim is None else ([dim] if isinstance(dim, int) else dim)
    if rank == 0:
        return x
    return PerTask(func(inner, [axis % rank + 1 for axis in axes], keepdim, **kwargs))


@rule("softmax log_softmax")
def _softmax(func: Callable[..., Any], x: Any, dim: int | None = None, *_: Any, **kwargs: Any) -> Any:
    if dim is None:
        raise Unsupported(f"'{func.__name__}' without dim")
    return PerTask(getattr(torch, func.__name__)(x.each, dim % (x.each.ndim - 1) + 1, dtype=kwargs.get("dtype")))
