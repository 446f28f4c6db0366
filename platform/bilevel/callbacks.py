"""How does a function that calls `run.report` become a generator, as the driver asks of every objective?"""

from __future__ import annotations

import inspect
import queue
import threading
from collections.abc import Callable, Generator
from typing import Any

from bilevel.events import Report, Run, Units


def as_generator(objective: Callable[..., Any], config: Any, run: Run) -> Generator[Report | Units, Any, None]:
    """The objective at work: a generator as it is; a function that calls `run.report` is run when it is first asked."""
    if inspect.isgeneratorfunction(objective):
        made: Generator[Report | Units, Any, None] = objective(config, run)
        return made
    return _called(objective, config, run)


def _called(objective: Callable[..., Any], config: Any, run: Run) -> Generator[Report | Units, Any, None]:
    """A function that calls `run.report`, as a generator: it runs in a thread and waits while its report is taken."""
    said: queue.Queue[Report | BaseException | None] = queue.Queue()
    stop: queue.Queue[bool] = queue.Queue()
    over = threading.Event()

    def sink(report: Report) -> bool:
        if over.is_set():  # told already, and nobody listens any more
            return True
        said.put(report)
        return stop.get()

    def work() -> None:
        try:
            objective(config, run)
        except BaseException as error:  # noqa: BLE001
            said.put(error)  # raised again below, in the driver's thread
        else:
            said.put(None)

    run.sink = sink
    threading.Thread(target=work, daemon=True, name=f"trial-{run.trial}").start()
    while (report := said.get()) is not None:
        if isinstance(report, BaseException):
            raise report
        try:
            yield report
        except GeneratorExit:
            over.set()
            stop.put(True)
            raise
        stop.put(False)
