"""Does CMA-ES find known optima, restart by the published law, and depend on nothing but the calls?"""

from __future__ import annotations

import math
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from bilevel.episodes import Key
from bilevel.errors import BadInput
from bilevel.search import CMAES, quadratic
from bilevel.search.cmaes_run import Plan, heights, rank, restart
from bilevel.search.port import Point, Problem, Searcher, Told
from bilevel.space import Space
from bilevel.space.dimensions import Dimension, Int, Log, LogInt, Normal, OneOf, Parameter, Uniform

Cost = Callable[[Sequence[Any]], float | None]


def problem(*dimensions: Dimension, seed: int = 0, **more: Any) -> Problem:
    parameters = tuple(Parameter(f"x{i}", f"x{i}", dimension) for i, dimension in enumerate(dimensions))
    return Problem(parameters, Key((seed,)).child("search"), **more)


BOX = (Uniform(-5.0, 5.0),) * 5


def search(
    searcher: Searcher, cost: Cost, trials: int, *, workers: int = 1, first: int = 0
) -> list[tuple[int, Point, float | None]]:
    """Ask and tell; of several workers a random one ends first."""
    told, out, draws = [], list[tuple[int, Point]](), np.random.default_rng(0)
    for number in range(first, first + trials):
        point = searcher.ask(number)
        assert point is not None
        searcher.asked(number, point)
        out.append((number, point))
        if len(out) == workers:
            ended, at = out.pop(int(draws.integers(len(out))))
            value = cost(list(at.values()))
            searcher.tell(ended, at, Told(None if value is None else (value,)))
            told.append((ended, at, value))
    return told


def best(*args: Any, **more: Any) -> tuple[float, list[Any]]:
    """The least value and where it was."""
    _, point, value = min((t for t in search(*args, **more) if t[2] is not None), key=lambda t: t[2])
    return value, list(point.values())


# -- optima ------------------------------------------------------------------------------------------------------------

TURN = np.linalg.qr(np.random.default_rng(5).standard_normal((5, 5)))[0]


def sphere(x: Sequence[float]) -> float:
    return float(((np.array(x) - 1.3) ** 2).sum()) + 7


def ellipsoid(x: Sequence[float]) -> float:
    """Condition 10^6, turned."""
    return float((10 ** np.linspace(0, 6, 5) * (TURN @ (np.array(x) - 1.3)) ** 2).sum())


def rosenbrock(x: Sequence[float]) -> float:
    y = np.array(x)
    return float((100 * (y[1:] - y[:-1] ** 2) ** 2 + (1 - y[:-1]) ** 2).sum())


def rastrigin(x: Sequence[float]) -> float:
    y = np.array(x) - 1.3
    return float(y @ y + 10 * (len(y) - np.cos(2 * math.pi * y).sum()))


def ridge(x: Sequence[float]) -> float:
    """Not smooth: no quadratic helps at its optimum."""
    y = TURN @ (np.array(x) - 1.3)
    return float(y[0] ** 2 + 10 * np.abs(y[1:]).sum())


@pytest.mark.parametrize(
    ("cost", "trials", "near"),
    [
        (sphere, 60, 7 + 1e-9),
        (ellipsoid, 600, 1e-9),
        (rosenbrock, 3000, 1e-9),
        (ridge, 2000, 1e-3),
    ],
)
def test_known_optima_are_found(cost: Cost, trials: int, near: float) -> None:
    for seed in range(3):
        value, _ = best(CMAES().open(problem(*BOX, seed=seed)), cost, trials)
        assert value <= near


@pytest.mark.slow
def test_restarts_get_out_of_local_optima() -> None:
    found = {
        restarts: [
            best(CMAES(restarts=restarts).open(problem(*BOX[:2], seed=seed)), rastrigin, 2000)[0] for seed in range(6)
        ]
        for restarts in (None, "ipop", "bipop")
    }
    assert sum(value > 0.9 for value in found[None]) >= 3
    assert sum(value < 1e-6 for value in found["ipop"]) >= 4
    assert sum(value < 1e-6 for value in found["bipop"]) >= 4


def test_an_optimum_at_the_bound_is_found_exactly() -> None:
    value, at = best(CMAES().open(problem(*BOX)), lambda x: sum(x) + x[0], 150)
    assert value == -30.0
    assert at == [-5.0] * 5
    _, at = best(CMAES().open(problem(*BOX)), lambda x: sphere([x[0] + 8, *x[1:]]), 400)
    assert at == pytest.approx([-5.0, 1.3, 1.3, 1.3, 1.3], abs=1e-3)


def test_rates_are_searched_on_their_scale() -> None:
    def cost(x: Sequence[float]) -> float:
        return (math.log10(x[0]) + 3.7) ** 2 + (math.log10(x[1]) - 1.2) ** 2 + (x[2] - 1.5) ** 2

    _, at = best(CMAES().open(problem(Log(1e-6, 1.0), Log(1e-2, 1e4), Normal(0.0, 1.0))), cost, 250)
    assert at == pytest.approx([10**-3.7, 10**1.2, 1.5], rel=1e-3)


def test_whole_numbers_steps_and_switches_do_not_freeze() -> None:
    space = (LogInt(1, 1024), Int(0, 40), Log(1e-5, 1.0), Uniform(0.0, 1.0, step=0.1), OneOf(False, True))

    def cost(x: Sequence[Any]) -> float:
        rate = math.log10(x[2]) + 3 - (x[1] - 29) / 10  # the best rate depends on the whole number
        return (math.log2(x[0]) - 2) ** 2 + (x[1] - 29) ** 2 / 10 + rate**2 + 10 * abs(x[3] - 0.7) + (not x[4])

    for seed in range(5):
        value, at = best(CMAES().open(problem(*space, seed=seed)), cost, 600)
        assert at[:2] == [4, 29]
        assert at[3:] == [pytest.approx(0.7), True]
        assert value < 1e-6


def test_ordered_choices_are_numbers() -> None:
    _, at = best(
        CMAES().open(problem(OneOf(8, 16, 32, 64, 128, ordered=True), Int(1, 30))),
        lambda x: (math.log2(x[0]) - 6) ** 2 + (x[1] - 21) ** 2 / 10,
        60,
    )
    assert at == [64, 21]


def test_one_value_alone_is_searched() -> None:
    assert best(CMAES().open(problem(Log(1e-5, 1.0))), lambda x: (math.log10(x[0]) + 2.3) ** 2, 40)[0] < 1e-9
    assert best(CMAES().open(problem(Int(0, 1000))), lambda x: abs(x[0] - 700), 100)[0] == 0


def test_it_starts_in_the_middle_or_where_the_user_guesses() -> None:
    space = (Uniform(0.0, 1.0), Log(1e-4, 1.0, center=0.1))
    points = [list(CMAES(sigma=0.1).open(problem(*space, seed=seed)).ask(0).values()) for seed in range(300)]
    middle = np.median(np.array(points), axis=0)
    assert middle[0] == pytest.approx(0.5, abs=0.02)
    assert math.log10(middle[1]) == pytest.approx(-1, abs=0.08)


# -- what is told ------------------------------------------------------------------------------------------------------


def test_earlier_results_say_where_it_starts() -> None:
    searcher = CMAES(sigma=0.01).open(problem(*BOX[:2]))
    searcher.tell(-1, {"x0": 4.0, "x1": -3.0}, Told((1.0,)))
    searcher.tell(-2, {"x0": 1.0, "x1": 1.0}, Told((2.0,)))
    searcher.tell(-3, {"x0": 2.0, "x1": 2.0}, Told(None))
    searcher.tell(-4, {"x0": 3.0, "x1": 3.0}, Told((0.0,), stopped=True, step=1))
    searcher.tell(-5, {"x0": 3.0, "x1": 3.0}, Told((0.0,), violation=1.0))
    point = searcher.ask(0)
    assert (point["x0"], point["x1"]) == (pytest.approx(4.0, abs=0.5), pytest.approx(-3.0, abs=0.5))


def test_a_better_point_of_somebody_else_draws_the_distribution_there() -> None:
    def last(foreign: bool) -> float:
        searcher = CMAES(restarts=None).open(problem(*BOX))
        search(searcher, sphere, 5)
        if foreign:
            point = dict.fromkeys(searcher.ask(5), 1.30001)
            searcher.asked(5, point)
            searcher.tell(5, point, Told((sphere(list(point.values())),)))
        values = [value for _, _, value in search(searcher, sphere, 8, first=6)]
        return float(np.median(values))

    assert last(True) < last(False)


def test_failed_and_stopped_trials_come_last() -> None:
    told = [
        Told((5.0,), step=9),
        Told((-7.0,), step=9, violation=0.5),
        Told(None),
        Told((-9.0,), step=2, stopped=True),
        Told((-1e308,), step=9),
        Told((-8.0,), step=3, stopped=True),
        Told((1.0,), step=9, violation=0.1),
        Told((1e308,), step=9),
    ]
    found = heights([rank(one) for one in told])
    assert all(map(math.isfinite, found))
    assert np.argsort(found).tolist() == [4, 0, 7, 5, 3, 6, 1, 2]
    assert len(set(heights([rank(Told(None))] * 3))) == 1


def test_it_moves_away_from_where_trials_fail() -> None:
    def cost(x: Sequence[float]) -> float | None:
        return None if x[0] < 1.5 else sphere(x)

    value, at = best(CMAES().open(problem(*BOX)), cost, 600)
    assert value == pytest.approx(7.04, abs=1e-2)
    assert at[0] == pytest.approx(1.5, abs=1e-2)


@pytest.mark.parametrize("value", [None, 0.0, 3.0, 1e308, -1e308, 1e-308])
def test_nothing_to_tell_apart_is_no_failure(value: float | None) -> None:
    searcher = CMAES().open(problem(*BOX[:2]))
    points = [point for _, point, _ in search(searcher, lambda _: value, 300)]
    assert all(-5 <= x <= 5 for point in points for x in point.values())
    assert np.std([point["x0"] for point in points]) > 0.5  # it goes on elsewhere


@pytest.mark.parametrize("scale", [1e-200, 1e-9, 1e9, 1e200])
def test_the_unit_of_the_objective_does_not_matter(scale: float) -> None:
    def trials(unit: float) -> list[Point]:
        return [point for _, point, _ in search(CMAES().open(problem(*BOX[:2])), lambda x: unit * rosenbrock(x), 60)]

    powers = 2.0 ** round(math.log2(scale))  # no rounding
    assert trials(powers) == trials(1.0)


def test_cma_is_told_finite_numbers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    import cma

    seen = []
    original = cma.CMAEvolutionStrategy.tell

    def tell(self: Any, solutions: Any, values: Any, **more: Any) -> Any:
        seen.extend(values)
        assert np.isfinite(np.array(solutions)).all()
        return original(self, solutions, values, **more)

    monkeypatch.setattr(cma.CMAEvolutionStrategy, "tell", tell)
    searcher = CMAES().open(problem(*BOX[:2]))
    for number in range(200):
        point = searcher.ask(number)
        searcher.asked(number, point)
        value = (1.7e308, -1.7e308, 3.0, sphere(list(point.values())))[number % 4]
        told = Told(None if number % 5 == 4 else (value,), stopped=number % 7 == 6, violation=float(number % 11 == 10))
        searcher.tell(number, point, told)
    assert len(seen) > 100
    assert np.isfinite(seen).all()


# -- restarts ----------------------------------------------------------------------------------------------------------


def test_ipop_doubles_the_population() -> None:
    first = Plan(8, 0.2)
    past = [(first, 400)]
    for _ in range(4):
        past.append((restart(first, past, False, (0.3, 0.6)), 1000))
    assert [plan.population for plan, _ in past] == [8, 16, 32, 64, 128]
    assert {plan.sigma for plan, _ in past} == {0.2}
    assert {plan.trials for plan, _ in past} == {math.inf}


def test_bipop_spends_alike_on_large_and_small_populations() -> None:
    draws = np.random.default_rng(0)
    first = Plan(8, 0.2)
    past = [(first, 400)]
    for _ in range(60):
        plan = restart(first, past, True, tuple(draws.random(2)))
        past.append((plan, int(min(plan.trials, 50 * plan.population))))
        large, small = (sum(n for p, n in past[:-1] if p.large == kind) for kind in (True, False))
        assert plan.large == (small >= large)
    larges = [plan.population for plan, _ in past if plan.large]
    assert larges == [8 * 2 ** (i + 1) for i in range(len(larges))]
    smalls = [plan for plan, _ in past[1:] if not plan.large]
    assert smalls
    for i, (plan, _) in enumerate(past):
        before = [p.population for p, _ in past[:i] if p.large]
        if not plan.large and before:
            assert 8 <= plan.population <= max(before) / 2
            assert 0.002 <= plan.sigma <= 0.2


def test_runs_follow_the_law() -> None:
    for restarts in ("ipop", "bipop"):
        searcher = CMAES(restarts=restarts, population=6).open(problem(*BOX[:2]))
        generations = []
        run = None
        for number in range(4000):
            point = searcher.ask(number)
            searcher.asked(number, point)
            if searcher._run is not run:
                run = searcher._run
                generations.append(run.plan)
            searcher.tell(number, point, Told((rastrigin(list(point.values())),)))
        assert generations[0] == Plan(6, 0.2)
        assert len(generations) >= 4
        larges = [plan.population for plan in generations if plan.large]
        assert larges == [12, 24, 48, 96, 192, 384][: len(larges)]
        assert any(not plan.large for plan in generations[1:]) == (restarts == "bipop")


def test_without_restarts_it_goes_on_where_it_ended() -> None:
    told = search(CMAES(restarts=None).open(problem(*BOX[:2])), rastrigin, 1500)
    tail = np.array([list(point.values()) for _, point, _ in told[-100:]])
    assert tail.std(axis=0).max() < 1e-2


# -- the state ---------------------------------------------------------------------------------------------------------


def test_it_is_rebuilt_from_the_calls() -> None:
    space = (Uniform(-5.0, 5.0), LogInt(1, 300), Log(1e-4, 1.0))
    whole, again = (CMAES(population=5).open(problem(*space)) for _ in range(2))
    out = []
    for number in range(400):
        point = whole.ask(number)
        whole.asked(number, point)
        again.asked(number, point)  # never asks
        out.append((number, point))
        if len(out) > number % 5:
            ended, at = out.pop(number % len(out))
            told = Told(None) if ended % 13 == 5 else Told((rastrigin(list(at.values())),))
            whole.tell(ended, at, told)
            again.tell(ended, at, told)
    assert whole.ask(400) == whole.ask(400) == again.ask(400)


def test_two_at_work_do_not_disturb_each_other_or_anybody_else() -> None:
    def alone(seed: int) -> list[Point]:
        return [point for _, point, _ in search(CMAES().open(problem(*BOX, seed=seed)), rastrigin, 200)]

    before = (str(np.random.get_state()), random.getstate())
    apart = [alone(1), alone(2)]
    both = [CMAES().open(problem(*BOX, seed=seed)) for seed in (1, 2)]
    together: list[list[Point]] = [[], []]
    for number in range(200):
        for points, searcher in zip(together, both, strict=True):
            points += [point for _, point, _ in search(searcher, rastrigin, 1, first=number)]
    assert together == apart
    assert apart[0] != apart[1]
    assert before == (str(np.random.get_state()), random.getstate())


@pytest.mark.parametrize("workers", [4, 16])
def test_parallel_trials_never_wait_and_get_there_too(workers: int) -> None:
    for seed in range(3):
        told = search(CMAES().open(problem(*BOX, seed=seed)), ellipsoid, 1000, workers=workers)
        assert len({tuple(point.values()) for _, point, _ in told}) == len(told)  # all different
        assert min(value for _, _, value in told) < 1e-6


def test_points_of_an_earlier_run_are_left_out() -> None:
    searcher = CMAES(restarts="ipop", population=6).open(problem(*BOX[:2]))
    points = {}
    for number in range(40):  # all of the first generation and more are out
        points[number] = searcher.ask(number)
        searcher.asked(number, points[number])
    run = searcher._run
    for number in range(39):  # flat: the run is over
        searcher.tell(number, points[number], Told((1.0,)))
    assert searcher._run is not run
    spent = searcher._run.spent
    searcher.tell(39, points[39], Told((0.0,)))
    assert searcher._run.spent == spent


def test_nothing_is_printed_and_cma_is_only_imported_when_needed() -> None:
    code = (
        "import sys, bilevel.search; assert 'cma' not in sys.modules\n"
        "from bilevel import CMAES, Space, Uniform\n"
        "loop = CMAES().start(Space(dict, x=Uniform(0.0, 1.0), y=Uniform(0.0, 1.0)), trials=30)\n"
        "while trial := loop.ask(): loop.tell(trial, trial.config['x'])\n"
        "assert loop.best.value < 0.01\n"
    )
    said = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout, said.stderr) == (0, "", "")


def test_it_serves_a_users_own_loop() -> None:
    loop = CMAES().start(Space(dict, lr=Log(1e-4, 1.0), width=Int(1, 64)), seed=3, minimize=False, trials=120)
    while trial := loop.ask():
        loop.tell(trial, -((math.log10(trial.config["lr"]) + 2) ** 2) - (trial.config["width"] - 40) ** 2)
    assert loop.best.config["width"] == 40
    assert loop.best.config["lr"] == pytest.approx(0.01, rel=1e-2)


# -- what it cannot do -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"sigma": 0.0}, "CMAES: sigma=0.0; it takes"),
        ({"sigma": "wide"}, "CMAES: sigma='wide'; it takes"),
        ({"sigma": math.nan}, "CMAES: sigma=nan; it takes"),
        ({"restarts": "always"}, "CMAES: restarts='always'; it takes"),
        ({"population": 3}, "CMAES: population=3; it takes"),
        ({"population": 8.5}, "CMAES: population=8.5; it takes"),
    ],
)
def test_options_are_checked(options: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        CMAES(**options)


def test_what_it_cannot_search_is_refused_with_the_cure() -> None:
    with pytest.raises(BadInput, match=r"x1 chooses among 3 values without an order; give OneOf\(\..*TPE"):
        CMAES().open(problem(Uniform(0.0, 1.0), OneOf("relu", "gelu", "tanh")))
    below = Parameter("opt[Adam].lr", "opt.lr", Log(1e-5, 1.0), when=(("opt", "Adam"),))
    with pytest.raises(BadInput, match=r"opt\[Adam\].lr is only there where opt is Adam.* use TPE"):
        CMAES().open(Problem((Parameter("opt", "opt", OneOf("Sgd", "Adam")), below), Key((0,))))
    with pytest.raises(BadInput, match="2 objectives, and it minimizes one; use NSGA2"):
        CMAES().open(problem(Uniform(0.0, 1.0), objectives=2))
    with pytest.raises(BadInput, match="nothing to search"):
        CMAES().open(problem(Int(3, 3)))


# -- the quadratic -----------------------------------------------------------------------------------------------------


def test_the_minimum_of_a_quadratic_is_exact() -> None:
    places = np.random.default_rng(0).standard_normal((50, 5))
    values = np.array([ellipsoid(place) for place in places]) + 3
    found = quadratic.minimum(places, values, radius=10.0)
    assert found is not None
    assert found[0] == pytest.approx([1.3] * 5, abs=1e-4)
    assert found[1] == pytest.approx(3.0, abs=1e-3)


def test_the_minimum_stays_within_the_radius() -> None:
    places = np.random.default_rng(0).standard_normal((50, 5))
    for values in (places[:, 0], -(places**2).sum(axis=1), places[:, 0] * places[:, 1]):
        found = quadratic.minimum(places, values, radius=2.0)
        assert found is not None
        assert np.linalg.norm(found[0]) <= 2.0 + 1e-9
    slope = quadratic.minimum(places, places[:, 0], radius=2.0)
    assert slope is not None
    assert slope[0] == pytest.approx([-2.0, 0, 0, 0, 0], abs=1e-4)


def test_few_points_give_a_simpler_model_and_too_few_none() -> None:
    places = np.random.default_rng(0).standard_normal((50, 5))
    values = ((places - 0.5) ** 2).sum(axis=1)
    assert quadratic.minimum(places[:6], values[:6], 9.0) is None
    assert quadratic.minimum(places, np.ones(50), 9.0) is None
    linear, separable = (quadratic.minimum(places[:n], values[:n], 2.0) for n in (8, 14))
    assert linear is not None
    assert separable is not None
    assert separable[0] == pytest.approx([0.5] * 5)
