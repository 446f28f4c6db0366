"""Which small reference networks come with the library? (Any factory of an `nn.Module` serves as well.)

A factory is called with what the task fixes, as far as its signature takes it: `shape` of one input, and the number of
outputs as `ways` or `outputs`. It draws its weights from torch's generator.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

from torch import Tensor, nn

from bilevel.errors import BadInput

__all__ = ["conv4", "mlp"]

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU, "silu": nn.SiLU, "elu": nn.ELU,
}  # fmt: skip


class _MeanOverSpace(nn.Module):
    """[samples, channels, height, width] to [samples, channels]."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


def conv4(
    ways: int,
    shape: Sequence[int] = (1, 28, 28),
    hidden: int = 64,
    *,
    pool: bool = False,
    mean: bool = True,
    layers: int = 4,
) -> nn.Sequential:
    """Four blocks of 3 x 3 convolution, batch normalization and ReLU, then a linear head (Vinyals et al. 2016).

    As Finn et al. 2017 used it: for Omniglot strides of 2 and the mean over space; with `pool` (MiniImagenet) strides
    of 1, a 2 x 2 maximum after each block, and all positions go to the head. Initialized as in learn2learn's
    OmniglotCNN and CNN4: Xavier-uniform kernels, zero biases, batch-normalization scales uniform in [0, 1], and a
    head from the standard normal distribution (with `pool`: Xavier-uniform). Without `mean` all positions go to the
    head, normalization scales begin at 1 and the head at 0: an untrained head then says nothing, its first inner step
    is that of nearest class means, and the features learn sooner.

    Args:
        ways: classes, the number of outputs.
        shape: (channels, height, width) of an input.
        hidden: channels of each block.
        pool: maximum pooling instead of strides.
        mean: without `pool`, the mean over space goes to the head; False: all positions.
        layers: blocks.

    Raises:
        BadInput: `shape` is not that of an image, or too small to be halved `layers` times by pooling.
    """
    if len(shape) != 3:
        raise BadInput(f"conv4 wants images, shape=(channels, height, width), not {tuple(shape)}; use mlp for vectors")
    if pool and min(shape[1:]) < 2**layers:
        raise BadInput(f"conv4 halves images {layers} times, but shape={tuple(shape)}; take pool=False or fewer layers")
    blocks: list[nn.Module] = []
    for channels in (shape[0], *[hidden] * (layers - 1)):
        convolution = nn.Conv2d(channels, hidden, 3, stride=1 if pool else 2, padding=1)
        normalization = nn.BatchNorm2d(hidden, track_running_stats=False)
        nn.init.xavier_uniform_(convolution.weight)
        nn.init.zeros_(convolution.bias)  # type: ignore[arg-type]
        if pool or mean:
            nn.init.uniform_(normalization.weight)
        blocks += [convolution, normalization, nn.ReLU()]
        if pool:
            blocks.append(nn.MaxPool2d(2))
    if pool:
        head = nn.Linear(hidden * math.prod(size // 2**layers for size in shape[1:]), ways)
        nn.init.xavier_uniform_(head.weight)
    elif mean:
        head = nn.Linear(hidden, ways)
        nn.init.normal_(head.weight)
    else:
        head = nn.Linear(hidden * math.prod(-(-size // 2**layers) for size in shape[1:]), ways)
        nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    return nn.Sequential(*blocks, _MeanOverSpace() if mean and not pool else nn.Flatten(), head)


def mlp(
    outputs: int, shape: Sequence[int] = (1,), hidden: Sequence[int] = (40, 40), activation: str = "relu"
) -> nn.Sequential:
    """Linear layers with an activation between them; the defaults are the sinusoid network of Finn et al. 2017.

    Initialized as torch initializes `nn.Linear`. Inputs of several axes are flattened.

    Args:
        outputs: numbers (or classes) to predict.
        shape: of one input.
        hidden: units of each hidden layer.
        activation: relu, tanh, gelu, silu or elu.

    Raises:
        BadInput: an activation of another name.
    """
    if activation not in _ACTIVATIONS:
        raise BadInput(f"mlp: activation={activation!r} is none of {', '.join(_ACTIVATIONS)}")
    parts: list[nn.Module] = [nn.Flatten()] if len(shape) > 1 else []
    for inputs, units in itertools.pairwise((math.prod(shape), *hidden)):
        parts += [nn.Linear(inputs, units), _ACTIVATIONS[activation]()]
    parts.append(nn.Linear(hidden[-1] if hidden else math.prod(shape), outputs))
    return nn.Sequential(*parts)
