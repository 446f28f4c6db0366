"""Is each objective of several shown as the leading one is?"""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from bilevel.figures import Search, charts
from bilevel.figures.importance import importance
from bilevel.figures.objectives import each
from bilevel.figures.views import pareto_front
from bilevel.view import tables
from support import searches

WAYS = {"loss": "minimize", "cost": "minimize", "depth": "maximize"}


@pytest.fixture(scope="module")
def three() -> Search:
    return searches.search(searches.study(40, objectives=WAYS, rungs=()))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few forests: here it matters of what, and not how exactly."""
    monkeypatch.setattr("bilevel.figures.importance.SAMPLES", 6)


def test_a_search_by_each_objective_has_its_best_its_way_and_its_values(three: Search) -> None:
    views = each(three)
    assert [view.metric for view in views] == list(WAYS)
    assert views[0] is three
    for index, (view, way) in enumerate(zip(views, WAYS.values(), strict=True)):
        assert view.sign == (1 if way == "minimize" else -1)
        best = view.history.best()
        assert best is not None
        values = [trial.values[index] for trial in three.valued()]
        assert best.objective == (min(values) if way == "minimize" else max(values))
    alone = searches.odd()["two"]
    assert each(alone) == [alone]


def test_what_matters_is_told_for_each(three: Search) -> None:
    loss, cost, depth = (importance(view) for view in each(three))
    assert loss is not None
    assert cost is not None
    assert depth is not None
    assert [found.shares[0].parameter.name for found in (loss, depth)] == ["lr", "layers"]
    assert cost.shares[0].parameter.name in ("width", "layers")
    chart = next(chart for chart in charts(three) if chart.name == "parameter_importance")
    titles = [panel.x.title for panel in chart.panels]
    assert titles == [f"{name}: share" for name in WAYS]


def test_slices_and_rulers_are_there_for_each_and_a_front_for_each_pair(three: Search) -> None:
    found = {chart.name: chart for chart in charts(three)}
    for name, metric in zip(("slices", "slices_2", "slices_3"), WAYS, strict=True):
        assert found[name].title == f"{metric} against each value"
        assert found[name].panels[0].y.title.startswith(metric)
    said = {words for layer in found["parallel_coordinates"].panels[0].layers for words in layer.words}
    assert said >= WAYS.keys()
    front = pareto_front(three)
    assert front is not None
    assert len(front.panels) == 3


def test_learning_curves_of_another_objective_are_its_own() -> None:
    ways = {"loss": "minimize", "train": "minimize"}
    found = searches.search(searches.study(12, objectives=ways, rungs=()))
    curves = {chart.name: chart for chart in charts(found) if chart.name.startswith("learning_curves")}
    assert [chart.panels[0].y.title.partition(" (")[0] for chart in curves.values()] == ["loss", "train"]
    loss, train = (view.tracks[0].curve for view in each(found))
    assert train[:, 1] == pytest.approx(0.9 * loss[:, 1])


def test_the_terminal_names_the_objective_of_each_course_and_importance(three: Search) -> None:
    console = Console(file=io.StringIO(), width=80, color_system=None, highlight=False)
    console.print(tables.search(three))
    file = console.file
    assert isinstance(file, io.StringIO)
    for name in WAYS:
        assert f"best {name} so far" in file.getvalue()
        assert f"what matters for {name}" in file.getvalue()
