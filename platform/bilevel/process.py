"""What does a driver change in its own process while it works, and put back?"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import torch


@contextmanager
def threads(count: int) -> Iterator[None]:
    """The driver computes with as many threads as a unit: the same bits, and none that spins on a worker's core."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def signals(interrupt: Callable[[str], None]) -> Iterator[None]:
    """While inside, the first SIGINT or SIGTERM asks to leave in good order, a second SIGINT at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        signal.signal(signal.SIGINT, before[signal.SIGINT])
        interrupt(signal.Signals(number).name)

    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
