"""Does each kind of search in the gallery find what is known to be right? Its spaces, with answers in closed form."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from bilevel import (
    CMAES,
    GP,
    NSGA2,
    PBT,
    TPE,
    Grid,
    Inline,
    Int,
    Log,
    LogInt,
    OneOf,
    Random,
    Result,
    Run,
    Sobol,
    Space,
    Study,
    Uniform,
    figures,
    resume,
    run,
)
from bilevel.drive import results, sources
from bilevel.record.folder import RunFolder
from bilevel.search.port import Told
from bilevel.search.samplers import Modelled
from bilevel.study import history as histories
from bilevel.study.events import Moved
from bilevel.study.history import History, Trial

GALLERY = Path(__file__).parents[1] / "search_spaces"


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figures, which are tested elsewhere, and no fsync, which takes longer than these trials."""
    monkeypatch.setattr(figures, "draw", lambda *given: {})
    monkeypatch.setattr(os, "fsync", lambda fd: None)


def gallery(name: str, objective: Callable[..., Any], **changes: Any) -> Study:
    """A study of the gallery with another objective, which costs nothing."""
    study, _ = sources.load(str(GALLERY / f"{name}.py"))
    return dataclasses.replace(study, objective=objective, **changes)


def done(study: Study, store: Path, **more: Any) -> Result:
    return run(study, on=Inline(), store=store, track="none", **more)


def told(result: Result) -> History:
    """What the journal of a run tells."""
    return histories.replay(RunFolder(result.folder).events())


def trials(result: Result) -> list[Trial]:
    return list(told(result).trials.values())


# -- an optimiser in the state: `mlp_asha` under a population ----------------------------------------------------------


def test_a_member_that_moved_trains_with_its_own_rate_though_the_optimiser_is_the_donors(tmp_path: Path) -> None:
    study, _ = sources.load(str(GALLERY / "mlp_asha.py"))
    search = PBT(members=4, every=2, resample=0.0)
    for epochs in (5, 4):  # of 4 epochs the last turn comes when nothing is left to be trained
        space = Space(study.space.target, lr=Log(1e-5, 1e-1), width=16, act="relu", epochs=epochs)
        result = done(dataclasses.replace(study, space=space, search=search, stop=None, trials=None), tmp_path)
        moved = {e.trial: e.step for e in RunFolder(result.folder).events() if isinstance(e, Moved)}
        assert moved
        for trial in trials(result):
            idle = moved.get(trial.number) == epochs
            assert trial.state == "completed"
            state = results.final_state(RunFolder(result.folder), trial)
            if idle:  # it counts as what it was; the weights that it took over are not its own
                assert state is None
            else:
                assert state is not None
                assert [group["lr"] for group in state["adam"]["param_groups"]] == [trial.config["lr"]]


# -- a choice of spaces: `optimizer_choice` ----------------------------------------------------------------------------


def branched(cfg: Any, run: Run) -> float:
    """At best 0, by Adam at lr 0.01 and beta 0.9. SGD is better on the whole (0.5 to 0.6), but never below 0.5."""
    if type(cfg.optimizer).__name__ == "Sgd":
        return 0.5 + 0.1 * abs(cfg.optimizer.momentum - 0.3)
    return float((math.log10(cfg.optimizer.lr) + 2) ** 2 + 4 * (cfg.optimizer.beta - 0.9) ** 2)


BRANCHES = {
    "Sgd": {"optimizer", "optimizer[Sgd].lr", "optimizer[Sgd].momentum"},
    "Adam": {"optimizer", "optimizer[Adam].lr", "optimizer[Adam].beta"},
}


@pytest.mark.parametrize("search", [Random(), Sobol(), TPE(startup=5), NSGA2(population=5)], ids=repr)
def test_only_values_of_the_chosen_branch_are_there(search: Any, tmp_path: Path) -> None:
    result = done(gallery("optimizer_choice", branched, search=search, trials=16), tmp_path)
    assert {trial.config["optimizer"] for trial in trials(result)} == set(BRANCHES)
    for trial in trials(result):
        own = BRANCHES[trial.config["optimizer"]]
        assert set(trial.point) == own
        assert set(trial.config) == {"steps"} | {name.replace("[Sgd]", "").replace("[Adam]", "") for name in own}


@pytest.mark.parametrize("seed", range(3))
def test_the_optimum_is_found_in_the_right_branch(seed: int, tmp_path: Path) -> None:
    """The trap: whoever goes by the branches' means stays with SGD."""
    result = done(gallery("optimizer_choice", branched, seed=seed), tmp_path)
    means = {
        name: sum(t.objective or 0.0 for t in group) / len(group)
        for name, group in itertools.groupby(
            sorted(trials(result)[:10], key=lambda t: str(t.config["optimizer"])), lambda t: t.config["optimizer"]
        )
        for group in [list(group)]
    }
    assert means["Sgd"] < means["Adam"], "no trap"
    assert result.best is not None
    assert result.best["config"]["optimizer"] == "Adam"
    assert result.best["objective"] < 0.05


def test_a_grid_over_branches_is_each_branchs_own_grid(tmp_path: Path) -> None:
    study = gallery("optimizer_choice", branched, search=Grid(points=3), trials=None)
    tried = [tuple(sorted(trial.config.items())) for trial in trials(done(study, tmp_path))]
    rates = (1e-4, 1e-2, 1.0)
    known = [("Sgd", rate, "momentum", m) for rate in rates for m in (0.0, 0.495, 0.99)]
    known += [("Adam", rate, "beta", beta) for rate in rates for beta in (0.5, 0.745, 0.99)]
    assert len(tried) == len(set(tried)) == len(known) == 18
    for kind, rate, name, value in known:
        assert any(
            config["optimizer"] == kind
            and config["optimizer.lr"] == pytest.approx(rate)
            and config[f"optimizer.{name}"] == pytest.approx(value)
            for config in map(dict, tried)
        )


# -- a condition on a configuration, and limits on a result: `trees_limits` --------------------------------------------


def grown(cfg: Any, run: Run) -> dict[str, float]:
    """The error falls with the number of leaves, which is limited: 64 rounds of 32 leaves would be best."""
    leaves = 10 * cfg.rounds * cfg.leaves
    return {"error": 1 / (1 + leaves) + 0.1 * abs(math.log10(cfg.rate / 0.07)), "leaves": leaves}


FEW = {"rate": 0.07, "rounds": OneOf(8, 16, 32, 64, ordered=True), "depth": Int(1, 4), "leaves": Int(2, 17, step=3)}

ALL = list(itertools.product((8, 16, 32, 64), range(1, 5), range(2, 18, 3)))


def few(**changes: Any) -> Study:
    """`trees_limits` over a space of which every point is tried."""
    study = gallery("trees_limits", grown, search=Grid(points=99), trials=None)
    for path, value in FEW.items():
        study = study.set(path, value)
    return dataclasses.replace(study, **changes)


def test_exactly_the_configurations_that_the_condition_allows_are_tried(tmp_path: Path) -> None:
    seen: list[tuple[int, int, int]] = []

    def watched(cfg: Any, run: Run) -> dict[str, float]:
        seen.append((cfg.rounds, cfg.depth, cfg.leaves))
        return grown(cfg, run)

    result = done(few(objective=watched), tmp_path)
    allowed = [(rounds, depth, leaves) for rounds, depth, leaves in ALL if leaves <= 2**depth]
    assert 0 < len(allowed) < 96
    assert sorted(seen) == sorted(allowed)
    assert len(trials(result)) == len(allowed)


@pytest.mark.parametrize(
    "search", [Random(), Sobol(), TPE(startup=5), GP(startup=8), CMAES(), NSGA2(population=5)], ids=repr
)
def test_no_search_tries_what_the_condition_refuses(search: Any, tmp_path: Path) -> None:
    result = done(gallery("trees_limits", grown, search=search, trials=10), tmp_path)
    assert len(trials(result)) == 10
    assert all(trial.config["leaves"] <= 2 ** trial.config["depth"] for trial in trials(result))


def test_the_best_within_the_limits_wins_over_better_ones_beyond(tmp_path: Path) -> None:
    result = done(few(), tmp_path)
    inside = {t.number: t.objective for t in trials(result) if t.metrics["leaves"] <= 3000}
    beyond = [t.objective for t in trials(result) if t.metrics["leaves"] > 3000]
    assert result.best is not None
    assert result.best["objective"] == min(v for v in inside.values() if v is not None)
    assert min(v for v in beyond if v is not None) < result.best["objective"]
    sizes = [10 * rounds * leaves for rounds, depth, leaves in ALL if leaves <= 2**depth]
    assert result.metrics["leaves"] == max(size for size in sizes if size <= 3000)
    ranked = [leader.trial.number for leader in told(result).leaders()]
    assert set(ranked[: len(inside)]) == set(inside)


@pytest.mark.parametrize("seed", range(3))
def test_a_search_with_limits_comes_near_to_the_best_within(seed: int, tmp_path: Path) -> None:
    """The optimum has 3,000 leaves and the rate 0.07, with an error of 1/3001."""
    result = done(gallery("trees_limits", grown, seed=seed, trials=60), tmp_path)
    assert result.best is not None
    assert result.metrics["leaves"] <= 3000
    assert result.best["objective"] < 0.03


# -- several objectives: `pareto_mlp` ----------------------------------------------------------------------------------


def traded(cfg: Any, run: Run) -> dict[str, float]:
    """The front is where lr is 0.01: there error is 1 / width, with 75 * width + 10 weights."""
    return {"error": 1 / cfg.width + 0.1 * abs(math.log10(cfg.lr) + 2), "weights": 75 * cfg.width + 10}


def beats(left: tuple[float, ...], right: tuple[float, ...]) -> bool:
    return left != right and all(a <= b for a, b in zip(left, right, strict=True))


def front(values: Mapping[int, tuple[float, ...]]) -> set[int]:
    """By the definition: nobody is as good in all and better in one."""
    return {n for n, mine in values.items() if not any(beats(other, mine) for other in values.values())}


def shown(result: Result) -> set[int]:
    return {entry["trial"] for entry in result.document["pareto"]}


@pytest.mark.parametrize("search", [Random(), TPE(startup=5), GP(startup=8), NSGA2(population=8)], ids=repr)
def test_the_front_is_the_one_by_definition(search: Any, tmp_path: Path) -> None:
    result = done(gallery("pareto_mlp", traded, search=search, trials=10), tmp_path)
    values = {t.number: (t.metrics["error"], t.metrics["weights"]) for t in trials(result)}
    assert shown(result) == front(values)
    for entry in result.document["pareto"]:
        assert tuple(entry["objectives"].values()) == values[entry["trial"]]


def test_the_front_with_ties_other_directions_and_limits(tmp_path: Path) -> None:
    """On a grid: equal trials are all there; what breaks a limit is not; what is maximized is not taken for its
    opposite."""

    def score(cfg: Any, run: Run) -> dict[str, float]:
        return {"gain": min(cfg.width, 8) + 0.0, "weights": float(cfg.width), "memory": cfg.width * cfg.lr}

    study = gallery("pareto_mlp", score, search=Grid(), trials=None, minimize="weights", maximize="gain")
    study = study.set("width", OneOf(2, 4, 8, 16, ordered=True)).set("lr", OneOf(0.25, 0.5)).set("act", "relu")
    found = done(dataclasses.replace(study, limits={"memory": 2.0}), tmp_path)
    table = {t.number: (t.config["width"], t.config["lr"]) for t in trials(found)}
    assert len(table) == 8
    inside = {number for number, (width, lr) in table.items() if width * lr <= 2.0}
    best = front({n: (table[n][0], -min(table[n][0], 8)) for n in inside})
    assert shown(found) == best == {n for n in inside if table[n][0] <= 8}
    assert sorted(table[n] for n in best) == [(2, 0.25), (2, 0.5), (4, 0.25), (4, 0.5), (8, 0.25)]


def test_a_front_of_repeats_is_one_of_means(tmp_path: Path) -> None:
    """A lucky trial is no reason to be on the front: its configuration is dominated in the mean."""

    def lucky(cfg: Any, run: Run) -> dict[str, float]:
        noise = {2: (-1.0, 3.0)}.get(cfg.width, (0.0, 0.0))
        return {"error": cfg.width + noise[run.trial % 2], "weights": float(cfg.width)}

    study = gallery("pareto_mlp", lucky, search=Grid(), trials=None, repeats=2)
    study = study.set("width", OneOf(1, 2)).set("lr", 0.1).set("act", "relu")
    result = done(study, tmp_path)
    assert [(e["trial"], e["objectives"]) for e in result.document["pareto"]] == [(0, {"error": 1.0, "weights": 1.0})]


@pytest.mark.parametrize(("search", "count"), [(TPE(), 40), (NSGA2(population=10), 120)], ids=["TPE", "NSGA2"])
def test_a_search_for_several_objectives_covers_the_front(search: Any, count: int, tmp_path: Path) -> None:
    """By the area that the front dominates in error and the logarithm of the width, three seeds beside chance."""

    def area(result: Result) -> float:
        """Of [0, 1] x [log 2, log 128]."""
        points = sorted((math.log(e["config"]["width"]), e["objectives"]["error"]) for e in result.document["pareto"])
        total, low = 0.0, 1.0
        for place, error in points:
            total += max(0.0, low - error) * (math.log(128) - place)
            low = min(low, error)
        return total

    def areas(searched: Any) -> list[float]:
        study = gallery("pareto_mlp", traded, search=searched, trials=count)
        return [area(done(dataclasses.replace(study, seed=seed), tmp_path)) for seed in range(3)]

    assert sum(areas(search)) > sum(areas(Random()))


# -- a logarithmic scale in steps: the rate of `trees_limits` ----------------------------------------------------------

RATES = [float(f"{k / 100:.2f}") for k in range(1, 101)]


@pytest.mark.parametrize(
    "search", [Random(), Sobol(), TPE(startup=5), GP(startup=6), CMAES(), NSGA2(population=5), Grid(points=8)], ids=repr
)
def test_values_in_steps_are_on_their_grid_to_the_last_digit(search: Any, tmp_path: Path) -> None:
    study = gallery("trees_limits", grown, search=search, trials=8)
    for name in ("rounds", "depth", "leaves"):
        study = study.set(name, 2)
    values = [trial.config["rate"] for trial in trials(done(study, tmp_path))]
    assert set(values) <= set(RATES)
    assert values[0] == 0.1, "the guess comes first"
    assert len(set(values)) == len(values) > 5, "all different while there are some that were not tried"


def test_values_in_steps_are_spread_evenly_over_the_decades() -> None:
    """Chi-square against the logarithmic width of each value's cell; 5,000 draws, at the level of 1 in 1,000."""
    from scipy.stats import chi2

    study = gallery("trees_limits", grown)
    loop = Random().start(study.space, seed=1)
    drawn = [trial.point for _ in range(5001) if (trial := loop.ask()) is not None][1:]
    for name, step, low, high in (("rate", 0.01, 1, 100), ("rounds", 1, 2, 64)):
        counts = Counter(round(point[name] / step) for point in drawn)
        whole = math.log((high + 0.5) / (low - 0.5))
        expected = {k: len(drawn) * math.log((k + 0.5) / (k - 0.5)) / whole for k in range(low, high + 1)}
        assert set(counts) <= set(expected)
        statistic = sum((counts[k] - wanted) ** 2 / wanted for k, wanted in expected.items())
        assert statistic < chi2.ppf(0.999, len(expected) - 1), name


def test_the_best_step_is_found_exactly(tmp_path: Path) -> None:
    def off(cfg: Any, run: Run) -> dict[str, float]:
        return {"error": abs(math.log(cfg.rate / 0.37)), "leaves": 0.0}

    found = [done(gallery("trees_limits", off, trials=60, seed=seed), tmp_path).best for seed in range(3)]
    assert [best["config"]["rate"] for best in found if best is not None] == [0.37] * 3


# -- told of earlier runs: `trees_again` -------------------------------------------------------------------------------


def test_a_warm_search_begins_where_the_earlier_one_left_off(tmp_path: Path) -> None:
    """Its first five trials are better than the first five of a cold one: five seeds, each beside its own twin."""
    better = 0
    for seed in range(5):
        store = tmp_path / str(seed)
        done(gallery("trees_limits", grown, trials=40, seed=seed), store)
        again = gallery("trees_again", grown, trials=6, seed=seed + 100)
        firsts = []
        for study in (again, dataclasses.replace(again, warm_start=())):
            tried = trials(done(study, store))[1:]  # the first of both is the guess
            firsts.append(sorted((t.violation, t.objective or 0.0) for t in tried)[2])
        better += firsts[0] < firsts[1]
    assert better >= 4


def test_a_search_is_told_exactly_the_trials_that_fit_as_its_own_study_sees_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other ranges, other limits, trials that failed, a run that was interrupted; and every run of the study named."""

    def failing(cfg: Any, run: Run) -> dict[str, float]:
        if cfg.leaves == 2:
            raise ValueError("a stump")
        return grown(cfg, run)

    first = gallery("trees_limits", failing, search=Random(), trials=30)
    earlier = [done(first, tmp_path), done(dataclasses.replace(first, seed=5, trials=10), tmp_path)]
    heard: list[tuple[int, Mapping[str, Any], Told]] = []
    before = Modelled.tell

    def tell(self: Modelled, number: int, point: Mapping[str, Any], told: Told) -> None:
        heard.append((number, dict(point), told))
        before(self, number, point, told)

    monkeypatch.setattr(Modelled, "tell", tell)
    again = gallery("trees_again", grown, trials=3, limits={"leaves": 800})
    again = again.set("rounds", LogInt(4, 40)).set("depth", 3)
    again = dataclasses.replace(again, warm_start=[result.run_id for result in earlier])
    done(again, tmp_path)
    wanted = []
    for trial in (trial for result in earlier for trial in trials(result)):
        if not 4 <= trial.config["rounds"] <= 40:
            continue
        point = {name: trial.config[name] for name in ("rate", "rounds", "leaves")}
        if trial.state == "failed":
            wanted.append((point, None, 0.0))
        else:
            wanted.append((point, (trial.objective,), max(0.0, trial.metrics["leaves"] - 800)))
    known = [(point, said.values, said.violation) for number, point, said in heard if number < 0]
    assert known == wanted
    assert 0 < len([w for w in wanted if w[1] is None]) < len(wanted) < 40
    assert [number for number, *_ in heard if number < 0] == [-n for n in range(1, len(wanted) + 1)]
    heard.clear()
    by_name = dataclasses.replace(again, warm_start=["trees-limits"])
    done(by_name, tmp_path)
    known = [(point, said.values, said.violation) for number, point, said in heard if number < 0]
    assert sorted(known, key=repr) == sorted(wanted, key=repr), "all runs of that study"


# -- extended ----------------------------------------------------------------------------------------------------------

EXTENDED: dict[str, tuple[str, dict[str, Any]]] = {
    "random": ("optimizer_choice", {"search": Random()}),
    "sobol": ("optimizer_choice", {"search": Sobol()}),
    "tpe over a choice": ("optimizer_choice", {"search": TPE(startup=3)}),
    "tpe with condition and limits": ("trees_limits", {"search": TPE(startup=3)}),
    "gp": ("trees_limits", {"search": GP(startup=7)}),
    "cma-es": ("trees_limits", {"search": CMAES(population=4)}),
    "nsga2 for two objectives": ("pareto_mlp", {"search": NSGA2(population=3)}),
    "repeats": ("optimizer_choice", {"search": TPE(startup=2), "repeats": 2}),
    "chosen for the user": ("trees_limits", {"search": None}),
}
OBJECTIVES = {"optimizer_choice": branched, "trees_limits": grown, "pareto_mlp": traded}


@pytest.mark.parametrize("kind", EXTENDED)
def test_an_extended_search_adds_so_many_and_is_the_longer_one(kind: str, tmp_path: Path) -> None:
    name, changes = EXTENDED[kind]
    study = gallery(name, OBJECTIVES[name], **changes)
    long = done(dataclasses.replace(study, trials=9), tmp_path)
    short = done(dataclasses.replace(study, trials=5), tmp_path)
    begun = trials(short)
    study = dataclasses.replace(study, trials=5)
    for more, count in ((1, 6), (3, 9)):
        longer = resume(short.run_id, store=tmp_path, study=study, on=Inline(), track="none", more=more)
        assert len(trials(longer)) == count * study.repeats
    assert [(t.point, t.objective, t.seed) for t in trials(longer)[: len(begun)]] == [
        (t.point, t.objective, t.seed) for t in begun
    ]
    assert longer.fingerprint == long.fingerprint
    assert json.dumps(longer.best) == json.dumps(long.best)


def test_an_extended_deterministic_search_is_the_longer_one_with_several_slots_too(tmp_path: Path) -> None:
    study = gallery("trees_limits", grown, search=TPE(startup=3), deterministic=True)
    long = done(dataclasses.replace(study, trials=12), tmp_path, slots=3)
    short = done(dataclasses.replace(study, trials=7), tmp_path, slots=3)
    study = dataclasses.replace(study, trials=7)
    longer = resume(short.run_id, store=tmp_path, study=study, on=Inline(), track="none", more=5)
    assert longer.fingerprint == long.fingerprint


def test_the_spaces_are_those_that_the_oracles_know() -> None:
    """The answers above hold for these ranges."""
    ranges = {p.name: p.dimension for p in gallery("trees_limits", grown).parameters}
    assert ranges == {
        "rate": Log(0.01, 1.0, step=0.01, center=0.1),
        "rounds": LogInt(2, 64),
        "depth": Int(1, 6),
        "leaves": LogInt(2, 32),
    }
    branches = {p.name: p.dimension for p in gallery("optimizer_choice", branched).parameters[1:]}
    assert branches["optimizer[Adam].lr"] == branches["optimizer[Sgd].lr"] == Log(1e-4, 1.0)
    assert branches["optimizer[Sgd].momentum"] == Uniform(0.0, 0.99)
    assert branches["optimizer[Adam].beta"] == Uniform(0.5, 0.99)
