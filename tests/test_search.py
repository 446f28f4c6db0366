"""Does a search ask, tell, stop and end as it says, and lose nothing wherever its driver dies?"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch

from bilevel import (
    ASHA,
    PBT,
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
    resume,
    run,
    runs,
)
from bilevel import driver as drivers
from bilevel.errors import BadInput
from bilevel.events import Asked, Begun, Ended, Fault, Gone, Moved, Reported, Said, Turned
from bilevel.execute.inline import InlineStage
from bilevel.outer.search import Point, Problem, Searcher, Told
from bilevel.record import checkpoints
from support.tiny import maml
from support.trying import (
    Hill,
    check_once,
    climb,
    count_events,
    drifting,
    fingerprint,
    fresh,
    height,
    hill,
    live,
    population,
    replayed,
    searched,
)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drivers die here, power stays; a fsync takes longer than a trial."""
    monkeypatch.setattr(os, "fsync", lambda fd: None)


# -- what is asked and told --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spy:
    """A search that writes down how it is talked to; a list for each time that it was opened."""

    search: Any = field(default_factory=Random)
    talks: list[list[tuple[Any, ...]]] = field(default_factory=list, compare=False)

    def open(self, problem: Problem) -> Searcher:
        talk: list[tuple[Any, ...]] = []
        self.talks.append(talk)
        return _Spying(self.search.open(problem), talk)

    @property
    def told(self) -> dict[int, Told]:
        """What the last one was told, by its own numbers."""
        return {number: told for kind, number, _, told in self.talks[-1] if kind == "tell"}


class _Spying:
    def __init__(self, searcher: Searcher, talk: list[tuple[Any, ...]]) -> None:
        self._searcher, self._talk = searcher, talk

    @property
    def done(self) -> bool:
        return self._searcher.done

    def ask(self, number: int) -> Point | None:
        return self._searcher.ask(number)

    def asked(self, number: int, point: Point) -> None:
        self._talk.append(("asked", number, dict(point), None))
        self._searcher.asked(number, point)

    def tell(self, number: int, point: Point, told: Told) -> None:
        self._talk.append(("tell", number, dict(point), told))
        self._searcher.tell(number, point, told)


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
    with mock.patch.object(runs.figures, "draw", return_value={}):
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


def noisy(config: Hill, run: Run) -> float:
    return config.x + 0.2 * random.random()  # the global generator is the trial's own


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
    with mock.patch.object(runs.figures, "draw", return_value={}):
        first = run(study, on=Inline(), store=tmp_path, track="none")
        assert len(first.trials) == 4 + 3
        more = resume(first.run_id, store=tmp_path, study=study, on=Inline(), track="none", more=3)
    history = replayed(runs.RunFolder(more.folder))
    searched_for = [t for t in history.trials.values() if not t.confirms]
    again = [t.of for t in history.trials.values() if t.confirms]
    assert len(searched_for) == 7
    assert {t.number for t in searched_for if t.number >= 7} <= set(again)
    assert len(again) == len(set(again)) == 6  # each leader is confirmed once


def test_a_trial_that_raises_is_tried_again_and_goes_on_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drivers, "KEEP_EVERY", 0.0)
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


# -- rules that stop ---------------------------------------------------------------------------------------------------


def halving(*xs: float, steps: int = 9, factor: int = 3, **changes: Any) -> Study:
    """These points in turn, successively halved from step 1 on."""
    values = {"x": OneOf(*xs), "steps": steps}
    defaults = {"search": Grid(), "trials": None, "stop": ASHA(first=1, factor=factor, last=steps)}
    return hill(values=values, **(defaults | changes))


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


# -- what an objective may do ------------------------------------------------------------------------------------------


def test_an_objective_may_return_a_number_or_metrics(tmp_path: Path) -> None:
    answers = {0: 1.5, 1: {"loss": 2.5, "size": 3}, 2: np.float32(0.5), 3: torch.tensor(0.25), 4: "bad"}

    def train(config: Hill, run: Run) -> Any:
        return answers[run.trial]

    _, history = searched(tmp_path, hill(train))
    assert [t.objective for t in history.trials.values()] == [1.5, 2.5, 0.5, 0.25, None]
    assert history.trials[1].metrics == {"loss": 2.5, "size": 3.0}
    assert history.trials[4].reason == "TypeError: the objective returned a str; it takes a number or metrics by name"


class Trainer:
    """An objective that is an object."""

    def __init__(self, shift: float) -> None:
        self.shift = shift

    def __call__(self, config: Hill, run: Run) -> Iterator[Report]:
        for step in (1, 2):
            yield Report(step, {"loss": config.x + self.shift})


def test_an_objective_may_be_an_object_or_part_of_one(tmp_path: Path) -> None:
    for objective in (Trainer(1.0), Trainer(1.0).__call__, functools.partial(Trainer.__call__, Trainer(1.0))):
        _, history = searched(tmp_path, hill(objective, trials=1))
        trial = history.trials[0]
        assert (trial.step, trial.objective) == (2, trial.config["x"] + 1.0)
    _, history = searched(tmp_path, hill(lambda config, run: climb(config, run), trials=1))
    assert history.trials[0].reason is not None
    assert "write `yield from` instead of `return`" in history.trials[0].reason


def test_a_returned_result_comes_after_the_reported_steps(tmp_path: Path) -> None:
    def train(config: Hill, run: Run) -> float:
        for step in (1, 2):
            run.report(step, {"loss": 9.0})
        return config.x

    _, history = searched(tmp_path, hill(train, trials=1))
    assert (history.trials[0].step, history.trials[0].objective) == (3, history.trials[0].config["x"])


def test_what_a_trial_prints_goes_to_its_log_and_nowhere_else(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    def train(config: Hill, run: Run) -> Iterator[Report]:
        print(f"trial {run.trial} begins")  # noqa: T201
        yield Report(1, {"loss": config.x})
        sys.stderr.write("and ends\n")

    folder, _ = searched(tmp_path, hill(train, trials=2), slots=2)
    logs = folder.path / "logs"
    assert {p.name: p.read_text() for p in logs.iterdir()} == {
        "trial-0000.txt": "trial 0 begins\nand ends\n",
        "trial-0001.txt": "trial 1 begins\nand ends\n",
    }
    assert capfd.readouterr() == ("", "")


def nan_at_last(config: Hill, run: Run) -> Iterator[Report]:
    yield Report(1, {"loss": 1.0})
    yield Report(2, {"loss": math.nan if run.trial == 1 else config.x})


def test_a_value_that_is_not_finite_fails_its_trial_and_never_reaches_the_search(tmp_path: Path) -> None:
    spy = Spy(TPE(startup=1))
    folder, history = searched(tmp_path, hill(nan_at_last, search=spy, trials=4))
    assert history.trials[1].state == "failed"
    assert history.trials[1].reason == "step 2: loss is nan"
    assert spy.told[1].values is None
    assert all(math.isfinite(v) for told in spy.told.values() for v in told.values or ())
    assert fingerprint(folder)  # NaN in the journal is read again


def many(config: Hill, run: Run) -> Iterator[Report]:
    yield Report(1, {"loss": torch.ones(3)})  # type: ignore[dict-item]


def no_mapping(config: Hill, run: Run) -> Iterator[Report]:
    yield Report(1, 0.5)  # type: ignore[arg-type]


def nameless(config: Hill, run: Run) -> Iterator[Report]:
    yield Report(1, {1: 0.5})  # type: ignore[dict-item]


def odd_state(config: Hill, run: Run) -> Iterator[Report]:
    yield Report(1, {"loss": 0.5}, {"model": {"net": object()}})


def deep_exit(config: Hill, run: Run) -> Iterator[Report]:
    yield Report(1, {"loss": 0.5})
    sys.exit(3)


@pytest.mark.parametrize(
    ("objective", "reason"),
    [
        (many, "step 1: metric 'loss' is a Tensor; it takes a number"),
        (no_mapping, "step 1: metrics are a float; they take numbers by name"),
        (nameless, "step 1: metric 1 is named by a int; names are text"),
        (
            odd_state,
            "step 1: state cannot be kept: model.net is a object; it takes tensors, numpy arrays, numbers, words, lists"
            " and dicts",
        ),
        (deep_exit, "SystemExit: 3"),
    ],
)
def test_what_an_objective_does_wrong_fails_its_trials_and_not_the_run(
    objective: Any, reason: str, tmp_path: Path
) -> None:
    _, history = searched(tmp_path, hill(objective, trials=2))
    assert [t.state for t in history.trials.values()] == ["failed", "failed"]
    assert history.trials[0].reason == reason


def test_a_state_comes_back_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An optimizer's is what everybody puts into it: keys that are whole numbers, tuples, numpy arrays."""
    monkeypatch.setattr(drivers, "KEEP_EVERY", 0.0)
    seen: list[Any] = []

    def train(config: Hill, run: Run) -> Iterator[Report]:
        model = torch.nn.Linear(2, 1)
        adam = torch.optim.Adam(model.parameters(), lr=config.x)
        model(torch.ones(2)).backward()
        adam.step()
        if run.state is not None:
            seen.append(run.state)
            adam.load_state_dict(run.state["adam"])
            assert adam.state_dict()["state"].keys() == {0, 1}
            assert torch.equal(adam.state_dict()["state"][0]["exp_avg"], run.state["adam"]["state"][0]["exp_avg"])
        state = {"adam": adam.state_dict(), "array": np.arange(3.0), "none": None, "text": "a"}
        yield Report(1 if run.state is None else 2, {"loss": 0.5}, state)
        if run.state is None:
            raise RuntimeError("again")

    _, history = searched(tmp_path, hill(train, trials=1, retries=1))
    assert history.trials[0].state == "completed", history.trials[0].reason
    (state,) = seen
    assert state["none"] is None
    assert state["text"] == "a"
    assert np.asarray(state["array"]).tolist() == [0.0, 1.0, 2.0]


def drawn() -> dict[str, float]:
    return {"loss": random.random() + float(np.random.rand()) + float(torch.rand(()))}


def drawing(config: Hill, run: Run) -> Iterator[Report]:
    for step in range(1, 4):
        yield Report(step, drawn())


def drawing_back(config: Hill, run: Run) -> None:
    for step in range(1, 4):
        run.report(step, drawn())


def test_code_that_uses_global_generators_gives_the_same_numbers_in_any_slot(tmp_path: Path) -> None:
    found = {
        fingerprint(searched(tmp_path, hill(objective), slots=slots)[0])
        for slots in (1, 2, 5)
        for objective in (drawing, drawing_back)
    }
    assert len(found) == 1


def drawing_on(config: Hill, run: Run) -> Iterator[Report]:
    """Its numbers go on from where they were, not from the beginning."""
    for step in range(1 if run.state is None else run.state["done"] + 1, 5):
        yield Report(step, drawn(), {"done": step})


def test_code_that_uses_global_generators_goes_on_with_them_after_a_kill(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drivers, "KEEP_EVERY", 0.0)
    study = hill(drawing_on, trials=2)
    expected, count = undisturbed(tmp_path, study)
    for number in range(1, count + 1, 2):
        folder = fresh(tmp_path, study)
        live(folder, study, kill_after=number)
        live(folder, study)
        assert fingerprint(folder) == expected


@pytest.mark.usefixtures("plain")
def test_a_time_limit_of_the_study_holds_over_all_its_sessions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(config: Hill, run: Run) -> Iterator[Report]:
        step = 0
        while True:
            step += 1
            yield Report(step, {"loss": 1.0 / step})

    monkeypatch.setattr(runs.results, "times", lambda folder: (9999.9, 1.0))  # what the sessions before took
    result = run(hill(endless, seconds=10_000), on=Inline(), store=tmp_path, track="none")
    assert result.status == "completed"
    assert result.trials["state"].tolist() == ["stopped"]


# -- drivers that die --------------------------------------------------------------------------------------------------


def undisturbed(store: Path, study: Study, **more: Any) -> tuple[str, int]:
    folder, _ = searched(store, study, **more)
    check_once(folder)
    return fingerprint(folder), count_events(folder)


STUDIES = {
    "random": hill(trials=3),
    "tpe": hill(search=TPE(startup=2), trials=4, values={"steps": 1}),
    "asha": halving(0.6, 0.5, 0.3, 0.7, 0.4, steps=3, factor=2),
    "where": hill(where=lambda config: config.x < 0.4, trials=3, values={"steps": 1}),
    "repeats and confirm": hill(noisy, repeats=2, confirm=2, trials=3, values={"steps": 1}),
    "failing": hill(nan_at_last, trials=3),
    "points": hill(points=[{"x": 0.5}], values={"x": Uniform(0.0, 1.0, center=0.2)}, trials=3),
    "target": hill(values={"x": OneOf(0.9, 0.3, 0.5), "steps": 1}, search=Grid(), trials=None, target=1e-6),
    "plateau": hill(values={"x": OneOf(0.9, 0.3, 0.5, 0.6), "steps": 1}, search=Grid(), trials=None, plateau=2),
}


@pytest.mark.parametrize("lose", [False, True], ids=["all on disk", "the last of it lost"])
@pytest.mark.parametrize("name", list(STUDIES))
def test_killed_after_any_event_it_ends_as_undisturbed(
    name: str, lose: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drivers, "KEEP_EVERY", 0.0)
    study = STUDIES[name]
    expected, count = undisturbed(tmp_path, study)
    for number in range(1, count + 1, 1 if count < 40 else 2):
        folder = fresh(tmp_path, study)
        assert live(folder, study, kill_after=number, lose=lose).status == "killed"
        done = {n for n, t in replayed(folder).trials.items() if t.state != "running"}
        life = live(folder, study)
        assert life.status == "completed"
        assert fingerprint(folder) == expected, f"killed after event {number} of {count}"
        check_once(folder)
        begun = [e.trial for e in folder.events() if isinstance(e, Begun) and e.why == "resumed"]
        assert not done & set(begun), "a trial that had ended ran again"


@pytest.mark.parametrize("name", ["tpe", "asha", "repeats and confirm"])
def test_killed_again_and_again_it_ends_as_undisturbed(name: str, tmp_path: Path) -> None:
    study = STUDIES[name]
    expected, count = undisturbed(tmp_path, study)
    chance = random.Random(1)
    for _ in range(5):
        folder = fresh(tmp_path, study)
        lives = 1
        while live(folder, study, kill_after=chance.randint(3, 9)).status == "killed":
            lives += 1
            assert lives < count
        assert fingerprint(folder) == expected
        check_once(folder)


def test_interrupted_after_any_event_it_ends_as_undisturbed(tmp_path: Path) -> None:
    study = STUDIES["asha"]
    expected, count = undisturbed(tmp_path, study)
    for number in range(1, count, 3):
        folder = fresh(tmp_path, study)
        assert live(folder, study, interrupt_after=number).status == "interrupted"
        assert live(folder, study).status == "completed"
        assert fingerprint(folder) == expected
        check_once(folder)


def test_a_trial_in_flight_goes_on_from_its_last_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "KEEP_EVERY", 0.0)
    ran: list[tuple[int, int]] = []

    def train(config: Hill, run: Run) -> Iterator[Report]:
        for report in climb(config, run):
            ran.append((run.trial, report.step))
            yield report

    study = hill(train, trials=3)
    expected, count = undisturbed(tmp_path, study)
    for number in range(1, count):
        folder = fresh(tmp_path, study)
        ran.clear()
        live(folder, study, kill_after=number)
        live(folder, study)
        again = [pair for pair in set(ran) if ran.count(pair) > 1]
        assert len(again) <= 1, f"killed after event {number}: {sorted(again)} ran again"
        assert fingerprint(folder) == expected


# -- whatever the timing -----------------------------------------------------------------------------------------------


class Late(InlineStage):
    """Keeps what some trials say back for longer than what others say: any order in which they could come."""

    def __init__(self, script: Any, seed: int) -> None:
        super().__init__(script, {}, echo=False)
        self._seed, self._chance = 1000 * seed, random.Random(seed)
        self._back: list[Any] = []

    def poll(self, timeout: float) -> list[Any]:
        self._back += super().poll(timeout)
        trials = sorted({said.trial for said in self._back})
        chosen = {trial for trial in trials if self._chance.random() < self._pace(trial)} or set(trials[:1])
        now = [said for said in self._back if said.trial in chosen]
        self._back = [said for said in self._back if said.trial not in chosen]
        return now

    def _pace(self, trial: int) -> float:
        return 0.05 + 0.95 * random.Random(self._seed + trial).random() ** 2

    def close_trial(self, trial: int) -> None:
        super().close_trial(trial)
        self._back = [said for said in self._back if said.trial != trial]


def timed(seed: int) -> Any:
    return lambda script: Late(script, seed)


DETERMINISTIC = {
    "tpe": hill(search=TPE(startup=3), trials=12, values={"steps": 2}, deterministic=True),
    "tpe and asha": hill(
        search=TPE(startup=3),
        trials=14,
        values={"steps": 9},
        stop=ASHA(first=1, factor=3, last=9),
        deterministic=True,
    ),
    "repeats": hill(
        search=TPE(startup=2),
        repeats=3,
        confirm=1,
        trials=5,
        values={"steps": 9},
        stop=ASHA(first=1, factor=2, last=9),
        deterministic=True,
    ),
    "where": hill(where=lambda config: config.x < 0.5, search=TPE(startup=2), trials=8, deterministic=True),
    "target": hill(search=TPE(startup=3), trials=12, values={"steps": 4}, target=0.005, deterministic=True),
    "plateau": hill(search=TPE(startup=3), trials=12, values={"steps": 2}, plateau=4, deterministic=True),
}


@pytest.mark.parametrize("name", list(DETERMINISTIC))
def test_a_deterministic_study_does_not_depend_on_timing(name: str, tmp_path: Path) -> None:
    study = DETERMINISTIC[name]
    found = set()
    for seed in range(4):
        folder = fresh(tmp_path, study)
        assert live(folder, study, slots=4, window=4, stage=timed(seed)).status == "completed"
        check_once(folder)
        found.add(fingerprint(folder))
    assert len(found) == 1


@pytest.mark.parametrize("name", ["tpe and asha", "repeats", "target", "plateau"])
def test_a_deterministic_study_killed_anywhere_comes_to_the_same(name: str, tmp_path: Path) -> None:
    study = DETERMINISTIC[name]
    folder = fresh(tmp_path, study)
    live(folder, study, slots=4, window=4, stage=timed(0))
    expected, chance = fingerprint(folder), random.Random(2)
    for seed in range(6):
        folder, lives = fresh(tmp_path, study), 0
        while lives < 30:
            death = None if lives > 12 else chance.randint(2, 25)
            lives += 1
            if live(folder, study, slots=4, window=4, stage=timed(seed), kill_after=death).status != "killed":
                break
        assert fingerprint(folder) == expected
        check_once(folder)


def test_trials_of_many_slots_are_all_recorded_whatever_the_order(tmp_path: Path) -> None:
    study = hill(search=TPE(startup=3), trials=12)
    for seed in range(3):
        folder = fresh(tmp_path, study)
        lives = 0
        while live(folder, study, slots=4, stage=timed(seed), kill_after=11).status == "killed":
            lives += 1
            assert lives < 40
        history = replayed(folder)
        assert history.ended == {"completed": 12, "stopped": 0, "failed": 0}
        check_once(folder)


def test_a_search_is_rebuilt_by_the_same_talk_as_it_was_led_by(tmp_path: Path) -> None:
    spy = Spy(TPE(startup=3))
    study = hill(search=spy, trials=8, where=lambda config: config.x < 0.6)
    folder = fresh(tmp_path, study)
    live(folder, study, slots=3, stage=timed(1))
    led = spy.talks[-1]
    live(folder, study, slots=3)
    assert spy.talks[-1] == led


# -- workers that die --------------------------------------------------------------------------------------------------


class Lossy(InlineStage):
    """Loses attempts before their reports come through, so many of each trial, and says it late, and again."""

    def __init__(self, script: Any, seed: int, most: float) -> None:
        super().__init__(script, {}, echo=False)
        self._chance, self._most = random.Random(seed), most
        self._lost: Counter[int] = Counter()
        self._late: list[Any] = []

    def poll(self, timeout: float) -> list[Any]:
        late, self._late = self._late, []
        return [*late, *map(self._through, super().poll(timeout)), *late]

    def _through(self, said: Any) -> Any:
        if not isinstance(said, Said) or self._lost[said.trial] >= self._most or not self._strikes(said):
            return said
        self._lost[said.trial] += 1
        self.close_trial(said.trial)
        self._late.append(said)  # of an attempt that nobody listens to any more
        return Gone(said.trial, said.attempt, "died", "worker 7 on here: killed")

    def _strikes(self, said: Said) -> bool:
        return self._chance.random() > 0.6


@pytest.mark.parametrize("keep", [0.0, math.inf], ids=["states kept", "no state kept"])
@pytest.mark.parametrize("name", ["random", "asha", "repeats and confirm", "failing"])
def test_lost_workers_are_nobodys_failure(
    name: str, keep: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drivers, "KEEP_EVERY", keep)
    study = STUDIES[name]
    expected, _ = undisturbed(tmp_path, study)
    for seed in range(5):
        folder = fresh(tmp_path, study)
        life = live(folder, study, stage=lambda script, seed=seed: Lossy(script, seed, 3))
        assert life.status == "completed"
        assert fingerprint(folder) == expected
        check_once(folder)
        begun = [e for e in folder.events() if isinstance(e, Begun)]
        assert sum(e.why == "lost" for e in begun) == sum(isinstance(e, Fault) for e in folder.events())
        assert not any("not what was recorded" in line for line in life.said.lines)


def test_a_trial_that_kills_its_workers_fails_and_the_others_are_done(tmp_path: Path) -> None:
    study = hill(trials=4)
    folder = fresh(tmp_path, study)

    class Deadly(Lossy):
        def _strikes(self, said: Said) -> bool:
            return said.trial == 2 and said.reports != () and said.reports[0].step == 2

    live(folder, study, slots=2, stage=lambda script: Deadly(script, 0, 99))
    history = replayed(folder)
    assert [t.state for t in history.trials.values()] == ["completed", "completed", "failed", "completed"]
    assert history.trials[2].reason == (
        "its worker was lost 4 times without a new report in between; at last: worker 7 on here: killed"
    )
    check_once(folder)


def test_a_long_trial_outlives_any_number_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "KEEP_EVERY", 0.0)

    class Weak(Lossy):
        def _strikes(self, said: Said) -> bool:
            return said.reports != () and said.reports[0].step == 2 * said.attempt

    study = hill(trials=2, values={"steps": 12})
    expected, _ = undisturbed(tmp_path, study)
    folder = fresh(tmp_path, study)
    live(folder, study, stage=lambda script: Weak(script, 0, 99))
    assert fingerprint(folder) == expected
    assert sum(isinstance(e, Fault) for e in folder.events()) == 12


@pytest.mark.parametrize("seed", range(3))
def test_a_population_does_not_depend_on_workers_that_die(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = population()
    expected, _ = undisturbed(tmp_path, study, slots=4)
    folder = fresh(tmp_path, study)
    assert live(folder, study, slots=4, stage=lambda script: Lossy(script, seed, 3)).status == "completed"
    assert fingerprint(folder) == expected
    check_once(folder)


# -- populations -------------------------------------------------------------------------------------------------------


def test_members_exchange_at_every_turn_and_go_on_from_the_donors_checkpoint(tmp_path: Path) -> None:
    study = population()
    folder, history = searched(tmp_path, study, slots=4)
    assert history.ended == {"completed": 4, "stopped": 0, "failed": 0}
    events = list(folder.events())
    assert [e.turn for e in events if isinstance(e, Turned)] == [0, 1, 2]
    moves = [e for e in events if isinstance(e, Moved)]
    assert [m.step for m in moves] == [2, 4, 6]
    for number, trial in history.trials.items():
        (step, manifest) = max(trial.kept.items())
        state = checkpoints.load(checkpoints.folder(folder.path, number, step), manifest)
        assert step == 8
        assert float(state["w"]) == pytest.approx(10.0 - sum(rate for _, rate in state["line"]), abs=1e-5)
        own = [m for m in moves if m.trial == number]
        if own:
            last = own[-1]
            assert [who for who, _ in state["line"]][last.step - 1] != number  # the weights are the donor's
            assert {rate for _, rate in state["line"][last.step :]} == {last.point["x"]}
            assert trial.config["x"] == last.point["x"] == trial.point["x"]
    check_once(folder)


@pytest.mark.parametrize("slots", [1, 2, 4])
def test_a_population_does_not_depend_on_slots_or_timing(slots: int, tmp_path: Path) -> None:
    study = population()
    expected = fingerprint(searched(tmp_path, study, slots=4)[0])
    for seed in range(3):
        folder = fresh(tmp_path, study)
        assert live(folder, study, slots=slots, stage=timed(seed)).status == "completed"
        assert fingerprint(folder) == expected


@pytest.mark.parametrize("lose", [False, True], ids=["all on disk", "the last of it lost"])
def test_a_population_killed_after_any_event_ends_as_undisturbed(lose: bool, tmp_path: Path) -> None:
    study = population(members=3, steps=4)
    expected, count = undisturbed(tmp_path, study, slots=3)
    for number in range(1, count + 1):
        folder = fresh(tmp_path, study)
        assert live(folder, study, slots=3, kill_after=number, lose=lose).status == "killed"
        assert live(folder, study, slots=3).status == "completed"
        assert fingerprint(folder) == expected, f"killed after event {number} of {count}"
        check_once(folder)


def test_a_population_interrupted_again_and_again_ends_as_undisturbed(tmp_path: Path) -> None:
    study = population()
    expected, count = undisturbed(tmp_path, study, slots=4)
    chance = random.Random(4)
    for _ in range(4):
        folder, lives = fresh(tmp_path, study), 0
        while live(folder, study, slots=4, kill_after=chance.randint(5, 20), stage=timed(lives)).status == "killed":
            lives += 1
            assert lives < count
        assert fingerprint(folder) == expected
        check_once(folder)


def diverging(config: Hill, run: Run) -> Iterator[Report]:
    """Trial 0 raises in every turn that it begins with weights of its own, trial 2 once it has done three steps."""
    for report in drifting(config, run):
        assert report.state is not None
        own = all(who == run.trial for who, _ in report.state["line"])
        if own and ((run.trial == 0 and report.step == 1) or (run.trial == 2 and report.step == 3)):
            raise FloatingPointError("diverged")
        yield report


def test_a_member_that_diverges_goes_on_from_another(tmp_path: Path) -> None:
    study = dataclasses.replace(population(), objective=diverging)
    folder, history = searched(tmp_path, study, slots=4)
    assert history.ended == {"completed": 4, "stopped": 0, "failed": 0}
    moves = {e.trial: e for e in reversed([e for e in folder.events() if isinstance(e, Moved)])}
    assert {0, 2} <= set(moves)
    assert moves[0].step == 2
    expected, count = fingerprint(folder), count_events(folder)
    assert {fingerprint(searched(tmp_path, study, slots=slots)[0]) for slots in (1, 2, 3)} == {expected}
    for number in range(1, count, 4):
        folder = fresh(tmp_path, study)
        live(folder, study, slots=4, kill_after=number)
        assert live(folder, study, slots=4).status == "completed"
        assert fingerprint(folder) == expected, f"killed after event {number} of {count}"
        check_once(folder)


def test_a_population_without_states_is_told_what_it_lacks(tmp_path: Path) -> None:
    def stateless(config: Hill, run: Run) -> Iterator[Report]:
        for step in range(1, config.steps + 1):
            yield Report(step, {"loss": config.x})

    _, history = searched(tmp_path, dataclasses.replace(population(), objective=stateless), slots=4)
    assert history.ended["failed"] == 4
    assert "Report(step, metrics, state=...)" in (history.trials[0].reason or "")


def test_a_population_of_meta_trainings_interrupted_anywhere_ends_as_undisturbed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = maml().set("rule.init.by.lr", Log(1e-3, 1e-1))
    study = dataclasses.replace(study, search=PBT(members=3, every=2), minimize="train/loss")
    expected, count = undisturbed(tmp_path, study, slots=3)
    for number in range(1, count + 1, 4):
        folder = fresh(tmp_path, study)
        live(folder, study, slots=3, kill_after=number)
        assert live(folder, study, slots=3).status == "completed"
        assert fingerprint(folder) == expected, f"killed after event {number} of {count}"
        check_once(folder)


# -- meta-training, searched -------------------------------------------------------------------------------------------


def test_a_searched_rate_is_the_rate_that_each_trial_learns_with(tmp_path: Path) -> None:
    """The first trial too, for which a plan is made before anything starts."""
    rates = (1e-3, 1e-2, 1e-1)
    study = maml().set("rule.init.by.lr", OneOf(*rates))
    study = dataclasses.replace(study, search=Grid())
    with mock.patch.object(runs.figures, "draw", return_value={}):
        result = run(study, on=Inline(), store=tmp_path, track="none")
        one = run(maml().set("rule.init.by.lr", rates[0]), on=Inline(), store=tmp_path, track="none")
    table = result.trials
    assert list(table["config.rule.init.by.lr"]) == list(rates)
    assert table["objective"][0] == one.trials["objective"][0]
    assert len(set(table["objective"])) == 3


def test_searched_meta_training_with_halving_killed_anywhere_ends_as_undisturbed(tmp_path: Path) -> None:
    study = maml().set("rule.init.by.lr", OneOf(1e-2, 1e-5, 1e-6))
    study = dataclasses.replace(study, search=Grid(), minimize="train/loss", stop=ASHA(first=2, factor=3, last=4))
    folder, history = searched(tmp_path, study)
    assert "stopped" in {t.state for t in history.trials.values()}
    expected, count = fingerprint(folder), count_events(folder)
    for number in range(1, count + 1, 2):
        folder = fresh(tmp_path, study)
        live(folder, study, kill_after=number)
        assert live(folder, study).status == "completed"
        assert fingerprint(folder) == expected, f"killed after event {number} of {count}"
        check_once(folder)


# -- more trials, earlier trials ---------------------------------------------------------------------------------------


@pytest.fixture
def plain() -> Iterator[None]:
    """No figures."""
    with mock.patch.object(runs.figures, "draw", return_value={}):
        yield


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
def test_an_interrupted_extension_is_gone_on_with(tmp_path: Path) -> None:
    """The number of trials is the run's, not the study's, once it was extended."""
    study = hill()
    first = run(study, on=Inline(), store=tmp_path, track="none")
    with mock.patch.object(runs._Session, "work", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
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
    with pytest.raises(BadInput, match=r"of its 2 trials none fits this space"):
        run(
            hill(values={"y": Uniform(2.0, 3.0)}, warm_start=[first.run_id]),
            on=Inline(),
            store=tmp_path,
            track="none",
        )


# -- size --------------------------------------------------------------------------------------------------------------


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


def test_checkpoints_of_ended_trials_do_not_fill_the_disk(tmp_path: Path) -> None:
    """The best ones are kept, however often the run was resumed."""
    study = hill(trials=40)
    folder = fresh(tmp_path, study)
    while live(folder, study, kill_after=31).status == "killed":
        assert len(list((folder.path / "checkpoints").iterdir())) <= 11
    kept = {p.name for p in (folder.path / "checkpoints").iterdir()}
    ranked = [f"trial-{leader.trial.number:04d}" for leader in replayed(folder).leaders(10)]
    assert set(ranked) <= kept
    assert len(kept) <= 10
