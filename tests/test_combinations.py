"""What goes with what? Each search with each thing that a study may ask for: it works, or field and cure are named."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bilevel import (
    ASHA,
    CMAES,
    GP,
    NSGA2,
    PBT,
    TPE,
    Grid,
    Hyperband,
    Inline,
    Int,
    Log,
    LogInt,
    Normal,
    OneOf,
    Random,
    Report,
    Run,
    Sobol,
    Space,
    Study,
    Uniform,
    figures,
    resume,
    run,
)
from bilevel.errors import BadInput
from bilevel.record.folder import RunFolder
from bilevel.study import history as histories
from bilevel.study.define_by_run import define_by_run
from support.tiny import maml


@pytest.fixture(autouse=True)
def light(monkeypatch: pytest.MonkeyPatch) -> None:
    """No figures, which are tested elsewhere, and no fsync, which takes longer than these trials."""
    monkeypatch.setattr(figures, "draw", lambda *given: {})
    monkeypatch.setattr(os, "fsync", lambda fd: None)


@dataclass(frozen=True, kw_only=True)
class Wide:
    """An option with a value of its own."""

    width: int


@dataclass(frozen=True, kw_only=True)
class Narrow:
    """An option without."""


@dataclass(frozen=True, kw_only=True)
class Config:
    """The configuration of `train`."""

    x: float
    kind: Any = None
    steps: int = 4


def train(config: Config, run: Run) -> Iterator[Report]:
    """A loss that is best at x = 0.3, and a cost that is not; it can go on from any step."""
    done = 0 if run.state is None else int(run.state["done"])
    for step in range(done + 1, config.steps + 1):
        loss = (config.x - 0.3) ** 2 + 1 / step
        yield Report(step, {"loss": loss, "cost": 1 - config.x}, {"done": step})


def suggest(trial: Any) -> float:
    """The same for a function that asks for its values."""
    kind = trial.suggest_categorical("kind", ["far", "near"])
    return float(trial.suggest_float("x", 0.0, 1.0) + (kind == "far"))


SEARCHES: dict[str, Any] = {
    "Random": Random(),
    "Grid": Grid(points=3),
    "Sobol": Sobol(),
    "TPE": TPE(startup=3),
    "GP": GP(startup=4),
    "CMAES": CMAES(population=4),
    "NSGA2": NSGA2(population=3),
    "PBT": PBT(members=3, every=2),
    "chosen": None,
}
TRIALS = 5
ASKED: dict[str, dict[str, Any]] = {
    "nothing": {},
    "a choice of spaces": {"kind": OneOf(Space(Wide, width=Int(1, 9)), Space(Narrow))},
    "a choice": {"kind": OneOf("a", "b", None)},
    "steps on a log scale": {"x": Log(0.01, 1.0, step=0.01)},
    "no bounds": {"x": Normal(0.3, 0.1)},
    "whole numbers": {"kind": LogInt(1, 1000)},
    "one value": {"kind": OneOf("only")},
    "nothing free": {"x": OneOf(0.5)},
    "a condition": {"where": lambda config: config.x < 0.9},
    "limits": {"limits": {"cost": 0.5}},
    "two objectives": {"minimize": ("loss", "cost")},
    "two directions": {"minimize": "loss", "maximize": "cost"},
    "two objectives, repeated": {"minimize": ("loss", "cost"), "repeats": 2},
    "two objectives, halved": {"minimize": ("loss", "cost"), "stop": ASHA(first=1, last=4)},
    "two objectives, confirmed": {"minimize": ("loss", "cost"), "confirm": 1},
    "two objectives, a target": {"minimize": ("loss", "cost"), "target": 0.1},
    "two objectives, at best": {"minimize": ("loss", "cost"), "value": "best"},
    "points": {"points": [{"x": 0.5}]},
    "repeats": {"repeats": 2},
    "confirmed": {"confirm": 1},
    "halving": {"stop": ASHA(first=1, factor=2, last=4)},
    "brackets": {"stop": Hyperband(first=1, factor=2, last=4)},
    "a target": {"target": 10.0},
    "a plateau": {"plateau": 2},
    "retries": {"retries": 1},
    "deterministic": {"deterministic": True},
    "its best value": {"value": "best"},
    "warm start": {"warm_start": ("earlier",)},
    "define by run": {"objective": define_by_run(suggest, metric="loss"), "space": Space(dict)},
    "extended": {"more": 2},
}
REFUSED = {
    ("GP", "a choice of spaces"): "GP: kind[Wide].width is only there where kind is Wide, .* use TPE()",
    ("CMAES", "a choice of spaces"): "CMAES: kind[Wide].width is only there where kind is Wide, .* use TPE()",
    ("CMAES", "a choice"): "CMAES: kind chooses among 3 values without an order; .* ordered=True) .* or use TPE()",
    ("CMAES", "nothing free"): "CMAES: nothing to search: each value has one option; run the configuration alone",
    ("CMAES", "define by run"): "search=CMAES() has to know all values beforehand, .* use TPE()",
    ("CMAES", "two directions"): "CMAES: 2 objectives, and it minimizes one; use NSGA2() or TPE()",
    ("CMAES", "two objectives"): "CMAES: 2 objectives, and it minimizes one; use NSGA2() or TPE()",
    ("CMAES", "two objectives, repeated"): "CMAES: 2 objectives, and it minimizes one; use NSGA2() or TPE()",
    ("Grid", "define by run"): "search=Grid() has to know all values beforehand, .* use TPE()",
    ("Grid", "extended"): "no number of trials that could be raised",
    ("PBT", "define by run"): "search=PBT() has to know all values beforehand, .* use TPE()",
    ("PBT", "extended"): "PBT: trials=5, but its trials are its members=3; leave trials out, or write members=5",
    ("PBT", "limits"): "PBT: it ranks members by the objective alone; leave limits out, or use TPE()",
    ("PBT", "two directions"): "PBT: it ranks members by one objective, not 2; keep one, or use NSGA2()",
    ("PBT", "two objectives"): "PBT: it ranks members by one objective, not 2; keep one, or use NSGA2()",
    ("PBT", "two objectives, repeated"): "repeats does not go with PBT, .* leave repeats out, or search with TPE()",
} | {
    ("PBT", asked): f"{field} does not go with PBT, .* leave {field} out, or search with TPE()"
    for asked, field in {
        "repeats": "repeats",
        "confirmed": "confirm",
        "halving": "stop",
        "brackets": "stop",
        "a plateau": "plateau",
        "warm start": "warm_start",
    }.items()
}
REFUSED |= {
    (search, f"two objectives, {asked}"): f"{field} is for one objective, and there are 2; leave it out, or keep one"
    for search in SEARCHES
    for asked, field in {
        "halved": "stop",
        "confirmed": "confirm",
        "a target": "target",
        "at best": "value='best'",
    }.items()
}


def study(search: Any, asked: dict[str, Any]) -> Study:
    values = {"x": Uniform(0.0, 1.0)} | {name: asked[name] for name in ("x", "kind") if name in asked}
    own = {name: value for name, value in asked.items() if name not in (*values, "more")}
    endless = search is not None and type(search).__name__ in ("PBT", "Grid")
    wanted = {
        "objective": train,
        "minimize": "loss",
        "space": Space(Config, **values),
        "search": search,
        "trials": None if endless else TRIALS,
    } | own
    return Study(name="combined", **wanted)


def says(text: str) -> str:
    """A pattern of plain text in which `.*` stands for anything."""
    return ".*".join(map(_plain, text.split(".*")))


def _plain(text: str) -> str:
    return "".join(f"\\{letter}" if letter in "[]()^$.+*?{}|\\" else letter for letter in text)


@pytest.mark.parametrize(("search", "asked"), list(itertools.product(SEARCHES, ASKED)))
def test_each_goes_with_each_or_is_refused_with_field_and_cure(search: str, asked: str, tmp_path: Path) -> None:
    def carried_out() -> Any:
        wanted = study(SEARCHES[search], ASKED[asked])
        if asked == "warm start":
            first = dataclasses.replace(study(Random(), {}), name="earlier", trials=4)
            run(first, on=Inline(), store=tmp_path, track="none")
        result = run(wanted, on=Inline(), store=tmp_path, track="none", slots=2)
        if asked == "extended":
            before = len(result.trials)
            result = resume(result.run_id, store=tmp_path, study=wanted, on=Inline(), track="none", more=2)
            assert len(result.trials) == before + 2
        return wanted, result

    if (search, asked) in REFUSED:
        with pytest.raises(BadInput, match=says(REFUSED[search, asked])):
            carried_out()
        return
    wanted, result = carried_out()
    assert result.status == "completed"
    history = histories.replay(RunFolder(result.folder).events())
    assert not history.running
    assert history.ended["failed"] == 0
    for trial in history.trials.values():
        if asked == "define by run":
            assert set(trial.point) == {"kind", "x"}
            continue
        active = {p.name for p in wanted.parameters if p.active(trial.point)}
        assert set(trial.point) == active
        assert all(p.dimension.contains(trial.point[p.name]) for p in wanted.parameters if p.name in active)


# -- what no search can make up for ------------------------------------------------------------------------------------


def changed(**changes: Any) -> Callable[[], Any]:
    return lambda: study(TPE(), changes)


def meta(**changes: Any) -> Callable[[], Any]:
    return lambda: dataclasses.replace(maml(), **changes)


SEARCHED = Log(1e-3, 1e-1)
PLAIN = Space(Config, x=0.5)
CANNOT: dict[str, tuple[Callable[[], Any], str]] = {
    "a class for a search": (changed(search=TPE), "search=TPE is a class; write TPE(...)"),
    "a class for a rule": (changed(stop=ASHA), "stop=ASHA is a class; write ASHA(...)"),
    "a word for a search": (changed(search="tpe"), "search='tpe' is no search; use TPE()"),
    "a word for a rule": (changed(stop="asha"), "stop='asha' is no rule; use ASHA(...)"),
    "nothing to search": (changed(space=PLAIN), "nothing is searched: write a dimension such as lr=Log(1e-4, 1e-1)"),
    "points of nothing": (
        changed(space=PLAIN, search=None, points=[{"x": 1.0}]),
        "points is for searched values, and the space has none; .* leave points out",
    ),
    "a condition on nothing": (
        changed(space=PLAIN, search=None, where=bool),
        "where is for searched values, and the space has none; .* leave where out",
    ),
    "earlier runs for what is only known on the way": (
        changed(**ASKED["define by run"], warm_start=("first",)),
        "warm_start is for searched values, and the space has none; write them as dimensions, .* leave warm_start out",
    ),
    "a number for a name": (lambda: Study(name=3, objective=train, minimize="loss", space=PLAIN), "name 3; use up to"),
    "a number for a metric": (changed(minimize=3), "minimize is 3; it takes the name of a metric, or several"),
    "a metric twice": (changed(minimize=("loss", "loss")), "loss, loss name a metric twice; leave one out"),
    "no limits": (changed(limits=None), "limits is None; it takes bounds by metric, as {'seconds': 0.05"),
    "limits as pairs": (changed(limits=[("cost", 1.0)]), "limits is [('cost', 1.0)]; it takes bounds by metric"),
    "no points": (changed(points=None), "points is None; it takes a list of configurations"),
    "a point that is a number": (changed(points=[3]), "points has 3; it takes a list of configurations, as [{...}]"),
    "a point that is a word": (changed(points=("x",)), "points has 'x'; it takes a list of configurations"),
    "no earlier runs": (changed(warm_start=None), "warm_start is None; it takes a list of runs or studies, by name"),
    "an earlier run by number": (changed(warm_start=(3,)), "warm_start has 3; it takes runs or studies, by name"),
    "a word for yes": (changed(deterministic="yes"), "deterministic is 'yes'; it takes True or False"),
    "one point": (changed(points={"x": 0.5}), "points is {'x': 0.5}; it takes a list of configurations"),
    "a point of another space": (changed(points=[{"z": 1}]), "z: no searched value is called so; there are x"),
    "a point beyond": (changed(points=[{"x": 3.0}]), "x: 3.0 is none of its values, Uniform(0.0, 1.0)"),
    "one earlier run": (changed(warm_start="first"), "warm_start='first'; it takes names: ('first',)"),
    "a limit that is none": (changed(limits={"cost": "low"}), "limits['cost'] is 'low'; it takes an upper bound"),
    "a condition that is none": (changed(where=3), "where=3; it takes a function of the configuration"),
    "no repeat": (changed(repeats=0), "repeats is 0; it takes a whole number from 1 on"),
    "part of a GPU and more": (changed(gpus=1.5), "gpus=1.5; Ray takes fractions below 1, else whole numbers"),
    "isolation of another kind": (changed(isolation="thread"), "isolation is 'thread'; it takes 'actor' or 'process'"),
    "a rule that never stops": (lambda: ASHA(first=9, last=9), "ASHA: last=9 is not beyond first=9"),
    "members by the wrong number": (
        changed(search=PBT(members=4, every=1)),
        "PBT: trials=5, but its trials are its members=4; leave trials out, or write members=5",
    ),
    "what is never explored": (
        changed(search=PBT(every=1, fixed=("y",)), trials=None),
        "PBT: fixed='y' is not searched; searched are x",
    ),
    "a population with shapes": (
        lambda: dataclasses.replace(maml().set("rule.init.hidden", OneOf((8,), (9,))), search=PBT(every=2)),
        "PBT: rule.init.hidden changes the shapes of what is learned, .* fixed=('rule.init.hidden',)",
    ),
    "learned by what cannot": (
        lambda: Study(name="a", objective=train, minimize="loss", space=Space(Config, x=maml().space.inside["rule"])),
        "Config.x: .* it takes float",
    ),
    "a GPU for what spreads": (meta(gpus=1), "gpus is what a trial takes that runs on one worker, .* leave it out"),
    "CPUs for what spreads": (meta(cpus=2), "cpus is what a trial takes that runs on one worker, .* leave it out"),
}


@pytest.mark.parametrize("kind", CANNOT)
def test_what_cannot_work_is_refused_when_it_is_defined(kind: str) -> None:
    make, text = CANNOT[kind]
    with pytest.raises(BadInput, match=says(text)):
        make()


REFUSED_LATER: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a process of its own, here": (
        {"isolation": "process"},
        {},
        "isolation='process' gives each trial a process of its own, but trials run in this process (--workers 0)",
    ),
    "an engine by name": ({}, {"on": "ray"}, "run: on='ray'; it takes Inline(), Ray(workers=...) or Tune(workers=...)"),
    "no such run": ({"warm_start": ("nobody",)}, {}, "warm_start='nobody': "),
    "an experiment without a server": (
        {"warm_start": ("mlflow:mine",)},
        {},
        "warm_start='mlflow:mine' needs a tracking server; give --track URI",
    ),
    "no slots": ({}, {"slots": 0}, "--slots 0: give how many trials may be at work at a time, from 1 on"),
    "a point that the condition refuses": (
        {"points": [{"x": 0.9}], "where": lambda config: config.x < 0.5},
        {},
        "points: where refuses {'x': 0.9}; leave it out, or change where",
    ),
    "everything refused": ({"where": lambda config: False}, {}, "where refused 1000 configurations in a row"),
    "turns by what is not counted": (
        {"search": PBT(every=4, by="adaptations"), "trials": None},
        {},
        "PBT: by='adaptations' is not reported; trial 0 reports cost, loss; set MetaTraining(adaptations=...)",
    ),
}


@pytest.mark.parametrize("kind", REFUSED_LATER)
def test_what_cannot_work_here_is_refused_when_it_is_run(kind: str, tmp_path: Path) -> None:
    asked, more, text = REFUSED_LATER[kind]
    wanted = study(asked.get("search", TPE()), asked)
    with pytest.raises(BadInput, match=says(text)):
        run(wanted, **{"on": Inline(), "store": tmp_path / "runs", "track": "none", **more})
    assert kind == "turns by what is not counted" or not (tmp_path / "runs").exists()


def test_a_deterministic_search_keeps_its_slots(tmp_path: Path) -> None:
    wanted = study(TPE(), {"deterministic": True})
    first = run(wanted, on=Inline(), store=tmp_path, track="none", slots=2)
    with pytest.raises(BadInput, match="a deterministic study keeps the slots it began with, 2"):
        resume(first.run_id, store=tmp_path, study=wanted, on=Inline(), track="none", slots=3, more=1)


def test_an_earlier_run_that_does_not_say_what_is_limited_is_refused(tmp_path: Path) -> None:
    def silent(config: Config, run: Run) -> float:
        return config.x

    first = dataclasses.replace(study(Random(), {"objective": silent}), name="earlier")
    run(first, on=Inline(), store=tmp_path, track="none")
    again = study(TPE(), {"warm_start": ("earlier",), "limits": {"cost": 0.5}})
    with pytest.raises(
        BadInput, match="of its 5 ended trials none fits this space; its values are x; limits need cost"
    ):
        run(again, on=Inline(), store=tmp_path, track="none")
