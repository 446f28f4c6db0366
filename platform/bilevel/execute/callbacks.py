"""How does a plain function become a generator, as the engine asks of every objective?"""

from __future__ import annotations

import inspect
import multiprocessing
import os
import queue
import threading
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from typing import Any, SupportsFloat

from bilevel.execute.forks import parent_alone
from bilevel.study.events import Report, Units
from bilevel.study.given import Run

LEAVING = 10.0
"""Seconds for a function that was told to stop to come to its end."""
HEEDLESS = 3
"""Reports after that by which it says that it will not."""
LOOK = 0.2
"""Seconds between two looks at whether this process was asked to leave."""
AWAY = 3.0
"""Seconds for a function to come to its end when that is so: it may wait for what never comes."""


@dataclass(frozen=True)
class Away:
    """A function is at work still, and this process was asked to leave: to be closed."""


def never() -> bool:
    """False: nobody asks a worker to leave, it is ended."""
    return False


class Lingers(RuntimeError):
    """A function that was told to stop is still at work: its process must not be used for another trial."""


def as_generator(
    objective: Callable[..., Any], config: Any, run: Run, metric: str = "", asked: Callable[[], bool] = never
) -> Generator[Report | Units | Away, Any, None]:
    """The objective at work: a generator as it is; any other function is run when it is first asked.

    What an objective returns is its last report: metrics by name, or the value of `metric`. Closing the generator
    raises `Lingers` where the function was told to stop and computes on.

    Args:
        objective: a generator, or a function.
        config: its configuration.
        run: what it is given beside it.
        metric: what a number that it returns is called.
        asked: whether this process was asked to leave. Then a function that is at work is not waited for: `Away`.
    """
    if any(map(inspect.isgeneratorfunction, (inspect.unwrap(objective), type(objective).__call__))):
        made: Generator[Report | Units, Any, None] = objective(config, run)
        return made
    return _called(objective, config, run, metric, asked)


def _called(
    objective: Callable[..., Any], config: Any, run: Run, metric: str, asked: Callable[[], bool]
) -> Generator[Report | Units | Away, Any, None]:
    """A function that calls `run.report`, as a generator: it runs in a thread and waits while its report is taken."""
    said: queue.Queue[Report | BaseException | None] = queue.Queue()
    stop: queue.Queue[bool] = queue.Queue()
    over = threading.Event()
    step = ignored = 0
    pid, children = os.getpid(), set(multiprocessing.active_children())

    def sink(report: Report) -> bool:
        nonlocal step, ignored
        if os.getpid() != pid:
            raise RuntimeError(
                "run.report was called in a child process; hand the value to the parent, and report there"
            )
        if over.is_set():  # told already, and nobody listens any more
            ignored += 1
            return True
        step = max(step, report.step)
        said.put(report)
        return stop.get()

    def work() -> None:
        try:
            with parent_alone():
                last = final(objective(config, run), metric, step + 1)
            if last is not None:
                sink(last)
        except BaseException as error:  # noqa: BLE001
            said.put(_explained(error))  # raised again below, in the driver's thread
        else:
            said.put(None)

    run.sink = sink
    thread = threading.Thread(target=work, daemon=True, name=f"trial-{run.trial}")
    thread.start()
    while (report := _heard(said, asked)) is not None:
        if isinstance(report, BaseException):
            raise report
        away = isinstance(report, Away)
        try:
            yield report
        except GeneratorExit:
            over.set()
            stop.put(True)
            until = time.monotonic() + (AWAY if away else LEAVING)
            while thread.is_alive() and ignored < HEEDLESS and time.monotonic() < until:
                thread.join(0.05)
            if thread.is_alive():
                if away:
                    _end(set(multiprocessing.active_children()) - children)
                raise Lingers("it was told to stop, and computes on") from None
            raise
        if not away:
            stop.put(False)


def _heard(
    said: queue.Queue[Report | BaseException | None], asked: Callable[[], bool]
) -> Report | BaseException | Away | None:
    """The next word of the function, or that it is not to be waited for."""
    while True:
        try:
            return said.get(timeout=LOOK)
        except queue.Empty:
            if asked():
                return Away()


def _end(children: set[BaseProcess]) -> None:
    """End processes that a function has started: they would hold up the end of this one."""
    for child in children:
        child.terminate()


def _explained(error: BaseException) -> BaseException:
    """The error, with the cure where it is the thread that the function runs in."""
    if isinstance(error, ValueError) and str(error).startswith("signal only works in main thread"):
        error.args = (
            f"{error}, and a function that reports runs in another one; write it as a generator"
            " (yield Report(step, {...}) in place of run.report), which runs in the main thread",
        )
    return error


def final(returned: Any, metric: str, step: int) -> Report | None:
    """The report that a returned value stands for."""
    if returned is None:
        return None
    if isinstance(returned, Mapping):
        return Report(step, dict(returned))
    if isinstance(returned, SupportsFloat) and not isinstance(returned, str):
        return Report(step, {metric: returned})  # made a float where reports are
    cure = "; write `yield from` instead of `return`" if inspect.isgenerator(returned) else ""
    raise TypeError(f"the objective returned a {type(returned).__name__}; it takes a number or metrics by name{cure}")
