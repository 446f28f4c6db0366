"""How is each function computed for many tasks at once, exactly to the second derivative?

What is neither here nor in `layers.py` goes through `torch.func.vmap`, one function at a time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bilevel.batched.convolution import convolve
from bilevel.batched.normalization import normalize
from bilevel.batched.tensors import PerTask, Unsupported, align, by_vmap, current, raw, rule, tasks_of


# -- value by value ----------------------------------------------------------------------------------------------------


@rule(
    *"""relu6 gelu silu elu selu celu leaky_relu hardtanh hardsigmoid hardswish mish softplus softsign logsigmoid
    tanh sigmoid exp expm1 log log1p sqrt rsqrt square reciprocal abs neg sin cos erf sign floor ceil round
    clamp clamp_min clamp_max nan_to_num threshold detach clone contiguous float double half bfloat16 long bool to
    __neg__ __invert__ logical_not negative absolute softshrink hardshrink tanhshrink""".split()
)
def _each_value(func: Callable[..., Any], x: Any, *args: Any, **kwargs: Any) -> PerTask:
    if any(isinstance(value, PerTask) for value in (*args, *kwargs.values())):
        return _broadcast(func, x, *args, **kwargs)
    kwargs.pop("memory_format", None)
    return PerTask(func(x.inner, *args, **kwargs))


@rule(
    *"""add sub mul div true_divide divide multiply subtract pow maximum minimum where addcmul addcdiv lerp fmod
    remainder atan2 rsub __add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __pow__ __rpow__
    eq ne lt le gt ge __eq__ __ne__ __lt__ __le__ __gt__ __ge__ logical_and logical_or logical_xor __and__ __or__
    masked_fill""".split()
)
def _broadcast(func: Callable[..., Any], *args: Any, **kwargs: Any) -> PerTask:
    values = align([*args, *kwargs.values()])
    if not isinstance(values[0], Tensor) and getattr(func, "__objclass__", None) is not None:
        values[0] = torch.as_tensor(values[0])
    return PerTask(func(*values[: len(args)], **dict(zip(kwargs, values[len(args) :], strict=True))))


@rule("relu")
def _relu(func: Callable[..., Any], x: Any) -> PerTask:
    return PerTask(x.pending(True) if x.held is None else torch.relu(x.inner))


# -- products ----------------------------------------------------------------------------------------------------------


@rule("linear")
def _linear(func: Callable[..., Any], input: Any, weight: Any, bias: Any = None) -> PerTask:  # noqa: A002
    tasks = tasks_of(input, weight, bias)
    if not isinstance(weight, PerTask):
        out = func(input.inner if isinstance(input, PerTask) else raw(input, tasks), weight)
        return PerTask(out if bias is None else out + _behind(bias, tasks, out.ndim))
    x, w = raw(input, tasks), weight.inner
    rows = x.reshape(tasks, -1, x.shape[-1])
    if bias is None:
        out = torch.bmm(rows, w.transpose(1, 2))
    else:
        out = torch.baddbmm(raw(bias, tasks).unsqueeze(1), rows, w.transpose(1, 2))
    return PerTask(out.view(*x.shape[:-1], w.shape[1]))


def _behind(value: Any, tasks: int, ndim: int) -> Tensor:
    """[tasks, channels] as [tasks, 1, ..., channels] of `ndim` axes."""
    inner = raw(value, tasks)
    return inner.view(inner.shape[0], *[1] * (ndim - 2), inner.shape[1])


@rule("matmul", "__matmul__", "__rmatmul__", "bmm", "mm")
def _matmul(func: Callable[..., Any], left: Any, right: Any) -> Any:
    if func.__name__ == "__rmatmul__":
        left, right = right, left
    if left.dim() < 2 or right.dim() < 2:
        return by_vmap(torch.matmul, (left, right), {})
    a, b = align([left, right])
    return PerTask(torch.matmul(a, b))


@rule("baddbmm")
def _baddbmm(func: Callable[..., Any], input: Any, a: Any, b: Any, *, beta: float = 1, alpha: float = 1) -> Any:  # noqa: A002
    return input * beta + torch.matmul(a, b) * alpha


@rule("conv1d", "conv2d")
def _convolution(
    func: Callable[..., Any],
    input: Any,  # noqa: A002
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
        return PerTask(convolve(x, weight.inner, None if bias is None else raw(bias, tasks), steps, pads, gaps, groups))
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
    input: Any,  # noqa: A002
    weight: Any,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> PerTask:
    if max_norm is not None or scale_grad_by_freq or sparse:
        raise Unsupported("'embedding' with max_norm, scale_grad_by_freq or sparse")
    tasks = tasks_of(input, weight)
    index = raw(input, tasks)
    if not isinstance(weight, PerTask):
        return PerTask(func(index, weight, padding_idx))
    table, rows = weight.inner, weight.shape[0]
    if padding_idx is not None and padding_idx >= 0:
        constant = (torch.arange(rows, device=table.device) == padding_idx)[:, None]
        table = torch.where(constant, table.detach(), table)
    offset = torch.arange(tasks, device=index.device).mul(rows).view(tasks, *[1] * (index.ndim - 1))
    picked = table.reshape(tasks * rows, -1).index_select(0, (index + offset).flatten())
    return PerTask(picked.view(*index.shape, -1))


# -- normalization -----------------------------------------------------------------------------------------------------


@rule("layer_norm")
def _layer_norm(
    func: Callable[..., Any],
    input: Any,  # noqa: A002
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


def per_channel(parameter: Any, tasks: int, ndim: int) -> Tensor | None:
    """[tasks, channels] as [tasks, 1, channels, 1, ...] of `ndim` axes."""
    if parameter is None:
        return None
    inner = raw(parameter, tasks)
    return inner.view(inner.shape[0], 1, inner.shape[1], *[1] * (ndim - 3))


@rule("group_norm")
def _group_norm(
    func: Callable[..., Any],
    input: Any,  # noqa: A002
    num_groups: int,
    weight: Any = None,
    bias: Any = None,
    eps: float = 1e-5,
) -> PerTask:
    x, tasks = raw(input, (count := tasks_of(input, weight, bias))), count
    grouped = normalize(x.unflatten(2, (num_groups, -1)), tuple(range(3, x.ndim + 1)), eps, None, None).flatten(2, 3)
    scale, shift = per_channel(weight, tasks, x.ndim), per_channel(bias, tasks, x.ndim)
    grouped = grouped if scale is None else grouped * scale
    return PerTask(grouped if shift is None else grouped + shift)


@rule("instance_norm")
def _instance_norm(
    func: Callable[..., Any],
    input: Any,  # noqa: A002
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> PerTask:
    x, tasks = raw(input, (count := tasks_of(input, weight, bias))), count
    if x.ndim < 4:
        raise Unsupported("'instance_norm' of one sample without its axis")
    scale, shift = per_channel(weight, tasks, x.ndim), per_channel(bias, tasks, x.ndim)
    return PerTask(normalize(x, tuple(range(3, x.ndim)), eps, scale, shift))


@rule("batch_norm")
def _batch_norm(
    func: Callable[..., Any],
    input: Any,  # noqa: A002
    running_mean: Any = None,
    running_var: Any = None,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> PerTask:
    """The function itself, called by a user's own code: as its arguments say, but running statistics never move."""
    x, tasks = raw(input, (count := tasks_of(input, weight, bias))), count
    scale, shift = per_channel(weight, tasks, x.ndim), per_channel(bias, tasks, x.ndim)
    if training or running_mean is None:
        return PerTask(normalize(x, (1, *range(3, x.ndim)), eps, scale, shift))
    mean, var = per_channel(running_mean, tasks, x.ndim), per_channel(running_var, tasks, x.ndim)
    out = (x - mean) * torch.rsqrt(var + eps)  # type: ignore[operator]
    out = out if scale is None else out * scale
    return PerTask(out if shift is None else out + shift)


# -- random numbers ----------------------------------------------------------------------------------------------------


@rule("dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout")
def _dropout(func: Callable[..., Any], input: Any, p: float = 0.5, training: bool = True, **_: Any) -> Any:  # noqa: A002
    if not training or p == 0:
        return input
    x = input.inner
    shape = list(x.shape[1:])
    if func.__name__ != "dropout":
        shape[2:] = [1] * (len(shape) - 2)
    return PerTask(x * current.get().mask(shape, p, x))


# -- windows and shapes ------------------------------------------------------------------------------------------------

WINDOWS = {f"{kind}_pool{d}d": d for kind in ("max", "avg", "adaptive_avg", "adaptive_max", "lp") for d in (1, 2, 3)}


@rule(*WINDOWS)
def _pool(func: Callable[..., Any], input: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: A002
    """Each sample for itself: tasks and samples become one axis."""
    x = input.inner
    if x.ndim != WINDOWS[func.__name__] + 3:
        return by_vmap(func, (input, *args), kwargs)
    return PerTask(func(x.flatten(0, 1), *args, **kwargs).unflatten(0, x.shape[:2]))


@rule("flatten")
def _flatten(func: Callable[..., Any], x: Any, start_dim: int = 0, end_dim: int = -1) -> PerTask:
    rank = x.inner.ndim - 1
    return PerTask(x.inner.flatten(start_dim % max(rank, 1) + 1, end_dim % max(rank, 1) + 1))


@rule("view", "reshape")
def _reshape(func: Callable[..., Any], x: Any, *shape: Any, **kwargs: Any) -> Any:
    sizes = kwargs.pop("shape", None) or (shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)
    if isinstance(sizes, torch.dtype):
        return by_vmap(func, (x, sizes), kwargs)
    # A layer may keep its result in another order in memory, so that `view` must be free to copy.
    return PerTask(x.inner.reshape(x.inner.shape[0], *sizes))


@rule("mean", "sum")
def _reduce(func: Callable[..., Any], x: Any, dim: Any = None, keepdim: bool = False, **kwargs: Any) -> Any:
    inner = x.inner
    dim = kwargs.pop("axis", dim)
    rank = inner.ndim - 1
    axes = range(rank) if dim is None else ([dim] if isinstance(dim, int) else dim)
    if rank == 0:
        return x
    return PerTask(func(inner, [axis % rank + 1 for axis in axes], keepdim, **kwargs))


@rule("softmax", "log_softmax")
def _softmax(func: Callable[..., Any], x: Any, dim: int | None = None, *args: Any, **kwargs: Any) -> Any:
    if dim is None:
        raise Unsupported(f"'{func.__name__}' without dim")
    return PerTask(getattr(torch, func.__name__)(x.inner, dim % (x.inner.ndim - 1) + 1, dtype=kwargs.get("dtype")))


# -- attention ---------------------------------------------------------------------------------------------------------


@rule("scaled_dot_product_attention")
def dot_product(
    func: Callable[..., Any],
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Any:
    """softmax(q k' / sqrt(d)) v in plain products: torch's own kernels have no second derivative on a CPU."""
    if enable_gqa:
        raise Unsupported("'scaled_dot_product_attention' with enable_gqa")
    scores = torch.matmul(query, key.transpose(-2, -1)) * (scale or 1 / math.sqrt(query.shape[-1]))
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None:
        boolean = attn_mask.dtype == torch.bool
        scores = torch.where(attn_mask, scores, float("-inf")) if boolean else scores + attn_mask
    return torch.matmul(F.dropout(torch.softmax(scores, -1), dropout_p, dropout_p > 0), value)


@rule("multi_head_attention_forward")
def attend(
    func: Callable[..., Any],
    query: Any,
    key: Any,
    value: Any,
    embed_dim: int,
    num_heads: int,
    in_proj_weight: Any,
    in_proj_bias: Any,
    bias_k: Any,
    bias_v: Any,
    add_zero_attn: bool,
    dropout_p: float,
    out_proj_weight: Any,
    out_proj_bias: Any,
    training: bool = True,
    key_padding_mask: Any = None,
    need_weights: bool = True,
    attn_mask: Any = None,
    use_separate_proj_weight: bool = False,
    q_proj_weight: Any = None,
    k_proj_weight: Any = None,
    v_proj_weight: Any = None,
    static_k: Any = None,
    static_v: Any = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Any, Any]:
    """Multi-head attention (Vaswani et al. 2017, section 3.2.2) over [length, samples, embed_dim]."""
    if (
        query.dim() != 3
        or any(v is not None and v is not False for v in (bias_k, bias_v, static_k, static_v))
        or add_zero_attn
    ):
        raise Unsupported(
            "'multi_head_attention_forward' with bias_kv, zero attention, static keys or one sample alone"
        )
    parts = in_proj_weight.chunk(3) if not use_separate_proj_weight else (q_proj_weight, k_proj_weight, v_proj_weight)
    biases = (None, None, None) if in_proj_bias is None else in_proj_bias.chunk(3)
    q, k, v = (
        F.linear(x, w, b).unflatten(-1, (num_heads, -1)).permute(1, 2, 0, 3)  # [samples, heads, length, head_dim]
        for x, w, b in zip((query, key, value), parts, biases, strict=True)
    )
    mask = None
    for given in (attn_mask, None if key_padding_mask is None else key_padding_mask[:, None, None, :]):
        if given is None:
            continue
        if given is attn_mask and given.dim() == 3:
            given = given.unflatten(0, (-1, num_heads))
        if given.dtype == torch.bool:  # True: not to be looked at
            given = torch.zeros(given.shape, dtype=query.dtype, device=query.device).masked_fill(given, float("-inf"))
        mask = given if mask is None else mask + given
    scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores + mask
    attention = torch.softmax(scores, -1)
    if training and dropout_p > 0:
        attention = F.dropout(attention, dropout_p)
    joined = torch.matmul(attention, v).permute(2, 0, 1, 3).flatten(2)
    out = F.linear(joined, out_proj_weight, out_proj_bias)
    if not need_weights:
        return out, None
    return out, attention.mean(1) if average_attn_weights else attention


# -- one step of a recurrent layer -------------------------------------------------------------------------------------


@rule("gru_cell")
def gru_cell(func: Any, x: Any, h: Any, wx: Any, wh: Any, bx: Any = None, bh: Any = None) -> Any:
    """One step of a gated recurrent unit (Cho et al. 2014), gates in torch's order: reset, update, new."""
    return gru_step(F.linear(x, wx, bx), h, wh, bh)


def gru_step(projected: Any, h: Any, wh: Any, bh: Any) -> Any:
    """The step with the input's part, [samples, 3 * hidden], already computed."""
    (xr, xz, xn), (hr, hz, hn) = projected.chunk(3, -1), F.linear(h, wh, bh).chunk(3, -1)
    update = torch.sigmoid(xz + hz)
    new = torch.tanh(xn + torch.sigmoid(xr + hr) * hn)
    return new + update * (h - new)


@rule("lstm_cell")
def lstm_cell(func: Any, x: Any, state: Any, wx: Any, wh: Any, bx: Any = None, bh: Any = None) -> Any:
    """One step of a long short-term memory (Hochreiter and Schmidhuber 1997), gates in torch's order: i, f, g, o."""
    return lstm_step(F.linear(x, wx, bx), state, wh, bh)


def lstm_step(projected: Any, state: Any, wh: Any, bh: Any) -> tuple[Any, Any]:
    """The step with the input's part, [samples, 4 * hidden], already computed; `state` is (hidden, cell)."""
    i, f, g, o = (projected + F.linear(state[0], wh, bh)).chunk(4, -1)
    cell = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell


@rule("rnn_tanh_cell", "rnn_relu_cell")
def rnn_cell(func: Any, x: Any, h: Any, wx: Any, wh: Any, bx: Any = None, bh: Any = None) -> Any:
    """One step of Elman's network (1990)."""
    act = torch.relu if "relu" in func.__name__ else torch.tanh
    return act(F.linear(x, wx, bx) + F.linear(h, wh, bh))
