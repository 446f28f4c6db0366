"""Does every search keep the port's promises: the same decisions again, valid points, the budget spent, no NaN?"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from bilevel.episodes import Key
from bilevel.errors import BadInput
from bilevel.search import CMAES, GP, NSGA2, PBT, TPE, Grid, Random, Sobol
from bilevel.search.port import Point, Problem, Search, Searcher, Told
from bilevel.space.dimensions import Int, Log, LogInt, LogNormal, Normal, OneOf, Parameter, Uniform

TRIALS = 12


@dataclass(frozen=True)
class Case:
    """A search, and what is special about it."""

    search: Search
    population: bool = False  # as many trials as members, all at once
    trials: int = TRIALS  # it is asked for


CASES = {
    "random": Case(Random()),
    "sobol": Case(Sobol()),
    "grid": Case(Grid(points=3)),
    "tpe": Case(TPE(startup=4)),
    "gp": Case(GP(startup=4), trials=7),
    "cmaes": Case(CMAES(population=4)),
    "nsga2": Case(NSGA2(population=4)),
    "pbt": Case(PBT(members=TRIALS, every=1), population=True),
}

FLAT = (
    Parameter("uniform", "uniform", Uniform(-1.0, 3.0)),
    Parameter("half", "half", Uniform(0.0, 2.0, step=0.5)),
    Parameter("log", "log", Log(1e-5, 1e-1)),
    Parameter("rounded", "rounded", Log(1.0, 9.0, step=0.5)),
    Parameter("int", "int", Int(2, 20, step=3)),
    Parameter("width", "width", LogInt(1, 300)),
    Parameter("normal", "normal", Normal(1.0, 2.0)),
    Parameter("positive", "positive", LogNormal(0.0, 1.0)),
    Parameter("batch", "batch", OneOf(8, 16, 32, 64, ordered=True)),
    Parameter("act", "act", OneOf("relu", "gelu", None)),
    Parameter("bias", "bias", OneOf(False, True)),
    Parameter("fixed", "fixed", OneOf("only")),
)
CONDITIONAL = (
    Parameter("opt", "opt", OneOf("Sgd", "Adam")),
    Parameter("opt[Sgd].lr", "opt.lr", Log(1e-3, 1.0), when=(("opt", "Sgd"),)),
    Parameter("opt[Adam].lr", "opt.lr", Log(1e-5, 1e-1), when=(("opt", "Adam"),)),
    Parameter("opt[Adam].amsgrad", "opt.amsgrad", OneOf(False, True), when=(("opt", "Adam"),)),
    Parameter("steps", "steps", Int(1, 5)),
)
FINITE = (
    Parameter("batch", "batch", OneOf(8, 16, 32, ordered=True)),
    Parameter("act", "act", OneOf("relu", "gelu")),
    Parameter("depth", "depth", Int(1, 2)),
)  # 12 points
SPACES = {"flat": FLAT, "conditional": CONDITIONAL, "finite": FINITE, "one": FLAT[2:3]}

Calls = list[tuple[str, tuple[Any, ...]]]


@dataclass
class Talk:
    """What was asked and told."""

    points: list[Point] = field(default_factory=list)
    calls: Calls = field(default_factory=list)


def result(number: int, point: Point) -> Told:
    """What comes of a trial: some fail, some are stopped, some break a limit."""
    value = sum(hash_of(name, v) for name, v in point.items())
    if number % 7 == 3:
        return Told(None)
    if number % 7 == 5:
        return Told((value,), step=2, stopped=True, curve=((1, value + 1), (2, value)))
    return Told((value,), step=9, violation=0.5 if number % 7 == 6 else 0.0)


def hash_of(name: str, value: Any) -> float:
    number = value if isinstance(value, int | float) else len(str(value))
    return float(np.tanh(number + len(name)))


def talk(searcher: Searcher, *, slots: int = 1, trials: int = TRIALS, tell: Any = result) -> Talk:
    """Ask and tell with so many trials in flight; the oldest ends first, except every third time."""
    said, out = Talk(), list[tuple[int, Point]]()
    while len(said.points) < trials:
        number = len(said.points)
        point = searcher.ask(number) if len(out) < slots else None
        if point is not None:
            searcher.asked(number, point)
            said.calls.append(("asked", (number, point)))
            said.points.append(point)
            out.append((number, point))
        elif out:
            ended = out.pop(-1 if number % 3 == 2 else 0)
            told = (*ended, tell(*ended))
            searcher.tell(*told)
            said.calls.append(("tell", told))
        else:
            break
    return said


def problem(parameters: tuple[Parameter, ...], **more: Any) -> Problem:
    return Problem(parameters, Key((3,)).child("search"), **{"trials": TRIALS, **more})


def opened(case: Case, parameters: tuple[Parameter, ...], **more: Any) -> Searcher:
    """The search for a problem; the test ends where it refuses in the way that it should."""
    try:
        return case.search.open(problem(parameters, **more))
    except BadInput as error:
        refused = str(error)
    assert refused.startswith(f"{type(case.search).__name__}: ")
    assert "; " in refused  # and says what to do
    named = [*("objective" for _ in range(len(more))), *(parameter.name for parameter in parameters)]
    assert any(name in refused for name in named)
    pytest.skip(f"refused: {refused}")


def slots_of(case: Case, slots: int) -> int:
    return TRIALS if case.population else slots


each = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
spaces = pytest.mark.parametrize("parameters", SPACES.values(), ids=SPACES)
flights = pytest.mark.parametrize("slots", [1, 4])


@each
@spaces
@flights
def test_a_search_asks_the_same_again_and_spends_the_budget(
    case: Case, parameters: tuple[Parameter, ...], slots: int, capfd: pytest.CaptureFixture[str]
) -> None:
    before = (random.getstate(), str(np.random.get_state()))
    first = talk(opened(case, parameters), slots=slots_of(case, slots), trials=case.trials)
    again = talk(opened(case, parameters), slots=slots_of(case, slots), trials=case.trials)
    assert first.points == again.points
    complete = case.trials if not isinstance(case.search, Grid) or parameters in (FLAT, CONDITIONAL, FINITE) else 3
    assert len(first.points) == complete
    assert before == (random.getstate(), str(np.random.get_state()))  # nobody else's numbers are drawn
    said = capfd.readouterr()
    assert said.out == said.err == ""


@each
@spaces
@flights
def test_a_search_is_rebuilt_from_the_calls(case: Case, parameters: tuple[Parameter, ...], slots: int) -> None:
    slots = slots_of(case, slots)
    whole = talk(opened(case, parameters), slots=slots, trials=case.trials)
    for cut in (1, len(whole.calls) // 2, len(whole.calls) - 3):
        again = opened(case, parameters)
        asked = 0
        for name, given in whole.calls[:cut]:
            if name == "asked" and given[0] % 2:
                again.ask(given[0])  # a question without an answer changes nothing
            getattr(again, name)(*json.loads(json.dumps(given[:2])), *given[2:])
            asked += name == "asked"
        rest = [given for name, given in whole.calls[cut:] if name == "asked"]
        if whole.calls[cut][0] == "asked":
            assert again.ask(asked) == again.ask(asked) == rest[0][1]


@each
@spaces
def test_points_hold_what_is_there_as_plain_values(case: Case, parameters: tuple[Parameter, ...]) -> None:
    for point in talk(opened(case, parameters), slots=slots_of(case, 2), trials=case.trials).points:
        assert list(point) == [p.name for p in parameters if p.active(point)]
        for parameter in parameters:
            if parameter.name in point:
                value = point[parameter.name]
                assert parameter.dimension.contains(value)
                assert type(value) in (int, float, str, bool, type(None))


@each
@flights
def test_no_point_of_a_finite_space_is_asked_for_twice(case: Case, slots: int) -> None:
    if case.population:
        pytest.skip("members exchange values")
    points = talk(opened(case, FINITE), slots=slots).points
    assert len({json.dumps(point) for point in points}) == len(points) == TRIALS


@each
def test_a_finite_space_may_be_smaller_than_the_budget(case: Case) -> None:
    points = talk(opened(case, FINITE[1:2]), slots=slots_of(case, 1)).points
    assert {point["act"] for point in points} == {"relu", "gelu"}
    assert len(points) == (2 if isinstance(case.search, Grid) else TRIALS)


@each
@spaces
def test_failures_alone_do_not_stop_a_search(case: Case, parameters: tuple[Parameter, ...]) -> None:
    searcher = opened(case, parameters)
    points = talk(searcher, slots=slots_of(case, 1), tell=lambda *_: Told(None, step=1)).points
    assert len(points) == TRIALS or (isinstance(case.search, Grid) and searcher.done)


@each
@spaces
def test_what_others_chose_and_earlier_runs_are_taken_in(case: Case, parameters: tuple[Parameter, ...]) -> None:
    if case.population:
        pytest.skip("members have no history")

    def begun(search: Case) -> Searcher:
        searcher = opened(search, parameters)
        for number, point in enumerate(talk(Random().open(problem(parameters, trials=None)), trials=8).points, 1):
            searcher.tell(-number, point, result(number, point))
        middle = {}
        for parameter in parameters:
            if parameter.active(middle):
                middle[parameter.name] = parameter.dimension.middle
        searcher.asked(0, middle)
        return searcher

    points = []
    for searcher in (begun(case), begun(case)):
        point = searcher.ask(1)
        assert point is not None
        searcher.asked(1, point)
        searcher.tell(0, point, Told((0.5,)))
        searcher.tell(1, point, Told(None))
        points.append([point, searcher.ask(2)])
    assert points[0] == points[1]
    assert points[0][0] != points[0][1] or len(parameters) == 1


@each
@spaces
def test_several_objectives_are_searched_or_refused(case: Case, parameters: tuple[Parameter, ...]) -> None:
    def tell(number: int, point: Point) -> Told:
        told = result(number, point)
        if told.values is None or told.stopped:
            return Told(None)
        return Told((told.values[0], -told.values[0]), step=9, violation=told.violation)

    points = [
        talk(searcher, slots=slots_of(case, 2), trials=case.trials, tell=tell).points
        for searcher in (opened(case, parameters, objectives=2, constrained=True) for _ in range(2))
    ]
    assert points[0] == points[1]


@each
def test_limits_are_told(case: Case) -> None:
    def tell(number: int, point: Point) -> Told:
        return Told((float(point["log"]),), violation=max(0.0, float(np.log10(point["log"])) + 2))

    points = talk(
        opened(case, FLAT[2:3], constrained=True), slots=slots_of(case, 1), trials=case.trials, tell=tell
    ).points
    assert points


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Grid(points=1), "Grid: points=1; it takes a whole number from 2 on"),
        (lambda: TPE(startup=0), "TPE: startup=0; it takes a whole number from 1 on"),
        (lambda: TPE(window=3), "TPE: window=3; it takes a whole number from 50 on"),
        (lambda: GP(window=True), "GP: window=True; it takes a whole number from 20 on"),
        (lambda: NSGA2(population=1), "NSGA2: population=1; it takes a whole number from 2 on"),
        (lambda: CMAES(sigma=0), "CMAES: sigma=0; it takes a part of the range, above 0 and up to 1"),
        (lambda: CMAES(restarts="often"), "CMAES: restarts='often'; it takes 'bipop', 'ipop' or None"),
        (lambda: CMAES(population=3), "CMAES: population=3; it takes a whole number from 4 on, or None"),
        (lambda: CMAES().open(problem(FLAT)), "CMAES: act chooses among 3 values without an order; .* ordered=True"),
        (lambda: CMAES().open(problem(CONDITIONAL)), "CMAES: opt[Sgd].lr is only there where opt is Sgd, .* use TPE()"),
        (lambda: GP().open(problem(CONDITIONAL)), "GP: opt[Sgd].lr is only there where opt is Sgd, .* use TPE()"),
        (lambda: Sobol().open(problem(FLAT[:1] * 21202)), "Sobol: 21202 searched values, .* use Random()"),
    ],
)
def test_what_cannot_work_is_refused_with_field_and_cure(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(BadInput, match=says.replace("[", r"\[").replace("(", r"\(").replace(")", r"\)")):
        make()
