"""Which layers need more than a rule for their functions: normalization with a policy, recurrence over time?"""

# ruff: noqa: ARG001, A002  signatures are torch's

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bilevel.batched.functions import per_channel
from bilevel.batched.normalization import apply, moments, over_rows
from bilevel.batched.tensors import PerTask, Unsupported, current, raw, rule
from bilevel.errors import BadInput

Forward = Callable[..., Any]


def batch_normalization(name: str, layer: nn.modules.batchnorm._BatchNorm) -> Forward:
    """The layer's forward over many tasks: statistics of the batch at hand, or those given; running ones never."""

    def forward(input: Any) -> PerTask:
        call = current.get()
        x = raw(input, call.tasks)
        if call.use is not None:
            scale, shift = per_channel(layer.weight, call.tasks, x.ndim), per_channel(layer.bias, call.tasks, x.ndim)
            mean, var = (_of(name, given, x.ndim) for given in (call.use.mean, call.use.var))
            return PerTask(apply(x, mean, var, layer.eps, scale, shift))
        refuse_single_value(name, x.shape[1:])
        last = x.movedim(2, -1)
        rows = last.reshape(call.tasks, -1, x.shape[2])
        if call.record is not None:
            mean, var = moments(rows, (1,))
            call.note(name, mean.squeeze(1), var.squeeze(1))
        scale = rows.new_ones(()).expand_as(rows[:, :1]) if layer.weight is None else _row(layer.weight, call.tasks)
        shift = rows.new_zeros(()).expand_as(rows[:, :1]) if layer.bias is None else _row(layer.bias, call.tasks)
        return PerTask(x, lambda relu: over_rows(rows, scale, shift, layer.eps, relu).view(last.shape).movedim(-1, 2))

    return forward


def _row(parameter: Any, tasks: int) -> Tensor:
    return raw(parameter, tasks).unsqueeze(1)


def refuse_single_value(name: str, shape: Any) -> None:
    """`shape` is [samples, channels, *space] of one task."""
    if len(shape) >= 2 and shape[0] * torch.Size(shape[2:]).numel() == 1:
        raise BadInput(
            f"batch normalization '{name}' sees one value per channel (input {tuple(shape)}), which it maps to 0: "
            'give more support samples, use normalization="support", or another normalization (LayerNorm, GroupNorm)'
        )


def _of(name: str, given: dict[str, Tensor], ndim: int) -> Tensor:
    if name not in given:
        raise BadInput(f"no statistics were recorded for the layer '{name}'; it was not part of the pass with record=")
    return given[name].view(-1, 1, given[name].shape[-1], *[1] * (ndim - 3))


def recurrent(layer: nn.RNNBase) -> Forward:
    """GRU, LSTM or RNN as a loop over time; torch's kernels lack a second derivative or a batched form."""

    def forward(input: Any, hx: Any = None) -> tuple[Any, Any]:
        if not isinstance(input, Tensor) or input.dim() != 3 or layer.proj_size > 0:
            raise Unsupported(f"'{type(layer).__name__}' with packed or single sequences or with proj_size")
        x = input.transpose(0, 1) if layer.batch_first else input
        lstm, directions = layer.mode == "LSTM", 1 + layer.bidirectional
        if hx is None:
            zeros = torch.zeros(
                layer.num_layers * directions, x.shape[1], layer.hidden_size, dtype=x.dtype, device=x.device
            )
            hx = (zeros, zeros) if lstm else zeros
        ends = []
        for depth in range(layer.num_layers):
            sides = []
            for side in range(directions):
                place = depth * directions + side
                start = (hx[0][place], hx[1][place]) if lstm else hx[place]
                outputs, end = _sweep(layer, x, start, f"_l{depth}" + "_reverse" * side)
                sides.append(outputs)
                ends.append(end)
            x = sides[0] if directions == 1 else torch.cat(sides, -1)
            if layer.dropout and depth < layer.num_layers - 1:
                x = F.dropout(x, layer.dropout, layer.training)
        last = tuple(torch.stack(part) for part in zip(*ends, strict=True)) if lstm else torch.stack(ends)
        return x.transpose(0, 1) if layer.batch_first else x, last

    return forward


def _sweep(layer: nn.RNNBase, x: Any, state: Any, suffix: str) -> tuple[Any, Any]:
    """One layer in one direction over x [time, samples, features]; all outputs [time, samples, hidden], last state."""
    wx, wh = getattr(layer, "weight_ih" + suffix), getattr(layer, "weight_hh" + suffix)
    bx, bh = (getattr(layer, "bias_ih" + suffix), getattr(layer, "bias_hh" + suffix)) if layer.bias else (None, None)
    projected, outputs = F.linear(x, wx, bx).unbind(0), []
    for part in reversed(projected) if suffix.endswith("reverse") else projected:
        if layer.mode == "LSTM":
            state = lstm_step(part, state, wh, bh)
        elif layer.mode == "GRU":
            state = gru_step(part, state, wh, bh)
        else:
            state = (torch.relu if layer.mode == "RNN_RELU" else torch.tanh)(part + F.linear(state, wh, bh))
        outputs.append(state[0] if layer.mode == "LSTM" else state)
    return torch.stack(outputs[::-1] if suffix.endswith("reverse") else outputs), state


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


@rule("rnn_tanh_cell rnn_relu_cell")
def rnn_cell(func: Any, x: Any, h: Any, wx: Any, wh: Any, bx: Any = None, bh: Any = None) -> Any:
    """One step of Elman's network (1990)."""
    act = torch.relu if "relu" in func.__name__ else torch.tanh
    return act(F.linear(x, wx, bx) + F.linear(h, wh, bh))
