"""How is a tensor normalized so that second derivatives are exact and few passes are made over memory?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def normalize(x: Tensor, axes: Sequence[int], eps: float, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    """(x - mean) / sqrt(var + eps) * scale + shift over `axes`, elementary operations alone.

    Torch's own kernels, vectorized over tasks by vmap, give silently wrong second derivatives (functorch 534).
    `scale` and `shift` broadcast against `x`.
    """
    mean, var = moments(widened(x), axes)
    return apply(x, mean, var, eps, scale, shift)


def widened(x: Tensor) -> Tensor:
    """Half precision as float32, as torch's own kernels take statistics; other types as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x


def moments(x: Tensor, axes: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Mean and biased variance over `axes`, which stay as axes of size 1."""
    mean = x.mean(list(axes), keepdim=True)
    centred = x - mean
    return mean, (centred * centred).mean(list(axes), keepdim=True)


def apply(x: Tensor, mean: Tensor, var: Tensor, eps: float, scale: Tensor | None, shift: Tensor | None) -> Tensor:
    """(x - mean) / sqrt(var + eps) * scale + shift; all broadcast against `x`, whose type the result has."""
    factor = torch.rsqrt(widened(var) + eps)
    if scale is not None:
        factor = factor * scale
    out = (widened(x) - mean) * factor
    return (out if shift is None else out + shift).to(x.dtype)


def over_rows(x: Tensor, scale: Tensor, shift: Tensor, eps: float, relu: bool) -> Tensor:
    """Batch normalization (Ioffe and Szegedy 2015) of x [tasks, rows, channels] over its rows, then ReLU if asked for.

    Equal to `normalize(x, (1,), ...)`, in fewer passes over memory: first and second derivatives are worked out by
    hand. `scale` and `shift` are [tasks, 1, channels].
    """
    out: Tensor = _OverRows.apply(x, scale, shift, eps, relu)  # type: ignore[no-untyped-call]
    return out


def _standardize(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x with mean 0 and variance 1 over its rows, and the factor that did the latter."""
    centred = x - x.mean(1, keepdim=True)
    factor = torch.rsqrt((centred * centred).mean(1, keepdim=True) + eps)
    return centred, factor


class _OverRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, shift: Tensor, eps: float, relu: bool) -> Tensor:
        normed, factor = _standardize(x, eps)
        normed.mul_(factor)
        y = torch.addcmul(shift, normed, scale)
        if relu:
            y.relu_()
        ctx.eps, ctx.relu = eps, relu
        ctx.save_for_backward(x, scale, normed, factor, y)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, scale, normed, factor, y = ctx.saved_tensors
        behind = torch.ops.aten.threshold_backward(grad, y.detach(), 0) if ctx.relu else grad  # 0 unless y > 0
        return (*_OverRowsBack.apply(behind, x, scale, normed, factor, ctx.eps), None, None)  # type: ignore[no-untyped-call]


class _OverRowsBack(torch.autograd.Function):
    """The gradients of `_OverRows` before ReLU; `normed` and `factor` are what x gave, so not functions of their own.

    With d the gradient, n the normalized x, f the factor, s the scale, M rows and sums over rows:
    dx = s f (d - sum(d) / M - n sum(d n) / M), dscale = sum(d n), dshift = sum(d).
    """

    @staticmethod
    def forward(
        ctx: Any, d: Tensor, x: Tensor, scale: Tensor, normed: Tensor, factor: Tensor, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        to_shift, to_scale = d.sum(1, keepdim=True), (d * normed).sum(1, keepdim=True)
        slope = scale * factor
        share = slope / -x.shape[1]
        to_x = torch.addcmul(share * to_shift, normed, share * to_scale).addcmul_(d, slope)
        ctx.eps = eps
        ctx.save_for_backward(d, x, scale, normed, factor, to_shift, to_scale)
        return to_x, to_scale, to_shift

    @staticmethod
    def backward(ctx: Any, w: Tensor, p: Tensor, q: Tensor) -> Any:
        """The gradient of sum(w dx) + p dscale + q dshift in `d`, `x` and `scale`."""
        d, x, scale, normed, factor, sum_d, sum_dn = ctx.saved_tensors
        if torch.is_grad_enabled():  # a third derivative: nothing may be constant
            centred, factor = _standardize(x, ctx.eps)
            normed = centred * factor
            sum_d, sum_dn = d.sum(1, keepdim=True), (d * normed).sum(1, keepdim=True)
        m, slope = x.shape[1], scale * factor
        sum_w, sum_wn = w.sum(1, keepdim=True), (w * normed).sum(1, keepdim=True)
        # sum(w dx) = slope * inside
        inside = (w * d).sum(1, keepdim=True) - (sum_d * sum_w + sum_dn * sum_wn) / m
        lean = p - slope * sum_wn / m
        to_d = torch.addcmul(q - slope * sum_w / m, normed, lean).addcmul_(w, slope)
        # In n, with the factor held: lean d - (slope sum_dn / m) w; then through n's own mean and variance, and the
        # factor's variance, which is sum(n^2) in another guise.
        mean = (lean * sum_d - slope * sum_dn * sum_w / m) / m
        along = (lean * sum_dn - slope * sum_dn * sum_wn / m + slope * inside) / m
        to_x = torch.addcmul(-factor * mean, normed, -factor * along)
        to_x.addcmul_(d, factor * lean).addcmul_(w, -factor * slope * sum_dn / m)
        return to_d, to_x, factor * inside, None, None, None
