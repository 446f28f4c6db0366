"""What is done next? The only loop that acts: it asks the study, has it carried out, and looks at what came of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from bilevel.drive import requests
from bilevel.drive.keeping import Keeping
from bilevel.drive.ledger import Ledger
from bilevel.drive.process import leaving, threads
from bilevel.drive.progress import Board, Progress, Watch
from bilevel.drive.reports import Reports
from bilevel.drive.spread import Spread
from bilevel.drive.trials import Trials
from bilevel.errors import ClusterFailed
from bilevel.record.folder import RunFolder
from bilevel.record.mailbox import Mailbox
from bilevel.record.trial_files import TrialFiles
from bilevel.search.port import Told
from bilevel.study.decisions import Decisions, Finish, Halt
from bilevel.study.events import Asked, Executor, Fault, Interrupted, Moved, Stage, Steered, Turned
from bilevel.study.study import Study

REOPEN = 2  # times that a cluster may fail us with nothing done in between
LOOK_EVERY = 0.2  # seconds between looks at signals, time limits and the display
HEED_EVERY = 0.5  # seconds between looks for requests


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
        self.watch = watch
        self.decisions = Decisions(study, warm=warm, window=window)
        self.history = self.decisions.history
        self.ledger = Ledger(folder, self.decisions)
        if self.ledger.lost:
            watch.say(self.ledger.lost)
        files = TrialFiles(folder, study.repeats)
        reports = Reports(self.ledger, watch, strict=study.spreads, same_hardware=same_hardware)
        self._spread = Spread(open_executor)
        keeping = Keeping(self.ledger, files)
        self._trials = Trials(self.ledger, files, watch, open_stage, self._spread, reports, keeping)
        self._mailbox = Mailbox(folder)
        self._reopened = 0
        self._board = Board(study, self.decisions.words, seconds)
        self._began = self._heed_at = time.monotonic()
        self._until = self._began + seconds if seconds is not None else math.inf

    def drive(self, slots: int = 1) -> str:
        """Go on until the study ends or someone interrupts: completed, failed or interrupted.

        Raises:
            StoreFailed, NotReproduced, ClusterFailed: the run stops here and can be resumed.
        """
        try:
            with leaving() as asked, threads(self.study.threads):
                for number in list(self.history.running):
                    self._trials.take_up(self.history.trials[number])
                while asked.reason is None:
                    self._heed()
                    if time.monotonic() > self._until:
                        return self._time_out()
                    status = self._decide(slots)
                    if status is not None:
                        self.watch.progress(self._progress())  # a notebook keeps what it was shown last
                        return status
                    self._turn()
                return self._leave(asked.reason)
        finally:
            self._close()

    # -- a turn of the loop --------------------------------------------------------------------------------------------

    def _decide(self, slots: int) -> str | None:
        """Do what the study wants next; its status if that is the end. What is asked is written before it begins."""
        begin: list[int] = []
        while True:
            commands = self.decisions.next(slots)
            asked = [command for command in commands if isinstance(command, Asked)]
            for command in commands:
                match command:
                    case Asked():
                        self.ledger.record(command)
                        begin.append(command.trial)
                    case Moved() | Turned():
                        self.ledger.record(command)
                    case Halt():
                        self._trials.stop(command.trial, command.reason)
                    case Finish():
                        return command.status
            if commands and isinstance(commands[-1], Turned):
                self._trials.turn_over()
            elif not asked:
                break
        self.ledger.show()
        for number in begin:
            self._trials.begin(self.history.trials[number])
        return None

    def _heed(self) -> None:
        """Do what somebody asks for from outside."""
        if time.monotonic() < self._heed_at:
            return
        self._heed_at = time.monotonic() + HEED_EVERY
        for request in self._mailbox.look():
            if not self.decisions.heeded(request.name):
                limited = self._until < math.inf
                for event in requests.heed(request, self.history, self.decisions, limited=limited):
                    self.ledger.record(event)
                    if isinstance(event, Steered):
                        self._until += event.seconds
                        self._board.limit = None if self._board.limit is None else self._board.limit + event.seconds
                        self.watch.say(f"{'refused' if event.refused else 'steered'}: {event.said}")
                self.ledger.commit()
            self._mailbox.drop(request.name)

    def _turn(self) -> None:
        """Hear what has happened, for `LOOK_EVERY` seconds at most."""
        try:
            news = self._trials.poll(0.0 if self._spread.waiting else LOOK_EVERY)
        except ClusterFailed as error:
            self._failed(error)
            self._spread.close()
            self._trials.reopen(str(error))
            news = [Fault("cluster", str(error))]
        for said in news:
            if self._trials.hear(said):
                self._reopened = 0
        if not news and self._spread.waiting:
            self._hear_units()
        self.ledger.commit_if_due()
        if self._board.due():
            self.watch.progress(self._progress())

    def _hear_units(self) -> None:
        try:
            news = self._spread.poll(LOOK_EVERY)
        except ClusterFailed as error:
            self._failed(error)
            self._spread.reopen()
            news = [Fault("cluster", str(error))]
        for answer in news:
            if isinstance(answer, Fault):
                self.ledger.record(answer)
            elif self._trials.answered(*answer):
                self._reopened = 0

    def _failed(self, error: ClusterFailed) -> None:
        """The cluster is gone: another one may be tried, or the run stops here."""
        self._reopened += 1
        if self._reopened > REOPEN:
            raise error
        self.watch.say(f"{error}; trying again")

    # -- leaving -------------------------------------------------------------------------------------------------------

    def _leave(self, reason: str) -> str:
        self._trials.checkpoint()
        self._trials.close()
        self.ledger.record(Interrupted(reason), commit=True)
        return "interrupted"

    def _time_out(self) -> str:
        for number in list(self.history.running):
            self._trials.stop(number, "time limit")
        self.ledger.commit()
        return "completed" if self.history.best() is not None else "failed"

    def _close(self) -> None:
        self.decisions.asking.close()
        self._trials.close()
        self._spread.close()

    def _progress(self) -> Progress:
        seconds = time.monotonic() - self._began
        alive = self._spread.alive if self.study.spreads else self._trials.alive
        running, standing = self._board.running(self.history), self._board.standing(self.history, self.decisions.budget)
        return Progress(self.history, running, alive, self.ledger.faults, seconds, standing)
