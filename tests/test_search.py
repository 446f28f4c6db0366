"""Does a search ask, tell, rank, stop and end as it says?"""

from __future__ import annotations

import dataclasses
import math
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

import bilevel
from bilevel import (
    ASHA,
    GP,
    NSGA2,
    TPE,
    Adam,
    Grid,
    Inline,
    Int,
    Log,
    OneOf,
    Random,
    Report,
    Run,
    Space,
    Study,
    Uniform,
    figures,
    resume,
    run,
)
from bilevel.drive import keeping, results, session
from bilevel.errors import BadInput
from bilevel.figures.views import incumbents
from bilevel.record import trial_files
from bilevel.record.folder import RunFolder
from bilevel.study import asking
from bilevel.study.events import Asked, Begun, Ended, Reported
from support.spying import Spy
from support.tiny import Said
from support.trying import (
    Hill,
    check_once,
    climb,
    fresh,
    halving,
    height,
    hill,
    live,
    noisy,
    population,
    replayed,
    searched,
)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drivers die here, power stays; a fsync takes longer than a trial."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@pytest.fixture
def plain() -> Iterator[None]:
    """No figures."""
    with mock.patch.object(figures, "draw", return_value={}):
        yield


# -- what is asked and told --------------------------------------------------------------------------------------------


def test_each_trial_is_asked_tried_and_told_once(tmp_path: Path) -> None:
    spy = Spy()
    folder, history = searched(tmp_path, hill(search=spy))
    assert [t.state for t in history.trials.values()] == ["completed"] * 5
    asked = [(number, point) for kind, number, point, _ in spy.talks[-1] if kind == "asked"]
    assert asked == [(n, dict(t.point)) for n, t in history.trials.items()]
    assert len({t.point["x"] for t in history.trials.values()}) == 5
    for number, told in spy.told.items():
        trial = history.trials[number]
        assert trial.objective == pytest.approx(height(trial.config["x"]))
        assert (told.values, told.step, told.stopped) == ((trial.objective,), 3, False)
        assert [step for step, _ in told.curve] == [1, 2, 3]
    assert [kind for kind, *_ in spy.talks[-1]] == ["asked", "tell"] * 5
    check_once(folder)


def test_a_maximized_objective_is_told_negated_and_shown_as_it_is(tmp_path: Path) -> None:
    def up(config: Hill, run: Run) -> float:
        return config.x

    spy = Spy()
    _, history = searched(tmp_path, hill(up, maximize="gain", search=spy))
    assert {n: told.values for n, told in spy.told.items()} == {n: (-t.config["x"],) for n, t in history.trials.items()}
    best = history.best()
    assert best is not None
    assert best.objective == max(t.config["x"] for t in history.trials.values())


@pytest.mark.parametrize("slots", [1, 3, 20])
def test_no_more_trials_run_at_a_time_than_there_are_slots(slots: int, tmp_path: Path) -> None:
    folder, history = searched(tmp_path, hill(trials=7), slots=slots)
    running, most = 0, 0
    for event in folder.events():
        running += isinstance(event, Asked) - isinstance(event, Ended)
        most = max(most, running)
    assert most == min(slots, 7)
    assert history.ended["completed"] == 7


def test_the_seed_of_a_trial_is_its_own_whatever_the_slots(tmp_path: Path) -> None:
    seeds = [[t.seed for t in searched(tmp_path, hill(), slots=slots)[1].trials.values()] for slots in (1, 4)]
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 5


def test_tpe_comes_closer_than_chance(tmp_path: Path) -> None:
    """An oracle: the best of 30 in two dimensions, over three seeds."""
    found: dict[str, list[float]] = {"Random": [], "TPE": []}
    for search in (Random(), TPE()):
        for seed in range(3):
            values = {"y": Uniform(0.0, 1.0), "steps": 1}
            _, history = searched(tmp_path, hill(search=search, trials=30, seed=seed, values=values))
            best = history.best()
            assert best is not None
            assert best.objective is not None
            found[type(search).__name__].append(best.objective)
    assert sum(found["TPE"]) < sum(found["Random"])


# -- spaces ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Sgd:
    lr: float
    momentum: float = 0.0


@dataclass(frozen=True)
class Nest:
    opt: Sgd | Adam
    width: int


def test_a_choice_of_spaces_gives_the_chosen_object_and_its_own_values(tmp_path: Path) -> None:
    seen: dict[int, Any] = {}

    def train(config: Nest, run: Run) -> float:
        seen[run.trial] = config.opt
        return float(config.width)

    choice = OneOf(Space(Sgd, lr=Log(1e-3, 1.0), momentum=Uniform(0.0, 0.9)), Space(Adam, lr=Log(1e-5, 1e-2)))
    space = Space(Nest, opt=choice, width=Int(1, 8))
    study = Study(name="nest", objective=train, minimize="loss", space=space, search=Random(), trials=12)
    _, history = searched(tmp_path, study)
    assert {type(opt) for opt in seen.values()} == {Sgd, Adam}
    for number, trial in history.trials.items():
        kind, opt = type(seen[number]).__name__, seen[number]
        names = {"opt", "width", f"opt[{kind}].lr"} | ({"opt[Sgd].momentum"} if kind == "Sgd" else set())
        assert set(trial.point) == names
        assert trial.config["opt.lr"] == opt.lr == trial.point[f"opt[{kind}].lr"]
        assert trial.config["opt"] == kind


def test_what_the_condition_refuses_is_never_tried_and_is_in_the_journal(tmp_path: Path) -> None:
    spy = Spy()
    study = hill(where=lambda config: config.x < 0.5, search=spy, trials=8)
    folder, history = searched(tmp_path, study)
    assert all(t.config["x"] < 0.5 for t in history.trials.values())
    assert len(history.trials) == 8
    refused = [point for event in folder.events() if isinstance(event, Asked) for point in event.refused]
    assert refused
    assert all(point["x"] >= 0.5 for point in refused)
    first = spy.talks[-1]
    live(folder, study)  # rebuilt from the journal: the same talk
    assert spy.talks[-1] == first


def test_a_condition_that_refuses_everything_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"where refused 1000 configurations in a row"):
        searched(tmp_path, hill(where=lambda config: False))


def test_a_grid_is_tried_whole_however_much_of_it_the_condition_refuses(tmp_path: Path) -> None:
    values = {"x": OneOf(*range(60)), "y": OneOf(*range(60))}
    study = hill(search=Grid(), trials=None, values=values, where=lambda config: config.x >= 59 and config.y < 3)
    _, history = searched(tmp_path, study)
    assert [(t.config["x"], t.config["y"]) for t in history.trials.values()] == [(59, 0), (59, 1), (59, 2)]
    with pytest.raises(BadInput, match=r"where refused 3600 configurations in a row"):
        searched(tmp_path, dataclasses.replace(study, where=lambda config: False))


def untrained(config: Hill, run: Run) -> dict[str, float]:
    raise ValueError(f"random_state must be a small number; got {run.seed} for {config.x}")


def diverged(config: Hill, run: Run) -> dict[str, float]:
    return {"loss": math.nan}


def called_otherwise(config: Hill, run: Run) -> dict[str, float]:
    return {"depth": config.x}


def recovers(config: Hill, run: Run) -> dict[str, float]:
    return untrained(config, run) if run.trial else {"loss": 1.0}


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("more", [{}, {"deterministic": True}, {"repeats": 2}, {"search": Grid()}])
@pytest.mark.parametrize(
    ("objective", "why"), [(untrained, "random_state must be"), (called_otherwise, "never report")]
)
def test_a_study_whose_first_trials_fail_alike_gives_up(
    objective: Any, why: str, more: dict[str, Any], slots: int, tmp_path: Path
) -> None:
    study = hill(objective, **{"trials": 50} | more)
    _, history = searched(tmp_path, study, slots=slots)
    assert 5 <= len(history.trials) < 5 + 2 * slots
    assert history.ended["failed"] == len(history.trials)
    assert all(why in (trial.reason or "") for trial in history.trials.values())


def test_giving_up_is_said_and_more_trials_are_refused(tmp_path: Path) -> None:
    said, study = Said(), hill(untrained, trials=50, give_up=3)
    with mock.patch.object(figures, "draw", return_value={}):
        result = run(study, on=Inline(), store=tmp_path, track="none", watch=said)
    assert (result.status, len(result.trials)) == ("failed", 3)
    end = "the search ends here: its first 3 trials have all failed with one and the same error"
    assert any(line.startswith(end) and "random_state" in line for line in said.lines)
    with pytest.raises(BadInput, match=r"its first 3 trials .* so more trials would change nothing"):
        resume(result.run_id, store=tmp_path, study=study, on=Inline(), track="none", more=3)


@pytest.mark.parametrize(
    ("objective", "give_up"), [(untrained, None), (diverged, 5), (recovers, 5)], ids=["told not to", "nan", "recovers"]
)
def test_other_failures_do_not_end_a_study(objective: Any, give_up: int | None, tmp_path: Path) -> None:
    _, history = searched(tmp_path, hill(objective, trials=12, give_up=give_up))
    assert len(history.trials) == 12


def test_the_seeds_of_trials_fit_every_library(tmp_path: Path) -> None:
    _, history = searched(tmp_path, hill(trials=30, search=Random()))
    seeds = [trial.seed for trial in history.trials.values()]
    assert len(set(seeds)) == 30
    assert 0 <= min(seeds) <= max(seeds) < 2**31
    assert max(seeds) > 2**30


def test_where_the_condition_refuses_all_that_is_left_the_search_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "REFUSALS", 50)
    study = hill(points=[{"x": 0.5}], where=lambda config: config.x == 0.5)
    with mock.patch.object(figures, "draw", return_value={}):
        said = Said()
        result = run(study, on=Inline(), store=tmp_path, track="none", watch=said)
        assert (result.status, len(result.trials)) == ("completed", 1)
        assert any("where refused the last 50 configurations" in text for text in said.lines)
        again = resume(result.run_id, store=tmp_path, study=study, on=Inline(), track="none", more=3)
        assert (again.status, len(again.trials)) == ("completed", 1)


def test_a_condition_that_raises_is_bad_input_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"where .*ZeroDivisionError"):
        searched(tmp_path, hill(where=lambda config: 1 / 0))


@dataclass(frozen=True, kw_only=True)
class Picky:
    """A configuration that refuses some values by itself."""

    x: float
    y: float = 0.0

    def __post_init__(self) -> None:
        if self.x > 0.4:
            raise ValueError(f"x={self.x} is too much")


@pytest.mark.parametrize("where", [None, lambda config: True])
def test_a_configuration_that_refuses_its_values_fails_its_trial_alone(where: Any, tmp_path: Path) -> None:
    def train(config: Picky, run: Run) -> float:
        return config.x

    space = Space(Picky, x=Uniform(0.0, 1.0))
    study = Study(name="picky", objective=train, minimize="loss", space=space, search=Random(), trials=12, where=where)
    with mock.patch.object(figures, "draw", return_value={}):
        result = run(study, on=Inline(), store=tmp_path, track="none")
    table = result.trials
    failed = table[table["state"] == "failed"]
    assert 0 < len(failed) < 12
    assert (failed["config.x"] > 0.4).all()
    assert (table[table["state"] == "completed"]["config.x"] <= 0.4).all()


def test_points_come_first_completed_by_the_middle(tmp_path: Path) -> None:
    values = {"y": Uniform(0.0, 1.0)}
    _, history = searched(tmp_path, hill(values=values, points=[{"x": 0.25}, {"x": 0.75, "y": 0.1}, {"x": 0.25}]))
    configs = [(t.config["x"], t.config["y"]) for t in history.trials.values()]
    assert configs[:2] == [(0.25, 0.5), (0.75, 0.1)]
    assert configs[2] != (0.25, 0.5)  # said twice, tried once
    assert len(configs) == 5


def test_a_guess_is_tried_first(tmp_path: Path) -> None:
    values = {"x": Uniform(0.0, 1.0, center=0.2), "y": Uniform(0.0, 1.0)}
    _, history = searched(tmp_path, hill(values=values, points=[{"x": 0.9}]))
    assert [t.config["x"] for t in history.trials.values()][:2] == [0.2, 0.9]
    assert history.trials[0].config["y"] == 0.5


def test_points_that_the_condition_refuses_are_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"points: where refuses \{'x': 0\.9\}; leave it out, or change where"):
        run(hill(where=lambda config: config.x < 0.5, points=[{"x": 0.9}]), on=Inline(), store=tmp_path, track="none")
    assert not list(tmp_path.iterdir()), "nothing was begun"
    values = {"x": Uniform(0.0, 1.0, center=0.7)}
    _, history = searched(tmp_path, hill(where=lambda config: config.x < 0.5, values=values))
    assert all(t.config["x"] < 0.5 for t in history.trials.values())  # a guess is none of the user's points


def test_a_grid_is_done_when_it_is_done(tmp_path: Path) -> None:
    values = {"x": OneOf(0.1, 0.2, 0.3), "y": OneOf(0.0, 1.0)}
    _, history = searched(tmp_path, hill(values=values, search=Grid(), trials=None), slots=2)
    assert len(history.trials) == 6
    assert {(t.config["x"], t.config["y"]) for t in history.trials.values()} == {
        (x, y) for x in (0.1, 0.2, 0.3) for y in (0.0, 1.0)
    }


def test_a_large_grid_is_tried_whole(tmp_path: Path) -> None:
    def tiny(config: Hill, run: Run) -> float:
        return config.x

    values = {"x": OneOf(*(n / 10 for n in range(10))), "steps": Int(1, 7)}
    _, history = searched(tmp_path, hill(tiny, values=values, search=Grid(points=7), trials=None))
    assert len({(t.config["x"], t.config["steps"]) for t in history.trials.values()}) == 70


# -- how good is a trial -----------------------------------------------------------------------------------------------


def test_results_within_the_limits_come_first(tmp_path: Path) -> None:
    def train(config: Hill, run: Run) -> dict[str, float]:
        return {"loss": config.x, "memory": 1.0 - config.x}

    spy = Spy()
    _, history = searched(tmp_path, hill(train, limits={"memory": 0.5}, trials=10, search=spy))
    best = history.best()
    assert best is not None
    assert best.config["x"] == min(t.config["x"] for t in history.trials.values() if t.config["x"] >= 0.5)
    for number, told in spy.told.items():
        assert told.violation == pytest.approx(max(0.0, 0.5 - history.trials[number].config["x"]))


def test_a_limit_on_a_metric_that_is_never_reported_is_a_named_failure(tmp_path: Path) -> None:
    _, history = searched(tmp_path, hill(limits={"memory": 0.5}, trials=2))
    assert {t.reason for t in history.trials.values()} == {"never reported 'memory'; it reported loss"}


def test_repeats_count_by_their_mean_and_are_told_once(tmp_path: Path) -> None:
    spy = Spy()
    folder, history = searched(tmp_path, hill(noisy, repeats=3, trials=4, search=spy), slots=2)
    assert len(history.trials) == 12
    groups = [list(history.trials.values())[i : i + 3] for i in range(0, 12, 3)]
    assert sorted(spy.told) == [0, 1, 2, 3]
    for number, group in enumerate(groups):
        assert [t.of for t in group] == [None, group[0].number, group[0].number]
        assert len({t.config["x"] for t in group}) == 1
        assert len({t.seed for t in group}) == len({t.objective for t in group}) == 3
        mean = sum(t.objective or 0.0 for t in group) / 3
        assert spy.told[number].values == pytest.approx((mean,))
    leaders = history.leaders()
    assert [leader.runs for leader in leaders] == [3] * 4
    assert [leader.mean for leader in leaders] == sorted(leader.mean for leader in leaders)
    check_once(folder)


def test_of_repeats_that_fail_the_others_count(tmp_path: Path) -> None:
    def train(config: Hill, run: Run) -> float:
        if run.trial % 2:
            raise ValueError("odd")
        return config.x

    spy = Spy()
    _, history = searched(tmp_path, hill(train, repeats=2, trials=3, search=spy))
    assert history.ended == {"completed": 3, "stopped": 0, "failed": 3}
    assert [told.values for told in spy.told.values()] == [(history.trials[n].config["x"],) for n in (0, 2, 4)]


def test_a_configuration_whose_seeds_fail_is_ranked_after_the_others(tmp_path: Path) -> None:
    """It has the best value, and of three seeds two fail: so has it, for the search."""

    def train(config: Hill, run: Run) -> float:
        if config.x == 0.1 and run.trial % 3:
            raise ValueError("diverged")
        return config.x

    spy = Spy(Grid())
    study = hill(train, values={"x": OneOf(0.5, 0.1, 0.3)}, search=spy, trials=None, repeats=3)
    folder, history = searched(tmp_path, study)
    assert [leader.trial.config["x"] for leader in history.leaders()] == [0.3, 0.5, 0.1]
    assert [told.values for told in spy.told.values()] == [(0.5,), None, (0.3,)]
    found = results.search(folder)
    assert incumbents(found, found.valued())[-1] == 0.3


def test_the_feasible_come_before_the_confirmed(tmp_path: Path) -> None:
    """The best three are confirmed, and break the limit only then."""

    def train(config: Hill, run: Run) -> Iterator[Report]:
        again = run.trial >= 5
        yield Report(1, {"loss": config.x, "cost": 9.0 if again else 0.0})

    values = {"x": OneOf(0.4, 0.3, 0.2, 0.1, 0.0)}
    study = hill(train, values=values, search=Grid(), trials=None, confirm=2, limits={"cost": 1.0})
    folder, history = searched(tmp_path, study)
    assert [leader.trial.config["x"] for leader in history.leaders()] == [0.3, 0.4, 0.0, 0.1, 0.2]
    found = results.search(folder)
    assert incumbents(found, found.valued())[-1] == 0.3


@pytest.mark.parametrize(
    ("limit", "inside"),
    [((0.4, None), [0.5, 0.9]), ((None, 0.4), [0.1, 0.3]), ((0.2, 0.6), [0.3, 0.5]), (0.4, [0.1, 0.3])],
)
def test_limits_have_a_lower_and_an_upper_end(limit: Any, inside: list[float], tmp_path: Path) -> None:
    values = {"x": OneOf(0.1, 0.3, 0.5, 0.9)}
    study = hill(
        lambda config, run: {"loss": 1 - config.x, "size": config.x}, values=values, search=Grid(), trials=None
    )
    _, history = searched(tmp_path, dataclasses.replace(study, limits={"size": limit}))
    assert sorted(t.config["x"] for t in history.trials.values() if not t.violation) == inside
    best = history.best()
    assert best is not None
    assert best.config["x"] == max(inside)


@pytest.mark.parametrize("limit", [(1.0, 0.5), (None, None), (1.0,), "1", (True, None)])
def test_limits_that_bound_nothing_are_refused(limit: Any) -> None:
    with pytest.raises(BadInput, match=r"limits\['size'\] is .*; it takes an upper bound, a number, or"):
        hill(limits={"size": limit})


def test_the_leading_objective_can_be_chosen(tmp_path: Path) -> None:
    values = {"x": OneOf(0.1, 0.3, 0.5, 0.9)}
    both: dict[str, Any] = {"minimize": "loss", "maximize": "size", "values": values, "search": Grid(), "trials": None}

    def train(config: Hill, run: Run) -> dict[str, float]:
        return {"loss": config.x, "size": config.x}

    for lead, x in ((None, 0.1), ("loss", 0.1), ("size", 0.9)):
        study = hill(train, lead=lead, **both)
        assert study.metric == (lead or "loss")
        _, history = searched(tmp_path, study)
        best = history.best()
        assert best is not None
        assert best.config["x"] == x
        assert len(history.pareto()) == 4
    with pytest.raises(BadInput, match="lead='mass' is none of its objectives, loss, size"):
        hill(train, lead="mass", **both)


def test_limits_hold_where_the_best_value_was_found(tmp_path: Path) -> None:
    def train(config: Hill, run: Run) -> Iterator[Report]:
        yield Report(1, {"loss": 0.0, "cost": 100.0 * config.x})
        yield Report(2, {"loss": 5.0, "cost": 0.0, "late": 0.5})

    limits = {"cost": 10.0, "late": 1.0}  # what is known only later counts as it is then
    study = hill(train, values={"x": OneOf(0.01, 1.0)}, search=Grid(), trials=None, value="best", limits=limits)
    _, history = searched(tmp_path, study)
    assert [(t.objective, t.violation) for t in history.trials.values()] == [(0.0, 0.0), (0.0, 90.0)]


def test_the_best_of_repeats_keeps_its_state_though_others_were_luckier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first trial of the best configuration is the worst of all."""

    def train(config: Hill, run: Run) -> Iterator[Report]:
        first = run.trial % 3 == 0
        yield Report(1, {"loss": (2.0 if first else -2.0) if config.x == 0.5 else config.x}, {"x": config.x})

    monkeypatch.setattr(trial_files, "BEST", 2)
    values = {"x": OneOf(0.1, 0.2, 0.5, 0.3, 0.4, 0.6)}
    study = hill(train, values=values, search=Grid(), trials=None, repeats=3, confirm=2)
    for slots, kills in ((1, ()), (4, ()), (1, (40, 60))):
        folder = fresh(tmp_path, study)
        for kill in kills:
            live(folder, study, kill_after=kill, slots=slots)
        live(folder, study, slots=slots)
        history = replayed(folder)
        best = history.best()
        assert best is not None
        assert (best.config["x"], best.objective) == (0.5, 2.0)
        kept = {int(path.parent.name[6:]) for path in (folder.path / "checkpoints").glob("trial-*/step-*")}
        best_two = {*range(6, 9), *range(0, 3)}  # by their means
        confirming = {trial.number for trial in history.trials.values() if trial.confirms}
        assert len(confirming) == 6
        assert kept == best_two | confirming or (kills and kept > best_two)  # who was killed did not tidy up
        champion = history.champion()
        assert champion is not None
        assert (champion.of, champion.confirms) == (best.number, True)
        state = results.final_state(folder, champion)
        assert state is not None
        assert state["x"] == 0.5


def test_a_leader_that_was_stopped_is_trained_to_its_end_and_its_value_state_and_metrics_are_of_there(
    tmp_path: Path,
) -> None:
    def train(config: Hill, run: Run) -> Iterator[Report]:
        for step in range(1, 5):  # the best one at first is stopped: others are better by then
            yield Report(step, {"loss": config.x + 1 / step, "size": 10.0 * step}, {"step": step})

    values = {"x": OneOf(0.1, 0.2, 0.3, 0.4)}
    study = hill(train, values=values, search=Grid(), trials=None, stop=ASHA(first=1, factor=2, last=4), confirm=1)
    folder, history = searched(tmp_path, study)
    leader = history.leaders(1)[0]
    (again,) = leader.counted
    assert again.confirms
    assert again.step == 4
    document = results.result(folder, history, "completed", study)
    assert document["best"] == {
        "trial": leader.trial.number,
        "objective": again.config["x"] + 0.25,
        "step": 4,
        "value": "last",
        "confirmed": [again.number],
        "config": dict(again.config),
    }
    assert document["metrics"]["size"] == 40.0
    assert results.kept_state(folder) == {"step": 4}
    whole = [trial.objective for trial in history.trials.values() if trial.state == "completed" and not trial.confirms]
    assert document["best"]["objective"] <= min(value for value in whole if value is not None)


def test_leaders_are_tried_again_and_the_best_is_judged_by_that_alone(tmp_path: Path) -> None:
    def train(config: Hill, run: Run) -> float:
        lucky = run.trial == 2  # at the first attempt the worst of all
        return -1.0 if lucky else config.x

    values = {"x": OneOf(0.1, 0.2, 0.9, 0.3, 0.4)}
    spy = Spy(Grid())
    folder, history = searched(tmp_path, hill(train, values=values, search=spy, trials=None, confirm=2))
    again = [t for t in history.trials.values() if t.confirms]
    assert [(t.of, t.config["x"]) for t in again] == [(2, 0.9), (2, 0.9), (0, 0.1), (0, 0.1), (1, 0.2), (1, 0.2)]
    best = history.leaders(1)[0]
    assert (best.trial.number, best.mean, best.runs, best.half) == (0, 0.1, 2, 0.0)
    assert len(spy.told) == 5  # the search is over
    check_once(folder)


def test_an_extended_study_confirms_its_new_leaders_and_they_can_win(tmp_path: Path) -> None:
    """Of the first trials three are confirmed; those that come later are better."""

    def train(config: Hill, run: Run) -> float:
        return 10.0 - run.trial if run.trial < 20 else config.x  # later is better; confirmations give x

    study = hill(train, trials=4, confirm=1)
    with mock.patch.object(figures, "draw", return_value={}):
        first = run(study, on=Inline(), store=tmp_path, track="none")
        assert len(first.trials) == 4 + 3
        more = resume(first.run_id, store=tmp_path, study=study, on=Inline(), track="none", more=3)
    history = replayed(RunFolder(more.folder))
    searched_for = [t for t in history.trials.values() if not t.confirms]
    again = [t.of for t in history.trials.values() if t.confirms]
    assert len(searched_for) == 7
    assert {t.number for t in searched_for if t.number >= 7} <= set(again)
    assert len(again) == len(set(again)) == 6  # each leader is confirmed once


def test_a_trial_that_raises_is_tried_again_and_goes_on_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "KEEP_EVERY", 0.0)
    raised: list[tuple[int, int]] = []

    def train(config: Hill, run: Run) -> Iterator[Report]:
        for report in climb(config, run):
            if run.trial == 1 and report.step == 3 and len(raised) < 2:
                raised.append((run.trial, report.step))
                raise RuntimeError("out of luck")
            yield report

    folder, history = searched(tmp_path, hill(train, trials=3, retries=2))
    assert [t.state for t in history.trials.values()] == ["completed"] * 3
    begun = [e for e in folder.events() if isinstance(e, Begun) and e.trial == 1]
    assert [(e.attempt, e.step, e.why) for e in begun] == [(1, 0, ""), (2, 2, "failed"), (3, 2, "failed")]
    assert begun[1].detail == "RuntimeError: out of luck"
    check_once(folder)


def test_a_trial_that_reports_other_steps_the_next_time_does_not_go_back(tmp_path: Path) -> None:
    tries = iter([(1, 2, 4, 0), (1, 3, 4, 5)])

    def train(config: Hill, run: Run) -> Iterator[Report]:
        for step in next(tries):
            if step == 0:
                raise RuntimeError("again")
            yield Report(step, {"loss": float(step)})

    study = hill(train, trials=1, retries=1)
    folder = fresh(tmp_path, study)
    life = live(folder, study)
    assert [event.step for event in folder.events() if isinstance(event, Reported)] == [1, 2, 4, 5]
    assert replayed(folder).trials[0].objective == 5.0
    said = [line for line in life.said.lines if "not what was recorded" in line]
    assert len(said) == 1
    assert said[0].startswith("trial 0, step 3: recomputed")


def test_after_its_retries_it_has_failed_and_is_ranked_last(tmp_path: Path) -> None:
    tried: list[int] = []

    def train(config: Hill, run: Run) -> float:
        tried.append(run.trial)
        if run.trial in (0, 3):
            raise ValueError("no")
        return config.x

    spy = Spy()
    folder, history = searched(tmp_path, hill(train, retries=2, search=spy))
    assert [t.state for t in history.trials.values()] == ["failed", "completed", "completed", "failed", "completed"]
    assert history.trials[0].reason == "ValueError: no"
    assert [tried.count(n) for n in range(5)] == [3, 1, 1, 3, 1]
    assert [told.values is None for told in spy.told.values()] == [True, False, False, True, False]
    assert {leader.trial.number for leader in history.leaders()} == {1, 2, 4}
    assert "ValueError: no" in (folder.path / "errors" / "trial-0000.txt").read_text()


@pytest.mark.parametrize("wrong", [100.0, 0.001, math.inf])
@pytest.mark.parametrize("value", ["last", "best"])
def test_what_a_retry_reports_counts_and_not_what_the_failed_attempt_did(
    wrong: float, value: Any, tmp_path: Path
) -> None:
    attempts: list[int] = []

    def train(config: Hill, run: Run) -> Iterator[Report]:
        attempts.append(run.trial)
        broken = attempts.count(run.trial) == 1
        yield Report(1, {"loss": 9.0})
        yield Report(2, {"loss": wrong if broken else 2.0})
        if broken:
            raise RuntimeError("a device was lost")
        yield Report(3, {"loss": 1.0 if value == "last" else 3.0})

    spy = Spy()
    folder, history = searched(tmp_path, hill(train, retries=1, trials=2, value=value, search=spy))
    wanted = 1.0 if value == "last" else 2.0
    assert [(t.state, t.objective) for t in history.trials.values()] == [("completed", wanted)] * 2
    assert [told.curve for told in spy.told.values()] == [
        ((1, 9.0), (2, 2.0), (3, 1.0 if value == "last" else 3.0))
    ] * 2
    steps = [event.step for event in folder.events() if isinstance(event, Reported) and event.trial == 0]
    assert steps == [1, 2, 2, 3]  # what is the same again is not written again
    assert replayed(folder).trials == history.trials


def test_the_study_ends_at_its_target(tmp_path: Path) -> None:
    def train(config: Hill, run: Run) -> Iterator[Report]:
        for step in range(1, 4 if config.x == 0.3 else 7):
            yield Report(step, {"loss": height(config.x)})

    values = {"x": OneOf(0.9, 0.8, 0.3, 0.7, 0.6)}
    study = hill(train, values=values, search=Grid(), trials=None, target=1e-6)
    _, history = searched(tmp_path, study)
    assert [t.config["x"] for t in history.trials.values()] == [0.9, 0.8, 0.3]
    folder, history = searched(tmp_path, study, slots=4)  # of those at work nobody is waited for
    assert [t.state for t in history.trials.values()] == ["stopped", "stopped", "completed", "stopped"]
    assert all(t.step < 6 for t in history.trials.values())
    assert {t.reason for t in history.trials.values() if t.state == "stopped"} == {"the target is reached"}
    check_once(folder)


def test_a_target_of_a_maximized_objective(tmp_path: Path) -> None:
    def up(config: Hill, run: Run) -> float:
        return config.x

    values = {"x": OneOf(0.1, 0.5, 0.9)}
    _, history = searched(tmp_path, hill(up, maximize="gain", values=values, search=Grid(), trials=None, target=0.5))
    assert len(history.trials) == 2


def test_no_more_is_asked_after_a_plateau(tmp_path: Path) -> None:
    values = {"x": OneOf(0.9, 0.3, 0.5, 0.6, 0.7, 0.8)}
    _, history = searched(tmp_path, hill(values=values, search=Grid(), trials=None, plateau=3))
    assert [t.config["x"] for t in history.trials.values()] == [0.9, 0.3, 0.5, 0.6, 0.7]


def test_a_target_that_is_reached_is_confirmed_and_the_study_is_not_extended(tmp_path: Path) -> None:
    def train(config: Hill, run: Run) -> float:
        return config.x

    study = hill(train, values={"x": OneOf(0.9, 0.3, 0.8)}, search=Grid(), trials=2, target=0.5, confirm=2)
    with mock.patch.object(figures, "draw", return_value={}):
        first = run(study, on=Inline(), store=tmp_path, track="none")
        history = replayed(RunFolder(first.folder))
        assert [(t.of, t.config["x"]) for t in history.trials.values() if t.confirms] == 2 * [(1, 0.3)] + 2 * [(0, 0.9)]
        with pytest.raises(BadInput, match=r"its target, 0.5, is reached, so more trials would change nothing"):
            resume(first.run_id, store=tmp_path, study=study, on=Inline(), track="none", more=3)
        other = dataclasses.replace(study, target=None, confirm=0, plateau=1, name="other", trials=3)
        second = run(other, on=Inline(), store=tmp_path, track="none")
        with pytest.raises(BadInput, match=r"its last 1 configurations brought nothing better \(plateau\)"):
            resume(second.run_id, store=tmp_path, study=other, on=Inline(), track="none", more=3)
        late = dataclasses.replace(other, plateau=None, seconds=1e-3)
        third = run(late, on=Inline(), store=tmp_path, track="none")
        with pytest.raises(BadInput, match=r"its time, 0.001 s, is over"):
            resume(third.run_id, store=tmp_path, study=late, on=Inline(), track="none", more=3)
    assert RunFolder(first.folder).document()["settings"]["trials"] == 2


def test_a_time_limit_ends_the_search(tmp_path: Path) -> None:
    def slow(config: Hill, run: Run) -> Iterator[Report]:
        for step in range(1, 1000):
            time.sleep(0.002)
            yield Report(step, {"loss": 1.0 / step})

    folder, history = searched(tmp_path, hill(slow, trials=None), slots=2, seconds=0.1)
    assert {t.state for t in history.trials.values()} == {"stopped"}
    assert {t.reason for t in history.trials.values()} == {"time limit"}
    assert history.best() is not None
    check_once(folder)


def test_of_several_objectives_the_front_is_what_nobody_beats(tmp_path: Path) -> None:
    def train(config: Hill, run: Run) -> dict[str, float]:
        return {"loss": config.x, "gain": config.x * 2.0 - config.y}

    values = {"x": OneOf(0.0, 0.5, 1.0), "y": OneOf(0.0, 1.0)}
    spy = Spy(Grid())
    study = hill(train, values=values, search=spy, trials=None, minimize="loss", maximize="gain")
    _, history = searched(tmp_path, study)
    assert history.objectives == {"loss": True, "gain": False}
    front = history.pareto()
    assert sorted((t.config["x"], t.config["y"]) for t in front) == [(0.0, 0.0), (0.5, 0.0), (1.0, 0.0)]
    assert all(t.values == (t.config["x"], t.config["x"] * 2.0 - t.config["y"]) for t in history.trials.values())
    assert spy.told[0].values == (0.0, -0.0)


@pytest.mark.parametrize("search", [TPE(startup=2), GP(startup=2), NSGA2(population=4)], ids=lambda s: type(s).__name__)
def test_several_objectives_at_a_time_limit_are_extended_as_any(search: Any, tmp_path: Path) -> None:
    """What the limit stopped may have reported one objective, or both: no front has it, and the search goes on."""

    def train(config: Hill, run: Run) -> Iterator[Report]:
        yield Report(1, {"loss": config.x})
        if run.trial % 3 != 1:
            yield Report(2, {"cost": 1 - config.x})
        while run.trial % 3:
            time.sleep(0.002)
            yield Report(run.trial + 3 + int(1e6 * time.monotonic()), {"loss": config.x})

    study = hill(train, minimize=("loss", "cost"), search=search, trials=30)
    folder = fresh(tmp_path, study)
    assert live(folder, study, slots=6, seconds=0.6).status == "completed"
    before = replayed(folder)
    assert {len(t.values) for t in before.trials.values() if t.state == "stopped"} == {0, 2}
    longer = dataclasses.replace(study, trials=len(before.trials) + 6)
    live(folder, longer, slots=6, seconds=0.6)
    history = replayed(folder)
    assert len(history.trials) == len(before.trials) + 6
    assert all(t.state == "completed" for t in history.pareto() if t.number % 3 == 0)
    check_once(folder)


@pytest.mark.usefixtures("plain")
def test_a_time_limit_of_the_study_holds_over_all_its_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(config: Hill, run: Run) -> Iterator[Report]:
        step = 0
        while True:
            step += 1
            yield Report(step, {"loss": 1.0 / step})

    monkeypatch.setattr(results, "times", lambda folder: (9999.9, 1.0))  # what the sessions before took
    result = run(hill(endless, seconds=10_000), on=Inline(), store=tmp_path, track="none")
    assert result.status == "completed"
    assert result.trials["state"].tolist() == ["stopped"]


# -- rules that stop ---------------------------------------------------------------------------------------------------


def test_a_stopped_trial_is_stopped_and_told_at_the_step_that_it_saw(tmp_path: Path) -> None:
    spy = Spy(Grid())
    folder, history = searched(tmp_path, halving(0.3, 0.4, 0.5, 0.6, 0.35, search=spy))
    states = [(t.config["x"], t.state, t.step) for t in history.trials.values()]
    assert states == [
        (0.3, "completed", 9),
        (0.4, "stopped", 1),
        (0.5, "stopped", 1),
        (0.6, "stopped", 1),
        (0.35, "stopped", 1),
    ]
    assert [(told.stopped, told.step) for told in spy.told.values()] == [(False, 9), *[(True, 1)] * 4]
    check_once(folder)


def test_a_stopped_trial_is_never_the_best_while_others_have_completed(tmp_path: Path) -> None:
    """A loss that rises on the way: what was stopped early looks better than it would have been."""

    def rising(config: Hill, run: Run) -> Iterator[Report]:
        for step in range(1, 10):
            yield Report(step, {"loss": config.x + step})

    study = hill(rising, values={"x": OneOf(0.1, 0.2, 0.3)}, search=Grid(), trials=None)
    study = dataclasses.replace(study, stop=ASHA(first=1, factor=3, last=9))
    _, history = searched(tmp_path, study)
    assert [t.state for t in history.trials.values()] == ["completed", "stopped", "stopped"]
    best = history.best()
    assert best is not None
    assert (best.number, best.objective) == (0, 9.1)


@pytest.mark.usefixtures("plain")
@pytest.mark.parametrize(
    ("changes", "best", "said"),
    [
        ({}, 0, True),
        ({"value": "best"}, 1, False),
        ({"comparable": True}, 1, False),
        ({"value": "best", "comparable": False}, 0, True),
        ({"confirm": 1}, 2, False),
    ],
)
def test_a_stopped_trial_that_reached_more_is_the_best_or_it_is_said(
    changes: dict[str, Any], best: int, said: bool, tmp_path: Path
) -> None:
    """The second is the best when it is stopped; tried to its end, the third is."""

    def bent(config: Hill, run: Run) -> Iterator[Report]:
        for step in range(1, 10):
            yield Report(step, {"loss": {0.0: 50.0, 0.3: 20.0 + step, 0.6: 60.0 - 5 * step}[config.x]})

    study = hill(bent, values={"x": OneOf(0.0, 0.3, 0.6)}, search=Grid(), trials=None, **changes)
    study = dataclasses.replace(study, stop=Turning())
    watch = Said()
    result = run(study, on=Inline(), store=tmp_path, track="none", watch=watch)
    history = replayed(RunFolder(result.folder))
    assert [t.state for t in history.trials.values()][:3] == ["completed", "stopped", "stopped"]
    assert result.best is not None
    assert result.best["trial"] == best
    assert any("Study(comparable=True) counts them" in line for line in watch.lines) == said


@dataclass(frozen=True)
class Turning:
    """A rule that stops all but the first trial at step 2."""

    last: int | None = 9

    def open(self) -> Turning:
        return self

    def report(self, trial: int, step: int, value: float, *, upto: int | None = None) -> bool:
        return trial > 0 and step >= 2


def test_an_objective_that_calls_back_is_told_to_stop(tmp_path: Path) -> None:
    told: dict[int, list[bool]] = {}

    def train(config: Hill, run: Run) -> None:
        told[run.trial] = []
        for step in range(1, 10):
            stop = run.report(step, {"loss": config.x})
            told[run.trial].append(stop)
            if stop:
                return

    study = hill(train, values={"x": OneOf(0.1, 0.2, 0.3)}, search=Grid(), trials=None)
    study = dataclasses.replace(study, stop=ASHA(first=1, factor=3, last=9))
    _, history = searched(tmp_path, study)
    assert [t.state for t in history.trials.values()] == ["completed", "stopped", "stopped"]
    assert told == {0: [False] * 9, 1: [True], 2: [True]}


# -- more trials, earlier trials ---------------------------------------------------------------------------------------


@pytest.mark.usefixtures("plain")
def test_a_population_cannot_be_extended_and_stays_as_it_is(tmp_path: Path) -> None:
    first = run(population(), on=Inline(), store=tmp_path, track="none", slots=4)
    with pytest.raises(BadInput, match=r"PBT"):
        resume(first.run_id, store=tmp_path, study=population(), on=Inline(), track="none", more=2)
    again = resume(first.run_id, store=tmp_path, study=population(), on=Inline(), track="none")
    assert again.document == first.document


@pytest.mark.usefixtures("plain")
def test_a_finished_search_is_extended_as_if_it_had_been_longer(tmp_path: Path) -> None:
    study = hill(search=TPE(startup=2))
    long = run(dataclasses.replace(study, trials=8), on=Inline(), store=tmp_path, track="none")
    short = run(study, on=Inline(), store=tmp_path, track="none")
    again = resume(short.run_id, store=tmp_path, study=study, on=Inline(), track="none", more=3)
    assert again.status == "completed"
    assert again.fingerprint == long.fingerprint
    third = resume(short.run_id, store=tmp_path, study=study, on=Inline(), track="none", more=2)
    assert third.document["trials"]["completed"] == 10
    assert resume(short.run_id, store=tmp_path, study=study, on=Inline(), track="none").document == third.document


@pytest.mark.usefixtures("plain")
def test_after_a_target_in_the_middle_of_repeats_an_extension_completes_them(tmp_path: Path) -> None:
    """At the target the last configuration lacks a seed; confirmations come, and then the rest under another target."""

    def train(config: Hill, run: Run) -> float:
        return config.x

    values = {"x": OneOf(0.9, 0.1, 0.5, 0.7)}
    study = hill(train, values=values, search=Spy(Grid()), trials=None, repeats=2, confirm=1, target=0.1)
    folder = fresh(tmp_path, study)
    live(folder, study, slots=5)
    first = replayed(folder)
    assert first.best() is not None
    live(folder, dataclasses.replace(study, target=0.01), slots=1)
    history = replayed(folder)
    searched_for = [t for t in history.trials.values() if not t.confirms]
    assert len(searched_for) == 8
    for group in {t.group for t in searched_for}:
        seeds = [t for t in searched_for if t.group == group]
        assert [t.config["x"] for t in seeds] == [seeds[0].config["x"]] * 2
    assert len({t.group for t in searched_for}) == 4


def test_who_names_units_of_something_else_runs_on_workers() -> None:
    def own(config: Hill, run: Run) -> float:
        return float(config.Units)  # type: ignore[attr-defined]

    def local(config: Hill, run: Run) -> Iterator[Any]:
        from bilevel import Units as Work

        yield Work(len, {}, ())

    def module(config: Hill, run: Run) -> Iterator[Any]:
        yield bilevel.Units(len, {}, ())

    assert not hill(own).spreads
    assert hill(local).spreads
    assert hill(module).spreads


def test_an_interrupted_extension_is_gone_on_with(tmp_path: Path) -> None:
    """The number of trials is the run's, not the study's, once it was extended."""
    study = hill()
    first = run(study, on=Inline(), store=tmp_path, track="none")
    with mock.patch.object(session.Session, "work", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        resume(first.run_id, store=tmp_path, study=study, on=Inline(), track="none", more=3)
    # it died before it asked for any: the run is still the finished one, until it is extended again
    again = resume(first.run_id, store=tmp_path, study=study, on=Inline(), track="none", more=1)
    assert again.document["trials"]["completed"] == 9


@pytest.mark.usefixtures("plain")
def test_an_earlier_run_is_told_first_where_it_fits(tmp_path: Path) -> None:
    first = run(hill(trials=6), on=Inline(), store=tmp_path, track="none")
    spy = Spy(TPE(startup=2))
    wider = hill(search=spy, values={"x": Uniform(0.0, 0.5)}, warm_start=[first.run_id], trials=3, seed=9)
    second = run(wider, on=Inline(), store=tmp_path, track="none")
    before = [(point, told) for kind, number, point, told in spy.talks[-1] if kind == "tell" and number < 0]
    table = first.trials
    inside = table[table["config.x"] <= 0.5]
    assert [point["x"] for point, _ in before] == list(inside["config.x"])
    assert [told.values[0] for _, told in before if told.values] == list(inside["objective"])
    assert len(second.trials) == 3
    led = spy.talks[-1]
    resume(second.run_id, store=tmp_path, study=wider, on=Inline(), track="none", more=1)
    assert spy.talks[-1][: len(led)] == led  # kept with the run: what becomes of the earlier one is no matter


@pytest.mark.usefixtures("plain")
def test_an_earlier_run_that_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    first = run(hill(trials=2), on=Inline(), store=tmp_path, track="none")
    with pytest.raises(BadInput, match=r"looks for minimize loss, this study for maximize loss"):
        run(hill(maximize="loss", warm_start=[first.run_id]), on=Inline(), store=tmp_path, track="none")
    with pytest.raises(BadInput, match=r"of its 2 ended trials none fits this space"):
        run(
            hill(values={"y": Uniform(2.0, 3.0)}, warm_start=[first.run_id]),
            on=Inline(),
            store=tmp_path,
            track="none",
        )


# -- size --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_two_thousand_trials_leave_little_in_memory(tmp_path: Path) -> None:
    def tiny(config: Hill, run: Run) -> float:
        return config.x

    def resident() -> float:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

    searched(tmp_path, hill(tiny, trials=200))
    before = resident()
    _, history = searched(tmp_path, hill(tiny, trials=2000), slots=2)
    assert history.ended["completed"] == 2000
    assert resident() - before < 40, "MB for 2,000 trials"
