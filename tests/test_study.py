"""Is a study's next decision a function of what happened, and nothing else?"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import pytest

from bilevel import Space, Study
from bilevel.errors import BadInput
from bilevel.events import Asked, Ended, Event, Finished, Interrupted, Kept, Opened, Reported, Started
from bilevel.study import Finish, History, ask, decide, end, fold, replay
from support.tiny import walking

STARTED = Started("walk", "run", "loss", True, 3)


def history(*events: Event, minimize: bool = True) -> History:
    return replay([dataclasses.replace(STARTED, minimize=minimize), *events])


def trial(number: int, objective: float | None, state: str = "completed") -> list[Event]:
    return [Asked(number, {}, 1), Reported(number, 1, {"loss": objective or 0.0}), Ended(number, state, 1, objective)]


# -- fold --------------------------------------------------------------------------------------------------------------


def test_fold_keeps_the_last_value_of_each_metric_and_the_best_of_the_objective() -> None:
    now = history(
        Asked(0, {"steps": 5}, 11),
        Reported(0, 1, {"loss": 3.0, "acc": 0.1}),
        Reported(0, 2, {"loss": 1.0}),
        Reported(0, 3, {"loss": math.nan}),
        Reported(0, 4, {"loss": 2.0}),
        Kept(0, 2, "m2"),
        Kept(0, 4, "m4"),
    ).trials[0]
    assert (now.step, now.metrics, now.best, now.best_step) == (4, {"loss": 2.0, "acc": 0.1}, 1.0, 2)
    assert now.kept == {2: "m2", 4: "m4"}
    assert (now.state, now.seed, now.config) == ("running", 11, {"steps": 5})


def test_the_best_of_a_maximized_metric_is_the_largest() -> None:
    steps = [Reported(0, step, {"loss": value}) for step, value in enumerate([1.0, 3.0, 3.0, 2.0], 1)]
    now = history(Asked(0, {}, 1), *steps, minimize=False).trials[0]
    assert (now.best, now.best_step) == (3.0, 2)


def test_fold_changes_nothing_in_place() -> None:
    before = history(*trial(0, 1.0))
    copy = dataclasses.replace(before, trials=dict(before.trials))
    fold(before, Kept(0, 1, "m"))
    fold(before, Asked(1, {}, 2))
    assert before == copy


def test_the_end_of_a_run_is_folded() -> None:
    assert history(Interrupted("SIGINT")).status == "interrupted"
    done = history(*trial(0, 1.0), Finished("completed", {"a": 1}))
    assert (done.status, done.result) == ("completed", {"a": 1})
    assert fold(done, Opened(0, "c", {}, "h")) == done


def test_the_best_trial_is_finite_not_failed_and_of_equals_the_first() -> None:
    events = [
        *trial(0, None, "failed"),
        *trial(1, 2.0),
        *trial(2, 1.0),
        *trial(3, 1.0, "stopped"),
        *trial(4, 0.1, "failed"),
    ]
    best = history(*events).best()
    assert best is not None
    assert best.number == 2
    largest = history(*events, minimize=False).best()
    assert largest is not None
    assert largest.number == 1
    assert history().best() is None


# -- decide ------------------------------------------------------------------------------------------------------------


def test_decide_fills_the_slots_and_ends_when_all_have_ended() -> None:
    study = dataclasses.replace(walking(), trials=3)
    assert [a.trial for a in asked(study, history(), 2)] == [0, 1]
    assert asked(study, history(Asked(0, {}, 1), Asked(1, {}, 1)), 2) == []
    assert [a.trial for a in asked(study, history(*trial(0, 1.0), Asked(1, {}, 1)), 2)] == [2]
    assert asked(study, history(*trial(0, 1.0), *trial(1, 1.0), Asked(2, {}, 1)), 2) == []
    ended = history(*trial(0, 1.0), *trial(1, None, "failed"), *trial(2, 2.0))
    assert decide(study, ended, 2) == [Finish("completed")]


def asked(study: Study, now: History, slots: int) -> list[Asked]:
    commands = decide(study, now, slots)
    assert all(isinstance(command, Asked) for command in commands)
    return [command for command in commands if isinstance(command, Asked)]


def test_a_study_whose_trials_all_failed_has_failed() -> None:
    assert decide(walking(), history(*trial(0, None, "failed")), 1) == [Finish("failed")]


def test_decisions_are_pure_and_each_trial_has_a_seed_of_its_own() -> None:
    study = dataclasses.replace(walking(), trials=20)
    first, again = decide(study, history(), 20), decide(study, history(), 20)
    assert first == again
    assert len({command.seed for command in first if isinstance(command, Asked)}) == 20
    assert ask(study, 4) == first[4]
    assert ask(dataclasses.replace(study, seed=4), 4).seed != ask(study, 4).seed
    assert ask(study, 0).config == study.config()


# -- how a trial ends --------------------------------------------------------------------------------------------------


def ended(*metrics: dict[str, float], state: str = "completed", **changes: Any) -> Ended:
    study = dataclasses.replace(walking(), **changes)
    steps = [Reported(0, step, values) for step, values in enumerate(metrics, 1)]
    return end(study, history(Asked(0, {}, 1), *steps).trials[0], state, "hash")


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


# -- what a study may be -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"name": "no spaces"}, "name 'no spaces'; use up to 64 letters"),
        ({"name": ""}, "name ''"),
        ({"name": "../up"}, "name '../up'"),
        ({"minimize": None}, "name one metric"),
        ({"maximize": "acc"}, "name one metric"),
        ({"objective": 3}, "objective 3 cannot be called"),
        ({"space": {"steps": 3}}, "space is a dict; write Space"),
        ({"seed": -1}, "seed is -1; it takes a whole number from 0 on"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"trials": 0}, "trials is 0; it takes a whole number from 1 on"),
        ({"trials": True}, "trials is True"),
        ({"threads": 0}, "threads is 0"),
        ({"value": "mean"}, "value is 'mean'; it takes 'last' or 'best'"),
    ],
)
def test_what_a_study_cannot_be(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        dataclasses.replace(walking(), **changes)


def test_set_gives_another_study_and_leaves_this_one() -> None:
    study = walking(steps=4)
    assert study.set("steps", 6).config()["steps"] == 6
    assert study.config()["steps"] == 4
    assert isinstance(study.set("units", 1).space, Space)
