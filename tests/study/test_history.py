"""Is what has become of the trials a function of the journal, and nothing else?"""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence

import pytest

from bilevel.study.events import (
    Asked,
    Ended,
    Event,
    Finished,
    Interrupted,
    Kept,
    Left,
    Opened,
    Reported,
    Started,
    Tagged,
)  # fmt: skip
from bilevel.study.history import History, Leader, fold, mean, replay

STARTED = Started("walk", "run", "loss", True, 3)


def history(*events: Event, minimize: bool = True) -> History:
    return replay([dataclasses.replace(STARTED, minimize=minimize), *events])


def trial(number: int, objective: float | None, state: str = "completed") -> list[Event]:
    return [Asked(number, {}, 1), Reported(number, 1, {"loss": objective or 0.0}), Ended(number, state, 1, objective)]


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


def test_words_and_files_are_those_that_were_said_last_and_an_empty_one_is_gone() -> None:
    begun = [Asked(0, {}, 1), Tagged(0, {"phase": "warm", "note": "odd"}), Left(0, {"a": "s1", "b": "s2"})]
    now = history(*begun, Tagged(0, {"phase": "main"}), Left(0, {"a": ""}), Ended(0, "completed", 1, 1.0))
    assert now.trials[0].tags == {"phase": "main", "note": "odd"}
    assert now.trials[0].files == {"b": "s2"}
    later = fold(now, Tagged(0, {"note": ""}))
    assert later.trials[0].tags == {"phase": "main"}
    assert later.trials[0].state == "completed"


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
    assert fold(done, Opened(0, "c", {}, "h")) == dataclasses.replace(done, workers=0)


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


@pytest.mark.parametrize("value", [sys.float_info.max, 1e300, -1e300, 5e-324])
def test_seeds_have_a_mean_and_an_interval_up_to_the_limits_of_floats(value: float) -> None:
    again = [Asked(1, {}, 2, of=0), Ended(1, "completed", 1, value / 2)]
    (leader,) = history(*trial(0, value), *again).leaders()
    assert leader.mean == pytest.approx(0.75 * value)
    assert leader.half is not None
    assert leader.half >= 0
    assert mean([value, value]) == value


def halved(*, equal: bool = False, value: str = "best", more: Sequence[Event] = ()) -> History:
    """Trial 0 is complete, and the two that were stopped had more."""
    started = dataclasses.replace(STARTED, value=value, equal=equal)
    return replay([started, *trial(0, 3.0), *trial(1, 1.0, "stopped"), *trial(2, 2.0, "stopped"), *more])


def numbers(leaders: list[Leader]) -> list[int]:
    return [leader.trial.number for leader in leaders]


def test_stopped_trials_come_last_unless_their_values_compare() -> None:
    assert numbers(halved().leaders()) == [0, 1, 2]
    assert numbers(halved(equal=True).leaders()) == [1, 2, 0]
    assert halved().rule == "by their best loss, completed ones first"
    assert halved(equal=True).rule == "by their best loss, stopped ones too"
    over = halved().passed_over()
    assert over is not None
    assert over.trial.number == 1
    assert halved(equal=True).passed_over() is None


def test_who_is_confirmed_is_the_leader_and_the_best_by_value() -> None:
    assert numbers(halved().contenders(2)) == [0, 1]
    assert numbers(halved().contenders(3)) == [0, 1, 2]
    assert numbers(halved(equal=True).contenders(2)) == [1, 2]
    again = [Asked(3, {}, 1, of=1, confirms=True), Ended(3, "completed", 1, 1.5)]
    settled = halved(more=again)
    assert numbers(settled.leaders()) == [1, 0, 2]
    assert settled.passed_over() is None


def test_a_run_that_began_before_ranks_as_it_did() -> None:
    before = halved(value="", more=[*trial(3, 4.0), *trial(4, 5.0)])
    assert numbers(before.contenders(3)) == [0, 3, 4]
    assert before.rule == ""
