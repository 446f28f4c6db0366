"""How does a server run until it is told to end, and leave nothing of itself behind?"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from types import FrameType

LOOK_EVERY = 0.1  # seconds between looks at the server
PATIENCE = 5.0  # seconds that it is given to end in good order


def serve(command: Sequence[str], environment: Mapping[str, str]) -> int:
    """Run a server to its own end, or until SIGINT, SIGTERM or SIGHUP; its exit status, 0 where it was told to end.

    A server starts processes of its own, which hold its port: all are in one group, and end together.
    """
    with told() as signals:
        server = subprocess.Popen(command, env=environment, process_group=0)
        try:
            while server.poll() is None and not signals:
                time.sleep(LOOK_EVERY)
        finally:
            _end(server)
    return 0 if signals else server.returncode


@contextlib.contextmanager
def told() -> Iterator[list[int]]:
    """The signals to end that have come; none of them ends this process meanwhile."""
    came: list[int] = []

    def take(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
        came.append(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if number != signal.SIGHUP or handler != signal.SIG_IGN:  # `nohup` is meant
            signal.signal(number, take)
    try:
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(server: subprocess.Popen[bytes]) -> None:
    """End all that is left of its group, in good order if it can be had."""
    with contextlib.suppress(ProcessLookupError):  # nothing is left
        os.killpg(server.pid, signal.SIGTERM)
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            server.poll()  # while it is not waited for, it counts as there
            os.killpg(server.pid, 0)
            time.sleep(LOOK_EVERY)
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()
