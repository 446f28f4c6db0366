"""How is a module given other forwards and another mode for the time of one call?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn


@contextmanager
def changed(
    parts: Sequence[tuple[str, nn.Module]],
    training: bool,
    forward: Callable[[str, nn.Module], Callable[..., Any] | None],
) -> Iterator[None]:
    """Within, each part of a module is in the mode `training` and has the forward that `forward` gives, if any."""
    before: list[tuple[dict[str, Any], bool, Any]] = []
    try:
        for name, part in parts:
            own = part.__dict__
            before.append((own, own["training"], own.get("forward")))
            own["training"] = training
            replaced = forward(name, part)
            if replaced is not None:
                own["forward"] = replaced
        yield
    finally:
        for own, mode, kept in reversed(before):
            own["training"] = mode
            if kept is not None:
                own["forward"] = kept
            else:
                own.pop("forward", None)
