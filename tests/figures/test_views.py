"""Do the charts of a search's course show what happened?"""

from __future__ import annotations

import numpy as np
import pytest

from bilevel.figures.chart import Chart, Layer
from bilevel.figures.search import search_history
from bilevel.figures.views import POINTS, best_so_far, incumbents, learning_curves, pareto_front, timeline
from bilevel.study.events import Asked, Begun, Ended, Event, Opened, Reported, Started
from support import searches


def ended(*values: float | None, **options: object) -> list[tuple[float, Event]]:
    """A search whose trial n ends at second n + 1 with this value."""
    events: list[tuple[float, Event]] = [(0.0, Started("s", "s-1", "loss", True, 0)), (0.0, Opened(1, "", {}, ""))]
    for number, value in enumerate(values):
        state = "failed" if value is None else "completed"
        events += [(number, Asked(number, {}, 0)), (number + 1, Ended(number, state, 1, value))]
    return events


def layer(chart: Chart | None, name: str, panel: int = 0) -> Layer:
    assert chart is not None
    (found,) = [each for each in chart.panels[panel].layers if each.name == name]
    return found


def points(of: Layer) -> list[list[float]]:
    return np.column_stack([of.x, of.y]).tolist()


def test_the_best_so_far_is_a_staircase_over_trials_and_time() -> None:
    chart = best_so_far(search_history(ended(3.0, 2.0, None, 4.0, 1.0)))
    assert points(layer(chart, "completed")) == [[1, 3], [2, 2], [3, 4], [4, 1]]
    assert points(layer(chart, "best so far")) == [[1, 3], [2, 3], [2, 2], [4, 2], [4, 1]]
    assert points(layer(chart, "best so far", 1)) == [[1, 3], [2, 3], [2, 2], [5, 2], [5, 1]]
    assert layer(chart, "completed").trials is not None
    assert [axis.title for axis in (chart.panels[0].x, chart.panels[1].x)] == [
        "trials with a result",
        "time at work [s]",
    ]


def test_higher_is_better_where_it_is_maximized() -> None:
    events = ended(0.5, 0.9, 0.7)
    events[0] = (0.0, Started("s", "s-1", "accuracy", False, 0))
    found = search_history(events)
    assert incumbents(found, found.valued()).tolist() == [0.5, 0.9, 0.9]


def test_what_breaks_a_limit_is_never_the_best() -> None:
    events = ended(2.0, 1.0, 1.5)
    events[5] = (2.0, Ended(1, "completed", 1, 1.0, violation=0.3))
    found = search_history(events)
    chart = best_so_far(found)
    assert incumbents(found, found.valued()).tolist() == [2.0, 2.0, 1.5]
    assert layer(chart, "breaks a limit").y.tolist() == [1.0]


def test_stopped_trials_count_only_where_none_is_complete() -> None:
    events = ended(1.0, 3.0, 2.0)
    events[3] = (1, Ended(0, "stopped", 1, 1.0))
    found = search_history(events)
    assert incumbents(found, found.valued())[1:].tolist() == [3.0, 2.0]
    assert points(layer(best_so_far(found), "best so far")) == [[2, 3], [3, 3], [3, 2]]
    alone = search_history(events[:4])
    assert incumbents(alone, alone.valued()).tolist() == [1.0]
    events[0] = (0.0, Started("s", "s-1", "loss", True, 0, value="best", equal=True))
    equal = search_history(events)
    assert incumbents(equal, equal.valued()).tolist() == [1.0, 1.0, 1.0]


def test_a_configuration_counts_by_the_mean_of_its_seeds_and_then_by_its_confirmations() -> None:
    events = ended(1.0, 5.0, 2.0, 4.0, 3.0)
    events[4] = (1, Asked(1, {}, 1, of=0))
    events[8] = (3, Asked(3, {}, 3, of=2, confirms=True))
    events[10] = (4, Asked(4, {}, 4, of=0, confirms=True))
    found = search_history(events)
    # a configuration counts when all of its seeds have ended, and so do its confirmations
    np.testing.assert_array_equal(incumbents(found, found.valued()), [np.nan, 3.0, 2.0, 4.0, 3.0])
    assert found.history.leaders(1)[0].mean == 3.0


def test_a_configuration_that_keeps_the_limits_when_it_is_confirmed_counts_as_feasible() -> None:
    events = ended(1.0, 5.0, 2.0)
    events[3] = (1, Ended(0, "completed", 1, 1.0, violation=3.0))
    events[6] = (2, Asked(2, {}, 2, of=0, confirms=True))
    found = search_history(events)
    assert incumbents(found, found.valued())[-1] == found.history.leaders(1)[0].mean


def test_the_best_so_far_ends_at_the_best() -> None:
    for found in (searches.search(searches.study(40)), searches.search(searches.study(40, minimize=False))):
        assert incumbents(found, found.valued())[-1] == found.history.leaders(1)[0].mean


def test_learning_curves_are_lighter_where_trials_were_stopped_and_the_best_is_on_top() -> None:
    found = searches.search(searches.study(40, rungs=(3, 9)))
    chart = learning_curves(found)
    assert chart is not None
    (panel,) = chart.panels
    best = found.history.best()
    assert best is not None
    assert panel.layers[-1].name == f"the best, trial {best.number}"
    curve = found.tracks[best.number].curve
    assert np.allclose(points(panel.layers[-1])[: len(curve)], curve)
    stopped = layer(chart, "stopped early")
    assert np.isnan(stopped.x).sum() == sum(t.state == "stopped" for t in found.trials)
    assert panel.y.log  # positive, and over more than a decade
    assert panel.x.title == "step"


def test_a_curve_that_diverged_is_drawn_as_far_as_it_is_finite() -> None:
    found = search_history(
        [
            *ended(),
            (0.0, Asked(0, {}, 0)),
            (1.0, Reported(0, 1, {"loss": 2.0})),
            (2.0, Reported(0, 2, {"loss": 1.0})),
            (3.0, Reported(0, 3, {"loss": float("inf")})),
            (4.0, Ended(0, "failed", 3, None, "inf")),
        ]
    )
    chart = learning_curves(found)
    assert chart is not None
    drawn = layer(chart, "failed")
    assert drawn.y[:2].tolist() == [2.0, 1.0]
    assert not np.isfinite(drawn.y[2:]).any() or drawn.y[2] <= 2.2


def test_the_front_is_that_of_the_history() -> None:
    found = searches.search(searches.study(60, objectives={"loss": "minimize", "cost": "minimize"}, rungs=()))
    chart = pareto_front(found)
    front = layer(chart, "Pareto front")
    assert front.trials is not None
    assert sorted(front.trials.tolist()) == [trial.number for trial in found.history.pareto()]
    assert front.x.tolist() == sorted(front.x.tolist())
    assert front.y.tolist() == sorted(front.y.tolist(), reverse=True)


def test_each_pair_of_objectives_has_a_panel() -> None:
    ways = {"loss": "minimize", "cost": "minimize", "quality": "maximize"}
    found = searches.search(searches.study(40, objectives=ways, rungs=()))
    chart = pareto_front(found)
    assert chart is not None
    titles = [(panel.x.title.partition(" (")[0], panel.y.title.partition(" (")[0]) for panel in chart.panels]
    assert titles == [("loss", "cost"), ("loss", "quality"), ("cost", "quality")]
    assert "quality high" in chart.caption
    courses = best_so_far(found)
    assert courses is not None
    assert len(courses.panels) == 3


def test_one_objective_has_no_front() -> None:
    assert pareto_front(searches.search(searches.study(10))) is None


def test_the_timeline_has_a_lane_for_each_worker() -> None:
    events: list[tuple[float, Event]] = [(0.0, Started("s", "s-1", "loss", True, 0)), (0.0, Opened(2, "", {}, ""))]
    for number, (worker, start, end, state) in enumerate(
        [("worker 10", 0, 40, "completed"), ("worker 9", 0, 60, "failed"), ("worker 10", 50, 100, "stopped")]
    ):
        events += [
            (start, Asked(number, {}, 0)),
            (start, Begun(number, 1, worker)),
            (end, Ended(number, state, 1, None)),
        ]
    chart = timeline(search_history(sorted(events, key=lambda pair: pair[0])))
    assert chart is not None
    assert chart.panels[0].y.ticks == ((0.0, "worker 9"), (1.0, "worker 10"))
    for name, lane, start, end in (("completed", 1, 0, 40), ("failed", 0, 0, 60), ("stopped early", 1, 50, 100)):
        drawn = layer(chart, name)
        assert drawn.y[:2].tolist() == [lane, lane]
        assert drawn.x[0] == start
        assert drawn.x[1] == pytest.approx(end, abs=0.3)


def test_trials_side_by_side_on_one_worker_are_drawn_side_by_side() -> None:
    events: list[tuple[float, Event]] = [(0.0, Started("s", "s-1", "loss", True, 0)), (0.0, Opened(2, "", {}, ""))]
    for number in range(2):
        events += [(0.0, Asked(number, {}, 0)), (0.0, Begun(number, 1, "driver"))]
    events += [(10.0, Ended(number, "completed", 1, 1.0)) for number in range(2)]
    drawn = layer(timeline(search_history(events)), "completed")
    assert sorted({y for y in drawn.y.tolist() if y == y}) == [0.0, 1.0]


def test_another_driver_is_marked() -> None:
    found = searches.search(searches.study(40, broken_at=20))
    mark = layer(timeline(found), "another driver went on")
    assert mark.x[0] == found.sessions[0][1] - found.sessions[0][0]


@pytest.mark.slow
def test_ten_thousand_trials_are_thinned_out() -> None:
    found = searches.large()
    for chart in (best_so_far(found), learning_curves(found), timeline(found)):
        assert chart is not None
        for panel in chart.panels:
            assert sum(each.x.size for each in panel.layers) < 30_000
    chart = best_so_far(found)
    assert chart is not None
    drawn = sum(each.x.size for each in chart.panels[0].layers if each.kind == "points")
    assert drawn <= POINTS
    best = found.history.best()
    assert best is not None
    completed = layer(chart, "completed")
    assert completed.trials is not None
    assert best.number in completed.trials  # thinning leaves the best


def test_curves_of_an_accuracy_that_begins_at_chance_show_where_they_end() -> None:
    events = [*ended()]
    for n in range(10):
        events.append((n + 0.0, Asked(n, {}, 0)))
        rises = [0.92 + n / 200 - 0.85 / step**3 for step in range(1, 30)]
        events += [(n + step / 100, Reported(n, step, {"loss": value})) for step, value in enumerate(rises, 1)]
        events.append((n + 0.9, Ended(n, "completed", 29, rises[-1])))
    started = [(0.0, Started("rises", "rises-1", "loss", False, 0)), *events[1:]]
    chart = learning_curves(search_history(started))
    assert chart is not None
    (panel,) = chart.panels
    assert not panel.y.log
    assert panel.y.span is not None
    assert panel.y.span[0] > 0.6
    assert "beyond the edge" in panel.y.title
