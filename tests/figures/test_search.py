"""Is what the views are drawn from what the journal says?"""

from __future__ import annotations

import math

import numpy as np
import pytest

from bilevel.figures import search_history
from bilevel.figures.inferred import parameters
from bilevel.space.dimensions import Int, Log, LogInt, OneOf, Parameter, Uniform
from bilevel.study.events import Asked, Begun, Ended, Event, Fault, Moved, Opened, Reported, Started
from support import searches

OPENED = Opened(2, "", {}, "")


def timed(*events: tuple[float, Event]) -> list[tuple[float, Event]]:
    return [(0.0, Started("s", "s-1", "loss", True, 0)), (0.0, OPENED), *events]


def test_pauses_between_drivers_do_not_count() -> None:
    first: list[tuple[float, Event]] = [(1.0, Asked(0, {}, 0)), (10.0, Reported(0, 1, {"loss": 1.0}))]
    found = search_history(timed(*first, (100.0, OPENED), (105.0, Fault("died", ""))))
    assert found.sessions == ((0.0, 10.0), (100.0, 105.0))
    assert found.seconds == 15.0
    assert [found.clock(time) for time in (0.0, 4.0, 10.0, 50.0, 100.0, 103.0, 105.0)] == [0, 4, 10, 10, 10, 13, 15]
    assert found.faults == {"died": 1}


def test_attempts_say_where_a_trial_was_and_what_became_of_it() -> None:
    found = search_history(
        timed(
            (1.0, Asked(0, {}, 0)),
            (2.0, Begun(0, 1, "worker 0")),
            (4.0, Begun(0, 2, "worker 1", 3, "lost")),
            (6.0, Reported(0, 4, {"loss": 1.0})),
            (100.0, OPENED),
            (101.0, Begun(0, 3, "worker 0", 4, "resumed")),
            (103.0, Ended(0, "completed", 5, 1.0)),
        )
    )
    stays = [(a.worker, a.began, a.ended, a.step, a.fate) for a in found.tracks[0].attempts]
    assert stays == [
        ("worker 0", 2.0, 4.0, 0, "lost"),
        ("worker 1", 4.0, 6.0, 3, "interrupted"),
        ("worker 0", 101.0, 103.0, 4, "completed"),
    ]


def test_a_trial_that_says_not_where_it_runs_was_here_all_the_time() -> None:
    found = search_history(timed((1.0, Asked(0, {}, 0)), (3.0, Ended(0, "failed", 0, None, "no"))))
    (attempt,) = found.tracks[0].attempts
    assert (attempt.worker, attempt.began, attempt.ended, attempt.fate) == ("", 1.0, 3.0, "failed")


def test_a_curve_goes_on_from_the_donors_last_value() -> None:
    point = {"lr": 0.1}
    found = search_history(
        timed(
            (1.0, Asked(0, {}, 0, point)),
            (1.0, Asked(1, {}, 0, point)),
            (2.0, Reported(0, 5, {"loss": 3.0, "other": 9.0})),
            (2.0, Reported(0, 6, {"other": 9.0})),
            (2.0, Reported(1, 5, {"loss": 2.0})),
            (3.0, Moved(0, 5, 1, {}, {"lr": 0.2})),
            (4.0, Reported(0, 10, {"loss": math.nan})),
        )
    )
    assert np.array_equal(found.tracks[0].curve, [[5, 3], [np.nan, np.nan], [5, 2], [10, np.nan]], equal_nan=True)
    assert found.tracks[0].point == {"lr": 0.1}
    assert found.history.trials[0].point == {"lr": 0.2}


def test_trials_with_a_result_come_in_the_order_in_which_they_ended() -> None:
    found = searches.search(searches.study(40, lost=(5,)))
    ended = [found.tracks[trial.number].ended for trial in found.valued()]
    assert ended == sorted(ended)
    assert all(trial.state in ("completed", "stopped") for trial in found.valued())
    assert len(found.valued()) + found.history.ended["failed"] == 40


def test_what_was_searched_is_guessed_from_what_was_tried() -> None:
    points = [
        {"lr": 1e-4, "width": 16, "opt": "Adam", "opt[Adam].b": 0.5, "flag": True, "n": 3, "mixed": None},
        {"lr": 1e-1, "width": 64, "opt": "Sgd", "flag": False, "n": 5, "mixed": 1.5},
    ]
    found = {parameter.name: parameter for parameter in parameters(points, ("lr", "width"))}
    assert found["lr"].dimension == Log(1e-4, 1e-1)
    assert found["width"].dimension == LogInt(16, 64)
    assert found["n"].dimension == Int(3, 5)
    assert found["opt"].dimension == OneOf("Adam", "Sgd")
    assert found["flag"].dimension == OneOf(False, True)
    assert found["opt[Adam].b"].path == "opt.b"
    assert found["opt[Adam].b"].dimension == OneOf(0.5)
    assert found["mixed"].dimension.size == 2


def test_only_what_is_not_known_is_guessed() -> None:
    known = (Parameter("lr", "lr", Uniform(0, 9)),)
    found = search_history(timed((1.0, Asked(0, {}, 0, {"lr": 1.0, "found": 2.0}))), known)
    assert [p.name for p in found.parameters] == ["lr", "found"]
    assert found.parameters[0] is known[0]


def test_the_fingerprint_is_that_of_the_result() -> None:
    assert searches.search(searches.study(4)).fingerprint == "c" * 64
    assert searches.search(searches.study(4, running=1)).fingerprint is None


@pytest.mark.parametrize("kind", ["completed", "stopped", "failed"])
def test_made_up_searches_have_all_that_there_is(kind: str) -> None:
    assert searches.search(searches.study(40, rungs=(3, 9))).history.ended[kind]
