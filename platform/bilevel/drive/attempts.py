"""What does a driver know of an attempt at a trial while it lasts?"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bilevel.study.events import Reported, Tree


@dataclass(eq=False)
class Attempt:
    """An attempt at a trial: what it waits for, and what a recomputation must equal.

    `why` and `detail` say why it is another attempt; `recorded` are reports that the journal has already. A `retry` is
    not bound by them: the attempt before it raised.
    """

    trial: int
    number: int
    why: str = ""
    detail: str = ""
    state: Tree | None = None
    state_step: int = 0
    kept_step: int = 0
    from_step: int = -1
    """The step whose state it was given; -1: none."""
    kept_at: float = field(default_factory=time.monotonic)
    best: float | None = None
    recorded: dict[int, Reported] = field(default_factory=dict)
    retry: bool = False
    ticket: int | None = None
    """Of the units that it waits for."""
    digests: list[str] = field(default_factory=list)
    """Of the units since its last report."""
    found: Mapping[str, Any] = field(default_factory=dict)
