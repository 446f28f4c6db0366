"""What does an attempt at a trial go through, from its order to the trial's end?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bilevel import trees
from bilevel.drive.attempts import Attempt
from bilevel.drive.keeping import Keeping
from bilevel.drive.ledger import Ledger
from bilevel.drive.progress import Watch
from bilevel.drive.reports import Reports
from bilevel.drive.spread import Spread
from bilevel.record.trial_files import TrialFiles
from bilevel.space.secrets import redacted
from bilevel.study.events import Begun, Completed, Done, Fault, Gone, Left, Lost, Order, Placed, Raised, Said, Stage
from bilevel.study.history import Trial
from bilevel.study.outcome import end, returned

DEATHS = 4  # a trial that lost its worker so often without getting any further is the cause, not the victim


class Trials:
    """Trials at work on a stage, which is opened for the first of them.

    Args:
        ledger: where what becomes of them is written down.
        files: of trials.
        watch: who looks on.
        open_stage: gives what carries trials out.
        spread: where units go that their objectives yield.
        reports: takes what they report.
        keeping: takes their states.
    """

    def __init__(
        self,
        ledger: Ledger,
        files: TrialFiles,
        watch: Watch,
        open_stage: Callable[[], Stage],
        spread: Spread,
        reports: Reports,
        keeping: Keeping,
    ) -> None:
        self._ledger, self._history, self._decisions = ledger, ledger.history, ledger.decisions
        self._study = ledger.decisions.study
        self._files, self._watch = files, watch
        self._open = open_stage
        self._stage: Stage | None = None
        self._spread, self._reports, self._keeping = spread, reports, keeping
        self._live: dict[int, Attempt] = {}
        self._raised: dict[int, str] = {}  # members that wait for another one's checkpoint: why

    @property
    def alive(self) -> int:
        """Workers ready now (0: trials run in this process, or none has begun)."""
        return 0 if self._stage is None else self._stage.alive

    # -- an attempt's life ---------------------------------------------------------------------------------------------

    def begin(self, trial: Trial, why: str = "", detail: str = "") -> None:
        """An attempt at a trial, from what was last kept of it."""
        if trial.moved is not None:
            trial = self._adopt(trial)
        step, state = self._files.last(trial, self._history, self._watch.say)
        attempt = Attempt(trial.number, trial.attempts + 1, why, detail, state, step, kept_step=step)
        attempt.from_step = -1 if state is None else step
        attempt.recorded = self._reports.after(trial, -1 if state is None else step)  # a first step may be 0
        attempt.retry = why == "failed" and not self._study.spreads
        self._live[trial.number] = attempt
        if self._stage is None:
            self._stage = self._open()
        attended, keep = self._decisions.attended, self._keeping.every()
        files = self._files.again(trial) if trial.files else {}
        self._stage.begin(Order(trial.number, attempt.number, trial.seed, trial.point, state, attended, keep, files))

    def take_up(self, trial: Trial) -> None:
        """A trial that an earlier driver left running."""
        if self._decisions.halted(trial.number):
            return  # by the first decision
        if self._decisions.stopping(trial.number):
            self._end(Attempt(trial.number, trial.attempts), "stopped")
        elif not self._decisions.waits(trial.number):
            self.begin(trial, "resumed" if trial.attempts else "")

    def poll(self, timeout: float) -> list[Said | Placed | Gone | Fault]:
        """What has happened on the stage, waiting at most `timeout` seconds for the first of it.

        Raises:
            ClusterFailed: its cluster is gone; `reopen` begins all trials at work again.
        """
        return [] if self._stage is None else self._stage.poll(timeout)

    def reopen(self, reason: str) -> None:
        """Begin all trials at work again, on another stage."""
        self.close()
        for number in list(self._live):
            del self._live[number]
            self.begin(self._history.trials[number], "resumed", reason)

    def hear(self, said: Said | Placed | Gone | Fault) -> bool:
        """One thing that has happened on the stage. True: a trial has got further."""
        if isinstance(said, Fault):
            self._ledger.record(said)
            return False
        attempt = self._live.get(said.trial)
        if attempt is None or attempt.number != said.attempt:
            return False  # of an attempt that was given up
        match said:
            case Placed():
                begun = Begun(said.trial, said.attempt, said.worker, attempt.state_step, attempt.why, attempt.detail)
                self._ledger.record(begun)
                attempt.why = attempt.detail = ""  # it may be placed again: no other attempt
            case Gone():
                self._lost(attempt, said)
            case Said():
                self._said(attempt, said)
        return isinstance(said, Said)

    def _said(self, attempt: Attempt, said: Said) -> None:
        if said.output:
            self._files.log(attempt.trial, said.output)
        if said.state is not None:
            attempt.state, attempt.state_step = said.state, said.state_step
        for report in said.reports:
            self._reports.take(attempt, report)
        if said.files:
            self._ledger.record(Left(attempt.trial, self._files.take(attempt.trial, said.files)))
        if said.reports and self._decisions.verdict(attempt.trial, said.reports[-1].step) == "stop":
            self.stop(attempt.trial)
        elif said.units is not None:
            if said.units.items:
                self._spread.submit(attempt, said.units)
            else:
                self._answer(attempt, [])
        elif isinstance(said.end, Completed):
            self._keep(attempt, said)
            self._end(attempt, *returned(said.end))
        elif isinstance(said.end, Raised):
            self._failed(attempt, said.end)
        elif said.reports and self._decisions.verdict(attempt.trial, said.reports[-1].step) == "hold":
            self._hold(attempt)
        else:
            self._keep(attempt, said)
            self._answer(attempt, None)

    def answered(self, attempt: Attempt, answer: Done | Lost) -> bool:
        """What became of the units that an attempt waits for. True: it has got further."""
        if self._live.get(attempt.trial) is not attempt:
            return False
        if isinstance(answer, Done):
            attempt.digests += [trees.digest(result)[:8] for result in answer.results]
            self._answer(attempt, answer.results)
            return True
        self._close_trial(attempt.trial)
        self._failed(attempt, Raised(f"unit ({answer.unit}): {answer.reason}", answer.traceback))
        return False

    def _answer(self, attempt: Attempt, answer: Any) -> None:
        if self._stage is not None:
            self._stage.answer(attempt.trial, answer)

    def _keep(self, attempt: Attempt, said: Said) -> None:
        self._keeping.take(attempt, said, sent=self.alive > 0)

    def checkpoint(self) -> None:
        """Keep what there is of all trials at work."""
        for attempt in list(self._live.values()):
            self._keeping.checkpoint(attempt)

    # -- how it ends ---------------------------------------------------------------------------------------------------

    def stop(self, trial: int, reason: str | None = None) -> None:
        """End a trial where it stands."""
        attempt = self._live.get(trial) or Attempt(trial, self._history.trials[trial].attempts)
        self._close_trial(trial)
        self._end(attempt, "stopped", reason)

    def _end(self, attempt: Attempt, state: str, reason: str | None = None) -> None:
        number = attempt.trial
        self._live.pop(number, None)
        self._keeping.checkpoint(attempt)
        learned = None
        if state == "completed" and attempt.state and "learned" in attempt.state:  # of others, workers may keep newest
            learned = trees.digest(attempt.state["learned"])
        ended = end(self._study, self._history.trials[number], state, learned, reason)
        self._ledger.record(ended)
        if ended.state == "failed":
            self._watch.say(f"trial {number} failed: {ended.reason}")
        elif ended.reason and not self._study.searches:
            self._watch.say(f"trial {number} {ended.state}: {ended.reason}")
        self._files.ended(self._history.trials[number], self._history)

    def _failed(self, attempt: Attempt, raised: Raised) -> None:
        """The objective has raised: another attempt, another member's checkpoint, or the end."""
        raised = Raised(redacted(raised.reason), raised.traceback)
        if raised.traceback:
            self._files.traceback(attempt.trial, raised.traceback)
        trial = self._history.trials[attempt.trial]
        if trial.failures < self._study.retries:
            self._watch.say(f"trial {trial.number}: {raised.reason}; trying again")
            self.begin(trial, "failed", raised.reason)
        elif self._decisions.diverged(trial.number):
            self._raised[trial.number] = raised.reason
            del self._live[trial.number]
        else:
            self._end(attempt, "failed", raised.reason)

    def _lost(self, attempt: Attempt, gone: Gone) -> None:
        """Its worker is lost, which is not the trial's failure, unless it happens again and again."""
        self._ledger.record(Fault(gone.kind, f"{gone.detail}; at trial {attempt.trial}"))
        trial = self._history.trials[attempt.trial]
        if trial.deaths + 1 >= DEATHS:
            what = f"its worker was lost {DEATHS} times without a new report in between; at last: {gone.detail}"
            self._end(attempt, "failed", what)
        else:
            self.begin(trial, "lost", gone.detail)

    def _close_trial(self, number: int) -> None:
        if self._stage is not None:
            self._stage.close_trial(number)
        if number in self._live:
            self._spread.forget(self._live[number])

    def close(self) -> None:
        """End the stage."""
        stage, self._stage = self._stage, None
        if stage is not None:
            stage.close()

    # -- populations ---------------------------------------------------------------------------------------------------

    def _hold(self, attempt: Attempt) -> None:
        """A member has come to the end of its turn: what others may need of it is kept."""
        step = self._history.trials[attempt.trial].step
        if attempt.state is None or attempt.state_step < step:
            self._close_trial(attempt.trial)
            reason = f"step {step}: a population needs what to go on from: Report(step, metrics, state=...)"
            self._end(attempt, "failed", reason)
            return
        self._keeping.checkpoint(attempt)
        if not self._study.spreads:  # its worker is free for another member
            self._close_trial(attempt.trial)
            del self._live[attempt.trial]

    def turn_over(self) -> None:
        """All members go on: those that moved from their donor's checkpoint, those that cannot end."""
        self._ledger.commit()
        for number in list(self._history.running):
            trial = self._history.trials[number]
            attempt = self._live.get(number)
            reason = self._raised.pop(number, None)
            if trial.moved is not None:
                self._close_trial(number)
                self._live.pop(number, None)
                self.begin(trial, "moved", f"from trial {trial.moved[0]}")
            elif reason is not None:
                self._end(Attempt(number, trial.attempts), "failed", reason)
            elif attempt is not None:
                self._answer(attempt, None)
            else:
                self.begin(trial, "paused")

    def _adopt(self, trial: Trial) -> Trial:
        """The donor's checkpoint becomes the member's own."""
        step, state = self._files.last(trial, self._history, self._watch.say)
        self._keeping.checkpoint(Attempt(trial.number, trial.attempts, state=state, state_step=step, kept_step=-1))
        return self._history.trials[trial.number]
