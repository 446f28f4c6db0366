"""When is a trial's state written down, so that another attempt can go on from it?"""

from __future__ import annotations

import time

from bilevel.drive.attempts import Attempt
from bilevel.drive.ledger import Ledger
from bilevel.record.trial_files import TrialFiles
from bilevel.study.events import Kept, Said

KEEP_EVERY = 15.0  # seconds between checkpoints of a trial; a new best is kept at once, but not more often than:
KEEP_BEST_EVERY = 2.0


class Keeping:
    """Checkpoints of trials at work: the newest now and then, a new best soon.

    Args:
        ledger: where they are named, after the reports that they stand on.
        files: where they lie.
    """

    def __init__(self, ledger: Ledger, files: TrialFiles) -> None:
        self._ledger, self._files = ledger, files
        self._study = ledger.decisions.study

    def every(self) -> tuple[float, float]:
        """Seconds between two states that a worker sends, and between two that are better than any before."""
        return (0.0, 0.0) if self._ledger.decisions.populates else (KEEP_EVERY, KEEP_BEST_EVERY)

    def take(self, attempt: Attempt, said: Said, *, sent: bool) -> None:
        """Keep the newest state, if it is time for it. `sent`: it comes from a worker, which sends one when it is."""
        if said.state is None:
            return
        since = time.monotonic() - attempt.kept_at
        value = said.reports[-1].metrics.get(self._study.metric) if said.reports else None
        better = value is not None and (attempt.best is None or (value < attempt.best) == (self._study.sign > 0))
        if better:
            attempt.best = value
        due = since >= KEEP_EVERY or (better and since >= KEEP_BEST_EVERY)
        if due or (sent and not self._ledger.decisions.populates):  # of a population's member all are sent
            self.checkpoint(attempt)

    def checkpoint(self, attempt: Attempt) -> None:
        """Write the newest state down, if it is not yet.

        Raises:
            StoreFailed: the disk is full or gone.
        """
        if attempt.state is None or attempt.state_step <= attempt.kept_step:
            return
        self._ledger.commit()
        manifest = self._files.keep(attempt.trial, attempt.state_step, attempt.state)
        trials = self._ledger.history.trials
        if trials[attempt.trial].kept.get(attempt.state_step) != manifest:
            self._ledger.record(Kept(attempt.trial, attempt.state_step, manifest), commit=True)
        self._files.prune(trials[attempt.trial])
        attempt.kept_step, attempt.kept_at = attempt.state_step, time.monotonic()
