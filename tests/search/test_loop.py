"""Does a search in a user's own loop ask for configurations, take what came of them, and know the best?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bilevel.episodes import Key
from bilevel.errors import BadInput
from bilevel.search import PBT, TPE, Grid, Random
from bilevel.search.port import Problem, Searcher, Told
from bilevel.space import Space, parameters
from bilevel.space.dimensions import Log, OneOf, Uniform
from bilevel.study.events import Moved
from support.trying import population, searched


@dataclass(frozen=True)
class Sgd:
    momentum: float


@dataclass(frozen=True)
class Adam:
    beta: float = 0.9


@dataclass(frozen=True)
class Config:
    lr: float
    opt: Any
    epochs: int = 3


SPACE = Space(Config, lr=Log(1e-4, 1.0), opt=OneOf(Space(Sgd, momentum=Uniform(0.0, 1.0)), Adam()))


def loss(config: Config) -> float:
    return abs(math.log10(config.lr) + 2) + (config.opt.momentum if isinstance(config.opt, Sgd) else 0.5)


def test_configurations_are_asked_for_tried_and_told() -> None:
    loop = TPE().start(SPACE, seed=1, trials=40)
    while trial := loop.ask():
        assert isinstance(trial.config, Config)
        assert isinstance(trial.config.opt, Sgd | Adam)
        loop.tell(trial, loss(trial.config))
    assert len(loop.trials) == 40
    assert loop.best is not None
    assert loop.best.value == min(t.value for t in loop.trials if t.value is not None) < 0.3
    assert loss(loop.best.config) == loop.best.value


def test_the_loop_asks_what_the_search_does() -> None:
    loop = Random().start(SPACE, seed=5)
    searcher = Random().open(Problem(parameters(SPACE), Key((5,)).child("search")))
    for number in range(5):
        trial = loop.ask()
        assert trial is not None
        assert trial.point == searcher.ask(number)
        loop.tell(number, 1.0)


def test_what_is_to_be_large_is_told_negated_and_what_is_no_number_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[Told] = []

    def overheard(self: Random, problem: Problem) -> Searcher:
        searcher = whole(self, problem)
        searcher.tell = lambda number, point, told: heard.append(told)  # type: ignore[method-assign]
        return searcher

    whole = Random.open
    monkeypatch.setattr(Random, "open", overheard)
    loop = Random().start(SPACE, minimize=(True, False))
    for value in ((1, 2), (3, math.nan), (math.inf, 1), None, (0.5, 1.0), (1, 3)):
        trial = loop.ask()
        assert trial is not None
        loop.tell(trial, value)
    assert heard == [Told((1.0, -2.0)), Told(None), Told(None), Told(None), Told((0.5, -1.0)), Told((1.0, -3.0))]
    assert [trial.values for trial in loop.front] == [(0.5, 1.0), (1.0, 3.0)]


def test_a_guess_and_good_points_come_first() -> None:
    space = Space(Config, lr=Log(1e-4, 1.0, center=0.1), opt=Adam())
    loop = Grid(points=3).start(space, points=[{"lr": 0.5}])
    asked = [trial.config.lr for trial in iter(loop.ask, None)]
    assert asked == [0.1, 0.5, *[pytest.approx(v) for v in (1e-4, 1e-2, 1.0)]]


def test_several_trials_may_be_out_and_are_told_in_any_order() -> None:
    loop = TPE(startup=2).start(SPACE, trials=8)
    out = [loop.ask() for _ in range(4)]
    for trial in reversed(out):
        assert trial is not None
        loop.tell(trial.number, loss(trial.config))
    assert len({str(trial) for trial in loop.trials}) == 4
    assert loop.ask() is not None


@pytest.mark.parametrize(
    ("told", "says"),
    [
        ((0, 1.0), "trial 0 has been told; tell each trial once"),
        ((7, 1.0), "trial 7 was never asked for"),
        ((1, (1.0, 2.0)), "2 values for 1 objectives"),
    ],
)
def test_what_cannot_be_told_is_refused(told: tuple[int, Any], says: str) -> None:
    loop = Random().start(SPACE)
    loop.ask(), loop.ask()
    loop.tell(0, 1.0)
    with pytest.raises(BadInput, match=says):
        loop.tell(*told)


def test_a_population_in_ones_own_loop_moves_as_in_a_study(tmp_path: Path) -> None:
    study = population(members=4, every=2, steps=8)
    folder, history = searched(tmp_path, study)
    moves = [(e.trial, e.donor, e.point["x"]) for e in folder.events() if isinstance(e, Moved)]

    loop = study.search.start(study.space, seed=study.seed)
    loop._searcher = study.search.open(study.problem())  # the study's own randomness
    members = dict(enumerate(iter(loop.ask, None)))
    assert len(members) == 4
    weights = dict.fromkeys(members, 10.0)
    found = []
    for turn in range(4):
        for number, trial in members.items():
            weights[number] -= 2 * trial.config.x
        if turn < 3:
            moved = loop.turn(weights)
            weights |= {number: weights[trial.donor] for number, trial in moved.items()}
            members |= moved
            found += [(number, trial.donor, trial.config.x) for number, trial in sorted(moved.items())]
    assert found == moves != []
    for number in members:
        loop.tell(number, weights[number])
    best = history.best()
    assert loop.best is not None
    assert best is not None
    assert (loop.best.number, loop.best.config.x) == (best.number, best.config["x"])
    assert loop.best.value == pytest.approx(best.objective, abs=1e-5)


def test_a_turn_that_cannot_be_is_refused() -> None:
    with pytest.raises(BadInput, match=r"Random.turn: only a population has turns \(PBT\)"):
        Random().start(SPACE).turn({})
    loop = PBT(every=1).start(SPACE)
    for _ in range(3):
        loop.ask()
    with pytest.raises(BadInput, match=r"PBT.turn: values of \[0, 1\], but the members that are out are \[0, 1, 2\]"):
        loop.turn({0: 1.0, 1: 2.0})


def test_a_space_without_searched_values_is_refused() -> None:
    with pytest.raises(BadInput, match=r"Random.start: nothing is searched; write a dimension"):
        Random().start(Space(Config, lr=0.1, opt=Adam()))
