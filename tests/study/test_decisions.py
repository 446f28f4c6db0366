"""Is a study's next decision a function of what happened, and nothing else?"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from bilevel import Study
from bilevel.study.decisions import Command, Decisions, Finish
from bilevel.study.events import Asked, Ended, Event, Reported, Started
from bilevel.study.history import replay
from bilevel.study.outcome import end
from support.tiny import walking

STARTED = Started("walk", "run", "loss", True, 3)


def events(*more: Event) -> list[Event]:
    return [STARTED, *more]


def trial(number: int, objective: float | None, state: str = "completed") -> list[Event]:
    return [Asked(number, {}, 1), Reported(number, 1, {"loss": objective or 0.0}), Ended(number, state, 1, objective)]


def decided(study: Study, now: list[Event], window: int = 0) -> Decisions:
    """The study's mind after these events."""
    decisions = Decisions(study, window=window)
    for event in now:
        decisions.take(event)
    return decisions


def decide(study: Study, now: list[Event], slots: int) -> list[Command]:
    return decided(study, now).next(slots)


def test_decide_fills_the_slots_and_ends_when_all_have_ended() -> None:
    study = dataclasses.replace(walking(), trials=3)
    assert [a.trial for a in asked(study, events(), 2)] == [0, 1]
    assert asked(study, events(Asked(0, {}, 1), Asked(1, {}, 1)), 2) == []
    assert [a.trial for a in asked(study, events(*trial(0, 1.0), Asked(1, {}, 1)), 2)] == [2]
    assert asked(study, events(*trial(0, 1.0), *trial(1, 1.0), Asked(2, {}, 1)), 2) == []
    ended = events(*trial(0, 1.0), *trial(1, None, "failed"), *trial(2, 2.0))
    assert decide(study, ended, 2) == [Finish("completed")]


def asked(study: Study, now: list[Event], slots: int) -> list[Asked]:
    commands = decide(study, now, slots)
    assert all(isinstance(command, Asked) for command in commands)
    return [command for command in commands if isinstance(command, Asked)]


def test_a_study_whose_trials_all_failed_has_failed() -> None:
    assert decide(walking(), events(*trial(0, None, "failed")), 1) == [Finish("failed")]


def test_decisions_are_pure_and_each_trial_has_a_seed_of_its_own() -> None:
    study = dataclasses.replace(walking(), trials=20)
    first, again = decide(study, events(), 20), decide(study, events(), 20)
    assert first == again
    assert len({command.seed for command in first if isinstance(command, Asked)}) == 20
    other = decide(dataclasses.replace(study, seed=4), events(), 20)[4]
    assert isinstance(other, Asked)
    assert isinstance(first[4], Asked)
    assert other.seed != first[4].seed
    assert first[0].config == study.config()  # type: ignore[union-attr]


# -- how a trial ends --------------------------------------------------------------------------------------------------


def ended(*metrics: dict[str, float], state: str = "completed", **changes: Any) -> Ended:
    study = dataclasses.replace(walking(), **changes)
    steps = [Reported(0, step, values) for step, values in enumerate(metrics, 1)]
    return end(study, replay([STARTED, Asked(0, {}, 1), *steps]).trials[0], state, "hash")


def test_the_objective_is_the_last_value_or_the_best() -> None:
    values = ({"loss": 3.0}, {"loss": 1.0}, {"loss": 2.0})
    assert ended(*values) == Ended(0, "completed", 3, 2.0, None, "hash")
    assert ended(*values, value="best").objective == 1.0


def test_a_metric_never_reported_is_a_named_failure() -> None:
    gone = ended({"acc": 1.0, "time": 2.0})
    assert (gone.state, gone.objective) == ("failed", None)
    assert gone.reason == "never reported 'loss'; it reported acc, time"
    assert ended().reason == "never reported 'loss'; it reported nothing"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("which", ["last", "best"])
def test_a_value_that_is_not_finite_is_a_failure_with_its_step(value: float, which: str) -> None:
    gone = ended({"loss": value}, value=which)
    assert (gone.state, gone.objective) == ("failed", None)
    assert gone.reason == f"step 1: loss is {value}"


def test_a_stopped_trial_keeps_what_it_had() -> None:
    assert ended({"loss": 4.0}, state="stopped").objective == 4.0
    assert ended(state="stopped").state == "stopped"
