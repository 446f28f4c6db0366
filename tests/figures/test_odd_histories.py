"""Is there a picture of every history that a journal can hold, up to the limits of floats?"""

from __future__ import annotations

import io
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from bilevel.figures import charts, draw, importance, pictures, web
from bilevel.figures.chart import Axis, Chart
from bilevel.figures.scales import log_ticks, spread
from bilevel.view import tables
from support import odd

NAMES = list(odd.tried())


@pytest.fixture(autouse=True)
def _few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importance, "SAMPLES", 4)
    monkeypatch.setattr(importance, "TREES", 2)


def safe(axis: Axis) -> bool:
    """Whether who draws can add margins to its ends and raise them to powers."""
    if axis.span is None:
        return True
    low, high = (float(end) for end in axis.span)
    exponents = np.log10(np.abs(axis.span)) if axis.log else np.zeros(2)
    return bool(np.isfinite([low, high, high - low]).all() and high != low and np.abs(exponents).max() <= 201)


def check(chart: Chart) -> None:
    for panel in chart.panels:
        assert safe(panel.x), (chart.name, panel.x)
        assert safe(panel.y), (chart.name, panel.y)
        for layer in panel.layers:
            drawn = np.concatenate([layer.x, layer.y])
            assert np.abs(drawn[np.isfinite(drawn)], dtype=float).max(initial=0.0) <= 1e201
    json.dumps(web.panels(chart), allow_nan=False)


@pytest.mark.parametrize("name", NAMES)
def test_every_history_has_its_charts_and_reads_as_text(name: str) -> None:
    found = odd.search(odd.tried()[name])
    drawn = charts(found)
    for chart in drawn:
        check(chart)
    assert drawn or name == "none"
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(tables.search(found))
    assert f"{len(found.history.trials)} trials" in console.export_text()


def test_there_are_forty() -> None:
    assert len(NAMES) == 40


def test_a_bootstrap_sample_that_has_all_trials_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importance, "SAMPLES", 40)
    monkeypatch.setattr(importance, "TREES", 1)
    found = importance.importance(odd.search(odd.tried()["ten of two values"]))
    assert found is not None
    assert len(found.shares) == 2


@pytest.mark.parametrize("name", ["from least to most", "both signs", "all least"])
def test_what_is_near_the_limits_of_floats_is_drawn_by_matplotlib(name: str) -> None:
    found = odd.search(odd.tried()[name])
    chart = next(chart for chart in charts(found) if chart.name == "best_so_far")
    pictures.draw(chart).draw_without_rendering()


def test_a_single_diverging_training_is_drawn() -> None:
    of = odd.tried()["one, diverging"]
    (figure,) = draw(odd.history(of), odd.search(of)).values()
    figure.draw_without_rendering()
    assert figure.axes[0].get_ylabel() == "log10 of loss"


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_every_history_is_drawn_by_matplotlib(part: int, tmp_path: Path) -> None:
    for name in NAMES[part::4]:
        of = odd.tried()[name]
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph")
            for figure in draw(odd.history(of), odd.search(of)).values():
                figure.savefig(tmp_path / "figure.png", dpi=40)


@pytest.mark.slow
def test_ten_thousand_trials_are_drawn(tmp_path: Path) -> None:
    for chart in charts(odd.large()):
        check(chart)
        pictures.draw(chart).savefig(tmp_path / "figure.png", dpi=40)


@pytest.mark.parametrize("values", [[odd.MOST] * 3, [-odd.MOST, odd.MOST], [odd.LEAST, odd.MOST], [1e16, 1e16 + 2]])
def test_an_axis_shows_what_lies_on_it(values: list[float]) -> None:
    axis, drawn = spread("loss", np.array(values))
    assert axis.span is not None
    assert np.all((drawn >= axis.span[0]) & (drawn <= axis.span[1]))
    assert len(set(drawn.tolist())) == len(set(values))


def test_a_chart_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any) -> None:
        raise OverflowError("too large")

    monkeypatch.setattr("bilevel.figures.gallery.slices", fails)
    missing: dict[str, Exception] = {}
    found = odd.search(odd.tried()["all equal"])
    assert [chart.name for chart in charts(found, None, missing.setdefault)] == ["best_so_far", "timeline"]
    assert list(missing) == ["slices"]
    with pytest.raises(OverflowError):
        charts(found)


def test_ticks_up_to_the_limits() -> None:
    assert log_ticks(odd.LEAST, odd.MOST)
    assert all(np.isfinite(place) for place, _ in log_ticks(1e300, odd.MOST))
