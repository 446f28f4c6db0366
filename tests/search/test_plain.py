"""Do random, Sobol' and grid search look where they say: anywhere, evenly, and everywhere once?"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bilevel.episodes import Key
from bilevel.search import Grid, Random, Sobol
from bilevel.search.finite import count, grid, values
from bilevel.search.port import Point, Problem, Search, Told
from bilevel.space.dimensions import Dimension, Int, Log, LogInt, Normal, OneOf, Parameter, Uniform

CUBE = tuple(Parameter(name, name, Uniform(0.0, 1.0)) for name in "xyz")
NESTED = (
    Parameter("opt", "opt", OneOf("Sgd", "Adam", "None")),
    Parameter("opt[Sgd].momentum", "opt.momentum", OneOf(0.0, 0.9), when=(("opt", "Sgd"),)),
    Parameter("opt[Adam].beta", "opt.beta", OneOf(0.9, 0.99, 0.999), when=(("opt", "Adam"),)),
    Parameter("opt[Adam].amsgrad", "opt.amsgrad", OneOf(False, True), when=(("opt", "Adam"),)),
    Parameter("depth", "depth", Int(1, 2)),
)


def asked(search: Search, parameters: tuple[Parameter, ...], trials: int) -> list[Point]:
    searcher = search.open(Problem(parameters, Key((0,))))
    points: list[Point] = []
    while len(points) < trials and (point := searcher.ask(len(points))) is not None:
        searcher.asked(len(points), point)
        searcher.tell(len(points), point, Told((0.0,)))
        points.append(point)
    return points


def test_random_points_are_uniform_and_independent() -> None:
    places = np.array([list(point.values()) for point in asked(Random(), CUBE, 600)])
    assert all(stats.kstest(column, "uniform").pvalue > 0.01 for column in places.T)
    assert np.abs(np.corrcoef(places.T) - np.eye(3)).max() < 0.12
    assert np.abs(np.corrcoef(places[1:].T, places[:-1].T) - np.eye(6)).max() < 0.15


def test_a_sequence_fills_every_part_once() -> None:
    places = np.array([list(point.values()) for point in asked(Sobol(), CUBE, 128)])
    for column in places.T:  # one in each of 128 equal parts
        assert sorted((column * 128).astype(int)) == list(range(128))


def test_a_grid_goes_through_everything_the_last_value_fastest() -> None:
    points = asked(Grid(points=3), (Parameter("lr", "lr", Log(1e-4, 1.0)), Parameter("n", "n", Int(1, 2))), 99)
    assert [tuple(point.values()) for point in points] == [
        (pytest.approx(rate), n) for rate in (1e-4, 1e-2, 1.0) for n in (1, 2)
    ]


def test_a_grid_leaves_out_what_others_asked_for() -> None:
    searcher = Grid().open(Problem(NESTED[-1:], Key((0,))))
    searcher.asked(0, {"depth": 1})
    assert searcher.ask(1) == {"depth": 2}
    assert not searcher.done
    searcher.asked(1, {"depth": 2})
    assert searcher.ask(2) is None
    assert searcher.done


def test_points_below_a_choice_are_counted_and_gone_through_once() -> None:
    points = asked(Grid(), NESTED, 99)
    assert len(points) == len({str(point) for point in points}) == count(NESTED) == (2 + 6 + 1) * 2
    assert points == list(grid(NESTED))
    assert {str(point) for point in asked(Random(), NESTED, 18)} == {str(point) for point in points}
    assert count(CUBE) is None


@pytest.mark.parametrize(
    ("dimension", "most", "found"),
    [
        (OneOf("a", "b", "c"), 2, ["a", "b", "c"]),
        (Uniform(0.0, 1.0), 3, [0.0, 0.5, 1.0]),
        (Uniform(0.0, 1.0, step=0.5), math.inf, [0.0, 0.5, 1.0]),
        (Log(1.0, 3.0, step=1.0), math.inf, [1.0, 2.0, 3.0]),
        (Int(0, 100), 3, [0, 50, 100]),
        (LogInt(1, 4), math.inf, [1, 2, 3, 4]),
        (LogInt(1, 100), 3, [1, 7, 100]),
        (Normal(0.0, 1.0), 3, [pytest.approx(-0.9674, abs=1e-4), 0.0, pytest.approx(0.9674, abs=1e-4)]),
        (Log(1.0, 2.0), math.inf, None),
    ],
    ids=repr,
)
def test_the_values_of_a_dimension(dimension: Dimension, most: float, found: list[object] | None) -> None:
    assert values(dimension, most) == found


def test_billions_of_whole_numbers_are_counted_without_being_listed() -> None:
    space = (Parameter("key", "key", Int(0, 2**31 - 1)), Parameter("n", "n", LogInt(1, 10**9)))
    assert count(space) == 2**31 * 10**9
    assert count(space, most=7) == 49


def test_a_large_finite_space_is_not_listed() -> None:
    wide = tuple(Parameter(f"n{i}", f"n{i}", Int(1, 1000)) for i in range(6))
    assert count(wide) == 10**18
    assert len({str(point) for point in asked(Random(), wide, 50)}) == 50
