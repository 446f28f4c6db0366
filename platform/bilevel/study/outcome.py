"""How does a trial end: with which objective, within the study's limits, or failed and why?"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping

from bilevel.study.events import Completed, Ended
from bilevel.study.history import Trial
from bilevel.study.objective import ObjectiveTraits
from bilevel.study.study import Study

WORST = 1e9
"""The violation of a limit on a metric that is not known."""


def returned(end: Completed) -> tuple[str, str | None]:
    """The state of a trial whose objective has returned, and why, if it is not completed."""
    if end.pruned:
        return "stopped", "it pruned itself"
    return "completed", None


def end(study: Study, trial: Trial, state: str, learned: str | None, reason: str | None = None) -> Ended:
    """How a trial ends; one that never reported an objective, or one that is not finite, has failed.

    A member of a population that had moved, and ends without a step as what it became, counts as what it was before;
    one that learns has no result, as what it had learned gave way to the donor's.
    """
    if trial.before is not None and state != "failed":
        if ObjectiveTraits(study.objective).learns:
            why = "it moved at its end, and trained no further"
            return Ended(trial.number, "stopped", trial.step, None, reason or why, None)
        ended = end(study, trial.before, state, None, reason)
        return dataclasses.replace(ended, undone=True)
    metrics: Mapping[str, float] = trial.metrics
    best = study.counts == "best"
    if best:  # the others, and limits, count where the objective was found
        metrics = {**metrics, **trial.best_metrics}
    values: list[float | None] = [metrics.get(name) for name in study.objectives]
    if best and trial.best is not None:
        values[0] = trial.best
    for name, value in zip(study.objectives, values, strict=True):
        if state == "completed" and value is None:
            known = ", ".join(sorted(metrics)) or "nothing"
            state, reason = "failed", f"never reported {name!r}; it reported {known}"
        elif value is not None and not math.isfinite(value):
            state, reason = "failed", reason or f"step {trial.step}: {name} is {value}"
    if state == "failed":
        return Ended(trial.number, state, trial.step, None, reason, learned)
    missing = next((name for name in study.limits if name not in metrics), None)
    if missing is not None and state == "completed":
        known = ", ".join(sorted(metrics)) or "nothing"
        return Ended(
            trial.number, "failed", trial.step, None, f"never reported {missing!r}; it reported {known}", learned
        )
    several = tuple(float(value) for value in values if value is not None) if len(values) > 1 else ()
    several = several if len(several) == len(values) else ()
    return Ended(
        trial.number, state, trial.step, values[0], reason, learned, several, min(excess(study, metrics), WORST)
    )


def failure(trial: Trial) -> str:
    """The error that a trial has failed with; empty if it has not, or only because values were not finite."""
    if trial.state != "failed" or trial.reason is None or _NOT_FINITE.match(trial.reason):
        return ""
    return trial.reason


def anonymous(error: str) -> str:
    """An error without the numbers in it: those of two trials with other values can be one and the same."""
    return _NUMBER.sub("#", error)


_NOT_FINITE = re.compile(r"(TrialFailed: )?step \d+: .*(\bnan\b|\binf\b|finite|overflow|diverge)")
_NUMBER = re.compile(r"[-+]?\d+(\.\d*)?(e[-+]?\d+)?", re.IGNORECASE)


def excess(study: Study, metrics: Mapping[str, float]) -> float:
    """By how much results break the study's limits, summed; infinite if one that is limited is not known."""
    found = ((metrics.get(name, math.nan), *pair) for name, pair in study.bounds.items())
    return sum((math.inf if math.isnan(at) else max(0.0, at - high, low - at) for at, low, high in found), 0.0)
