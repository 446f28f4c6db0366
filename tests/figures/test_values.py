"""Do the charts of searched values show them where they lie?"""

from __future__ import annotations

import numpy as np
import pytest

from bilevel.figures.chart import Layer, Panel, distinct, number, short, thin
from bilevel.figures.importance import importance
from bilevel.figures.scales import even_ticks, hours, log_ticks, spread
from bilevel.figures.values import ASIDE, AXES, BARS, importance_chart, ordered, parallel_coordinates, slices
from bilevel.space.dimensions import LogInt, OneOf
from support import searches


def named(panel: Panel, name: str) -> list[Layer]:
    return [layer for layer in panel.layers if layer.name == name]


def test_a_slice_has_the_scale_of_its_dimension() -> None:
    found = searches.search(searches.study(40, rungs=()))
    chart = slices(found, None)
    assert chart is not None
    axes = {panel.x.title: panel.x for panel in chart.panels}
    assert list(axes) == [parameter.name for parameter in searches.MLP]
    assert {name for name, axis in axes.items() if axis.log} == {"lr", "width"}
    assert axes["act"].ticks == ((0.0, "relu"), (1.0, "gelu"), (2.0, "tanh"))
    assert axes["layers"].whole
    assert all(panel.y == chart.panels[0].y for panel in chart.panels)


def test_a_slice_holds_every_trial_at_its_value() -> None:
    found = searches.search(searches.study(40, rungs=(3, 9)))
    chart = slices(found, None)
    assert chart is not None
    rates, momenta = chart.panels[0], next(p for p in chart.panels if p.x.title == "opt[Sgd].momentum")
    for layer in rates.layers:
        assert layer.trials is not None
        for x, trial in zip(layer.x, layer.trials, strict=True):
            assert x == found.history.trials[int(trial)].point["lr"]
    sgd = {trial.number for trial in found.trials if trial.point["opt"] == "Sgd"}
    assert {int(n) for layer in momenta.layers if layer.trials is not None for n in layer.trials} == sgd
    best = found.history.best()
    assert best is not None
    (ring,) = named(rates, "the best")
    assert (ring.x[0], ring.y[0]) == (best.point["lr"], best.objective)


def test_failures_lie_at_the_bad_edge() -> None:
    for minimize in (True, False):
        found = searches.search(searches.study(60, rungs=(), minimize=minimize))
        chart = slices(found, None)
        assert chart is not None
        panel = chart.panels[0]
        (failed,) = named(panel, "failed (at the edge)")
        assert len(failed.x) == found.history.ended["failed"]
        (done,) = named(panel, "completed")
        assert failed.y.min() >= done.y.max() if minimize else failed.y.max() <= done.y.min()
        assert failed.x.min() > 0.4  # that is why they failed


def test_the_most_important_value_comes_first() -> None:
    found = searches.search(searches.study(100, rungs=()))
    matters = importance(found)
    assert ordered(found, matters)[0].name == "lr"
    chart = importance_chart(matters)
    assert chart is not None
    (bars,) = chart.panels[0].layers
    assert bars.x.tolist() == sorted(bars.x.tolist(), reverse=True)
    assert chart.panels[0].y.ticks is not None
    assert chart.panels[0].y.ticks[0][1] == "lr"
    assert "permutation" in chart.caption
    assert "80 % interval" in chart.caption


def test_no_chart_says_what_cannot_be_told() -> None:
    assert importance_chart(None) is None
    chart = importance_chart(importance(searches.odd()["constant"]))
    assert chart is not None
    assert chart.caption.startswith("These trials do not tell")


def test_parallel_lines_run_through_the_encoded_values() -> None:
    found = searches.search(searches.study(30, rungs=()))
    chart = parallel_coordinates(found, None)
    assert chart is not None
    (panel,) = chart.panels
    lines = [layer for layer in panel.layers if layer.shade is not None]
    seen = {}
    for layer in lines:
        assert layer.trials is not None
        parts = np.flatnonzero(np.isnan(layer.x))
        for start, end in zip([0, *(parts[:-1] + 1)], parts, strict=True):
            seen[int(layer.trials[start])] = layer.x[start:end]
    assert set(seen) == {trial.number for trial in found.valued()}
    for trial, x in seen.items():
        point = found.history.trials[trial].point
        for place, parameter in zip(x, searches.MLP, strict=False):
            there = parameter.name in point
            assert place == (parameter.dimension.encode(point[parameter.name]) if there else ASIDE)
    values = {trial: float(found.history.trials[trial].objective or 0) for trial in seen}
    assert seen[min(values, key=values.__getitem__)][-1] == 0.0
    assert seen[max(values, key=values.__getitem__)][-1] == 1.0
    best = lines[-1]
    assert best.shade is not None
    assert best.shade.tolist() == [1.0]
    assert best.trials is not None
    assert min(values, key=values.__getitem__) in best.trials


def test_ticks_of_a_log_axis_are_powers() -> None:
    chart = parallel_coordinates(searches.search(searches.study(30, rungs=())), None)
    assert chart is not None
    words = [layer.words for layer in chart.panels[0].layers if layer.kind == "words"]
    assert ("1e-5", "0.0001", "0.001", "0.01", "0.1", "1") in words
    assert ("20", "50", "100", "200", "500") in words


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (1e-5, 1.0, ["1e-5", "0.0001", "0.001", "0.01", "0.1", "1"]),
        (1e-12, 1.0, ["1e-12", "1e-9", "1e-6", "0.001", "1"]),
        (0.0035, 0.6, ["0.01", "0.03", "0.1", "0.3"]),
        (0.02, 0.6, ["0.02", "0.05", "0.1", "0.2", "0.5"]),
        (3.0, 4.0, ["3", "3.25", "3.5", "3.75", "4"]),
    ],
)
def test_log_ticks(low: float, high: float, words: list[str]) -> None:
    assert [word for _, word in log_ticks(low, high)] == words


def test_even_ticks_are_round_and_inside() -> None:
    assert even_ticks(0.0, 1.0) == ((0.0, "0"), (0.25, "0.25"), (0.5, "0.5"), (0.75, "0.75"), (1.0, "1"))
    assert even_ticks(2.0, 2.0) == ((2.0, "2"),)
    ticks = even_ticks(-13.2, 118.0)
    assert [place for place, _ in ticks] == [0.0, 50.0, 100.0]


def test_far_outliers_on_the_bad_side_lie_at_the_edge_and_are_counted() -> None:
    axis, drawn = spread("loss", np.array([-1.0, 0.0, 1.0, 2.0, 1e9]))
    assert axis.title == "loss (1 beyond the edge)"
    assert axis.span is not None
    assert drawn.max() < 20
    assert drawn[:4].tolist() == [-1.0, 0.0, 1.0, 2.0]
    good, kept = spread("loss", np.array([-1e9, 0.0, 1.0, 2.0, 3.0]))
    assert good.title == "loss"
    assert kept[0] == -1e9
    assert spread("loss", np.array([0.01, 1.0]))[0].log
    assert not spread("loss", np.array([0.0, 1.0]))[0].log


def test_thinning_keeps_what_is_named_and_the_order() -> None:
    kept = thin(1000, 50, [999, 3])
    assert len(kept) == 50
    assert {3, 999} <= set(kept.tolist())
    assert kept.tolist() == sorted(set(kept.tolist()))
    assert thin(5, 50).tolist() == [0, 1, 2, 3, 4]


def test_words() -> None:
    assert [number(v) for v in (0.001, 1e-5, 20.0, 3e6, -0.5)] == ["0.001", "1e-5", "20", "3e6", "-0.5"]
    assert short("optimizer.schedule.warmup", 12) == "opti….warmup"
    assert distinct(["a" * 30 + "x" + "b" * 9, "a" * 30 + "y" + "b" * 9], 12) == ["aaa…bbbbb 1", "aaa…bbbbb 2"]
    assert [hours(s)[1] for s in (10, 1000, 100_000)] == ["s", "min", "h"]


def test_a_choice_with_many_options_shows_some_of_their_names() -> None:
    many = (searches.MLP[0], searches.Parameter("pick", "pick", OneOf(*(f"option{i}" for i in range(30)))))
    found = searches.search(searches.study(40, many, lambda p: p["lr"], rungs=()), many)
    chart = slices(found, None)
    assert chart is not None
    ticks = chart.panels[1].x.ticks
    assert ticks is not None
    assert 5 <= len(ticks) <= 10


def test_whole_numbers_on_a_log_scale() -> None:
    space = (searches.MLP[0], searches.Parameter("n", "n", LogInt(1, 3)))
    found = searches.search(searches.study(20, space, lambda p: p["lr"], rungs=()), space)
    chart = parallel_coordinates(found, None)
    assert chart is not None
    assert any(layer.words == ("1", "2") or "1" in layer.words for layer in chart.panels[0].layers)


def test_an_axis_is_logarithmic_only_where_that_tells_good_values_apart() -> None:
    accuracies = np.append(np.linspace(0.92, 0.97, 30), [0.05, 0.1])
    axis, _ = spread("accuracy", accuracies, minimize=False)
    assert not axis.log
    assert axis.span is not None
    assert axis.span[0] > 0.7
    assert axis.title == "accuracy (2 beyond the edge)"
    errors, _ = spread("error", np.append(np.linspace(0.03, 0.05, 30), 0.9))
    assert not errors.log
    assert errors.span is not None
    assert errors.span[1] < 0.15
    assert spread("loss", np.geomspace(1e-4, 1.0, 30))[0].log
    assert spread("throughput", np.geomspace(1.0, 1e4, 30), minimize=False)[0].log


def test_what_a_figure_leaves_out_is_said() -> None:
    found = searches.odd()["forty"]
    known = importance(found)
    assert known is not None
    bars, lines = importance_chart(known), parallel_coordinates(found, known)
    assert bars is not None
    assert lines is not None
    assert f"({len(known.shares) - BARS} shorter ones are not shown)." in bars.caption or not known.telling
    assert lines.caption.endswith(f"({len(known.shares) - AXES} less important values are not shown).")
