"""How does a plain function become a generator, as the engine asks of every objective?"""

from __future__ import annotations

import inspect
import queue
import threading
import time
from collections.abc import Callable, Generator, Mapping
from typing import Any, SupportsFloat

from bilevel.study.events import Report, Run, Units

LEAVING = 10.0
"""Seconds for a function that was told to stop to come to its end."""
HEEDLESS = 3
"""Reports after that by which it says that it will not."""


class Lingers(RuntimeError):
    """A function that was told to stop is still at work: its process must not be used for another trial."""


def as_generator(
    objective: Callable[..., Any], config: Any, run: Run, metric: str = ""
) -> Generator[Report | Units, Any, None]:
    """The objective at work: a generator as it is; any other function is run when it is first asked.

    What such a function returns is its last report: metrics by name, or the value of `metric`. Closing the generator
    raises `Lingers` where the function was told to stop and computes on.
    """
    if any(map(inspect.isgeneratorfunction, (inspect.unwrap(objective), type(objective).__call__))):
        made: Generator[Report | Units, Any, None] = objective(config, run)
        return made
    return _called(objective, config, run, metric)


def _called(objective: Callable[..., Any], config: Any, run: Run, metric: str) -> Generator[Report | Units, Any, None]:
    """A function that calls `run.report`, as a generator: it runs in a thread and waits while its report is taken."""
    said: queue.Queue[Report | BaseException | None] = queue.Queue()
    stop: queue.Queue[bool] = queue.Queue()
    over = threading.Event()
    step = ignored = 0

    def sink(report: Report) -> bool:
        nonlocal step, ignored
        if over.is_set():  # told already, and nobody listens any more
            ignored += 1
            return True
        step = max(step, report.step)
        said.put(report)
        return stop.get()

    def work() -> None:
        try:
            final = _final(objective(config, run), metric, step + 1)
            if final is not None:
                sink(final)
        except BaseException as error:  # noqa: BLE001
            said.put(error)  # raised again below, in the driver's thread
        else:
            said.put(None)

    run.sink = sink
    thread = threading.Thread(target=work, daemon=True, name=f"trial-{run.trial}")
    thread.start()
    while (report := said.get()) is not None:
        if isinstance(report, BaseException):
            raise report
        try:
            yield report
        except GeneratorExit:
            over.set()
            stop.put(True)
            until = time.monotonic() + LEAVING
            while thread.is_alive() and ignored < HEEDLESS and time.monotonic() < until:
                thread.join(0.05)
            if thread.is_alive():
                raise Lingers("it was told to stop, and computes on") from None
            raise
        stop.put(False)


def _final(returned: Any, metric: str, step: int) -> Report | None:
    """The report that a returned value stands for."""
    if returned is None:
        return None
    if isinstance(returned, Mapping):
        return Report(step, dict(returned))
    if isinstance(returned, SupportsFloat) and not isinstance(returned, str):
        return Report(step, {metric: float(returned)})
    cure = "; write `yield from` instead of `return`" if inspect.isgenerator(returned) else ""
    raise TypeError(f"the objective returned a {type(returned).__name__}; it takes a number or metrics by name{cure}")
