"""Do the searches on Optuna's samplers draw what Optuna draws, from the trials that they say; and do they learn?"""

from __future__ import annotations

import math
import statistics
import sys
from collections.abc import Callable
from typing import Any

import optuna
import pytest
from optuna.trial import FrozenTrial, TrialState, create_trial

from bilevel.episodes import Key
from bilevel.search import GP, NSGA2, TPE, Random
from bilevel.search.optuna_trials import Best, Front, Generations, Memory, Rungs, axis
from bilevel.search.port import Point, Problem, Search, Told
from bilevel.search.samplers import BROKEN, FAILED, aligned, bounded
from bilevel.space.dimensions import Dimension, Int, Log, LogInt, Normal, OneOf, Parameter, Uniform

SQUARE = (Parameter("x", "x", Uniform(-1.0, 1.0)), Parameter("y", "y", Uniform(-1.0, 1.0)))
NESTED = (
    Parameter("opt", "opt", OneOf("Sgd", "Adam")),
    Parameter("opt[Sgd].lr", "opt.lr", Uniform(0.0, 1.0), when=(("opt", "Sgd"),)),
    Parameter("opt[Adam].lr", "opt.lr", Uniform(0.0, 1.0), when=(("opt", "Adam"),)),
)


def bowl(point: Point) -> float:
    return float((point["x"] - 0.6) ** 2 + (point["y"] + 0.3) ** 2)


def branch(point: Point) -> float:
    return abs(point["opt[Adam].lr"] - 0.7) if point["opt"] == "Adam" else 0.3 + point["opt[Sgd].lr"]


def run(
    search: Search,
    parameters: tuple[Parameter, ...],
    tell: Callable[[Point], Any],
    *,
    trials: int,
    seed: int = 0,
    **more: Any,
) -> list[tuple[Point, Told]]:
    searcher = search.open(Problem(parameters, Key((seed,)), **more))
    done = []
    for number in range(trials):
        point = searcher.ask(number)
        assert point is not None
        searcher.asked(number, point)
        told = tell(point)
        done.append((point, told if isinstance(told, Told) else Told((told,))))
        searcher.tell(number, *done[-1])
    return done


def best(done: list[tuple[Point, Told]]) -> float:
    return min(told.values[0] for _, told in done if told.values is not None)


# -- what the samplers see ---------------------------------------------------------------------------------------------


def test_a_point_is_what_optuna_draws_from_the_same_trials() -> None:
    done = run(TPE(), SQUARE, bowl, trials=25)
    study = optuna.create_study(
        sampler=(sampler := optuna.samplers.TPESampler(seed=Key((0,)).child(24).integer() % 2**32))
    )
    flat = optuna.distributions.FloatDistribution(0.0, 1.0)
    for point, told in done[:24]:
        places = {name: (value + 1) / 2 for name, value in point.items()}
        study.add_trial(create_trial(params=places, distributions=dict.fromkeys(places, flat), values=told.values))
    drawn = sampler.sample_relative(study, study.ask()._cached_frozen_trial, {"x": flat, "y": flat})
    assert done[24][0] == {name: pytest.approx(2 * place - 1) for name, place in drawn.items()}


@pytest.mark.parametrize(
    "dimension",
    [
        Uniform(-1.0, 3.0), Uniform(0.0, 1.0, step=0.25), Log(1e-4, 1.0), Log(1.0, 9.0, step=0.5), Int(-3, 12, step=3),
        Int(0, 500), LogInt(1, 20), LogInt(1, 5000), Normal(1.0, 2.0), OneOf(8, 16, 32, ordered=True), OneOf("a", None),
    ],
    ids=repr,
)  # fmt: skip
def test_values_come_back_from_optunas_distributions(dimension: Dimension) -> None:
    known = axis(dimension)
    for place in (0.0, 0.2, 0.5, 0.77, 1.0):
        value = dimension.decode(place)
        inside = known.inside(value)
        assert known.distribution._contains(known.distribution.to_internal_repr(inside))
        again = known.outside(inside)
        assert again == (pytest.approx(value) if isinstance(value, float) else value)
        assert dimension.contains(again)


def frozen(number: int, *values: float) -> optuna.trial.FrozenTrial:
    trial = create_trial(values=values or (0.0,))
    trial.number = number
    return trial


def numbers(history: Memory | Rungs | Generations) -> list[int]:
    return [trial.number for trial in history.trials]


def test_a_memory_holds_what_is_out_the_best_and_the_newest_in_their_order() -> None:
    memory = Memory(Best(2), newest=3)
    values = [5.0, 1.0, 4.0, 9.0, 8.0, 2.0, 7.0, 6.0]
    for number, value in enumerate(values):
        memory.end(number, Told((value,)), frozen(number, value))
    memory.out(8, frozen(8))
    assert numbers(memory) == [1, 2, 5, 6, 7, 8]  # 2 was among the best, then the newest of the others
    memory.end(8, Told(None), frozen(8))
    assert numbers(memory) == [1, 5, 6, 7, 8]


def test_the_best_are_complete_then_far_then_feasible() -> None:
    best = Best(9)
    told = [
        *(Told(None), Told((0.1,), violation=2.0), Told((0.1,), violation=1.0), Told((0.1,), step=1, stopped=True)),
        *(Told((0.5,), step=3, stopped=True), Told((0.4,), step=3, stopped=True), Told((7.0,)), Told((6.0,))),
    ]
    for number, one in enumerate(told):
        best.add(one, frozen(number))
    assert [trial.number for trial in best.trials] == [7, 6, 5, 4, 3, 2, 1, 0]


def test_of_several_objectives_the_front_is_held() -> None:
    front = Front(2)
    gone = [
        [trial.number for trial in front.add(Told(values), frozen(number, *values))]
        for number, values in enumerate([(3.0, 3.0), (4.0, 4.0), (1.0, 5.0), (2.0, 2.0), (5.0, 1.0)])
    ]
    assert gone == [[], [1], [], [0], [2]]
    assert [trial.number for trial in front.trials] == [3, 4]


def test_stopped_trials_are_compared_at_the_last_step_that_enough_have_reached() -> None:
    rungs = Rungs(lambda: Memory(Best(5), newest=5), least=2)
    rungs.out(9, frozen(9))
    rungs.end(0, Told((4.0,), step=1, stopped=True, curve=((1, 4.0),)), frozen(0))
    assert numbers(rungs) == []
    rungs.end(1, Told((3.0,), step=3, stopped=True, curve=((1, 5.0), (2, 4.0), (3, 3.0))), frozen(1))
    rungs.end(2, Told(None), frozen(2))
    assert [(trial.number, trial.values) for trial in rungs.trials] == [(0, [4.0]), (1, [5.0]), (2, [0.0]), (9, [0.0])]
    rungs.end(3, Told((1.0,), step=9, curve=((1, 7.0), (3, 2.0), (9, 1.0))), frozen(3))
    assert [(trial.number, trial.values) for trial in rungs.trials] == [(1, [3.0]), (2, [0.0]), (3, [2.0]), (9, [0.0])]
    rungs.end(4, Told((0.5,), step=9), frozen(4))
    assert [(trial.number, trial.values) for trial in rungs.trials] == [(2, [0.0]), (3, [1.0]), (4, [0.5]), (9, [0.0])]
    assert all(trial.state == TrialState.COMPLETE for trial in rungs.trials)


# -- what they make of it ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("search", "trials", "bar"), [(TPE(), 60, 0.01), (GP(startup=5), 16, 0.001), (NSGA2(population=10), 90, 0.02)]
)
def test_a_bowl_is_descended(search: Search, trials: int, bar: float) -> None:
    found = statistics.median(best(run(search, SQUARE, bowl, trials=trials, seed=seed)) for seed in range(3))
    assert found < bar


def test_below_a_choice_the_values_of_its_option_are_learned() -> None:
    found = [best(run(TPE(), NESTED, branch, trials=50, seed=seed)) for seed in range(3)]
    assert statistics.median(found) < 0.02
    points = [point for point, _ in run(TPE(), NESTED, branch, trials=50)]
    assert sum(point["opt"] == "Adam" for point in points[-20:]) > 14


@pytest.mark.parametrize("search", [TPE(), GP(startup=5), NSGA2(population=6)])
def test_where_trials_fail_a_search_does_not_stay(search: Search) -> None:
    """The optimum of the bowl is at x=0.6, and from 0.5 on everything fails."""
    done = run(
        search, SQUARE, lambda p: Told(None) if p["x"] > 0.5 else bowl(p), trials=24 if search == GP(startup=5) else 60
    )
    late = done[len(done) // 2 :]
    assert statistics.mean(told.values is None for _, told in late) < 0.45
    assert best(done) < 0.1


@pytest.mark.parametrize("search", [TPE(), NSGA2(population=10)])
def test_limits_are_kept(search: Search) -> None:
    """The best x + y within the unit disk is -sqrt(2)."""

    def tell(point: Point) -> Told:
        return Told((point["x"] + point["y"],), violation=max(0.0, point["x"] ** 2 + point["y"] ** 2 - 1))

    done = run(search, SQUARE, tell, trials=80, constrained=True)
    kept = [told.values[0] for _, told in done if told.values is not None and not told.violation]
    assert -math.sqrt(2) <= min(kept) < -1.25


@pytest.mark.parametrize("search", [TPE(), NSGA2(population=10)])
def test_two_objectives_are_traded_off(search: Search) -> None:
    """Between (0.6, -0.3) and the origin nothing is better in both; chance comes less near."""

    def tell(point: Point) -> Told:
        return Told((bowl(point), point["x"] ** 2 + point["y"] ** 2))

    def distance(point: Point) -> float:
        share = min(max((0.6 * point["x"] - 0.3 * point["y"]) / 0.45, 0.0), 1.0)
        return math.dist((point["x"], point["y"]), (0.6 * share, -0.3 * share))

    ours, chance = (
        [distance(point) for point, _ in run(one, SQUARE, tell, trials=100, objectives=2)][50:]
        for one in (search, Random())
    )
    assert statistics.median(ours) < 0.6 * statistics.median(chance)


def test_trials_that_are_out_are_kept_away_from() -> None:
    searcher = TPE(startup=5).open(Problem(SQUARE, Key((0,))))
    for number in range(30):
        point = {"x": 0.6 + 0.01 * (number % 5), "y": -0.3} if number % 2 else {"x": -0.05 * number % 1, "y": 0.5}
        searcher.asked(number, point)
        searcher.tell(number, point, Told((bowl(point),)))
    alone = searcher.ask(40)
    for number in range(30, 40):
        assert alone is not None
        searcher.asked(number, alone)
    crowded = searcher.ask(40)
    assert alone is not None
    assert crowded is not None
    assert math.dist(alone.values(), crowded.values()) > 0.01


@pytest.mark.parametrize("search", [TPE(startup=3), GP(startup=3), NSGA2(population=4), Random()])
def test_a_space_may_grow(search: Search) -> None:
    searcher = search.open(Problem((), Key((0,))))
    assert searcher.ask(0) == {}
    searcher.asked(0, {})
    point = {"x": 0.3}
    searcher.grow(SQUARE[:1])  # type: ignore[attr-defined]
    searcher.tell(0, point, Told((1.0,)))
    for number in range(1, 9):
        if number == 5:
            searcher.grow((*SQUARE, *NESTED[:1]))  # type: ignore[attr-defined]
        asked = searcher.ask(number)
        assert asked is not None
        assert set(asked) == ({"x"} if number < 5 else {"x", "y", "opt"})
        searcher.asked(number, asked)
        searcher.tell(number, asked, Told((asked["x"] ** 2,)))


# -- earlier runs ------------------------------------------------------------------------------------------------------


def complete(number: int, *values: float, violation: float = 0.0) -> FrozenTrial:
    trial = create_trial(values=values, constraints={BROKEN: violation})
    trial.number = number
    return trial


def test_earlier_trials_get_the_value_of_the_same_rank_each_among_its_own() -> None:
    earlier = [complete(number, 1000.0 + number, -number) for number in range(1, 10)]
    own = [complete(number, 10.0 * (number - 20), 0.0) for number in range(20, 29)]
    broken, out = complete(30, 0.0, 0.0, violation=FAILED), create_trial(state=TrialState.RUNNING)
    found = aligned([*earlier, *own, broken, out], {trial.number for trial in earlier} | {30})
    assert [trial.values[0] for trial in found[:9]] == pytest.approx([trial.values[0] for trial in own])
    assert {trial.values[1] for trial in found[:9]} == {0.0}  # their own are all alike
    assert found[9:] == [*own, broken, out]
    assert earlier[0].values == [1001.0, -1.0]  # what is kept stays as it was told
    few = [*earlier, *own[:4]]
    assert aligned(few, {trial.number for trial in earlier}) == few


@pytest.mark.parametrize("search", [TPE(startup=4), GP(startup=4)])
@pytest.mark.parametrize("scale", [lambda value: 1e4 + 1e3 * value, lambda value: 1e-3 * math.exp(value)])
def test_the_scale_of_earlier_runs_does_not_matter(search: Search, scale: Callable[[float], float]) -> None:
    def answers(told: Callable[[float], float]) -> list[Point | None]:
        searcher = search.open(Problem(SQUARE, Key((3,))))
        for number, (point, _) in enumerate(earlier, 1):
            searcher.tell(-number, point, Told((told(bowl(point)),)))
        for number, (point, result) in enumerate(own):
            searcher.asked(number, point)
            searcher.tell(number, point, result)
        return [searcher.ask(number) for number in range(6, 9)]

    earlier, own = (run(Random(), SQUARE, bowl, trials=trials, seed=trials) for trials in (20, 6))
    assert answers(scale) == answers(lambda value: value)


def test_an_earlier_run_on_another_scale_helps_and_its_trials_do_not_hide_those_of_this_run() -> None:
    """Its losses are all smaller, and its optimum is a little off: what is told as it was would be searched there."""

    def off(point: Point) -> float:
        return 1e-3 * ((point["x"] - 0.3) ** 2 + (point["y"] + 0.1) ** 2)

    def found(seed: int) -> tuple[float, float]:
        searcher = TPE().open(Problem(SQUARE, Key((seed,))))
        for number, (point, told) in enumerate(run(TPE(), SQUARE, off, trials=30, seed=100 + seed), 1):
            searcher.tell(-number, point, told)
        values = []
        for number in range(40):
            point = searcher.ask(number)
            assert point is not None
            values.append(bowl(point))
            searcher.asked(number, point)
            searcher.tell(number, point, Told((values[-1],)))
        return statistics.mean(values[:10]), min(values[10:])

    early, late = zip(*map(found, range(5)), strict=True)
    assert statistics.mean(early) < 0.7  # by chance it would be 1.1
    assert statistics.mean(late) < 0.004  # the earlier optimum has 0.13


@pytest.mark.parametrize("penalty", [sys.float_info.max, 1e300, -1e300])
@pytest.mark.parametrize("search", [GP(startup=4), TPE(startup=4), NSGA2(population=4)], ids=repr)
def test_no_search_computes_with_what_overflows(search: Search, penalty: float) -> None:
    """Warnings are errors here: without a bound numpy says that sums and squares are infinite."""
    tried = 0

    def tell(point: Point) -> float:
        nonlocal tried
        tried += 1
        return penalty if tried % 3 == 0 else bowl(point)

    assert len(run(search, SQUARE, tell, trials=9)) == 9
    told = bounded(Told((penalty, 1.0), curve=((1, penalty), (2, 0.5))))
    assert told.values == (math.copysign(1e100, penalty), 1.0)
    assert told.curve == ((1, math.copysign(1e100, penalty)), (2, 0.5))
