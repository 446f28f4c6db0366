"""Does a population copy whom, and explore how, its definition says; and is it worth it?"""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bilevel.episodes import Key
from bilevel.errors import BadInput
from bilevel.search.pbt import PBT, perturbed
from bilevel.search.port import Point, Population, Problem, Told
from bilevel.space.dimensions import Dimension, Int, Log, LogInt, LogNormal, Normal, OneOf, Parameter, Uniform

DIMENSIONS: dict[str, Dimension] = {
    "uniform": Uniform(-1.0, 3.0),
    "grid": Uniform(0.0, 1.0, step=0.25),
    "log": Log(1e-4, 1e-1),
    "log-grid": Log(1.0, 9.0, step=0.5),
    "int": Int(-3, 9),
    "even": Int(2, 20, step=3),
    "log-int": LogInt(1, 300),
    "normal": Normal(1.0, 2.0),
    "log-normal": LogNormal(0.0, 1.0),
    "ordered": OneOf(8, 16, 32, 64, ordered=True),
    "word": OneOf("relu", "gelu", "tanh"),
}
NESTED = (
    Parameter("opt", "opt", OneOf("Sgd", "Adam")),
    Parameter("opt[Sgd].lr", "opt.lr", Log(1e-3, 1.0), when=(("opt", "Sgd"),)),
    Parameter("opt[Adam].lr", "opt.lr", Log(1e-5, 1e-1), when=(("opt", "Adam"),)),
    Parameter("opt[Adam].amsgrad", "opt.amsgrad", OneOf(False, True), when=(("opt", "Adam"),)),
    Parameter("steps", "steps", Int(1, 5)),
)


def problem(*parameters: Parameter, seed: int = 0, **more: Any) -> Problem:
    return Problem(parameters, Key((seed,)).child("search"), **more)


def flat() -> tuple[Parameter, ...]:
    return tuple(Parameter(name, name, dimension) for name, dimension in DIMENSIONS.items())


def started(population: Population) -> dict[int, Point]:
    points: dict[int, Point] = {}
    while not population.done:
        point = population.ask(len(points))
        assert point is not None
        population.asked(len(points), point)
        points[len(points)] = point
    return points


def valid(parameters: tuple[Parameter, ...], point: Point) -> bool:
    wanted = {parameter.name for parameter in parameters if parameter.active(point)}
    inside = all(p.dimension.contains(point[p.name]) for p in parameters if p.name in point)
    return set(point) == wanted and inside


# -- who begins --------------------------------------------------------------------------------------------------------


def test_members_begin_spread_out() -> None:
    """A Latin hypercube: of each parameter one member in each quarter."""
    parameters = (Parameter("lr", "lr", Log(1e-4, 1.0)), Parameter("p", "p", Uniform(0.0, 1.0)))
    points = started(PBT(every=5).open(problem(*parameters)))
    assert len(points) == 4
    for parameter in parameters:
        places = [parameter.dimension.encode(point[parameter.name]) for point in points.values()]
        assert sorted(int(place * 4) for place in places) == [0, 1, 2, 3]


def test_a_good_guess_begins() -> None:
    lr = Parameter("lr", "lr", Log(1e-4, 1.0, center=0.01))
    points = started(PBT(every=5).open(problem(lr, Parameter("steps", "steps", Int(1, 9)))))
    assert points[0] == {"lr": 0.01, "steps": 5}
    assert sorted(int(lr.dimension.encode(points[n]["lr"]) * 3) for n in (1, 2, 3)) == [0, 1, 2]


@pytest.mark.parametrize("parameters", [flat(), NESTED], ids=["flat", "nested"])
def test_points_are_valid_from_the_first_to_the_last(parameters: tuple[Parameter, ...]) -> None:
    population = PBT(members=8, every=1).open(problem(*parameters))
    points = started(population)
    draws = np.random.default_rng(0)
    for turn in range(100):
        assert all(valid(parameters, point) for point in points.values())
        moves = population.turn(turn, dict(enumerate(draws.random(8))), points)
        assert len(moves) == 2
        points |= {member: move.point for member, move in moves.items()}


def test_it_is_done_when_all_have_begun_and_one_that_was_refused_is_replaced() -> None:
    population = PBT(members=3, every=1).open(problem(*flat()))
    asked: list[Point] = []
    for number in range(3):
        point = population.ask(number)
        assert point is not None
        assert population.ask(number) == point
        asked.append(point)
        population.asked(number, point)
    assert population.done
    assert population.ask(3) is None
    population.tell(1, asked[1], Told((0.5,), step=7))
    population.tell(2, asked[2], Told(None, step=7))  # failed on its way: it was a member
    assert population.done
    population.tell(0, asked[0], Told(None))
    another = population.ask(3)
    assert another is not None
    assert another not in asked


# -- who copies whom ---------------------------------------------------------------------------------------------------


@given(
    st.lists(st.floats(-9, 9) | st.just(math.nan) | st.just(math.inf), min_size=1, max_size=20),
    st.floats(0.01, 0.5),
    st.integers(0, 9),
)
def test_the_worst_quantile_copies_one_of_the_best(values: list[float], quantile: float, turn: int) -> None:
    lr = Parameter("lr", "lr", Log(1e-4, 1.0))
    population = PBT(members=20, every=1, quantile=quantile).open(problem(lr))
    finite = sorted(value for value in values if math.isfinite(value))
    many = min(max(1, int(quantile * len(values))), len(values) // 2)
    moves = population.turn(turn, dict(enumerate(values)), {member: {"lr": 0.01} for member in range(len(values))})
    for member, move in moves.items():
        assert values[move.donor] in finite[:many]
        assert not values[member] <= values[move.donor]
        assert move.donor not in moves
    diverged = {member for member, value in enumerate(values) if not math.isfinite(value)}
    assert diverged <= set(moves) or not finite or len(values) == 1
    moved = [value for member, value in enumerate(values) if member in moves and member not in diverged]
    assert len(moved) <= max(0, many - len(diverged))
    if len(set(finite)) == len(values) > 1:
        assert sorted(moved) == finite[len(values) - many :]


def test_the_donor_is_chosen_by_lot_among_the_best() -> None:
    population = PBT(members=8, every=1).open(problem(*flat()))
    points = started(population)
    donors = Counter(
        move.donor
        for turn in range(200)
        for move in population.turn(turn, {n: float(n) for n in points}, points).values()
    )
    assert set(donors) == {0, 1}
    assert abs(donors[0] - 200) < 60


def test_nobody_copies_an_equal() -> None:
    population = PBT(every=1).open(problem(*flat()))
    points = started(population)
    assert population.turn(0, dict.fromkeys(points, 1.0), points) == {}


def test_who_is_left_alone_goes_on() -> None:
    population = PBT(every=1).open(problem(*flat()))
    assert population.turn(3, {2: math.nan}, {2: {}}) == {}
    assert population.turn(3, {}, {}) == {}


def test_a_turn_is_a_pure_function() -> None:
    points = started(PBT(members=8, every=1).open(problem(*flat())))
    values = {member: float(member) for member in points}
    one = PBT(members=8, every=1).open(problem(*flat()))
    first = one.turn(5, values, points)
    one.turn(6, values, points)
    assert one.turn(5, values, points) == first
    fresh = PBT(members=8, every=1).open(problem(*flat()))
    assert fresh.turn(5, dict(reversed(values.items())), dict(reversed(points.items()))) == first
    assert fresh.turn(6, values, points) != first
    assert PBT(members=8, every=1).open(problem(*flat(), seed=1)).turn(5, values, points) != first


# -- how they explore --------------------------------------------------------------------------------------------------


def explored(parameter: Parameter, value: Any, times: int = 400, **options: Any) -> list[Any]:
    population = PBT(every=1, **options).open(problem(parameter))
    points = {member: {parameter.name: value} for member in range(4)}
    return [
        population.turn(turn, {0: 0.0, 1: 1.0, 2: 2.0, 3: 3.0}, points)[3].point[parameter.name]
        for turn in range(times)
    ]


def test_rates_are_multiplied_by_the_factors() -> None:
    found = Counter(explored(Parameter("lr", "lr", Log(1e-4, 1e-1)), 1e-2, resample=0.0))
    assert sorted(found) == pytest.approx([0.8e-2, 1.25e-2])
    assert min(found.values()) > 150
    assert set(explored(Parameter("lr", "lr", Log(1e-4, 1e-1)), 1e-2, resample=0.0, factors=(2,))) == {2e-2}


def test_linear_scales_move_by_part_of_their_range() -> None:
    found = explored(Parameter("p", "p", Uniform(-2.0, 2.0)), 0.0, resample=0.0)
    assert sorted(set(found)) == pytest.approx([-2 * math.log(1.25), 2 * math.log(1.25)])


@pytest.mark.parametrize(
    ("name", "value", "near"),
    [
        ("int", 0, {-1, 1}),
        ("int", 9, {8, 9}),
        ("even", 8, {5, 11}),
        ("grid", 0.5, {0.25, 0.75}),
        ("ordered", 16, {8, 32}),
        ("ordered", 64, {32, 64}),
        ("log-int", 1, {1, 2}),
        ("log-int", 2, {1, 3}),
        ("log-int", 100, {80, 125}),
        ("log-int", 300, {240, 300}),
        ("log-grid", 1.0, {1.0, 1.5}),
        ("log-grid", 8.0, {6.5, 9.0}),
        ("word", "gelu", {"gelu"}),
        ("log", 1e-1, {0.8e-1, 1e-1}),
        ("log", 1e-4, {1e-4, 1.25e-4}),
        ("uniform", 3.0, {3.0, 3.0 - 2 * math.log(1.25)}),
    ],
)
def test_neighbors_are_one_step_away_and_within_bounds(name: str, value: Any, near: set[Any]) -> None:
    found = {perturbed(DIMENSIONS[name], value, factor) for factor in (0.8, 1.25)}
    if all(isinstance(option, float) for option in near):
        assert sorted(found) == pytest.approx(sorted(near))
    else:
        assert found == near
    assert {type(option) for option in found} == {type(value)}


@pytest.mark.parametrize("name", DIMENSIONS)
@given(place=st.floats(0, 1), factor=st.floats(0.1, 10).filter(lambda factor: factor != 1))
def test_perturbed_values_are_valid_and_on_the_right_side(name: str, place: float, factor: float) -> None:
    dimension = DIMENSIONS[name]
    value = dimension.decode(place)
    near = perturbed(dimension, value, factor)
    assert dimension.contains(near)
    if isinstance(value, str):
        assert near == value
    else:
        slack = 1e-9 * max(1.0, abs(value))
        assert near >= value - slack if factor > 1 else near <= value + slack


def test_values_are_drawn_anew_as_often_as_said() -> None:
    lr = Parameter("lr", "lr", Log(1e-4, 1e-1))
    found = explored(lr, 1e-2, resample=0.3)
    anew = [value for value in found if value not in (1e-2 * 0.8, 1e-2 * 1.25)]
    assert abs(len(anew) - 120) < 40
    places = [lr.dimension.encode(value) for value in anew]
    assert min(places) < 0.1
    assert max(places) > 0.9


def test_choices_are_drawn_anew_or_left() -> None:
    word = Parameter("word", "word", DIMENSIONS["word"])
    assert set(explored(word, "gelu", resample=0.0)) == {"gelu"}
    found = Counter(explored(word, "gelu", resample=0.3))
    assert set(found) == {"relu", "gelu", "tanh"}
    assert found["gelu"] > 250


def test_what_is_fixed_travels_with_the_donor() -> None:
    width = Parameter("width", "width", LogInt(16, 256), shapes=True)
    lr = Parameter("lr", "lr", Log(1e-4, 1e-1))
    population = PBT(every=1, fixed=("width",), resample=1.0).open(problem(width, lr))
    points = started(population)
    assert len({point["width"] for point in points.values()}) == 4
    for turn in range(50):
        ((member, move),) = population.turn(turn, {0: 3.0, 1: 0.0, 2: 1.0, 3: 2.0}, points).items()
        assert (member, move.donor, move.point["width"]) == (0, 1, points[1]["width"])
        assert move.point["lr"] != points[1]["lr"]


def test_a_choice_of_spaces_travels_and_what_is_below_it_is_explored() -> None:
    population = PBT(every=1, resample=0.5).open(problem(*NESTED))
    adam = {"opt": "Adam", "opt[Adam].lr": 1e-3, "opt[Adam].amsgrad": False, "steps": 3}
    sgd = {"opt": "Sgd", "opt[Sgd].lr": 0.1, "steps": 2}
    points = {0: sgd, 1: sgd, 2: sgd, 3: adam}
    found = [population.turn(turn, {0: 9.0, 1: 2.0, 2: 3.0, 3: 1.0}, points)[0].point for turn in range(50)]
    assert {point["opt"] for point in found} == {"Adam"}
    assert all(set(point) == set(adam) for point in found)
    assert all(point["opt[Adam].lr"] != 1e-3 for point in found)
    assert {point["opt[Adam].amsgrad"] for point in found} == {False, True}


# -- is it worth it ----------------------------------------------------------------------------------------------------


def climb(turns: int, exploit: bool, explore: bool = True) -> float:
    """The toy of Jaderberg et al. 2017, figure 2, with its constants: two members, Q = 1.2 - |theta|^2.

    A member climbs the surrogate 1.2 - h . theta^2 from (0.9, 0.9); with h = (1, 0) or (0, 1) it sees one axis alone.
    One begins a hair's breadth behind: nobody copies an equal.
    """
    parameters = tuple(Parameter(name, name, Uniform(0.0, 1.0)) for name in ("h0", "h1"))
    options = PBT(members=2, every=4, resample=0.25) if explore else PBT(members=2, every=4, fixed=("h0", "h1"))
    population = options.open(problem(*parameters))
    points: dict[int, Point] = {0: {"h0": 1.0, "h1": 0.0}, 1: {"h0": 0.0, "h1": 1.0}}
    thetas = {0: np.array([0.9, 0.9]), 1: np.array([0.9, 0.9 + 1e-6])}
    costs: dict[int, float] = {}
    for turn in range(turns):
        for member, point in points.items():
            for _ in range(population.every):
                thetas[member] = thetas[member] * (1 - 2 * 0.01 * np.array([point["h0"], point["h1"]]))
            costs[member] = float(thetas[member] @ thetas[member]) - 1.2
        if exploit:
            moves = population.turn(turn, costs, points)
            thetas |= {member: thetas[move.donor] for member, move in moves.items()}
            points |= {member: move.point for member, move in moves.items()}
    return -min(costs.values())


def test_the_population_solves_the_toy_of_the_paper_and_no_single_member_does() -> None:
    assert climb(50, exploit=True) > 1.15  # the optimum is 1.2
    assert climb(50, exploit=False) < 0.4  # 1.2 - 0.81, of one axis
    assert climb(50, exploit=True, explore=False) < 0.4


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"members": 1}, "members=1"),
        ({"every": 0}, "every=0"),
        ({"every": 2.5}, "every=2.5"),
        ({"by": ""}, "by=''"),
        ({"quantile": 0.0}, "quantile=0.0"),
        ({"quantile": 0.6}, "quantile=0.6"),
        ({"resample": 1.5}, "resample=1.5"),
        ({"factors": (1.0,)}, r"factors=\(1.0,\)"),
        ({"factors": ()}, r"factors=\(\)"),
        ({"factors": 0.8}, "factors=0.8"),
        ({"fixed": "width"}, r"fixed='width'; it takes names, as \('width',\)"),
    ],
)
def test_bad_options_are_named(options: dict[str, Any], named: str) -> None:
    with pytest.raises(BadInput, match=f"PBT: {named}"):
        PBT(**{"every": 5, **options})


def test_what_it_cannot_search_is_refused_with_the_cure() -> None:
    width, lr = Parameter("width", "width", LogInt(16, 256), shapes=True), Parameter("lr", "lr", Log(1e-4, 1e-1))
    pbt = PBT(every=5)
    with pytest.raises(BadInput, match=r"PBT: width changes the shapes .* TPE\(\), or write fixed=\('width',\)"):
        pbt.open(problem(lr, width))
    with pytest.raises(BadInput, match="not 2; keep one, or use NSGA2"):
        pbt.open(problem(lr, objectives=2))
    with pytest.raises(BadInput, match="leave limits out"):
        pbt.open(problem(lr, constrained=True))
    with pytest.raises(BadInput, match=r"trials=20, but its trials are its members=4; .* members=20"):
        pbt.open(problem(lr, trials=20))
    with pytest.raises(BadInput, match="fixed='momentum' is not searched; searched are lr"):
        PBT(every=5, fixed=("momentum",)).open(problem(lr))
    assert pbt.open(problem(lr, trials=pbt.trials)).members == 4
