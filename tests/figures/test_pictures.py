"""Can every chart be drawn, of every search there can be?"""

from __future__ import annotations

import io
import json
import math
from functools import cache
from typing import Any

import pytest
from matplotlib.figure import Figure

from bilevel.figures import History, charts, draw, pictures, web
from bilevel.figures.chart import Chart
from bilevel.figures.search import Search
from support import searches

COMMON = ["best_so_far", "parameter_importance", "slices", "parallel_coordinates", "learning_curves", "timeline"]


def png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=40)
    return buffer.getvalue()


@cache
def made() -> dict[str, Search]:
    two = {"loss": "minimize", "cost": "minimize"}
    return {
        **searches.odd(),
        "asha": searches.search(searches.study(40, lost=(5,), broken_at=20)),
        "population": searches.search(searches.population(), None),
        "pareto": searches.search(searches.study(60, objectives=two, rungs=())),
        "limits": searches.search(searches.study(40, limit=0.9, rungs=(), metric="valid/accuracy", minimize=False)),
    }


@pytest.mark.parametrize("name", list(made()))
def test_every_chart_can_be_drawn_both_ways(name: str) -> None:
    found = made()[name]
    for chart in charts(found):
        assert png(pictures.draw(chart)).startswith(b"\x89PNG")
        json.dumps(web.panels(chart), allow_nan=False)
        assert chart.caption.endswith(".")
        assert all(panel.x.title or panel.x.ticks == () for panel in chart.panels)


def test_which_charts_there_are() -> None:
    searched = made()
    assert [chart.name for chart in charts(searched["asha"])] == COMMON
    two = [chart.name for chart in charts(searched["pareto"])]
    assert [name for name in two if name != "slices_2"] == ["best_so_far", "pareto_front", *COMMON[1:]]
    assert two.index("slices_2") == two.index("slices") + 1
    assert "population" in [chart.name for chart in charts(searched["population"])]
    assert charts(searched["none"]) == []
    assert [chart.name for chart in charts(searched["one"])] == ["learning_curves"]


def test_a_search_adds_its_charts_to_the_figures_of_its_best_trial() -> None:
    found = searches.search(searches.study(12))
    best = found.history.best()
    assert best is not None
    reports = {n: [(int(s), {"loss": float(v)}) for s, v in track.curve] for n, track in found.tracks.items()}
    drawn = draw(History(reports, "loss"), found)
    assert list(drawn) == ["learning_curve", *(chart.name for chart in charts(found))]
    axes = drawn["learning_curve"].axes[0]
    assert (axes.get_xlabel(), axes.get_ylabel()) == (f"step of trial {best.number}", "loss")


def test_a_searched_meta_training_keeps_its_words() -> None:
    found = searches.search(searches.study(12))
    tested = {n: [(1, {"train/loss": 2.0}), (2, {"train/loss": 1.0, "test/loss@1": 1.0})] for n in found.tracks}
    axes = draw(History(tested, "loss"), found)["learning_curve"].axes[0]
    assert axes.get_xlabel().startswith("outer step of trial ")
    assert axes.get_ylabel() == "loss (mean over queries)"


def test_the_objective_of_a_trial_has_a_panel_whatever_it_is_called() -> None:
    found = searches.search(searches.study(12, metric="error"))
    reports = {n: [(1, {"loss": 1.0, "error": 0.5}), (2, {"loss": 0.9, "error": 0.4})] for n in found.tracks}
    figure = draw(History(reports, "error"), found)["learning_curve"]
    assert [axes.get_ylabel() for axes in figure.axes] == ["error", "loss"]
    once = {n: [(100, {"error": 0.5})] for n in found.tracks}
    assert "learning_curve" not in draw(History(once, "error"), found)


def test_a_single_trial_adds_none() -> None:
    assert draw(History(), searches.odd()["one"]) == {}


def test_a_picture_has_the_scales_and_names_of_its_chart() -> None:
    found = searches.search(searches.study(40, rungs=()))
    chart = next(chart for chart in charts(found) if chart.name == "slices")
    figure = pictures.draw(chart)
    for axes, panel in zip(figure.axes, chart.panels, strict=False):  # the last axes are the color bar
        assert axes.get_xscale() == ("log" if panel.x.log else "linear")
        assert axes.get_xlabel() == panel.x.title
        assert axes.get_ylabel() == panel.y.title
    texts = [text.get_text() for text in figure.findobj(lambda artist: hasattr(artist, "get_text"))]
    assert chart.title in texts


def traces(chart: Chart) -> list[dict[str, Any]]:
    return [trace for panel in web.panels(chart) for trace in panel["data"]]


def test_a_page_has_the_scales_and_names_of_the_chart() -> None:
    found = searches.search(searches.study(40, rungs=()))
    chart = next(chart for chart in charts(found) if chart.name == "slices")
    for drawn, panel in zip(web.panels(chart), chart.panels, strict=True):
        layout = drawn["layout"]
        assert layout["xaxis"]["type"] == ("log" if panel.x.log else "linear")
        assert layout["xaxis"]["title"]["text"] == panel.x.title
        if panel.x.log and panel.x.span is not None:
            assert layout["xaxis"]["range"] == [math.log10(end) for end in panel.x.span]
            assert layout["xaxis"]["ticktext"]


def test_what_a_user_wrote_is_no_markup() -> None:
    for chart in charts(searches.odd()["choices"]):
        text = json.dumps(web.panels(chart))
        assert "<b>" not in text
        assert "<script" not in text.replace("<br>", "")


def test_the_names_of_a_chart_are_in_its_legend_once() -> None:
    chart = next(chart for chart in charts(searches.search(searches.study(40))) if chart.name == "best_so_far")
    names = [name for _, _, name in web.legend(chart)]
    assert names == ["completed", "stopped early", "best so far"]


@pytest.mark.slow
def test_ten_thousand_trials_stay_small() -> None:
    drawn = {chart.name: len(json.dumps(web.panels(chart))) for chart in charts(searches.large())}
    assert sum(drawn.values()) < 1_200_000
