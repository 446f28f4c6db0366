"""Is a module computed for many tasks at once exactly what it is for one after another, to the second derivative?"""

from __future__ import annotations

import contextlib
import pickle
from collections.abc import Callable

import cloudpickle
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bilevel.batched import Network, Statistics, verify
from bilevel.batched.constants import Constants
from bilevel.batched.convolution import convolve
from bilevel.batched.normalization import normalize, over_rows
from bilevel.batched.tensors import RULES, PerTask
from bilevel.episodes import Key
from bilevel.errors import BadInput
from bilevel.nets import conv4, mlp

TASKS = 3


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


# -- the networks that users bring -------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    """The last output of a recurrent layer, through a linear head."""

    def __init__(self, kind: type[nn.RNNBase], **options: object) -> None:
        super().__init__()
        self.layer = kind(3, 5, **options)  # type: ignore[arg-type]
        self.head = nn.Linear(5 * (1 + self.layer.bidirectional), 2)

    def forward(self, x: Tensor) -> Tensor:
        out = self.layer(x if self.layer.batch_first else x.transpose(0, 1))[0]
        return self.head(out[:, -1] if self.layer.batch_first else out[-1])


class Cells(nn.Module):
    """A cell unrolled by the user's own loop."""

    def __init__(self, cell: type[nn.RNNCellBase]) -> None:
        super().__init__()
        self.cell = cell(3, 4)  # type: ignore[call-arg]

    def forward(self, x: Tensor) -> Tensor:
        state = None
        for part in x.unbind(1):
            state = self.cell(part, state)
        return state[0] if isinstance(state, tuple) else state  # type: ignore[return-value]


class Tied(nn.Module):
    """One weight in two places, used both as an embedding and as the output layer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, 4)
        self.out = nn.Linear(4, 6, bias=False)
        self.out.weight = self.embedding.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.embedding(x).mean(1)))


class Unused(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(3, 2), nn.Linear(3, 7)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.used(x))


class Residual(nn.Module):
    """Functions rather than layers; in-place; a buffer; broadcasting against a vector."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)
        self.gain = nn.Parameter(torch.randn(4))
        self.register_buffer("offset", torch.randn(4))

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.inner(x)) * self.gain + self.offset
        y += x
        y = torch.cat([y, y.flip(-1)], -1).clamp(-3, 3)
        return y.view(x.size(0), 2, -1).amax(1) / (1 + y.pow(2).sum(-1, keepdim=True)).sqrt()


class Branches(nn.Module):
    """Which weights count depends on the data: cannot be computed for many tasks at once."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh((self.left if x.sum() > 0 else self.right)(x))


class TwiceNormalized(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.linear(self.norm(x)))


class Masked(nn.Module):
    """Attention with a causal mask, and weights asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True, dropout=0.2)

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).triu(1)
        out, weights = self.attention(x, x, x, attn_mask=mask)
        return out.mean(1) + weights.sum((1, 2))[:, None]


def frozen() -> nn.Module:
    net = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    net[0].weight.requires_grad_(False)
    net[1].bias.requires_grad_(False)
    net[4].bias.requires_grad_(False)
    return net


def images(*shape: int) -> Tensor:
    return torch.randn(5, *shape)


CASES: dict[str, Callable[[], tuple[nn.Module, Tensor]]] = {
    "mlp": lambda: (mlp(2, (3,), (6, 5)), images(3)),
    "conv4": lambda: (conv4(5, hidden=4), images(1, 28, 28)),
    "conv4 with pooling": lambda: (conv4(5, (3, 8, 8), hidden=4, pool=True, layers=2), images(3, 8, 8)),
    "BatchNorm1d": lambda: (nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.Tanh(), nn.Linear(6, 2)), images(3)),
    "BatchNorm1d over time": lambda: (nn.Sequential(nn.Conv1d(2, 4, 3), nn.BatchNorm1d(4), nn.ReLU()), images(2, 6)),
    "BatchNorm2d in place": lambda: (
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 3, 2)),
        images(2, 6, 6),
    ),
    "BatchNorm2d, not affine": lambda: (
        nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4, affine=False, track_running_stats=False), nn.GELU()),
        images(2, 5, 5),
    ),
    "LayerNorm": lambda: (nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.ReLU(), nn.Linear(6, 2)), images(3)),
    "LayerNorm over images": lambda: (nn.Sequential(nn.Conv2d(1, 2, 3), nn.LayerNorm((2, 4, 4))), images(1, 6, 6)),
    "InstanceNorm": lambda: (
        nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4, affine=True), nn.ELU()),
        images(1, 6, 6),
    ),
    "InstanceNorm, tracking": lambda: (
        nn.Sequential(nn.Conv1d(1, 4, 3), nn.InstanceNorm1d(4, affine=True, track_running_stats=True), nn.SiLU()),
        images(1, 6),
    ),
    "GroupNorm": lambda: (nn.Sequential(nn.Conv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.ReLU()), images(1, 5, 5)),
    "grouped, dilated, strided": lambda: (
        nn.Sequential(nn.Conv2d(2, 4, 3, 2, 2, 2, groups=2), nn.ReLU(), nn.Conv2d(4, 2, (1, 3), padding="same")),
        images(2, 7, 8),
    ),
    "stride above kernel": lambda: (nn.Sequential(nn.Conv2d(2, 3, 2, stride=3), nn.Tanh()), images(2, 8, 7)),
    "Conv3d": lambda: (nn.Sequential(nn.Conv3d(1, 2, 2), nn.Tanh()), images(1, 3, 3, 3)),
    "ConvTranspose2d": lambda: (nn.Sequential(nn.ConvTranspose2d(2, 3, 2), nn.Tanh()), images(2, 3, 3)),
    "pools": lambda: (
        nn.Sequential(nn.Conv2d(1, 3, 3), nn.MaxPool2d(2), nn.AvgPool2d(2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        images(1, 9, 9),
    ),
    "GRU": lambda: (Recurrent(nn.GRU, batch_first=True), images(4, 3)),
    "GRU, deep, both ways, dropout": lambda: (
        Recurrent(nn.GRU, batch_first=True, num_layers=2, bidirectional=True, dropout=0.3),
        images(4, 3),
    ),
    "LSTM": lambda: (Recurrent(nn.LSTM, num_layers=2), images(4, 3)),
    "RNN": lambda: (Recurrent(nn.RNN, nonlinearity="relu", bias=False), images(4, 3)),
    "GRUCell": lambda: (Cells(nn.GRUCell), images(4, 3)),
    "LSTMCell": lambda: (Cells(nn.LSTMCell), images(4, 3)),
    "RNNCell": lambda: (Cells(nn.RNNCell), images(4, 3)),
    "transformer block": lambda: (nn.TransformerEncoderLayer(4, 2, 6, batch_first=True), images(3, 4)),
    "transformer block, norm first": lambda: (
        nn.TransformerEncoderLayer(4, 2, 6, 0.0, F.gelu, norm_first=True),
        images(3, 4),
    ),
    "masked attention": lambda: (Masked(), images(3, 4)),
    "frozen": lambda: (frozen(), images(1, 4, 4)),
    "unused": lambda: (Unused(), images(3)),
    "tied": lambda: (Tied(), torch.randint(0, 6, (5, 3))),
    "dropout": lambda: (nn.Sequential(nn.Linear(3, 8), nn.Dropout(0.4), nn.Tanh(), nn.Linear(8, 2)), images(3)),
    "Dropout2d": lambda: (nn.Sequential(nn.Conv2d(1, 6, 2), nn.Dropout2d(0.4), nn.Tanh()), images(1, 4, 4)),
    "embedding": lambda: (
        nn.Sequential(nn.Embedding(6, 4, padding_idx=0), nn.Flatten(), nn.Linear(12, 2)),
        torch.randint(0, 6, (5, 3)),
    ),
    "weight norm": lambda: (nn.utils.parametrizations.weight_norm(nn.Linear(3, 2)), images(3)),
    "PReLU": lambda: (nn.Sequential(nn.Linear(3, 4), nn.PReLU(4), nn.Linear(4, 2), nn.LogSoftmax(-1)), images(3)),
    "functions": lambda: (Residual(), images(4)),
    "normalized twice": lambda: (TwiceNormalized(), images(3)),
}


@pytest.mark.parametrize("case", CASES)
def test_batch_equals_loop(case: str) -> None:
    module, x = CASES[case]()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    verdict = verify(module, x)
    assert verdict.exact, verdict
    assert verdict.error < 1e-11
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def several(module: nn.Module, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    """Weights of three tasks, each its own."""
    return {
        name: (value + 0.1 * torch.randn(TASKS, *value.shape)).to(dtype).requires_grad_()
        for name, value in Network(module).start().items()
    }


def keys(tasks: int = TASKS) -> list[Key]:
    return [Key((5, task)) for task in range(tasks)]


def after_a_step(network: Network, weights: dict[str, Tensor], support: Tensor, query: Tensor) -> Tensor:
    """The squared output on the query after one gradient step on the support: what MAML differentiates."""
    loss = (network(weights, support, keys=keys(len(support))) ** 2).mean((1, 2)).sum()
    grads = torch.autograd.grad(
        loss, list(weights.values()), create_graph=True, allow_unused=True, materialize_grads=True
    )
    moved = {name: value - 0.1 * grad for (name, value), grad in zip(weights.items(), grads, strict=True)}
    return (network(moved, query, keys=keys(len(query))) ** 2).mean((1, 2)).sum()


@pytest.mark.parametrize("case", ["BatchNorm1d", "LayerNorm", "conv4", "GRU", "dropout", "frozen", "tied"])
@pytest.mark.parametrize("batched", [True, False])
def test_meta_gradient_equals_finite_differences(case: str, batched: bool) -> None:
    module, x = CASES[case]()
    module = module.double()
    network, weights = Network(module, batched=batched), several(module)
    wide = x.expand(TASKS, *x.shape)
    support, query = (wide, wide.flip(1)) if not x.is_floating_point() else (wide.double(), wide.double().flip(1) * 1.1)
    meta = torch.autograd.grad(
        after_a_step(network, weights, support, query),
        list(weights.values()),
        allow_unused=True,
        materialize_grads=True,
    )
    direction = [torch.randn_like(value) for value in weights.values()]
    step = 1e-6

    def at(distance: float) -> float:
        moved = {
            name: (value + distance * d).detach().requires_grad_()
            for (name, value), d in zip(weights.items(), direction, strict=True)
        }
        return after_a_step(network, moved, support, query).item()

    slope = (at(step) - at(-step)) / (2 * step)
    along = sum((grad * d).sum().item() for grad, d in zip(meta, direction, strict=True))
    assert along == pytest.approx(slope, rel=1e-6, abs=1e-9)


# -- what cannot be batched --------------------------------------------------------------------------------------------


def test_control_flow_is_named_and_the_loop_is_right() -> None:
    module = Branches().double()
    x = torch.randn(4, 3)
    verdict = verify(module, x)
    assert not verdict.exact
    assert "__bool__" in verdict.reason
    inputs = torch.stack([x, -x, x]).double()  # the second task takes the other branch
    weights = several(module)
    total = after_a_step(Network(module, batched=False), weights, inputs, inputs)
    found = torch.autograd.grad(total, list(weights.values()))
    for task, side in enumerate(("left" if x.sum() > 0 else "right", "right" if x.sum() > 0 else "left")):
        w, b = (weights[f"{side}.{name}"][task].detach().requires_grad_() for name in ("weight", "bias"))
        loss = (torch.tanh(F.linear(inputs[task], w, b)) ** 2).mean()
        dw, db = torch.autograd.grad(loss, (w, b), create_graph=True)
        later = (torch.tanh(F.linear(inputs[task], w - 0.1 * dw, b - 0.1 * db)) ** 2).mean()
        wanted = torch.autograd.grad(later, (w, b))
        for name, grad in zip(("weight", "bias"), wanted, strict=True):
            torch.testing.assert_close(found[list(weights).index(f"{side}.{name}")][task], grad)


def test_a_wrong_value_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    right = RULES["tanh"]
    monkeypatch.setitem(RULES, "tanh", lambda func, x: PerTask(right(func, x).each * (1 + 1e-6)))
    verdict = verify(nn.Sequential(nn.Linear(3, 2), nn.Tanh()), torch.randn(4, 3))
    assert not verdict.exact
    assert 1e-7 < verdict.error < 1e-4
    assert "differs from the module's own" in verdict.reason


def test_a_wrong_second_derivative_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """As vmap has it for normalization: values and gradients right, the meta-gradient not."""

    class Tanh(torch.autograd.Function):
        @staticmethod
        def forward(ctx: object, x: Tensor) -> Tensor:
            y = torch.tanh(x)
            ctx.save_for_backward(y)  # type: ignore[attr-defined]
            return y

        @staticmethod
        def backward(ctx: object, grad: Tensor) -> Tensor:
            return grad * (1 - ctx.saved_tensors[0].detach() ** 2)  # type: ignore[attr-defined]

    monkeypatch.setitem(RULES, "tanh", lambda func, x: PerTask(Tanh.apply(x.each)))
    verdict = verify(nn.Sequential(nn.Linear(3, 2), nn.Tanh()), torch.randn(4, 3))
    assert not verdict.exact
    assert "second-order" in verdict.reason
    assert verdict.error > 1e-4


def test_random_numbers_without_a_key_are_refused() -> None:
    verdict = verify(nn.Sequential(nn.Linear(3, 2), nn.AlphaDropout(0.5)), torch.randn(4, 3))
    assert not verdict.exact
    assert "alpha_dropout" in verdict.reason


def test_the_loop_draws_other_random_numbers_from_the_keys_too() -> None:
    module = nn.Sequential(nn.Linear(3, 2), nn.AlphaDropout(0.5))
    network, x = Network(module, batched=False), torch.randn(TASKS, 4, 3)
    weights = several(module, torch.float32)
    first = network(weights, x, keys=keys())
    torch.rand(3)
    assert torch.equal(network(weights, x, keys=keys()), first)


# -- batch normalization's policy --------------------------------------------------------------------------------------


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("case", ["conv4", "BatchNorm1d", "normalized twice"])
def test_recorded_statistics_are_the_batchs_own(case: str, batched: bool) -> None:
    module, x = CASES[case]()
    module = module.double()
    network, weights, inputs = Network(module, batched=batched), several(module), x.double().expand(TASKS, *x.shape)
    assert network.normalizes
    statistics = Statistics()
    own = network(weights, inputs, record=statistics)
    again = network(weights, inputs, use=statistics)
    if case != "normalized twice":  # a layer with two passes has the statistics of both
        torch.testing.assert_close(again, own)
    assert all(value.requires_grad for value in statistics.mean.values() if value.shape[-1] != 3)
    # One query at a time gives the same answer as all at once, in ours and in plain torch.
    one = torch.cat([network(weights, inputs[:, i : i + 1], use=statistics) for i in range(inputs.shape[1])], 1)
    torch.testing.assert_close(one, again)
    for task in range(TASKS):
        mine = {name: value[task] for name, value in weights.items()}
        plain = network.adapted(mine, statistics.task(task))
        assert not plain.training
        torch.testing.assert_close(plain(inputs[task]), again[task])
        torch.testing.assert_close(torch.cat([plain(sample[None]) for sample in inputs[task]]), again[task])
        if case != "normalized twice":
            torch.testing.assert_close(network.adapted(mine, None)(inputs[task]), own[task])


def test_support_statistics_carry_gradients_exactly() -> None:
    module, x = CASES["conv4"]()
    module = module.double()
    inputs = x.double().expand(TASKS, *x.shape)
    results = []
    weights = several(module)
    for batched in (True, False):
        network, statistics = Network(module, batched=batched), Statistics()
        loss = (network(weights, inputs, record=statistics) ** 2).mean((1, 2)).sum()
        loss = loss + (network(weights, inputs.flip(1) * 1.1, use=statistics) ** 2).mean((1, 2)).sum()
        results.append(torch.autograd.grad(loss, list(weights.values())))
    for mine, wanted in zip(*results, strict=True):
        torch.testing.assert_close(mine, wanted)


@pytest.mark.parametrize("batched", [True, False])
def test_one_value_per_channel_is_refused(batched: bool) -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    with pytest.raises(BadInput, match=r"'1' sees one value per channel.*more support"):
        Network(module, batched=batched)(several(module, torch.float32), torch.randn(TASKS, 1, 3))


# -- the interface -----------------------------------------------------------------------------------------------------


def test_start_names_trainable_parameters_once() -> None:
    assert list(Network(Tied()).start()) == ["embedding.weight"]
    assert list(Network(frozen()).start()) == ["0.bias", "1.weight", "4.weight"]
    module = mlp(1)
    start = Network(module).start()
    with torch.no_grad():
        start["0.weight"].zero_()
    assert module[0].weight.abs().sum() > 0


@pytest.mark.parametrize("batched", [True, False])
def test_spread_is_expand(batched: bool) -> None:
    module = conv4(5, (2, 12, 12), hidden=4)
    network = Network(module, batched=batched)
    spread = network.spread(network.start(), 3)
    for name, value in network.start().items():
        assert torch.equal(spread[name], value.expand(3, *value.shape))
    x = torch.randn(3, 5, 2, 12, 12)
    torch.testing.assert_close(
        network(spread, x), network({n: v.expand(3, *v.shape) for n, v in network.start().items()}, x)
    )


class Placed(nn.Module):
    """What a forward needs beside its weights: a buffer, a frozen layer, tensors that it makes itself."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("positions", torch.randn(3))
        self.trunk, self.head = nn.Linear(3, 4).requires_grad_(False), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros(len(x), 4) + torch.arange(4)
        return self.head(self.trunk(x + self.positions) + state)


def elsewhere(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """On torch's device without numbers: it refuses to mix with the CPU, and to say a number, as a GPU's would wait."""
    return {name: value.detach().to("meta").requires_grad_() for name, value in weights.items()}


ELSEWHERE = (
    "placed", "frozen", "dropout", "embedding", "functions", "LayerNorm", "BatchNorm1d", "InstanceNorm, tracking",
    "GRUCell", "transformer block", "masked attention", "conv4 with pooling", "grouped, dilated, strided",
)  # fmt: skip


@pytest.mark.parametrize("batched", [True, False])
@pytest.mark.parametrize("case", ELSEWHERE)
def test_a_network_computes_where_its_inputs_lie(case: str, batched: bool) -> None:
    module, x = CASES[case]() if case in CASES else (Placed(), images(3))
    before = dict(module.named_buffers())
    weights = elsewhere(several(module, torch.float32))
    wide = x.expand(TASKS, *x.shape).to("meta")
    loss = after_a_step(Network(module, batched=batched), weights, wide, wide)
    grads = torch.autograd.grad(loss, list(weights.values()), allow_unused=True, materialize_grads=True)
    assert {grad.device.type for grad in grads} == {"meta"}
    assert all(value is before[name] for name, value in module.named_buffers())
    assert {p.device.type for p in module.parameters()} == {"cpu"}


def test_constants_are_copied_to_a_device_once_and_again_when_they_change() -> None:
    module = Placed()
    constants, meta = Constants(list(module.modules())), torch.device("meta")
    seen = []
    for _ in range(2):
        with constants.on(meta):
            seen.append(module.positions)
            assert module.trunk.weight.device == meta
            assert isinstance(module.trunk.weight, nn.Parameter)
    module.positions.add_(1)
    with contextlib.suppress(ZeroDivisionError), constants.on(meta):
        seen.append(module.positions)
        raise ZeroDivisionError
    assert seen[0] is seen[1]
    assert seen[1] is not seen[2]
    assert module.positions.device.type == module.trunk.weight.device.type == "cpu"
    assert not vars(pickle.loads(pickle.dumps(constants)))["_copies"]


def test_module_is_as_before_even_after_an_error() -> None:
    module = frozen()
    before = dict(module.named_parameters())
    network = Network(module)
    module.eval()
    with pytest.raises(RuntimeError):
        network(several(module, torch.float32), torch.randn(TASKS, 5, 2, 4, 4))  # two channels instead of one
    assert all(value is before[name] for name, value in module.named_parameters())
    assert not any(part.training or "forward" in part.__dict__ for part in module.modules())


@pytest.mark.parametrize("batched", [True, False])
def test_weights_that_do_not_fit_are_named(batched: bool) -> None:
    module = mlp(1)
    weights = several(module, torch.float32)
    weights["2.bias"] = weights["2.bias"][:2]
    with pytest.raises(BadInput, match=r"'2.bias'.*\(2, 40\).*3"):
        Network(module, batched=batched)(weights, torch.randn(TASKS, 5, 1))


def test_dropout_depends_on_the_key_alone() -> None:
    module, x = CASES["dropout"]()
    weights, inputs = several(module, torch.float32), x.expand(TASKS, *x.shape)
    network, loop = Network(module), Network(module, batched=False)
    out = network(weights, inputs, keys=keys())
    assert torch.equal(network(weights, inputs, keys=keys()), out)
    assert not torch.equal(network(weights, inputs, keys=keys()[::-1]), out)
    assert not torch.equal(network(weights, inputs, training=False), out)
    torch.testing.assert_close(loop(weights, inputs, keys=keys()), out)
    alone = network({n: w[1:2] for n, w in weights.items()}, inputs[1:2], keys=keys()[1:2])
    torch.testing.assert_close(alone[0], out[1])
    for each in (network, loop):
        with pytest.raises(BadInput, match="no keys"):
            each(weights, inputs)
        with pytest.raises(BadInput, match="2 keys for 3 tasks"):
            each(weights, inputs, keys=keys(2))


def test_a_network_travels() -> None:
    module, x = CASES["conv4"]()
    network, weights = Network(module), several(module, torch.float32)
    inputs = x.expand(TASKS, *x.shape)
    copy = pickle.loads(cloudpickle.dumps(network))
    assert torch.equal(copy(weights, inputs), network(weights, inputs))


def test_a_broken_network_is_bad_input() -> None:
    with pytest.raises(BadInput, match="does not work on"):
        verify(nn.Linear(3, 2), torch.randn(4, 5))


# -- the two steps with derivatives worked out by hand -----------------------------------------------------------------


@pytest.mark.parametrize("relu", [False, True])
def test_over_rows_is_normalize(relu: bool) -> None:
    x = torch.randn(2, 7, 3, dtype=torch.float64, requires_grad=True)
    scale, shift = (torch.randn(2, 1, 3, dtype=torch.float64, requires_grad=True) for _ in range(2))
    mine, plain = over_rows(x, scale, shift, 1e-5, relu), normalize(x, (1,), 1e-5, scale, shift)
    torch.testing.assert_close(mine, plain.relu() if relu else plain)
    assert torch.autograd.gradcheck(over_rows, (x, scale, shift, 1e-5, relu))
    assert torch.autograd.gradgradcheck(over_rows, (x, scale, shift, 1e-5, relu))

    def slope(*leaves: Tensor) -> tuple[Tensor, ...]:
        out = (over_rows(*leaves, 1e-5, relu) ** 3).sum()
        return torch.autograd.grad(out, leaves, create_graph=True)

    assert torch.autograd.gradgradcheck(slope, (x, scale, shift))  # third derivatives are exact too


@pytest.mark.parametrize(
    ("kernel", "stride", "pads", "dilation"),
    [((3, 3), (2, 2), ((1, 1), (1, 1)), (1, 1)), ((2, 3), (1, 2), ((0, 1), (2, 0)), (2, 1)),
     ((2, 1), (3, 2), ((0, 0), (0, 0)), (1, 1)), ((1, 1), (2, 2), ((0, 0), (1, 1)), (1, 1))],
)  # fmt: skip
def test_convolve_is_convolution(
    kernel: tuple[int, int], stride: tuple[int, int], pads: tuple[tuple[int, int], ...], dilation: tuple[int, int]
) -> None:
    x = torch.randn(2, 2, 2, 5, 6, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(2, 3, 2, *kernel, dtype=torch.float64, requires_grad=True)

    def mine(x: Tensor, weight: Tensor) -> Tensor:
        return convolve(x, weight, None, stride, pads, dilation, 1)

    padded = F.pad(x, (*pads[1], *pads[0]))
    plain = torch.stack([F.conv2d(a, w, None, stride, 0, dilation) for a, w in zip(padded, weight, strict=True)])
    torch.testing.assert_close(mine(x, weight), plain)
    assert torch.autograd.gradcheck(mine, (x, weight))
    assert torch.autograd.gradgradcheck(mine, (x, weight))

    def slope(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((mine(x, weight) ** 3).sum(), (x, weight), create_graph=True)

    assert torch.autograd.gradgradcheck(slope, (x, weight), fast_mode=True)
