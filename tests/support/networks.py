"""Sixty networks as users, torch and timm write them: what `verify` must say of each is tested beside."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

# ruff: noqa: A002  signatures are torch's


class Through(nn.Module):
    """Parts by name, and a function of them and the input."""

    def __init__(self, forward: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.compute = forward
        for name, part in parts.items():
            if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.compute(self, x)


# -- timm-like ---------------------------------------------------------------------------------------------------------


class BatchNormAct2d(nn.BatchNorm2d):
    def __init__(self, channels: int, act: type[nn.Module] = nn.ReLU) -> None:
        super().__init__(channels)
        self.drop, self.act = nn.Identity(), act()

    def forward(self, x: Tensor) -> Tensor:
        if self.training and self.track_running_stats and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
        bn_training = self.training or (self.running_mean is None and self.running_var is None)
        x = F.batch_norm(
            x,
            self.running_mean if not self.training or self.track_running_stats else None,
            self.running_var if not self.training or self.track_running_stats else None,
            self.weight, self.bias, bn_training, 0.1, self.eps,
        )  # fmt: skip
        return self.act(self.drop(x))


class FrozenBatchNorm2d(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, torch.rand(channels) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale.reshape(1, -1, 1, 1).to(x.dtype) + shift.reshape(1, -1, 1, 1).to(x.dtype)


class LayerNorm2d(nn.LayerNorm):
    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class RmsNorm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        dtype = x.dtype
        x = x.float()
        return (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)).to(dtype) * self.weight


class StdConv2d(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        weight = F.batch_norm(
            self.weight.reshape(1, self.out_channels, -1), None, None, training=True, momentum=0.0, eps=1e-6
        ).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class SqueezeExcite(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce, self.expand = nn.Conv2d(channels, 2, 1), nn.Conv2d(2, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.expand(F.relu(self.reduce(x.mean((2, 3), keepdim=True)))).sigmoid()


class ConvNextBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dw, self.norm = nn.Conv2d(dim, dim, 3, padding=1, groups=dim), nn.LayerNorm(dim)
        self.up, self.down, self.gamma = nn.Linear(dim, 2 * dim), nn.Linear(2 * dim, dim), nn.Parameter(torch.ones(dim))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.dw(x).permute(0, 2, 3, 1))
        y = self.down(F.gelu(self.up(y))) * self.gamma
        return x + y.permute(0, 3, 1, 2)


class PatchTransformer(nn.Module):
    """A small vision transformer: class token, positions, fused qkv."""

    def __init__(self, fused: bool = True) -> None:
        super().__init__()
        self.fused, self.heads = fused, 2
        self.patch = nn.Conv2d(1, 8, 3, stride=3)
        self.cls, self.pos = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(0.02 * torch.randn(1, 5, 8))
        self.norm, self.qkv, self.proj, self.head = nn.LayerNorm(8), nn.Linear(8, 24), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat((self.cls.expand(x.shape[0], -1, -1), x), 1) + self.pos
        b, n, c = x.shape
        q, k, v = self.qkv(self.norm(x)).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q * (c // self.heads) ** -0.5 @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.head((x + self.proj(y.transpose(1, 2).reshape(b, n, c)))[:, 0])


class Basic(nn.Module):
    """ResNet's basic block."""

    def __init__(
        self, inside: int, out: int, stride: int = 1, norm: Callable[[int], nn.Module] = nn.BatchNorm2d
    ) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False), norm(out)
        self.conv2, self.bn2 = nn.Conv2d(out, out, 3, 1, 1, bias=False), norm(out)
        self.down = nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), norm(out))

    def forward(self, x: Tensor) -> Tensor:
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = self.bn2(self.conv2(out))
        out += self.down(x)
        return F.relu(out)


class DropPath(nn.Module):
    """Layer drop by a draw for each sample."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = x.new_empty((x.shape[0],) + (1,) * (x.ndim - 1)).bernoulli_(0.8)
        return x * keep / 0.8


# -- recurrent, with states of their own -------------------------------------------------------------------------------


class OwnStates(nn.Module):
    """States made in forward, in float32, or as the input is."""

    def __init__(self, kind: type[nn.RNNBase], like: bool = False) -> None:
        super().__init__()
        self.rnn, self.head, self.like = kind(3, 4, batch_first=True), nn.Linear(4, 2), like  # type: ignore[call-arg]

    def forward(self, x: Tensor) -> Tensor:
        h = torch.zeros(1, x.size(0), 4)
        if self.like:
            h = h.to(x)
        out, _ = self.rnn(x, (h, h.clone()) if isinstance(self.rnn, nn.LSTM) else h)
        return self.head(out[:, -1])


class Loop(nn.Module):
    """A cell in the user's own loop; outputs written into a buffer."""

    def __init__(self, into: bool) -> None:
        super().__init__()
        self.cell, self.into = nn.GRUCell(3, 4), into

    def forward(self, x: Tensor) -> Tensor:
        h = x.new_zeros(x.shape[0], 4)
        outs = torch.zeros(x.shape[0], x.shape[1], 4, dtype=x.dtype) if self.into else []
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h)
            if self.into:
                outs[:, t] = h  # type: ignore[call-overload]
            else:
                outs.append(h)  # type: ignore[union-attr]
        return outs.mean(1) if self.into else torch.stack(outs, 1).mean(1)  # type: ignore[union-attr, arg-type]


class Positions(nn.Module):
    """Sinusoidal positions in a buffer, cut and cast."""

    def __init__(self, cast: bool) -> None:
        super().__init__()
        place, rate = torch.arange(7.0)[:, None], torch.exp(torch.arange(0, 4, 2) * (-math.log(100.0) / 4))
        pe = torch.zeros(7, 4)
        pe[:, 0::2], pe[:, 1::2] = torch.sin(place * rate), torch.cos(place * rate)
        self.register_buffer("pe", pe)
        self.cast, self.linear, self.head = cast, nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.linear(x)
        h = h + (self.pe[: x.size(1)].to(x) if self.cast else self.pe[: x.size(1)])
        return self.head(torch.tanh(h)).mean(1)


class Eye(nn.Module):
    def __init__(self, cast: bool) -> None:
        super().__init__()
        self.cast, self.linear = cast, nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        eye = torch.eye(4)
        return self.linear(torch.tanh(x @ (eye.to(x) if self.cast else eye)))


class Autocast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            h = torch.relu(self.a(x))
        return self.b(h.float())


class HalfTrunk(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.trunk, self.head = nn.Sequential(nn.Linear(3, 8), nn.LayerNorm(8), nn.ReLU()).bfloat16(), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.trunk(x.bfloat16()).float())


class Film(nn.Module):
    """Features scaled by a context parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.context, self.film = nn.Parameter(torch.zeros(2)), nn.Linear(2, 8)
        self.a, self.b = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        scale, shift = self.film(self.context).chunk(2)
        return self.b(torch.relu(self.a(x) * (1 + scale) + shift))


class Tucked(nn.Module):
    """Weights in a list, by functions alone."""

    def __init__(self) -> None:
        super().__init__()
        self.vars = nn.ParameterList(
            [nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.zeros(4)), nn.Parameter(torch.randn(2, 4))]
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(F.relu(F.linear(x, self.vars[0], self.vars[1])), self.vars[2])


class Selects(nn.Module):
    """A branch on the data."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.a(x) if x.mean() > 0 else self.b(x)


class Experts(nn.Module):
    """Soft and hard mixture of experts."""

    def __init__(self, hard: bool) -> None:
        super().__init__()
        self.hard, self.gate = hard, nn.Linear(3, 2)
        self.experts = nn.ModuleList([nn.Linear(3, 2) for _ in range(2)])

    def forward(self, x: Tensor) -> Tensor:
        outs = torch.stack([expert(x) for expert in self.experts], 1)
        odds = self.gate(x).softmax(-1)
        if self.hard:
            best = odds.argmax(-1)
            return outs[torch.arange(len(x)), best] * odds.gather(1, best[:, None])
        return (outs * odds[..., None]).sum(1)


class Graph(nn.Module):
    """A convolution over a graph of fixed edges."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("edges", torch.tensor([[0, 1, 2, 3], [1, 2, 3, 0]]))
        self.linear = nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        h = self.linear(x)  # [samples, nodes, 3]
        source, target = self.edges
        summed = torch.zeros_like(h).index_add(1, target, h[:, source])
        return torch.relu(summed).mean(1)


class Pairwise(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear, self.centers = nn.Linear(3, 4), nn.Parameter(torch.randn(2, 4))

    def forward(self, x: Tensor) -> Tensor:
        return -torch.cdist(self.linear(x), self.centers).pow(2)


class Checks(nn.Module):
    """Asks for shapes, devices and types, as library code does."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 2 or x.shape[-1] != self.linear.in_features or not x.is_floating_point():
            raise ValueError(f"unexpected {x.shape}")
        mask = torch.ones(x.size(0), 1, device=x.device, dtype=x.dtype)
        return self.linear(x.contiguous().view(x.size(0), -1)) * mask


class EvalBackbone(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.backbone, self.head = how, backbone(), nn.Linear(4, 2)
        if how == "built":
            self.backbone.eval()

    def train(self, mode: bool = True) -> EvalBackbone:
        super().train(mode)
        if self.how == "train":
            self.backbone.eval()
        return self

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "forward":
            self.backbone.eval()
        if self.how == "no_grad":
            self.backbone.eval()
            with torch.no_grad():
                features = self.backbone(x)
            return self.head(features)
        return self.head(self.backbone(x))


def backbone() -> nn.Module:
    part = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    part[1].running_mean, part[1].running_var = torch.randn(4), torch.rand(4) + 0.5
    return part


class GhostBatchNorm(nn.BatchNorm1d):
    def forward(self, input: Tensor) -> Tensor:
        return torch.cat([super(GhostBatchNorm, self).forward(part) for part in input.chunk(2)])


class WrappedGRU(nn.GRU):
    def forward(self, input: Tensor, hx: Tensor | None = None) -> Tensor:  # type: ignore[override]
        out, _ = super().forward(input, hx)
        return out[:, -1] * 2


class ShiftedInstanceNorm(nn.InstanceNorm2d):
    def forward(self, input: Tensor) -> Tensor:
        return torch.relu(super().forward(input))


def images(*shape: int) -> Tensor:
    return torch.randn(6, *shape)


def deep(norm: Callable[[int], nn.Module]) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), norm(4), nn.ReLU(), nn.Conv2d(4, 4, 3, 2), norm(4), nn.Flatten(), nn.LazyLinear(2)
    )


def tokens() -> Tensor:
    return torch.randint(0, 9, (6, 5))


def spectral() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.orthogonal(nn.Linear(3, 3)), nn.ReLU(), nn.Linear(3, 2))


Case = tuple[Callable[[], nn.Module], Callable[[], Tensor], int, str]
"""The network, its inputs, the rule's order, and by what it is expected to be computed: batched, loop or refused."""

NETWORKS: dict[str, Case] = {}


def case(
    name: str, module: Callable[[], nn.Module], x: Callable[[], Tensor], order: int = 2, by: str = "batched"
) -> None:
    NETWORKS[name] = (module, x, order, by)


def linear() -> Tensor:
    return images(3)


def picture() -> Tensor:
    return images(1, 7, 7)


def series() -> Tensor:
    return images(5, 3)


case("mlp", lambda: nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), linear)
case(
    "mlp, float64 module",
    lambda: nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 2)).double(),
    lambda: linear().double(),
)
case("parameter list", Tucked, linear)
case("lazy linear", lambda: nn.Sequential(nn.LazyLinear(8), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(2)), linear)
case("lazy convolution", lambda: deep(nn.BatchNorm2d), picture)
case("group norm", lambda: deep(lambda n: nn.GroupNorm(2, n)), picture)
case("instance norm", lambda: deep(lambda n: nn.InstanceNorm2d(n, affine=True, track_running_stats=True)), picture)
case("instance norm and relu", lambda: deep(lambda n: ShiftedInstanceNorm(n, affine=True)), picture)
case("batch norm and relu", lambda: deep(BatchNormAct2d), picture)
case("batch norm and silu", lambda: deep(lambda n: BatchNormAct2d(n, nn.SiLU)), picture)
case("batch norm without statistics", lambda: deep(lambda n: nn.BatchNorm2d(n, track_running_stats=False)), picture)
case("sync batch norm", lambda: deep(nn.SyncBatchNorm), picture)
case("ghost batch norm", lambda: nn.Sequential(nn.Linear(3, 4), GhostBatchNorm(4), nn.Linear(4, 2)), linear)
case("frozen batch norm class", lambda: deep(FrozenBatchNorm2d), picture)
case("layer norm over channels", lambda: deep(LayerNorm2d), picture)
case("rms norm in float32", lambda: nn.Sequential(nn.Linear(3, 4), RmsNorm(4), nn.Linear(4, 2)), linear)
case("torch's rms norm", lambda: nn.Sequential(nn.Linear(3, 4), nn.RMSNorm(4), nn.Linear(4, 2)), linear)
case(
    "weight standardization",
    lambda: nn.Sequential(StdConv2d(1, 4, 3), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(100, 2)),
    picture,
)
case(
    "squeeze and excite",
    lambda: nn.Sequential(nn.Conv2d(1, 4, 3), SqueezeExcite(4), nn.Flatten(), nn.Linear(100, 2)),
    picture,
)
case(
    "convnext block",
    lambda: nn.Sequential(nn.Conv2d(1, 4, 3), ConvNextBlock(4), nn.Flatten(), nn.Linear(100, 2)),
    picture,
)
case(
    "resnet block",
    lambda: nn.Sequential(Basic(1, 4, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)),
    picture,
)
case(
    "resnet block, norm and act",
    lambda: nn.Sequential(Basic(1, 4, 1, lambda n: BatchNormAct2d(n, nn.Identity)), nn.Flatten(), nn.LazyLinear(2)),
    picture,
)
case("vision transformer", PatchTransformer, lambda: images(1, 6, 6))
case("vision transformer, by hand", lambda: PatchTransformer(False), lambda: images(1, 6, 6))
case(
    "depthwise separable",
    lambda: nn.Sequential(
        nn.Conv2d(1, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Hardswish(), nn.Flatten(), nn.Linear(100, 2)
    ),
    picture,
)
case(
    "circular padding",
    lambda: nn.Sequential(
        nn.Conv2d(1, 2, 3, padding=1, padding_mode="circular"), nn.Tanh(), nn.Flatten(), nn.Linear(98, 2)
    ),
    picture,
)
case(
    "pixel shuffle",
    lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.PixelShuffle(2), nn.Flatten(), nn.Linear(100, 2)),
    picture,
)
case(
    "upsampling",
    lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.Upsample(scale_factor=2), nn.Flatten(), nn.Linear(200, 2)),
    picture,
)
case("frozen backbone, built in eval mode", lambda: EvalBackbone("built"), picture)
case("frozen backbone, own train()", lambda: EvalBackbone("train"), picture)
case("frozen backbone, eval() in forward", lambda: EvalBackbone("forward"), picture)
case("frozen backbone, no_grad in forward", lambda: EvalBackbone("no_grad"), picture)
case("whole network in eval mode", lambda: nn.Sequential(backbone(), nn.Dropout(0.5), nn.Linear(4, 2)).eval(), picture)
case("lstm with its own zeros", lambda: OwnStates(nn.LSTM), series)
case("gru with its own zeros", lambda: OwnStates(nn.GRU), series)
case("rnn with its own zeros", lambda: OwnStates(nn.RNN), series)
case("lstm, zeros as the input", lambda: OwnStates(nn.LSTM, like=True), series)
case("gru, zeros as the input", lambda: OwnStates(nn.GRU, like=True), series)
case(
    "gru with a forward of its own", lambda: nn.Sequential(WrappedGRU(3, 4, batch_first=True), nn.Linear(4, 2)), series
)
case(
    "lstm with projections",
    lambda: Through(
        lambda m, x: m.head(m.rnn(x)[0][:, -1]), rnn=nn.LSTM(3, 4, proj_size=2, batch_first=True), head=nn.Linear(2, 2)
    ),
    series,
    by="loop",
)
case(
    "packed sequences",
    lambda: Through(
        lambda m, x: m.head(m.rnn(nn.utils.rnn.pack_padded_sequence(x, [5] * 6, batch_first=True))[1][0]),
        rnn=nn.GRU(3, 4, batch_first=True),
        head=nn.Linear(4, 2),
    ),
    series,
    by="loop",
)
case("a cell in a loop", lambda: Loop(False), series)
case("a cell, outputs written into a tensor", lambda: Loop(True), series, by="loop")
case("positions from a buffer", lambda: Positions(False), series)
case("positions as the input", lambda: Positions(True), series)
case(
    "transformer encoder",
    lambda: Through(
        lambda m, x: m.head(m.enc(x).mean(1)),
        enc=nn.TransformerEncoder(
            nn.TransformerEncoderLayer(4, 2, 8, 0.1, batch_first=True), 2, enable_nested_tensor=False
        ),
        head=nn.Linear(4, 2),
    ),
    lambda: images(5, 4),
)
case(
    "multihead attention with a float mask",
    lambda: Through(
        lambda m, x: m.att(
            x, x, x, attn_mask=torch.zeros(5, 5).masked_fill(torch.ones(5, 5).triu(1) > 0, float("-inf"))
        )[0].mean(1),
        att=nn.MultiheadAttention(4, 2, batch_first=True),
    ),
    lambda: images(5, 4),
)
case(
    "uint8 images",
    lambda: Through(
        lambda m, x: m.net(x.float() / 255),
        net=nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(100, 2)),
    ),
    lambda: torch.randint(0, 256, (6, 1, 7, 7), dtype=torch.uint8),
)
case(
    "float images, cast",
    lambda: Through(lambda m, x: m.net(x.float() / 255), net=nn.Sequential(nn.Flatten(), nn.Linear(49, 2))),
    picture,
)
case(
    "one-hot",
    lambda: Through(lambda m, x: m.net(F.one_hot(x.long(), 9).float().flatten(1)), net=nn.Linear(45, 2)),
    tokens,
)
case("identity matrix", lambda: Eye(False), lambda: images(4))
case("identity matrix as the input", lambda: Eye(True), lambda: images(4))
case("autocast", Autocast, linear)
case("bfloat16 trunk", HalfTrunk, linear)
case(
    "bfloat16 throughout",
    lambda: nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)).bfloat16(),
    lambda: linear().bfloat16(),
)
case("embedding", lambda: nn.Sequential(nn.Embedding(9, 4, padding_idx=0), nn.Flatten(), nn.Linear(20, 2)), tokens)
case(
    "sparse embedding, first order",
    lambda: nn.Sequential(nn.Embedding(9, 4, sparse=True), nn.Flatten(), nn.Linear(20, 2)),
    tokens,
    1,
)
case("embedding bag, first order", lambda: nn.Sequential(nn.EmbeddingBag(9, 4), nn.Linear(4, 2)), tokens, 1)
case(
    "sparse embedding bag, first order",
    lambda: nn.Sequential(nn.EmbeddingBag(9, 4, mode="sum", sparse=True), nn.Linear(4, 2)),
    tokens,
    1,
)
case(
    "embedding bag by maxima, first order",
    lambda: nn.Sequential(nn.EmbeddingBag(9, 4, mode="max"), nn.Linear(4, 2)),
    tokens,
    1,
    "loop",
)
case("embedding bag, second order", lambda: nn.Sequential(nn.EmbeddingBag(9, 4), nn.Linear(4, 2)), tokens, 2, "refused")
case(
    "embedding of bounded norm",
    lambda: nn.Sequential(nn.Embedding(9, 4, max_norm=1.0), nn.Flatten(), nn.Linear(20, 2)),
    tokens,
    1,
    "loop",
)
case("scaled by a context", Film, linear)
case("soft experts", lambda: Experts(False), linear)
case("hard experts", lambda: Experts(True), linear)
case("graph convolution", Graph, lambda: images(4, 2))
case("distances to centers, second order", Pairwise, linear, 2, "refused")
case("distances to centers, first order", Pairwise, linear, 1)
case("in place on its input", lambda: Through(lambda m, x: m.a(x.mul_(2).add_(1)), a=nn.Linear(3, 2)), linear)
case(
    "in place on what a derivative needs",
    lambda: Through(
        lambda m, x: m.b(m.a(x).sigmoid().mul_(m.a(x)).sigmoid().add_(1)), a=nn.Linear(3, 4), b=nn.Linear(4, 2)
    ),
    linear,
    by="refused",
)
case("checks of its inputs", Checks, linear)
case("a branch on the data", Selects, linear, by="loop")
case("drop path", lambda: nn.Sequential(nn.Linear(3, 4), DropPath(), nn.Linear(4, 2)), linear, by="loop")
case(
    "dropouts",
    lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.Dropout2d(0.3), nn.Flatten(), nn.Dropout(0.2), nn.Linear(100, 2)),
    picture,
)
case(
    "weight norm",
    lambda: nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)), nn.ReLU(), nn.Linear(4, 2)),
    linear,
)
case("orthogonal", spectral, linear)
case(
    "einsum",
    lambda: Through(lambda m, x: torch.einsum("bi,oi->bo", x, m.weight), weight=nn.Parameter(torch.randn(2, 3))),
    linear,
)
case("bilinear", lambda: Through(lambda m, x: m.b(x, x), b=nn.Bilinear(3, 3, 2)), linear)
case(
    "transposed convolution",
    lambda: nn.Sequential(nn.ConvTranspose2d(1, 2, 2, 2), nn.Flatten(), nn.Linear(392, 2)),
    picture,
)
case(
    "max pooling with indices",
    lambda: Through(
        lambda m, x: m.head(F.max_pool2d(m.conv(x), 2, return_indices=True)[0].flatten(1)),
        conv=nn.Conv2d(1, 4, 3),
        head=nn.Linear(16, 2),
    ),
    picture,
)
case(
    "sorted features",
    lambda: Through(lambda m, x: m.b(m.a(x).sort(-1).values), a=nn.Linear(3, 4), b=nn.Linear(4, 2)),
    linear,
)
case(
    "top features",
    lambda: Through(lambda m, x: m.b(m.a(x).topk(2, -1)[0]), a=nn.Linear(3, 4), b=nn.Linear(2, 2)),
    linear,
)
case(
    "standardized by hand",
    lambda: Through(
        lambda m, x: m.b((h := m.a(x)) / (h.std(0, keepdim=True) + 1e-3)), a=nn.Linear(3, 4), b=nn.Linear(4, 2)
    ),
    linear,
)
