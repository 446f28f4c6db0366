"""Does the view that compares trials show what it should, and fit where MLflow keeps it?"""

from __future__ import annotations

import json

from bilevel.record.journal import Entry
from bilevel.record.projection import Projection
from bilevel.record.shared_view import LONGEST, shared
from bilevel.study.events import Asked, Ended, Event, Started


def test_of_several_objectives_there_are_pairs_and_the_leading_one_gives_the_color() -> None:
    view = json.loads(shared("f", ["a", "b"], ["objective", "cost", "size"], minimize=False))
    parallel, *scatters = view["compareRunCharts"]
    assert parallel["selectedMetrics"] == ["size", "cost", "objective"]
    pairs = [(chart["xaxis"]["key"], chart["yaxis"]["key"]) for chart in scatters]
    assert pairs == [
        ("objective", "cost"), ("objective", "size"), ("cost", "size"), ("a", "objective"), ("b", "objective"),
    ]  # fmt: skip
    assert view["orderByAsc"] is False
    sections = {section["uuid"] for section in view["compareRunSections"]}
    assert {chart["metricSectionId"] for chart in view["compareRunCharts"]} == sections


def test_long_names_are_left_out_until_it_fits() -> None:
    text = shared("f", [f"{n}" + "a.very.long.path" * 15 for n in range(40)], ["objective"], minimize=True)
    assert len(text) <= LONGEST
    assert json.loads(text)["compareRunCharts"]


def test_a_value_that_only_some_trials_have_is_left_out_for_their_lines_would_be() -> None:
    projection = Projection()
    events: list[Event] = [Started("s", "s-1", "loss", True, 0, log=("lr",))]
    for n in range(4):
        point = {"lr": 0.1, "depth": 1} | ({"beta": 0.5} if n % 2 else {})
        events += [Asked(n, point, n, point), Ended(n, "completed", 1, 1.0)]
    for n, event in enumerate(events):
        projection.take(Entry(n, 100.0 + n, {"event": type(event).__name__.lower(), **vars(event)}, 0))
    assert projection.searched() == ["log10_lr", "depth"]
    assert projection.objectives == ["objective"]
