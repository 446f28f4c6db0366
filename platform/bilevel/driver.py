"""What is done next? The only loop that acts: it asks the study, feeds objectives, and writes down what happens."""

from __future__ import annotations

import math
import signal
import threading
import time
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Protocol, SupportsFloat

import torch

from bilevel import space as spaces
from bilevel import study as studies
from bilevel import trees
from bilevel.callbacks import as_generator
from bilevel.errors import BilevelError, ClusterFailed, NotReproduced, RecordDamaged, TrialFailed
from bilevel.events import (
    Done,
    Event,
    Executor,
    Fault,
    Interrupted,
    Kept,
    Lost,
    Report,
    Reported,
    Run,
    Tree,
    Units,
)
from bilevel.history import Leader
from bilevel.record import checkpoints
from bilevel.record.folder import RunFolder
from bilevel.record.journal import Journal
from bilevel.study import Finish, History, Study, Trial

KEEP_EVERY = 15.0  # seconds between checkpoints of a trial; a new best is kept at once, but not more often than:
KEEP_BEST_EVERY = 2.0
REOPEN = 2  # times that a cluster may fail us with no unit done in between
LOOK_EVERY = 0.2  # seconds between looks at signals, time limits and the display


@dataclass(frozen=True)
class Standing:
    """What a search wants and what it has found, made in a time that does not grow with the trials that have ended."""

    trials: int | None = None
    """How many are wanted, repeats included; None: as many as there is time for."""
    last: int | None = None
    """The last step of a trial that is not stopped, if that is known."""
    limit: float | None = None
    """The time limit [s], counted as `Progress.seconds`."""
    search: str = ""
    """The search and the rule that stops trials, in words."""
    best: Leader | None = None
    front: int = 0
    """Of several objectives: how many trials are on the Pareto front."""


@dataclass(frozen=True)
class Progress:
    """What a display may show of a running study."""

    history: History
    running: Mapping[int, Any]
    """Configurations of running trials."""
    alive: int
    faults: int
    seconds: float
    standing: Standing | None = None
    """Of a search; None of a study with a single trial."""


class Watch(Protocol):
    """Who looks on."""

    def progress(self, progress: Progress) -> None:
        """Called a few times a second."""
        ...

    def say(self, text: str) -> None:
        """Something that the user should know, once."""
        ...


@dataclass
class _Live:
    """A trial at work: its generator, what it waits for, and what a recomputation must equal."""

    number: int
    config: Any
    generator: Generator[Report | Units, Any, None]
    recorded: dict[int, Reported]
    ticket: int | None = None
    units: Units | None = None
    answer: list[Tree] | None = None
    digests: list[str] = field(default_factory=list)
    state: Tree | None = None
    state_step: int = 0
    kept_step: int = 0
    reported: int = -1
    kept_at: float = field(default_factory=time.monotonic)
    best: float | None = None


class Driver:
    """Drives one run; hold the folder's lock around it.

    Args:
        study: what to do.
        folder: where it is written down.
        open_executor: called once, when the first units are to be computed.
        watch: who looks on.
        seconds: stop after so many; None: never.
        cache: what `Run.cache` has already.
        same_hardware: recomputed values must equal the recorded ones; otherwise a difference is said and let through.
    """

    def __init__(
        self,
        study: Study,
        folder: RunFolder,
        open_executor: Callable[[], Executor],
        watch: Watch,
        *,
        seconds: float | None = None,
        same_hardware: bool = True,
        cache: dict[Any, Any] | None = None,
    ) -> None:
        self.study = study
        self.folder = folder
        self.watch = watch
        self.history = studies.replay(folder.events())
        self.interrupted: str | None = None
        self._journal = Journal(folder.journal)
        self._open = open_executor
        self._executor: Executor | None = None
        self._live: dict[int, _Live] = {}
        self._tickets = 0
        self._faults = 0
        self._reopened = 0
        self._began = time.monotonic()
        self._looked = -math.inf
        self._until = self._began + seconds if seconds is not None else math.inf
        self._same_hardware = same_hardware
        self._cache = {} if cache is None else cache

    # -- the loop ------------------------------------------------------------------------------------------------------

    def drive(self, slots: int = 1) -> str:
        """Go on until the study ends or someone interrupts: completed, failed or interrupted.

        Raises:
            StoreFailed, NotReproduced, ClusterFailed: the run stops here and can be resumed.
        """
        try:
            with _signals(self._interrupt), _threads(self.study.threads):
                for trial in self.history.trials.values():
                    if trial.state == "running":
                        self._begin(trial)
                while self.interrupted is None:
                    if time.monotonic() > self._until:
                        return self._time_out()
                    for command in studies.decide(self.study, self.history, slots):
                        if isinstance(command, Finish):
                            return command.status
                        self.record(command, commit=True)
                        self._begin(self.history.trials[command.trial])
                    self._turn()
                return self._leave()
        finally:
            self._close_executor()

    def _turn(self) -> None:
        ready = [live for live in self._live.values() if live.ticket is None]
        for live in ready:
            self._advance(live)
        if not ready and self._executor is not None:
            for answer in self._poll(self._executor):
                self._take(answer)
        if self._journal.due:
            self._journal.commit()
        if time.monotonic() - self._looked >= LOOK_EVERY:
            self._looked = time.monotonic()
            self.watch.progress(self._progress())

    def _poll(self, executor: Executor) -> list[Done | Lost | Fault]:
        """What the executor answers; where its cluster died under it, another is opened and given the same units."""
        try:
            return executor.poll(LOOK_EVERY)
        except ClusterFailed as error:
            self._reopened += 1
            if self._reopened > REOPEN:
                raise
            self.watch.say(f"{error}; trying again")
            self._close_executor()
            self._executor = self._open()
            for live in self._live.values():
                if live.ticket is not None and live.units is not None:
                    self._executor.submit(live.ticket, live.units)
            return [Fault("cluster", str(error))]

    def record(self, event: Event, *, commit: bool = False) -> None:
        """Write an event down, and let the history know."""
        self._journal.append(event)
        self.history = studies.fold(self.history, event)
        if commit:
            self._journal.commit()

    def close(self) -> None:
        """Commit what is not yet, and let the journal go."""
        self._journal.close()

    # -- trials --------------------------------------------------------------------------------------------------------

    def _begin(self, trial: Trial) -> None:
        step, state = self._last_kept(trial)
        recorded = (
            {
                event.step: event
                for event in self.folder.events()
                if isinstance(event, Reported) and event.trial == trial.number and event.step > step
            }
            if trial.step > step
            else {}
        )
        config = spaces.build(self.study.space)
        run = Run(trial.seed, trial.number, self.study.key, state, kept=self._cache)
        generator = as_generator(self.study.objective, config, run)
        live = _Live(
            trial.number,
            config,
            generator,
            recorded,
            state=state,
            state_step=step,
            kept_step=step,
            reported=step if state else -1,
        )
        self._live[trial.number] = live

    def _last_kept(self, trial: Trial) -> tuple[int, Tree | None]:
        """The newest checkpoint that is whole; older ones serve where newer ones are damaged, and that is said."""
        for step, manifest in sorted(trial.kept.items(), reverse=True):
            path = checkpoints.folder(self.folder.path, trial.number, step)
            if not path.exists():  # pruned
                continue
            try:
                return step, checkpoints.load(path, manifest)
            except RecordDamaged as error:
                self.watch.say(f"{error}; an older checkpoint is used")
        return 0, None

    def _advance(self, live: _Live) -> None:
        answer, live.answer = live.answer, None
        try:
            yielded = live.generator.send(answer)
        except StopIteration:
            self._end(live, "completed")
        except TrialFailed as error:
            self._end(live, "failed", str(error))
        except BilevelError:
            raise  # the run's trouble (a full disk, no cluster), not the trial's
        except Exception as error:  # noqa: BLE001
            # The objective is the user's code: whatever it raises ends this trial, and this trial alone.
            self._keep_traceback(live.number, "".join(traceback.format_exception(error)))
            self._end(live, "failed", f"{type(error).__name__}: {error}")
        else:
            self._obey(live, yielded)

    def _obey(self, live: _Live, yielded: object) -> None:
        if isinstance(yielded, Units):
            self._submit(live, yielded)
            return
        problem = self._unfit(live, yielded)
        if problem is None and isinstance(yielded, Report):
            self._report(live, yielded)
        else:
            live.generator.close()
            self._end(live, "failed", problem)

    def _unfit(self, live: _Live, yielded: object) -> str | None:
        """What is wrong with something that an objective yields."""
        if not isinstance(yielded, Report):
            return f"yielded a {type(yielded).__name__}; it takes Report(...) or Units(...)"
        if not isinstance(yielded.step, int) or yielded.step <= live.reported:
            return f"step {yielded.step!r} reported after step {live.reported}; steps are whole numbers that grow"
        for name, value in yielded.metrics.items():
            if not isinstance(value, SupportsFloat):
                return f"step {yielded.step}: metric {name!r} is a {type(value).__name__}; it takes a number"
        return None

    def _submit(self, live: _Live, units: Units) -> None:
        if not units.items:
            live.answer = []
            return
        if self._executor is None:
            self._executor = self._open()
        self._tickets += 1
        live.ticket, live.units = self._tickets, units
        self._executor.submit(live.ticket, units)

    def _take(self, answer: Done | Lost | Fault) -> None:
        if isinstance(answer, Fault):
            self._faults += 1
            self.record(answer)
            return
        live = next((live for live in self._live.values() if live.ticket == answer.ticket), None)
        if live is None:
            return
        live.ticket = live.units = None
        if isinstance(answer, Done):
            self._reopened = 0
            live.answer = answer.results
            live.digests += [trees.digest(result)[:8] for result in answer.results]
        else:
            if answer.traceback:
                self._keep_traceback(live.number, answer.traceback)
            live.generator.close()
            self._end(live, "failed", f"unit ({answer.unit}): {answer.reason}")

    def _report(self, live: _Live, report: Report) -> None:
        units, live.digests = "".join(live.digests), []
        metrics = {name: float(value) for name, value in report.metrics.items()}
        live.reported = report.step
        event = Reported(live.number, report.step, metrics, units)
        recorded = live.recorded.pop(report.step, None)
        if recorded is None:
            self.record(event)
        else:
            self._compare(recorded, event)
        if report.state is not None:
            live.state, live.state_step = report.state, report.step
            self._keep(live, metrics.get(self.study.metric))

    def _compare(self, recorded: Reported, again: Reported) -> None:
        if _same(recorded.metrics, again.metrics) and recorded.units == again.units:
            return
        what = f"trial {again.trial}, step {again.step}: recomputed, it is not what was recorded"
        if self._same_hardware:
            raise NotReproduced(
                f"{what} (recorded {dict(recorded.metrics)}, now {dict(again.metrics)}); see `bilevel audit`"
            )
        self._same_hardware = True  # said once
        self.watch.say(f"{what}: hardware or libraries differ from those that the run was recorded on")

    def _keep(self, live: _Live, value: float | None) -> None:
        since = time.monotonic() - live.kept_at
        better = value is not None and (live.best is None or (value < live.best) == (self.study.minimize is not None))
        if better:
            live.best = value
        if since >= KEEP_EVERY or (better and since >= KEEP_BEST_EVERY):
            self._checkpoint(live)

    def _checkpoint(self, live: _Live) -> None:
        """Write the newest state down, after the reports that it stands on."""
        if live.state is None or live.state_step <= live.kept_step:
            return
        self._journal.commit()
        path = checkpoints.folder(self.folder.path, live.number, live.state_step)
        manifest = checkpoints.save(path, live.state)
        if live.state_step not in self.history.trials[live.number].kept:
            self.record(Kept(live.number, live.state_step, manifest), commit=True)
        trial = self.history.trials[live.number]
        checkpoints.prune(self.folder.path, live.number, trial.kept, trial.best_step)
        live.kept_step, live.kept_at = live.state_step, time.monotonic()

    def _end(self, live: _Live, state: str, reason: str | None = None) -> None:
        del self._live[live.number]
        self._checkpoint(live)
        learned = trees.digest(live.state["learned"]) if live.state and "learned" in live.state else None
        trial = self.history.trials[live.number]
        ended = studies.end(self.study, trial, state, learned, reason)
        self.record(ended, commit=True)
        if ended.reason:
            self.watch.say(f"trial {live.number} {ended.state}: {ended.reason}")

    def _keep_traceback(self, trial: int, text: str) -> None:
        path = self.folder.path / "errors" / f"trial-{trial:04d}.txt"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")

    # -- leaving -------------------------------------------------------------------------------------------------------

    def _interrupt(self, reason: str) -> None:
        self.interrupted = reason

    def _leave(self) -> str:
        for live in list(self._live.values()):
            self._checkpoint(live)
            live.generator.close()
        self.record(Interrupted(self.interrupted or ""), commit=True)
        return "interrupted"

    def _time_out(self) -> str:
        for live in list(self._live.values()):
            live.generator.close()
            self._end(live, "stopped", "time limit")
        return "completed" if self.history.best() is not None else "failed"

    def _close_executor(self) -> None:
        executor, self._executor = self._executor, None
        if executor is not None:
            executor.close()

    def _progress(self) -> Progress:
        alive = self._executor.alive if self._executor is not None else 0
        running = {live.number: live.config for live in self._live.values()}
        return Progress(self.history, running, alive, self._faults, time.monotonic() - self._began)


def _same(left: Mapping[str, float], right: Mapping[str, float]) -> bool:
    return left.keys() == right.keys() and all(
        value == right[name] or (math.isnan(value) and math.isnan(right[name])) for name, value in left.items()
    )


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """The driver computes with as many threads as a unit: the same bits, and none that spins on a worker's core."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _signals(interrupt: Callable[[str], None]) -> Iterator[None]:
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
