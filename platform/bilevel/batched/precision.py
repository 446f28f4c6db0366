"""How is a network that fixes its own types computed in float64, and where does that not go?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_CASTS = ("float", "half", "bfloat16")
_NARROW = (torch.float32, torch.float16, torch.bfloat16)
_CREATED = """zeros ones full empty eye arange linspace logspace rand randn tensor as_tensor scalar_tensor from_numpy
    hann_window hamming_window"""
_CONSTANTS = frozenset(_CREATED.split())


class Lifted(TorchFunctionMode):
    """Within, what a network makes or casts in float32 or less is float64; `lifted` tells whether anything was."""

    def __init__(self) -> None:
        super().__init__()
        self.lifted = False

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """`func` with float64 in the place of every narrower type that its arguments name."""
        given, name = dict(kwargs or {}), getattr(func, "__name__", "")
        if torch.is_autocast_enabled("cpu") or torch.is_autocast_enabled("cuda"):
            self.lifted = True  # autocast leaves float64 alone
        if name in _CASTS and len(args) == 1 and isinstance(args[0], Tensor):
            self.lifted = True
            return torch.Tensor.double(args[0])
        args = [self._wide(value) for value in args]
        given = {key: self._wide(value) for key, value in given.items()}
        out = func(*args, **given)
        if name in _CONSTANTS and isinstance(out, Tensor) and out.dtype in _NARROW:
            self.lifted = True
            return out.double()
        return out

    def _wide(self, value: Any) -> Any:
        if not isinstance(value, torch.dtype) or value not in _NARROW:
            return value
        self.lifted = True
        return torch.float64


class Narrowest(TorchFunctionMode):
    """Within, the narrowest floating type is noted through which values pass that depend on the weights."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[torch.dtype] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """`func`, looked at."""
        out = func(*args, **dict(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else (out,):
            if isinstance(value, Tensor) and value.is_floating_point() and value.requires_grad:
                self.found.add(value.dtype)
        return out

    @property
    def rounding(self) -> float:
        """The relative rounding error of the narrowest type."""
        return max((torch.finfo(dtype).eps for dtype in self.found), default=0.0)
