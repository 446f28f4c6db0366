"""What becomes of the children that the user's code forks: which signals do they hear, and where do they end?"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

_handlers: dict[signal.Signals, Any] = {}
_mask = threading.local()


def in_children(handlers: Mapping[signal.Signals, Any]) -> None:
    """From now on children that are forked handle these signals so, and not as this process does."""
    _handlers.clear()
    _handlers.update(handlers)


def _before() -> None:
    """A signal that comes to a child before it has its handlers waits until it has."""
    _mask.before = signal.pthread_sigmask(signal.SIG_BLOCK, _handlers)


def _in_parent() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _mask.before)


def _in_child() -> None:
    for number, handler in _handlers.items():
        signal.signal(number, handler)
    _handlers.clear()
    signal.pthread_sigmask(signal.SIG_SETMASK, _mask.before)


os.register_at_fork(before=_before, after_in_parent=_in_parent, after_in_child=_in_child)


@contextlib.contextmanager
def parent_alone() -> Iterator[None]:
    """Within: the user's code. A child that was forked there ends at the end of it, as a program of its own would.

    It would go on as a second driver or a second worker otherwise, on the same files and connections.
    """
    pid = os.getpid()
    try:
        yield
    except BaseException as error:
        if os.getpid() != pid:
            _leave(error)
        raise
    if os.getpid() != pid:
        _leave(None)


def _leave(error: BaseException | None) -> NoReturn:
    """End this process with the status that Python would give; nothing of the parent's is flushed or cleaned up."""
    status = 0
    if isinstance(error, SystemExit):
        if isinstance(error.code, int):
            status = error.code
        elif error.code is not None:
            sys.stderr.write(f"{error.code}\n")
            status = 1
    elif error is not None:
        traceback.print_exception(error)
        status = 1
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # closed by the child
            stream.flush()
    os._exit(status & 0xFF)
