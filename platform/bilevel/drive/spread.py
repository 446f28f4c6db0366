"""Where are the units of work that objectives have yielded, and what came of them?"""

from __future__ import annotations

from collections.abc import Callable

from bilevel.drive.attempts import Attempt
from bilevel.study.events import Done, Executor, Fault, Lost, Units


class Spread:
    """Units at an executor, which is opened for the first of them.

    Args:
        open_executor: gives what carries units out.
    """

    def __init__(self, open_executor: Callable[[], Executor]) -> None:
        self._open = open_executor
        self._executor: Executor | None = None
        self._out: dict[int, tuple[Attempt, Units]] = {}  # by ticket
        self._tickets = 0

    @property
    def alive(self) -> int:
        """Workers ready now (0: computed in this process, or none wanted yet)."""
        return 0 if self._executor is None else self._executor.alive

    @property
    def waiting(self) -> bool:
        """Whether any units are out."""
        return bool(self._out)

    def submit(self, attempt: Attempt, units: Units) -> None:
        """Have the units of an attempt computed; returns at once."""
        if self._executor is None:
            self._executor = self._open()
        self._tickets += 1
        attempt.ticket = self._tickets
        self._out[self._tickets] = attempt, units
        self._executor.submit(self._tickets, units)

    def poll(self, timeout: float) -> list[tuple[Attempt, Done | Lost] | Fault]:
        """What has happened, waiting at most `timeout` seconds for the first of it.

        Raises:
            ClusterFailed: the executor's cluster is gone; `reopen` gives the same units to another one.
        """
        news: list[tuple[Attempt, Done | Lost] | Fault] = []
        for answer in self._executor.poll(timeout) if self._executor is not None else ():
            if isinstance(answer, Fault):
                news.append(answer)
            elif answer.ticket in self._out:
                attempt, _ = self._out.pop(answer.ticket)
                attempt.ticket = None
                news.append((attempt, answer))
        return news

    def forget(self, attempt: Attempt) -> None:
        """What an attempt waits for is not wanted any more."""
        if attempt.ticket is not None:
            self._out.pop(attempt.ticket, None)

    def reopen(self) -> None:
        """Another executor is given all units that are out."""
        self.close()
        if self._out:
            self._executor = self._open()
            for ticket, (_, units) in self._out.items():
                self._executor.submit(ticket, units)

    def close(self) -> None:
        """End the executor."""
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.close()
