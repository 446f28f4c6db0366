"""What does a driver change in its own process while it works, and put back?"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, FunctionType
from typing import Any

import torch

from bilevel.execute import forks


@contextmanager
def threads(count: int) -> Iterator[None]:
    """The driver computes with as many threads as a unit: the same bits, and none that spins on a worker's core."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@dataclass
class Leaving:
    """Whether somebody has asked this process to leave: by which signal."""

    reason: str | None = None

    def pass_on(self, run: Path) -> None:
        """Have the signal end the program, as it would have without us: a script is not to go on to its next study.

        Raises:
            KeyboardInterrupt: it was Ctrl-C. SIGTERM goes to whoever handled it before, and else ends this process.
        """
        if self.reason is None:
            return
        number = signal.Signals[self.reason]
        if signal.getsignal(number) is signal.default_int_handler:
            raise KeyboardInterrupt(f"{run.name} was interrupted; go on with bilevel.resume({str(run)!r})")
        signal.raise_signal(number)


_present: Leaving | None = None


def asked_to_leave() -> bool:
    """Whether somebody has asked this process to leave: for who waits where `Leaving` is not at hand."""
    return _present is not None and _present.reason is not None


def _forget() -> None:
    """In a child that was forked: nobody has asked it."""
    global _present
    _present = None


os.register_at_fork(after_in_child=_forget)


def _childs(handler: Any) -> Any:
    """What a child that a trial forks has for a handler: the one from before, but none of ours, which would only raise.

    `terminate()` is to end it, at any moment.
    """
    ours = isinstance(handler, FunctionType) and handler.__module__.startswith("bilevel.")
    return signal.SIG_DFL if ours else handler


@contextmanager
def leaving() -> Iterator[Leaving]:
    """While inside, the first SIGINT or SIGTERM asks to leave in good order, a second SIGINT at once.

    Within another one it is the same: a run listens from before its cluster starts until its record is complete.
    """
    global _present
    if _present is not None or threading.current_thread() is not threading.main_thread():
        yield _present or Leaving()
        return
    asked = Leaving()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    forks.in_children({number: _childs(handler) for number, handler in before.items()})

    def handle(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        signal.signal(signal.SIGINT, before[signal.SIGINT])
        asked.reason = signal.Signals(number).name

    for number in before:
        signal.signal(number, handle)
    _present = asked
    try:
        yield asked
    finally:
        _present = None
        forks.in_children({})
        for number, handler in before.items():
            signal.signal(number, handler)
