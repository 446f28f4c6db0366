"""Does the chart of a population show the schedule that led to its best member?"""

from __future__ import annotations

import numpy as np

from bilevel.figures.population import population
from bilevel.figures.search import Search, search_history
from bilevel.study.events import Asked, Begun, Ended, Event, Moved, Opened, Reported, Started
from support import searches


def by_hand() -> Search:
    """Member 1 goes on from 0 at step 10, and member 2 from 1 at step 20; 2 is the best."""
    rates = [{"lr": 0.1}, {"lr": 0.001}, {"lr": 0.01}]
    events: list[tuple[float, Event]] = [
        (0.0, Started("p", "p-1", "loss", True, 0, log=("lr",))),
        (0.0, Opened(3, "", {}, "")),
    ]
    for number, point in enumerate(rates):
        events += [(0.0, Asked(number, point, 0, point)), (0.0, Begun(number, 1, f"worker {number}"))]
    for step in (10, 20, 30):
        events += [(step, Reported(number, step, {"loss": 3.0 - number})) for number in range(3)]
        if step == 10:
            events.append((step, Moved(1, 10, 0, {"lr": 0.12}, {"lr": 0.12})))
        if step == 20:
            events.append((step, Moved(2, 20, 1, {"lr": 0.15}, {"lr": 0.15})))
    events += [(31.0, Ended(number, "completed", 30, 3.0 - number)) for number in range(3)]
    return search_history(events)


def test_the_lineage_of_the_best_is_a_schedule() -> None:
    chart = population(by_hand(), None)
    assert chart is not None
    (panel,) = chart.panels
    assert panel.y.log
    assert panel.x.title == "step"
    (line,) = [layer for layer in panel.layers if layer.name == "lineage of the best"]
    kept = np.column_stack([line.x, line.y])
    kept = kept[np.isfinite(kept[:, 0])]
    schedule = [[0, 0.1], [10, 0.1], [10, 0.12], [20, 0.12], [20, 0.15], [30, 0.15]]
    assert np.allclose(kept, schedule, atol=1e-6)


def test_moves_join_the_donors_value_to_the_new_one() -> None:
    chart = population(by_hand(), None)
    assert chart is not None
    (jumps,) = [layer for layer in chart.panels[0].layers if layer.name == "went on from another member"]
    rows = np.column_stack([jumps.x, jumps.y])
    assert np.array_equal(rows[:2], [[10, 0.1], [10, 0.12]])
    assert np.array_equal(rows[3:5], [[20, 0.12], [20, 0.15]])


def test_a_search_without_moves_has_no_such_chart() -> None:
    assert population(searches.search(searches.study(10)), None) is None


def test_a_made_up_population_is_drawn() -> None:
    found = searches.search(searches.population(6, 8), None)
    chart = population(found, None)
    assert chart is not None
    assert {panel.y.title for panel in chart.panels} <= {"lr", "drop"}
