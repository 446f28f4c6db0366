"""Which layers need more than a rule for their functions: normalization with a policy, recurrence over time?"""

# ruff: noqa: ARG001, A002  signatures are torch's

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from bilevel.batched.functions import per_channel
from bilevel.batched.modes import Part
from bilevel.batched.normalization import apply, moments, over_rows, widened
from bilevel.batched.tensors import Call, PerTask, Unsupported, current, raw, rule
from bilevel.errors import BadInput

Forward = Callable[..., Any]

# -- batch normalization -----------------------------------------------------------------------------------------------


def batch_normalization(part: Part) -> Forward:
    """The forward of torch's own layer over many tasks: statistics of the batch at hand, or those given.

    Running ones only where the user's forward has put the layer in eval mode.
    """
    name = part.name
    layer: Any = part.module

    def forward(input: Any) -> PerTask:
        call = current.get()
        x = raw(input, call.tasks)
        given = call.use is not None and name in call.use.mean
        if given or (not layer.training and layer.running_mean is not None):
            if call.record is not None:
                call.record.frozen.add(name)
            scale, shift = per_channel(layer.weight, call.tasks, x.ndim), per_channel(layer.bias, call.tasks, x.ndim)
            mean, var = layer.running_mean, layer.running_var
            if given and call.use is not None:
                mean, var = (PerTask(value) for value in (call.use.mean[name], call.use.var[name]))
            mean, var = (per_channel(value, call.tasks, x.ndim) for value in (mean, var))
            return PerTask(apply(x, mean, var, layer.eps, scale, shift))
        refuse_without_statistics(name, call)
        refuse_single_value(name, x.shape[1:])
        last = x.movedim(2, -1)
        rows = widened(last.reshape(call.tasks, -1, x.shape[2]))
        if call.record is not None:
            mean, var = moments(rows, (1,))
            call.note(name, mean.squeeze(1), var.squeeze(1))
        scale = rows.new_ones(()).expand_as(rows[:, :1]) if layer.weight is None else _row(layer.weight, call.tasks)
        shift = rows.new_zeros(()).expand_as(rows[:, :1]) if layer.bias is None else _row(layer.bias, call.tasks)

        def compute(relu: bool) -> Tensor:
            out = over_rows(rows, scale.to(rows.dtype), shift.to(rows.dtype), layer.eps, relu)
            return out.view(last.shape).movedim(-1, 2).to(x.dtype)

        return PerTask(x, compute)

    return forward


def _row(parameter: Any, tasks: int) -> Tensor:
    return raw(parameter, tasks).unsqueeze(1)


def watched(part: Part, call: Call, forward: Forward) -> Forward:
    """A batch normalization's own forward, untouched; the functions that it calls are told whose they are."""

    def inside(*args: Any, **kwargs: Any) -> Any:
        if part.module.training:
            refuse_without_statistics(part.name, call)
        passes = call.passes.get(part.name, 0)
        call.inside.append(part)
        try:
            out = forward(*args, **kwargs)
        finally:
            call.inside.pop()
        record = call.record
        if record is not None and part.name not in record.frozen and call.passes.get(part.name, 0) == passes:
            (record.unseen if part.module.training else record.frozen).add(part.name)
        return out

    return inside


def refuse_without_statistics(name: str, call: Call) -> None:
    """A layer that takes statistics of the batch in a pass that was to use those of an earlier one."""
    if call.use is not None:
        raise BadInput(
            f"no statistics were recorded for the layer '{name}': it was not part of the pass with record=, or its own "
            'forward computes them out of sight; use normalization="batch"'
        )


def refuse_single_value(name: str, shape: Any) -> None:
    """`shape` is [samples, channels, *space] of one task."""
    if len(shape) >= 2 and shape[0] * torch.Size(shape[2:]).numel() == 1:
        raise BadInput(
            f"batch normalization '{name}' sees one value per channel (input {tuple(shape)}), which it maps to 0: "
            'give more support samples, use normalization="support", or another normalization (LayerNorm, GroupNorm)'
        )


# -- recurrence --------------------------------------------------------------------------------------------------------

RECURRENT = ("gru", "lstm", "rnn_tanh", "rnn_relu")


@rule(" ".join(RECURRENT))
def recurrence(
    func: Callable[..., Any],
    input: Any,
    hx: Any,
    flat: Any,
    biased: Any,
    layers: int = 1,
    dropout: float = 0.0,
    training: bool = False,
    bidirectional: bool = False,
    batch_first: bool = False,
) -> tuple[Any, ...]:
    """What GRU, LSTM or RNN call, as a loop over time; torch's kernels lack a second derivative or a batched form.

    `flat` are the weights of each layer and direction in turn. Gives all outputs, then the last states.
    """
    mode, directions = func.__name__, 1 + bidirectional
    if not isinstance(biased, bool) or len(flat) != layers * directions * (4 if biased else 2):
        raise Unsupported(f"'{mode}' with packed sequences or with proj_size")
    x, each = input.transpose(0, 1) if batch_first else input, 4 if biased else 2
    ends = []
    for depth in range(layers):
        sides = []
        for side in range(directions):
            place = depth * directions + side
            start = (hx[0][place], hx[1][place]) if mode == "lstm" else hx[place]
            outputs, end = _sweep(mode, x, start, flat[each * place : each * (place + 1)], backward=side == 1)
            sides.append(outputs)
            ends.append(end)
        x = sides[0] if directions == 1 else torch.cat(sides, -1)
        if dropout and depth < layers - 1:
            x = F.dropout(x, dropout, training)
    last = tuple(torch.stack(part) for part in zip(*ends, strict=True)) if mode == "lstm" else (torch.stack(ends),)
    return x.transpose(0, 1) if batch_first else x, *last


def _sweep(mode: str, x: Any, state: Any, weights: Sequence[Any], *, backward: bool) -> tuple[Any, Any]:
    """One layer in one direction over x [time, samples, features]; all outputs [time, samples, hidden], last state."""
    wx, wh, bx, bh = (*weights, None, None)[:4]
    projected, outputs = F.linear(x, wx, bx).unbind(0), []
    for part in reversed(projected) if backward else projected:
        if mode == "lstm":
            state = lstm_step(part, state, wh, bh)
        elif mode == "gru":
            state = gru_step(part, state, wh, bh)
        else:
            state = (torch.relu if mode == "rnn_relu" else torch.tanh)(part + F.linear(state, wh, bh))
        outputs.append(state[0] if mode == "lstm" else state)
    return torch.stack(outputs[::-1] if backward else outputs), state


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
