"""How does a lazy module (`nn.LazyLinear`, ...) come to know its shapes?"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from bilevel.errors import BadInput


def initialized(module: nn.Module, x: Tensor) -> nn.Module:
    """`module`, whose lazy parameters, if any, are made by one pass of `x` [samples, *shape], in eval mode.

    Raises:
        BadInput: it does not work on `x`, or a lazy part is not used.
    """
    if not unshaped(module):
        return module
    modes = [(part, part.training) for part in module.modules()]
    try:
        with torch.no_grad():
            module.eval()(x)
    except Exception as error:
        raise BadInput(
            f"the lazy network does not work on inputs {tuple(x.shape)}: {type(error).__name__}: {error}"
        ) from error
    finally:
        for part, training in modes:
            part.training = training
    if names := unshaped(module):
        raise BadInput(f"the lazy parameter {names[0]!r} is not used on inputs {tuple(x.shape)}; give it its shape")
    return module


def unshaped(module: nn.Module) -> list[str]:
    """Names of parameters and buffers that have no shape yet."""
    return [name for named in (module.named_parameters(), module.named_buffers()) for name, v in named if is_lazy(v)]
