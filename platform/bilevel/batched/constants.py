"""Where do a module's constants (buffers, frozen weights) lie while it computes on another device than its own?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class Constants:
    """The buffers and frozen weights of a module's parts, and their copies on another device.

    A module is built on the CPU and travels as it is; what it learns is handed to it on the device of the inputs, and
    its constants must be there too. They are copied once, and again only where they or their copy have been written to:
    torch counts the writes to a tensor.
    """

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        self._places: list[tuple[nn.Module, str]] = [
            (part, name)
            for part in parts
            for name in (*_given(part._buffers), *(name for name, p in part._parameters.items() if _frozen(p)))
        ]
        self._copies: dict[tuple[int, torch.device], tuple[Tensor, int, int, Tensor]] = {}

    @contextmanager
    def on(self, device: torch.device) -> Iterator[None]:
        """Within, they lie on `device`; afterwards they are what they were."""
        before: list[tuple[dict[str, Any], str, Tensor, Tensor]] = []
        try:
            for place, (part, name) in enumerate(self._places):
                table: dict[str, Any] = part._buffers if name in part._buffers else part._parameters
                constant = table.get(name)
                if constant is not None and constant.device != device:
                    before.append((table, name, constant, self._copy(place, constant, device)))
                    table[name] = before[-1][3]
            yield
        finally:
            for table, name, constant, _ in before:
                table[name] = constant  # whatever the module has put there: a pass changes nothing

    def _copy(self, place: int, constant: Tensor, device: torch.device) -> Tensor:
        kept = self._copies.get((place, device))
        if kept is not None and kept[0] is constant and kept[1:3] == (constant._version, kept[3]._version):
            return kept[3]
        copy = constant.detach().to(device)
        if isinstance(constant, nn.Parameter):
            copy = nn.Parameter(copy, requires_grad=False)
        self._copies[place, device] = constant, constant._version, copy._version, copy
        return copy

    def __getstate__(self) -> dict[str, Any]:
        """Without the copies: they stay on their device."""
        return {**vars(self), "_copies": {}}


def _given(buffers: Mapping[str, Tensor | None]) -> Iterator[str]:
    return (name for name, buffer in buffers.items() if buffer is not None)


def _frozen(parameter: Tensor | None) -> bool:
    return parameter is not None and not parameter.requires_grad
