"""What is done next? The only loop that acts: it asks the study, carries trials out, and writes down what happens."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bilevel import trees
from bilevel.drive.process import Leaving, leaving, threads
from bilevel.drive.progress import Board, Progress, Watch
from bilevel.errors import ClusterFailed, NotReproduced
from bilevel.record.folder import RunFolder
from bilevel.record.journal import Journal
from bilevel.record.trial_files import Shelf
from bilevel.search.port import Told
from bilevel.study.decisions import Decisions, Finish, Halt
from bilevel.study.events import (
    Asked,
    Begun,
    Completed,
    Done,
    Event,
    Executor,
    Fault,
    Gone,
    Interrupted,
    Kept,
    Lost,
    Moved,
    Order,
    Placed,
    Raised,
    Report,
    Reported,
    Said,
    Stage,
    Tree,
    Turned,
    Units,
)
from bilevel.study.history import History, Trial
from bilevel.study.outcome import end, returned
from bilevel.study.study import Study

KEEP_EVERY = 15.0  # seconds between checkpoints of a trial; a new best is kept at once, but not more often than:
KEEP_BEST_EVERY = 2.0
REOPEN = 2  # times that a cluster may fail us with nothing done in between
LOOK_EVERY = 0.2  # seconds between looks at signals, time limits and the display
DEATHS = 4  # a trial that lost its worker so often without getting any further is the cause, not the victim


@dataclass
class Live:
    """An attempt at a trial: what it waits for, and what a recomputation must equal.

    `why` and `detail` say why it is another attempt; `recorded` are reports that the journal has already. A `retry` is
    not bound by them: the attempt before it raised.
    """

    number: int
    attempt: int
    why: str = ""
    detail: str = ""
    state: Tree | None = None
    state_step: int = 0
    kept_step: int = 0
    kept_at: float = field(default_factory=time.monotonic)
    best: float | None = None
    recorded: dict[int, Reported] = field(default_factory=dict)
    retry: bool = False
    ticket: int | None = None
    units: Units | None = None
    digests: list[str] = field(default_factory=list)
    found: Mapping[str, Any] = field(default_factory=dict)


class Driver:
    """Drives one run; hold the folder's lock around it.

    Args:
        study: what to do.
        folder: where it is written down.
        open_stage: gives what carries trials out; called when the first one is to begin.
        open_executor: gives what carries units out; called when the first ones are to be computed.
        watch: who looks on.
        seconds: stop after so many; None: never.
        same_hardware: recomputed values must equal the recorded ones; otherwise a difference is said and let through.
        warm: what the search is told of earlier runs.
        window: of a deterministic study its slots, otherwise 0.
    """

    def __init__(
        self,
        study: Study,
        folder: RunFolder,
        open_stage: Callable[[], Stage],
        open_executor: Callable[[], Executor],
        watch: Watch,
        *,
        seconds: float | None = None,
        same_hardware: bool = True,
        warm: Sequence[tuple[Mapping[str, Any], Told]] = (),
        window: int = 0,
    ) -> None:
        self.study = study
        self.folder = folder
        self.watch = watch
        self.history = History()
        self.decisions = Decisions(study, self.history, warm=warm, window=window)
        for event in folder.events():
            self._know(event)
        self._journal = Journal(folder.journal)
        self._open_stage, self._open_executor = open_stage, open_executor
        self._stage: Stage | None = None
        self._executor: Executor | None = None
        self._live: dict[int, Live] = {}
        self._tickets: dict[int, Live] = {}
        self._raised: dict[int, str] = {}  # members that wait for another one's checkpoint: why
        self._ticket = 0
        self._faults = 0
        self._reopened = 0
        self._shelf = Shelf(folder, study.repeats)
        self._board = Board(study, self.decisions.words, seconds)
        self._began = time.monotonic()
        self._until = self._began + seconds if seconds is not None else math.inf
        self._same_hardware = same_hardware
        self._strict = study.spreads  # units are pure by law; whole trials are the user's affair
        self._said_differs = False
        self._unsaved = False

    # -- the loop ------------------------------------------------------------------------------------------------------

    def drive(self, slots: int = 1) -> str:
        """Go on until the study ends or someone interrupts: completed, failed or interrupted.

        Raises:
            StoreFailed, NotReproduced, ClusterFailed: the run stops here and can be resumed.
        """
        try:
            with leaving() as asked, threads(self.study.threads):
                for number in list(self.history.running):
                    self._take_up(self.history.trials[number])
                while asked.reason is None:
                    if time.monotonic() > self._until:
                        return self._time_out()
                    status = self._decide(slots)
                    if status is not None:
                        return status
                    self._turn()
                return self._leave(asked)
        finally:
            self._close()

    def _take_up(self, trial: Trial) -> None:
        """A trial that an earlier driver left running."""
        if self.decisions.stopping(trial.number):
            self._end(Live(trial.number, trial.attempts), "stopped")
        elif not self.decisions.waits(trial.number):
            self._begin(trial, "resumed" if trial.attempts else "")

    def _decide(self, slots: int) -> str | None:
        """Do what the study wants next; its status if that is the end. What is asked is written before it begins."""
        begin: list[int] = []
        while True:
            commands = self.decisions.next(slots)
            asked = [command for command in commands if isinstance(command, Asked)]
            for command in commands:
                match command:
                    case Asked():
                        self.record(command)
                        begin.append(command.trial)
                    case Moved() | Turned():
                        self.record(command)
                    case Halt():
                        self._stop(command.trial, command.reason)
                    case Finish():
                        return command.status
            if commands and isinstance(commands[-1], Turned):
                self._turn_over()
            elif not asked:
                break
        if begin or self._unsaved:
            self._journal.flush()
            self._unsaved = False
        for number in begin:
            self._begin(self.history.trials[number])
        return None

    def _turn(self) -> None:
        stage = self._stage
        news = [] if stage is None else self._poll_stage(stage)
        for said in news:
            self._hear(said)
        if not news and self._tickets and self._executor is not None:
            for answer in self._poll_executor(self._executor):
                self._take(answer)
        if self._journal.due:
            self._journal.commit()
        if self._board.due():
            self.watch.progress(self._progress())

    def _poll_stage(self, stage: Stage) -> list[Said | Placed | Gone | Fault]:
        try:
            return stage.poll(0.0 if self._tickets else LOOK_EVERY)
        except ClusterFailed as error:
            self._reopen(error)
            self._stage = None
            for number in list(self._live):
                del self._live[number]
                self._begin(self.history.trials[number], "resumed", str(error))
            return [Fault("cluster", str(error))]

    def _poll_executor(self, executor: Executor) -> list[Done | Lost | Fault]:
        """What the executor answers; where its cluster died under it, another is opened and given the same units."""
        try:
            return executor.poll(LOOK_EVERY)
        except ClusterFailed as error:
            self._reopen(error)
            self._executor = self._open_executor()
            for ticket, live in self._tickets.items():
                if live.units is not None:
                    self._executor.submit(ticket, live.units)
            return [Fault("cluster", str(error))]

    def _reopen(self, error: ClusterFailed) -> None:
        self._reopened += 1
        if self._reopened > REOPEN:
            raise error
        self.watch.say(f"{error}; trying again")
        for part in (self._executor, self._stage if not self.study.spreads else None):
            if part is not None:
                part.close()
        self._executor = None

    def record(self, event: Event, *, commit: bool = False) -> None:
        """Write an event down, and let the history and the search know."""
        self._journal.append(event)
        self._know(event)
        if commit:
            self._journal.commit()

    def _know(self, event: Event) -> None:
        self.history.take(event)
        self.decisions.take(event)

    def commit(self) -> None:
        """Make all that was recorded durable, and seen by who reads the journal."""
        self._journal.commit()

    def close(self) -> None:
        """Commit what is not yet, and let the journal go."""
        self._journal.close()

    # -- trials --------------------------------------------------------------------------------------------------------

    def _begin(self, trial: Trial, why: str = "", detail: str = "") -> None:
        """An attempt at a trial, from what was last kept of it."""
        if trial.moved is not None:
            trial = self._adopt(trial)
        step, state = self._shelf.last(trial, self.history, self.watch.say)
        live = Live(trial.number, trial.attempts + 1, why, detail, state, step, kept_step=step)
        live.recorded = self._recorded(trial, -1 if state is None else step)  # a first step may be 0
        live.retry = why == "failed" and not self._strict
        self._live[trial.number] = live
        if self._stage is None:
            self._stage = self._open_stage()
        keep = (0.0, 0.0) if self.decisions.populates else (KEEP_EVERY, KEEP_BEST_EVERY)
        attended = self.decisions.attended
        self._stage.begin(Order(trial.number, live.attempt, trial.seed, trial.point, state, attended, keep))

    def _recorded(self, trial: Trial, step: int) -> dict[int, Reported]:
        """Reports that are in the journal already, though they come after the state that it goes on from."""
        found: dict[int, Reported] = {}
        if trial.metrics and trial.step > step:
            self._journal.commit()
            for event in self.folder.events():
                if isinstance(event, Moved) and event.trial == trial.number:
                    found.clear()
                elif isinstance(event, Reported) and event.trial == trial.number and event.step > step:
                    found[event.step] = event
        return found

    def _hear(self, said: Said | Placed | Gone | Fault) -> None:
        if isinstance(said, Fault):
            self._faults += 1
            self.record(said)
            return
        live = self._live.get(said.trial)
        if live is None or live.attempt != said.attempt:
            return  # of an attempt that was given up
        match said:
            case Placed():
                self.record(Begun(said.trial, said.attempt, said.worker, live.state_step, live.why, live.detail))
                live.why = live.detail = ""  # it may be placed again: no other attempt
            case Gone():
                self._lost(live, said)
            case Said():
                self._said(live, said)

    def _said(self, live: Live, said: Said) -> None:
        self._reopened = 0
        if said.output:
            self._shelf.log(live.number, said.output)
        if said.state is not None:
            live.state, live.state_step = said.state, said.state_step
        for report in said.reports:
            self._report(live, report)
        if said.reports and self.decisions.verdict(live.number, said.reports[-1].step) == "stop":
            self._stop(live.number)
        elif said.units is not None:
            self._submit(live, said.units)
        elif isinstance(said.end, Completed):
            self._keep(live, said)
            self._end(live, *returned(self.history.trials[live.number], said.end))
        elif isinstance(said.end, Raised):
            self._failed(live, said.end)
        elif said.reports and self.decisions.verdict(live.number, said.reports[-1].step) == "hold":
            self._hold(live)
        else:
            self._keep(live, said)
            self._answer(live, None)

    def _answer(self, live: Live, answer: Any) -> None:
        if self._stage is not None:
            self._stage.answer(live.number, answer)

    def _report(self, live: Live, report: Report) -> None:
        units, live.digests = "".join(live.digests), []
        found = {} if report.found == live.found else report.found
        live.found = report.found
        event = Reported(live.number, report.step, report.metrics, units, found)
        recorded = live.recorded.pop(report.step, None)
        trial = self.history.trials[live.number]
        if recorded is None and (report.step > trial.step or not trial.metrics):
            self.record(event)
        elif recorded is None or not (_same(recorded.metrics, event.metrics) and recorded.units == event.units):
            if live.retry and recorded is not None:
                self.record(event)
            else:
                self._differs(recorded, event)

    def _differs(self, recorded: Reported | None, again: Reported) -> None:
        """A recomputed step is not as recorded, or was none before; what is recorded stays."""
        what = f"trial {again.trial}, step {again.step}: recomputed, it is not what was recorded"
        if self._strict and self._same_hardware:
            before = "no such step" if recorded is None else dict(recorded.metrics)
            raise NotReproduced(f"{what} (recorded {before}, now {dict(again.metrics)}); see `bilevel audit`")
        if self._strict:
            why = "hardware or libraries differ from those that the run was recorded on"
        else:
            why = "the objective depends on something else than its configuration, run.seed and run.state"
        if not self._said_differs:
            self._said_differs = True
            self.watch.say(f"{what}: {why}")

    def _keep(self, live: Live, said: Said) -> None:
        """Keep the newest state, if it is time for it: a stage on workers sends it when it is (a member's always)."""
        if said.state is None:
            return
        since = time.monotonic() - live.kept_at
        value = said.reports[-1].metrics.get(self.study.metric) if said.reports else None
        better = value is not None and (live.best is None or (value < live.best) == (self.study.sign > 0))
        if better:
            live.best = value
        due = since >= KEEP_EVERY or (better and since >= KEEP_BEST_EVERY)
        sent = self._stage is not None and self._stage.alive and not self.decisions.populates
        if due or sent:
            self._checkpoint(live)

    def _checkpoint(self, live: Live) -> None:
        """Write the newest state down, after the reports that it stands on."""
        if live.state is None or live.state_step <= live.kept_step:
            return
        self._journal.commit()
        manifest = self._shelf.keep(live.number, live.state_step, live.state)
        trial = self.history.trials[live.number]
        if trial.kept.get(live.state_step) != manifest:
            self.record(Kept(live.number, live.state_step, manifest), commit=True)
        self._shelf.prune(self.history.trials[live.number])
        live.kept_step, live.kept_at = live.state_step, time.monotonic()

    # -- units ---------------------------------------------------------------------------------------------------------

    def _submit(self, live: Live, units: Units) -> None:
        if not units.items:
            self._answer(live, [])
            return
        if self._executor is None:
            self._executor = self._open_executor()
        self._ticket += 1
        live.ticket, live.units = self._ticket, units
        self._tickets[self._ticket] = live
        self._executor.submit(self._ticket, units)

    def _take(self, answer: Done | Lost | Fault) -> None:
        if isinstance(answer, Fault):
            self._faults += 1
            self.record(answer)
            return
        live = self._tickets.pop(answer.ticket, None)
        if live is None or self._live.get(live.number) is not live:
            return
        live.ticket = live.units = None
        if isinstance(answer, Done):
            self._reopened = 0
            live.digests += [trees.digest(result)[:8] for result in answer.results]
            self._answer(live, answer.results)
        else:
            self._close_trial(live.number)
            self._failed(live, Raised(f"unit ({answer.unit}): {answer.reason}", answer.traceback))

    # -- how trials end ------------------------------------------------------------------------------------------------

    def _end(self, live: Live, state: str, reason: str | None = None) -> None:
        self._live.pop(live.number, None)
        self._checkpoint(live)
        learned = None
        if state == "completed" and live.state and "learned" in live.state:  # of others, workers may keep the newest
            learned = trees.digest(live.state["learned"])
        ended = end(self.study, self.history.trials[live.number], state, learned, reason)
        self.record(ended)
        self._unsaved = True
        if ended.state == "failed":
            self.watch.say(f"trial {live.number} failed: {ended.reason}")
        elif ended.reason and not self.study.searches:
            self.watch.say(f"trial {live.number} {ended.state}: {ended.reason}")
        self._shelf.ended(self.history.trials[live.number], self.history)

    def _stop(self, number: int, reason: str | None = None) -> None:
        live = self._live.get(number) or Live(number, self.history.trials[number].attempts)
        self._close_trial(number)
        self._end(live, "stopped", reason)

    def _failed(self, live: Live, raised: Raised) -> None:
        """The objective has raised: another attempt, another member's checkpoint, or the end."""
        if raised.traceback:
            self._shelf.traceback(live.number, raised.traceback)
        trial = self.history.trials[live.number]
        if trial.failures < self.study.retries:
            self.watch.say(f"trial {live.number}: {raised.reason}; trying again")
            self._begin(trial, "failed", raised.reason)
        elif self.decisions.diverged(live.number):
            self._raised[live.number] = raised.reason
            del self._live[live.number]
        else:
            self._end(live, "failed", raised.reason)

    def _lost(self, live: Live, gone: Gone) -> None:
        """Its worker is lost, which is not the trial's failure, unless it happens again and again."""
        self._faults += 1
        self.record(Fault(gone.kind, f"{gone.detail}; at trial {live.number}"))
        trial = self.history.trials[live.number]
        if trial.deaths + 1 >= DEATHS:
            what = f"its worker was lost {DEATHS} times without a new report in between; at last: {gone.detail}"
            self._end(live, "failed", what)
        else:
            self._begin(trial, "lost", gone.detail)

    def _close_trial(self, number: int) -> None:
        if self._stage is not None:
            self._stage.close_trial(number)
        live = self._live.get(number)
        if live is not None and live.ticket is not None:
            self._tickets.pop(live.ticket, None)

    # -- populations ---------------------------------------------------------------------------------------------------

    def _hold(self, live: Live) -> None:
        """A member has come to the end of its turn: what others may need of it is kept."""
        if live.state is None or live.state_step < self.history.trials[live.number].step:
            self._close_trial(live.number)
            step = self.history.trials[live.number].step
            reason = f"step {step}: a population needs what to go on from: Report(step, metrics, state=...)"
            self._end(live, "failed", reason)
            return
        self._checkpoint(live)
        if not self.study.spreads:  # its worker is free for another member
            self._close_trial(live.number)
            del self._live[live.number]

    def _turn_over(self) -> None:
        """All members go on: those that moved from their donor's checkpoint, those that cannot end."""
        self._journal.commit()
        for number in list(self.history.running):
            trial = self.history.trials[number]
            live = self._live.get(number)
            reason = self._raised.pop(number, None)
            if trial.moved is not None:
                self._close_trial(number)
                self._live.pop(number, None)
                self._begin(trial, "moved", f"from trial {trial.moved[0]}")
            elif reason is not None:
                self._end(Live(number, trial.attempts), "failed", reason)
            elif live is not None:
                self._answer(live, None)
            else:
                self._begin(trial, "paused")

    def _adopt(self, trial: Trial) -> Trial:
        """The donor's checkpoint becomes the member's own."""
        step, state = self._shelf.last(trial, self.history, self.watch.say)
        self._checkpoint(Live(trial.number, trial.attempts, state=state, state_step=step, kept_step=-1))
        return self.history.trials[trial.number]

    # -- leaving -------------------------------------------------------------------------------------------------------

    def _leave(self, asked: Leaving) -> str:
        for live in list(self._live.values()):
            self._checkpoint(live)
        if self._stage is not None:
            self._stage.close()
        self.record(Interrupted(asked.reason or ""), commit=True)
        return "interrupted"

    def _time_out(self) -> str:
        for number in list(self.history.running):
            self._stop(number, "time limit")
        self._journal.commit()
        return "completed" if self.history.best() is not None else "failed"

    def _close(self) -> None:
        stage, self._stage = self._stage, None
        executor, self._executor = self._executor, None
        self.decisions.dialogue.close()
        for part in (stage, executor):
            if part is not None:
                part.close()

    def _progress(self) -> Progress:
        seconds = time.monotonic() - self._began
        part = self._executor if self.study.spreads else self._stage
        alive = part.alive if part is not None else 0
        history = self.history
        standing = self._board.standing(history)
        return Progress(history, self._board.running(history), alive, self._faults, seconds, standing)


def _same(left: Mapping[str, float], right: Mapping[str, float]) -> bool:
    return left.keys() == right.keys() and all(
        value == right[name] or (math.isnan(value) and math.isnan(right[name])) for name, value in left.items()
    )
