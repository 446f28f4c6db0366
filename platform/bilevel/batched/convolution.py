"""How are many tasks convolved at once, each with a kernel of its own, fast on a CPU?

Windows are gathered channels-last (im2col) and multiplied by one batched matrix product; a grouped convolution, the
usual way, is slower on CPUs. Gathering and its adjoint are linear and each the other's derivative, so that any order
of derivative is exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Windows:
    """Where the windows of a 2-d convolution lie: sizes are (height, width)."""

    size: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]]
    dilation: tuple[int, int]

    @property
    def padded(self) -> tuple[int, int]:
        """The image with its margins; large enough that blocks of `stride` fit, see `scatter`."""
        h, w = (n + a + b for n, (a, b) in zip(self.size, self.pads, strict=True))
        return h, w

    @property
    def out(self) -> tuple[int, int]:
        """How many windows there are."""
        h, w = (
            (n - d * (k - 1) - 1) // s + 1
            for n, k, s, d in zip(self.padded, self.kernel, self.stride, self.dilation, strict=True)
        )
        return h, w


def gather(x: Tensor, win: Windows) -> Tensor:
    """[images, height, width, channels] to windows [images, h, w, kh, kw, channels], in new memory."""
    (top, bottom), (left, right) = win.pads
    n, (h, w), c = x.shape[0], win.padded, x.shape[3]
    padded = torch.constant_pad_nd(x, (0, 0, left, right, top, bottom)).contiguous()
    (oh, ow), (kh, kw), (sh, sw), (dh, dw) = win.out, win.kernel, win.stride, win.dilation
    view = padded.as_strided((n, oh, ow, kh, kw, c), (h * w * c, sh * w * c, sw * c, dh * w * c, dw * c, 1))
    return view.clone(memory_format=torch.contiguous_format)


def scatter(cols: Tensor, win: Windows) -> Tensor:
    """The adjoint of `gather`: windows [images, h, w, kh, kw, channels] added into images, in a fixed order."""
    n, c = cols.shape[0], cols.shape[-1]
    (h, w), (oh, ow), (kh, kw), (sh, sw), (dh, dw) = win.padded, win.out, win.kernel, win.stride, win.dilation
    # Rows and columns of windows that do not overlap are added in one go: blocks of `stride` offsets, if not dilated.
    bh, bw = (sh if dh == 1 else 1), (sw if dw == 1 else 1)
    margin_h, margin_w = max(h, bh * -(-kh // bh) + sh * (oh - 1)), max(w, bw * -(-kw // bw) + sw * (ow - 1))
    covering = bh == sh <= kh and bw == sw <= kw  # the first block writes all but a margin
    images = cols.new_empty(n, margin_h, margin_w, c) if covering else cols.new_zeros(n, margin_h, margin_w, c)
    if covering:
        images[:, sh * oh :].zero_()
        images[:, : sh * oh, sw * ow :].zero_()
    row, strides = margin_w * c, (margin_h * margin_w * c, sh * margin_w * c, sw * c)
    for i in range(0, kh, bh):
        for j in range(0, kw, bw):
            part = cols[:, :, :, i : i + bh, j : j + bw]
            target = images.as_strided(part.shape, (*strides, row, c, 1), i * dh * row + j * dw * c)
            if covering and i == j == 0:
                target.copy_(part)
            else:
                target.add_(part)
    (top, _), (left, _) = win.pads
    return images[:, top : top + win.size[0], left : left + win.size[1]]


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, win: Windows) -> Tensor:
        ctx.win = win
        return gather(x, win)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Scatter.apply(grad, ctx.win), None  # type: ignore[no-untyped-call]


class _Scatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, cols: Tensor, win: Windows) -> Tensor:
        ctx.win = win
        return scatter(cols, win)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return _Gather.apply(grad, ctx.win), None  # type: ignore[no-untyped-call]


class _Convolve(torch.autograd.Function):
    """Windows of x [images, height, width, in] times kernels [tasks, out, kh * kw * in]: [tasks, positions, out]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, kernels: Tensor, win: Windows) -> Tensor:
        cols = gather(x, win).view(len(kernels), -1, kernels.shape[2])
        ctx.win = win
        ctx.save_for_backward(x, kernels, cols)
        return torch.bmm(cols, kernels.transpose(1, 2))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor, None]:
        x, kernels, cols = ctx.saved_tensors
        to_x, to_kernels = _ConvolveBack.apply(grad, x, kernels, cols, ctx.win, ctx.needs_input_grad[0])  # type: ignore[no-untyped-call]
        return to_x, to_kernels, None


class _ConvolveBack(torch.autograd.Function):
    """The gradients of `_Convolve`; a function of x too, whose windows (a constant here) need not be gathered again."""

    @staticmethod
    def forward(
        ctx: Any, grad: Tensor, x: Tensor, kernels: Tensor, cols: Tensor, win: Windows, wanted: bool
    ) -> tuple[Tensor | None, Tensor]:
        ctx.win = win
        ctx.save_for_backward(grad, x, kernels, cols)
        ctx.set_materialize_grads(False)
        to_x = scatter(torch.bmm(grad, kernels).view(_windows(x, win)), win) if wanted else None
        return to_x, _products(grad, cols)

    @staticmethod
    def backward(ctx: Any, from_x: Tensor | None, from_kernels: Tensor | None) -> Any:
        grad, x, kernels, cols = ctx.saved_tensors
        win, tasks = ctx.win, len(kernels)
        if torch.is_grad_enabled():  # a third derivative: nothing may be constant
            cols = _Gather.apply(x, win).view(cols.shape)  # type: ignore[no-untyped-call]
        to_grad = to_x = to_kernels = None
        if from_kernels is not None:
            to_grad = torch.bmm(cols, from_kernels.transpose(1, 2))
            if ctx.needs_input_grad[1]:
                to_x = _Scatter.apply(torch.bmm(grad, from_kernels).view(_windows(x, win)), win)  # type: ignore[no-untyped-call]
        if from_x is not None:
            spread = _Gather.apply(from_x, win).view(tasks, -1, kernels.shape[2])  # type: ignore[no-untyped-call]
            back = kernels.transpose(1, 2)
            to_grad = torch.bmm(spread, back) if to_grad is None else torch.baddbmm(to_grad, spread, back)
            to_kernels = _products(grad, spread)
        return to_grad, to_x, to_kernels, None, None, None


def _windows(x: Tensor, win: Windows) -> tuple[int, ...]:
    return (x.shape[0], *win.out, *win.kernel, x.shape[3])


def _products(grad: Tensor, cols: Tensor) -> Tensor:
    """[tasks, out, window] of grad [tasks, positions, out] and cols [tasks, positions, window]."""
    if cols.shape[2] < grad.shape[2]:  # BLAS is several times slower with the short side last
        return torch.bmm(cols.transpose(1, 2), grad).transpose(1, 2).contiguous()
    return torch.bmm(grad.transpose(1, 2), cols)


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    pads: Sequence[tuple[int, int]],
    dilation: Sequence[int],
    groups: int,
) -> Tensor:
    """`x` [tasks, samples, in, *space] with `weight` [tasks, out, in / groups, *kernel] and `bias` [tasks, out].

    One or two axes of space; with groups, one after another.

    Returns [tasks, samples, out, *space], in memory with channels last.
    """
    if len(stride) == 1:
        place = (1, *stride), ((0, 0), *pads), (1, *dilation)
        return convolve(x.unsqueeze(3), weight.unsqueeze(3), bias, *place, groups).squeeze(3)
    tasks, samples, channels = x.shape[:3]
    win = Windows(
        (x.shape[3], x.shape[4]), (weight.shape[3], weight.shape[4]), (stride[0], stride[1]), (pads[0], pads[1]),
        (dilation[0], dilation[1]),
    )  # fmt: skip
    if groups > 1:
        biases = [None] * groups if bias is None else bias.chunk(groups, 1)
        parts = zip(x.chunk(groups, 2), weight.chunk(groups, 1), biases, strict=True)
        return torch.cat([convolve(a, b, c, stride, pads, dilation, 1) for a, b, c in parts], 2)
    last = x.permute(0, 1, 3, 4, 2).reshape(tasks * samples, *win.size, channels)
    kernels = weight.permute(0, 1, 3, 4, 2).reshape(tasks, weight.shape[1], -1)
    out: Tensor = _Convolve.apply(last, kernels, win)  # type: ignore[no-untyped-call]
    if bias is not None:
        out = out + bias.unsqueeze(1)
    return out.view(tasks, samples, *win.out, -1).permute(0, 1, 4, 2, 3)
