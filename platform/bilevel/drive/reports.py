"""Is what a trial reports new, or computed again, and is it then as it was recorded?"""

from __future__ import annotations

import math
from collections.abc import Mapping

from bilevel.drive.attempts import Attempt
from bilevel.drive.ledger import Ledger
from bilevel.drive.progress import Watch
from bilevel.errors import NotReproduced
from bilevel.study.events import Moved, Report, Reported, Tagged
from bilevel.study.history import Trial


class Reports:
    """Writes reports down, each (trial, step) once; one that is computed again must equal it.

    Args:
        ledger: where.
        watch: who is told of a difference that is let through.
        strict: units are pure by law, so that a difference is an error; whole trials are the user's affair.
        same_hardware: as it was recorded on; otherwise a difference is said and let through.
    """

    def __init__(self, ledger: Ledger, watch: Watch, *, strict: bool, same_hardware: bool) -> None:
        self._ledger, self._watch = ledger, watch
        self._strict, self._same_hardware = strict, same_hardware
        self._said = self._began = False

    def after(self, trial: Trial, step: int) -> dict[int, Reported]:
        """Reports that are recorded already, though they come after the state (of this step) that it goes on from."""
        found: dict[int, Reported] = {}
        if trial.metrics and trial.step > step:
            for event in self._ledger.events():
                if isinstance(event, Moved) and event.trial == trial.number:
                    found.clear()
                elif isinstance(event, Reported) and event.trial == trial.number and event.step > step:
                    found[event.step] = event
        return found

    def take(self, attempt: Attempt, report: Report) -> None:
        """An attempt reports.

        Raises:
            NotReproduced: it is not what was recorded, on the same hardware.
        """
        units, attempt.digests = "".join(attempt.digests), []
        found = {} if report.found == attempt.found else report.found
        attempt.found = report.found
        event = Reported(attempt.trial, report.step, report.metrics, units, found)
        recorded = attempt.recorded.pop(report.step, None)
        trial = self._ledger.history.trials[attempt.trial]
        if recorded is None and (report.step > trial.step or not trial.metrics):
            self._ledger.record(event)
        elif recorded is None or not (_same(recorded.metrics, event.metrics) and recorded.units == event.units):
            if attempt.retry and recorded is not None:
                self._ledger.record(event)
            elif recorded is None and event.step <= attempt.from_step and not self._strict:
                self._again(event, attempt.from_step)
            else:
                self._differs(recorded, event)
        new = {name: word for name, word in report.words.items() if trial.tags.get(name, "") != word}
        if new:
            self._ledger.record(Tagged(attempt.trial, new))

    def _again(self, event: Reported, step: int) -> None:
        """An objective begins anew though it was given a state; what it reports up to there is known already."""
        if not self._began:
            self._began = True
            self._watch.say(
                f"trial {event.trial} began at step {event.step} again, though it was given the state of step {step}:"
                " go on from run.state, or report none"
            )

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
        if not self._said:
            self._said = True
            self._watch.say(f"{what}: {why}")


def _same(left: Mapping[str, float], right: Mapping[str, float]) -> bool:
    return left.keys() == right.keys() and all(
        value == right[name] or (math.isnan(value) and math.isnan(right[name])) for name, value in left.items()
    )
