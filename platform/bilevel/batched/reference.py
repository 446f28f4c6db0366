"""What does the user's own module, untouched, give for one task at a time?"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from bilevel.batched.loop import Keyed, double_differentiable, plain_kernels, seeded
from bilevel.batched.modes import parts_of
from bilevel.batched.precision import Lifted
from bilevel.batched.state import State
from bilevel.batched.tensors import Call
from bilevel.episodes import Key
from bilevel.errors import BadInput


class Untouched:
    """A module as its user wrote it: no forward is replaced, no function but dropout (whose masks the keys decide).

    Batch normalization uses the batch at hand, unless the user keeps it in eval mode: modes are all that is set.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.parts = parts_of(module)
        self.state = State(module)

    def __call__(
        self, weights: Mapping[str, Tensor], x: Tensor, *, key: Key, training: bool, within: Lifted | None = None
    ) -> Tensor:
        """Outputs [samples, ...] of one task for `x` [samples, ...] and `weights` {name: [*shape]}."""
        call = Call(1, training, [key], None, None, self.state)
        buffers = {name: value.clone() for name, value in self.module.named_buffers()}
        modes = [part.module.training for part in self.parts]
        try:
            for part in self.parts:
                part.module.training = not part.still and (training or part.batch or part.instance)
            with double_differentiable(), plain_kernels(), Keyed(call), seeded(call), within or nullcontext():
                out = torch.func.functional_call(self.module, {**buffers, **weights}, (x.clone(),))
        finally:
            for part, mode in zip(self.parts, modes, strict=True):
                part.module.training = mode
        if not isinstance(out, Tensor):
            raise BadInput(f"the network returns a {type(out).__name__}; it must return one tensor [samples, ...]")
        return out
