"""Does every rule of the batched form keep tasks apart, whichever of its arguments are the same for all tasks?

All sizes equal the number of tasks: a lost or misplaced axis then gives wrong numbers, not an error.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bilevel.batched import Unsupported
from bilevel.batched.network import Network  # enters the rules
from bilevel.batched.tensors import RULES, Call, PerTask, current
from bilevel.episodes import Key

N = 3  # tasks, and every size

Operation = Callable[..., Any]
GENERATOR = torch.Generator()


def numbers(*shape: int) -> Tensor:
    return torch.rand(shape, generator=GENERATOR, dtype=torch.float64) + 0.1


def flags(*shape: int) -> Tensor:
    return torch.rand(shape, generator=GENERATOR) > 0.5


def indices(*shape: int) -> Tensor:
    return torch.randint(0, N, shape, generator=GENERATOR)


EACH = """relu6 gelu silu elu selu celu leaky_relu hardtanh hardsigmoid hardswish mish softplus softsign logsigmoid
    softshrink hardshrink tanhshrink relu"""
VALUES = """tanh sigmoid exp expm1 log log1p sqrt rsqrt square reciprocal abs neg sin cos erf sign floor ceil round
    nan_to_num detach clone negative absolute logical_not"""
PAIRS = """add sub mul div true_divide divide multiply subtract pow maximum minimum fmod remainder atan2 rsub
    eq ne lt le gt ge"""
METHODS = """__add__ __radd__ __sub__ __rsub__ __mul__ __rmul__ __truediv__ __rtruediv__ __pow__ __rpow__
    __eq__ __ne__ __lt__ __le__ __gt__ __ge__ lt type_as expand_as view_as reshape_as to"""
CASTS = "contiguous float double half bfloat16 long bool __neg__"

Sample = tuple[str, Operation, Sequence[Callable[[], Tensor]]]


def x(*shape: int) -> Callable[[], Tensor]:
    return lambda: numbers(*shape)


def square(rank: int = 2) -> Callable[[], Tensor]:
    return lambda: numbers(*[N] * rank)


def samples() -> list[Sample]:
    """What is called, how, and on which tensors, of which each may be every task's own or the same for all."""
    found: list[Sample] = [(name, getattr(F, name), [square()]) for name in EACH.split()]
    found += [(name, getattr(torch, name), [square()]) for name in VALUES.split()]
    found += [(name, getattr(torch.Tensor, name), [square()]) for name in CASTS.split()]
    for a, b in ((2, 2), (1, 2), (2, 1), (3, 1), (1, 3)):
        found += [(name, getattr(torch, name), [square(a), square(b)]) for name in PAIRS.split()]
        found += [
            (name, getattr(torch.Tensor, name), [square(a), square(b)])
            for name in METHODS.split()
            if not name.endswith("_as") or a == b or (name == "expand_as" and a < b)
        ]
        found += [
            ("where", torch.where, [lambda a=a: flags(*[N] * a), square(b), square()]),  # type: ignore[misc]
            ("masked_fill", lambda v, m: v.masked_fill(m, 7.0), [square(max(a, b)), lambda b=b: flags(*[N] * b)]),  # type: ignore[misc]
            ("clamp", lambda v, low: torch.clamp(v, low), [square(a), square(b)]),
            ("clamp", lambda v, low, high: v.clamp(min=low, max=high), [square(a), square(b), square()]),
            ("clamp_min", torch.clamp_min, [square(a), square(b)]),
            ("clamp_max", torch.clamp_max, [square(a), square(b)]),
            ("addcmul", lambda p, q, r: torch.addcmul(p, q, r, value=2), [square(), square(a), square(b)]),
            ("addcdiv", lambda p, q, r: torch.addcdiv(p, q, r, value=2), [square(), square(a), square(b)]),
            ("lerp", torch.lerp, [square(a), square(b), square()]),
            ("add", lambda p, q: torch.add(p, q, alpha=3), [square(a), square(b)]),
            ("rsub", lambda p, q: torch.rsub(p, q), [square(a), square(b)]),
        ]
    for name in ("logical_and", "logical_or", "logical_xor", "__and__", "__or__"):
        owner = torch.Tensor if name.startswith("__") else torch
        found.append((name, getattr(owner, name), [lambda: flags(N), lambda: flags(N, N)]))
    found += [
        ("__invert__", lambda m: ~m, [lambda: flags(N, N)]),
        ("threshold", lambda v: F.threshold(v, 0.5, 7.0), [square()]),
        ("relu", torch.relu, [square()]),
        ("to", lambda v, w: v.to(w), [square(1), square(2)]),
        ("to", lambda v, w: v.to(tensor=w), [square(2), square(1)]),
        ("to", lambda v: v.to(torch.float32), [square()]),
        ("linear", F.linear, [square(2), square(2), square(1)]),
        ("linear", F.linear, [square(1), square(2), square(1)]),
        ("linear", F.linear, [square(3), square(2), square(1)]),
        ("linear", F.linear, [square(2), square(2)]),
        ("matmul", torch.matmul, [square(2), square(2)]),
        ("matmul", torch.matmul, [square(3), square(2)]),
        ("matmul", torch.matmul, [square(2), square(3)]),
        ("matmul", torch.matmul, [square(1), square(2)]),
        ("matmul", torch.matmul, [square(3), square(1)]),
        ("mm", torch.mm, [square(), square()]),
        ("bmm", torch.bmm, [square(3), square(3)]),
        ("__matmul__", torch.Tensor.__matmul__, [square(2), square(3)]),
        ("__rmatmul__", torch.Tensor.__rmatmul__, [square(2), square(3)]),
        ("baddbmm", lambda c, a, b: torch.baddbmm(c, a, b, beta=2, alpha=3), [square(3)] * 3),
        ("conv1d", lambda v, w, b: F.conv1d(v, w, b, padding=1), [square(3), square(3), square(1)]),
        ("conv2d", lambda v, w, b: F.conv2d(v, w, b, 2, 1), [square(4), square(4), square(1)]),
        ("conv2d", lambda v, w, b: F.conv2d(v, w, b, padding="same"), [square(3), square(4), square(1)]),
        ("conv2d", lambda v, w, b: F.conv2d(v, w, b, groups=N), [square(4), x(N, 1, N, N), square(1)]),
        ("embedding", F.embedding, [lambda: indices(N, N), square()]),
        ("embedding", lambda i, w: F.embedding(i, w, padding_idx=1), [lambda: indices(N), square()]),
        ("embedding", lambda w, i: torch.embedding(w, i), [square(), lambda: indices(N)]),
        ("embedding_bag", lambda i, w: F.embedding_bag(i, w, mode="sum"), [lambda: indices(N, N), square()]),
        ("embedding_bag", lambda i, w: F.embedding_bag(i, w, padding_idx=1), [lambda: indices(N, N), square()]),
        (
            "embedding_bag",
            lambda i, w, s: F.embedding_bag(i, w, mode="sum", per_sample_weights=s),
            [lambda: indices(N, N), square(), square()],
        ),
        ("layer_norm", lambda v, w, b: F.layer_norm(v, (N,), w, b), [square(2), square(1), square(1)]),
        ("layer_norm", lambda v, w, b: F.layer_norm(v, (N, N), w, b), [square(3), square(2), square(2)]),
        ("layer_norm", lambda v, w, b: torch.layer_norm(v, (N,), w, b, 1e-3), [square(2), square(1), square(1)]),
        ("group_norm", lambda v, w, b: F.group_norm(v, N, w, b), [x(N, N, N), square(1), square(1)]),
        ("instance_norm", lambda v, w, b: F.instance_norm(v, weight=w, bias=b), [square(3), square(1), square(1)]),
        (
            "instance_norm",
            lambda v, m, s, w, b: F.instance_norm(v, m, s, w, b, False),
            [square(3), *[square(1)] * 4],
        ),
        ("batch_norm", lambda v, w, b: F.batch_norm(v, None, None, w, b, True), [square(3), square(1), square(1)]),
        ("batch_norm", F.batch_norm, [square(2), *[square(1)] * 4]),
        (
            "batch_norm",
            lambda v, w, b, m, s: torch.batch_norm(v, w, b, m, s, False, 0.1, 1e-3, False),
            [square(2), *[square(1)] * 4],
        ),
        ("flatten", lambda v: torch.flatten(v, 1), [square(3)]),
        ("flatten", torch.flatten, [square(3)]),
        ("view", lambda v: v.view(N, -1), [square(3)]),
        ("reshape", lambda v: v.reshape((-1,)), [square(3)]),
        ("mean", lambda v: v.mean(-1), [square(3)]),
        ("mean", torch.mean, [square(3)]),
        ("sum", lambda v: v.sum((0, 1), keepdim=True), [square(3)]),
        ("softmax", lambda v: F.softmax(v, -1), [square()]),
        ("log_softmax", lambda v: v.log_softmax(0), [square()]),
        ("scaled_dot_product_attention", F.scaled_dot_product_attention, [square(3)] * 3),
        (
            "scaled_dot_product_attention",
            lambda q, k, v, m: F.scaled_dot_product_attention(q, k, v, m),
            [square(3), square(3), square(3), square(2)],
        ),
        ("gru_cell", torch.gru_cell, [square(2), square(2), x(9, 3), x(9, 3), x(9), x(9)]),
        ("lstm_cell", lambda v, h, *w: torch.lstm_cell(v, (h, h), *w)[1], [square(2), square(2), x(12, 3), x(12, 3)]),
        ("rnn_tanh_cell", torch.rnn_tanh_cell, [square(2)] * 4),
        ("rnn_relu_cell", torch.rnn_relu_cell, [square(2)] * 4),
        ("gru", recurrence("gru", 9), [square(3), square(3), x(9, 3), x(9, 3)]),
        ("lstm", recurrence("lstm", 12), [square(3), square(3), x(12, 3), x(12, 3)]),
        ("rnn_tanh", recurrence("rnn_tanh", 3), [square(3), square(3), x(3, 3), x(3, 3)]),
        ("rnn_relu", recurrence("rnn_relu", 3), [square(3), square(3), x(3, 3), x(3, 3)]),
        ("multi_head_attention_forward", attention, [square(3), x(9, 3), square(2), square(1)]),
    ]
    for dims in (1, 2, 3):
        for name in (f"max_pool{dims}d", f"avg_pool{dims}d"):
            found.append((name, lambda v, name=name: getattr(F, name)(v, 2), [square(dims + 2)]))
        found.append(
            (f"lp_pool{dims}d", lambda v, name=f"lp_pool{dims}d": getattr(F, name)(v, 2.0, 2), [square(dims + 2)])
        )
        for kind in ("max", "avg"):
            name = f"adaptive_{kind}_pool{dims}d"
            found.append((name, lambda v, name=name: getattr(F, name)(v, 2), [square(dims + 2)]))
    return found


def recurrence(name: str, gates: int) -> Operation:
    def call(v: Any, h: Any, wx: Any, wh: Any) -> Any:
        state = (h[:1], h[1:2]) if name == "lstm" else h[:1]
        return getattr(torch, name)(v, state, [wx, wh], False, 1, 0.0, False, False, True)[0]

    return call


def attention(v: Any, w: Any, out: Any, bias: Any) -> Any:
    return F.multi_head_attention_forward(
        v, v, v, N, 1, w, None, None, None, False, 0.0, out, bias, training=False, need_weights=False
    )[0]


SAMPLES = samples()
NAMES = sorted({name for name, _, _ in SAMPLES})


def one(value: Any, task: int) -> Any:
    return value.each[task] if isinstance(value, PerTask) else value


@pytest.mark.parametrize("name", NAMES)
def test_a_rule_keeps_tasks_apart(name: str) -> None:
    GENERATOR.manual_seed(0)
    token = current.set(Call(N, False, None, None, None))
    computed = 0
    try:
        for _, operation, makers in (sample for sample in SAMPLES if sample[0] == name):
            for own in itertools.product((True, False), repeat=len(makers)):
                if not any(own):
                    continue
                values = [
                    PerTask(torch.stack([make() for _ in range(N)])) if mine else make()
                    for mine, make in zip(own, makers, strict=True)
                ]
                wanted = torch.stack([operation(*(one(value, task) for value in values)) for task in range(N)])
                try:
                    found = operation(*values)
                except Unsupported:
                    continue  # the loop
                computed += 1
                result = found.each if isinstance(found, PerTask) else found.expand(N, *found.shape)
                assert found.shape == wanted.shape[1:], own
                torch.testing.assert_close(result, wanted, msg=lambda text, own=own: f"{name}, per task {own}: {text}")
    finally:
        current.reset(token)
    assert computed


def test_every_rule_is_tested() -> None:
    """But dropout, which takes one tensor, and has its own tests."""
    dropouts = {"dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout"}
    assert sorted(RULES.keys() - set(NAMES) - dropouts) == []


@pytest.mark.parametrize("batched", [True, False])
def test_dropout_masks_are_each_tasks_own(batched: bool) -> None:
    module = nn.Sequential(nn.Dropout(0.5), nn.Dropout1d(0.5), nn.Dropout2d(0.5), nn.Dropout3d(0.5))
    values = torch.ones(N, N, N, N, N, N)
    out = Network(module, batched=batched)({}, values, keys=[Key((task,)) for task in range(N)])
    alone = [Network(module)({}, values[:1], keys=[Key((task,))])[0] for task in range(N)]
    assert torch.equal(out, torch.stack(alone))
