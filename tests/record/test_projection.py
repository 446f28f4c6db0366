"""What of a journal goes into which MLflow run?"""

from __future__ import annotations

import hashlib
import re
from typing import Any

import pytest

import journals
from bilevel.record.journal import Entry
from bilevel.record.projection import COMPARED, LONGEST_NAME, Page, Projection, allowed, metric
from bilevel.study.events import Asked, Begun, Ended, Event, Finished, Interrupted, Moved, Reported, Started, Turned


def taken(events: list[Event]) -> Projection:
    projection = Projection()
    for n, event in enumerate(events):
        fields = {"event": type(event).__name__.lower(), **vars(event)}
        projection.take(Entry(n, 100.0 + n, fields, 0))
    return projection


def project(*events: Any) -> dict[int | None, Page]:
    return taken(list(events)).turn()


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("test/accuracy@3", "test/accuracy at 3"),
        ("rule.init.by.lr", "rule.init.by.lr"),
        ("größe", "größe"),
        ("a: b.c-d/e f", "a: b.c-d/e f"),
        ("größe(m²)", "größe_m²_-MARK"),
        ("a//b", "a__b-MARK"),
        ("../x", "___x-MARK"),
        ("x" * 300, "x" * (LONGEST_NAME - 9) + "-MARK"),
    ],
)
def test_names_are_ones_that_mlflow_takes(name: str, taken: str) -> None:
    assert re.sub(r"-[0-9a-f]{8}$", "-MARK", allowed(name)) == taken


NAMES = [
    "m<",
    "m>",
    "m_",
    "acc@3",
    "acc at 3",
    "x at@y",
    "x@at y",
    "a/b",
    "a//b",
    "a__b",
    "m ",
    "m",
    "y" * 299,
    "y" * 300,
]


def test_no_two_names_become_one_and_none_depends_on_the_others() -> None:
    pages = project(
        *journals.beginning(), Asked(0, dict.fromkeys(NAMES, 1), 1), Reported(0, 1, dict.fromkeys(NAMES, 1.0))
    )
    assert len(pages[0].params) == len({point.name for point in pages[0].points}) == len(NAMES)
    assert allowed("m<") == "m_-" + hashlib.sha256(b"m<").hexdigest()[:8]  # the same in any process


def test_a_logarithm_keeps_the_name_of_its_value_apart_and_gives_way_to_the_users() -> None:
    started = Started("s", journals.RUN, "loss", True, 7, log=("a<", "a>", "lr"))
    config = {"a<": 0.1, "a>": 0.01, "lr": 0.001, "log10_lr": 5.0}
    params = project(started, Asked(0, config, 1, config))[0].params
    assert (params[allowed("a<", "log10_")], params[allowed("a>", "log10_")]) == ("-1", "-2")
    assert params["log10_lr"] == "5.0"
    assert len(params) == 6


@pytest.mark.parametrize("name", ["objective", "violation", "config/lr", "test/accuracy by adaptation step"])
def test_a_metric_of_the_users_is_not_mixed_with_ours(name: str) -> None:
    reported = Reported(0, 1, {name: 7.0, "valid/loss": 0.5})
    best = {"trial": 0, "objective": 0.5, "config": {}}
    finished = Finished("completed", {"trials": {}, "metrics": {name: 7.0}, "best": best})
    ended = Ended(0, "completed", 1, 0.5, violation=2.0)
    pages = project(*journals.beginning(), Asked(0, {"lr": 1.0}, 1), reported, ended, finished)
    theirs = {metric(name, "valid/loss"): 7.0}
    assert all(taken.startswith(f"{name}-") for taken in theirs)
    trial = {point.name: point.value for point in pages[0].points}
    assert trial == {"objective": 0.5, "violation": 2.0, "valid/loss": 0.5, **theirs}
    assert {point.name: point.value for point in pages[None].points} == {"objective": 0.5, **theirs}


def test_the_studys_own_objective_may_be_called_so() -> None:
    started = Started("s", journals.RUN, "objective", True, 7)
    best = {"trial": 0, "objective": 0.4, "config": {}}
    finished = Finished("completed", {"trials": {}, "metrics": {"objective": 0.5}, "best": best})
    reports = [Reported(0, 1, {"objective": 0.7}), Reported(0, 2, {"objective": 0.5})]
    pages = project(started, Asked(0, {}, 1), *reports, Ended(0, "completed", 2, 0.5), finished)
    assert [(point.name, point.value) for point in pages[0].points] == [("objective", v) for v in (0.7, 0.5, 0.5)]
    assert [(point.name, point.value) for point in pages[None].points] == [("objective", 0.4)]  # over its repeats


def test_a_trial_becomes_a_page_with_params_points_and_its_fate() -> None:
    page = project(*journals.beginning(), *journals.trial(0, 2))[0]
    assert page.params == {"rule.lr": "0.1", "rule.steps": "5", "name": "x"}
    assert page.identity == {"bilevel.kind": "trial", "bilevel.trial": "0"}
    assert (page.status, page.tags["bilevel.state"], page.tags["bilevel.learned"]) == (
        "FINISHED",
        "completed",
        "e" * 64,
    )
    assert ("train/loss", 1.0, 103_000, 1) in page.points
    assert ("objective", 0.5, 106_000, 2) in page.points
    curve = [(p.step, p.value) for p in page.points if p.name == "test/accuracy by adaptation step"]
    assert curve == [(0, 0.2), (1, 0.9)]


@pytest.mark.parametrize(("state", "status"), [("completed", "FINISHED"), ("stopped", "KILLED"), ("failed", "FAILED")])
def test_fates_have_a_status(state: str, status: str) -> None:
    ended = Ended(0, state, 1, None, "loss is nan")
    page = project(*journals.beginning(), Asked(0, {}, 1), ended)[0]
    assert (page.status, page.tags["bilevel.state"], page.tags["bilevel.reason"]) == (status, state, "loss is nan")
    assert page.points == []


def test_an_interrupted_run_is_killed_until_it_is_opened_again() -> None:
    events = [*journals.beginning(), Asked(0, {}, 1), Asked(1, {}, 2), Ended(1, "completed", 1, 0.5)]
    left = project(*events, Interrupted("SIGINT"))
    assert {number: page.status for number, page in left.items()} == {None: "KILLED", 0: "KILLED", 1: "FINISHED"}
    back = project(*events, Interrupted("SIGINT"), journals.beginning()[1])
    assert {number: page.status for number, page in back.items()} == {None: "RUNNING", 0: "RUNNING", 1: "FINISHED"}


def test_the_study_carries_its_result() -> None:
    page = project(*journals.beginning(), *journals.trial(0, 1), *journals.end(1))[None]
    assert page.identity == {"bilevel.kind": "study", "bilevel.run_id": "20260102-030405-tiny-abcd"}
    assert page.tags["mlflow.source.git.commit"] == "abc123"
    assert page.tags["bilevel.git.dirty"] == "true"
    assert page.tags["bilevel.best.rule.lr"] == "0.1"
    assert page.tags["bilevel.faults"] == "1"
    assert {(p.name, p.value) for p in page.points} >= {("objective", 0.25), ("test/accuracy at 1", 0.9)}


def test_what_is_projected_does_not_depend_on_where_the_reader_began() -> None:
    whole, parts = Projection(), Projection()
    events = [*journals.beginning(), *journals.trial(0, 5), *journals.trial(1, 5), *journals.end(2)]
    gathered: list[Any] = []
    for n, event in enumerate(events):
        entry = Entry(n, 100.0 + n, {"event": type(event).__name__.lower(), **vars(event)}, 0)
        whole.take(entry)
        parts.take(entry)
        gathered += [(number, point) for number, page in parts.turn().items() for point in page.points]
    assert sorted(gathered, key=str) == sorted(
        ((number, point) for number, page in whole.turn().items() for point in page.points), key=str
    )


# -- searches ----------------------------------------------------------------------------------------------------------


def test_values_on_a_logarithmic_scale_are_there_as_logarithms_too() -> None:
    started = Started("s", journals.RUN, "loss", True, 7, log=("lr", "opt.lr", "off"))
    config = {"lr": 1e-3, "opt.lr": 0.2, "off": 0.0, "width": 8, "note": "x"}
    point = {"lr": 1e-3, "opt[Adam].lr": 0.2, "off": 0.0, "width": 8}
    params = project(started, Asked(0, config, 1, point))[0].params
    assert params == {
        "lr": "0.001", "opt.lr": "0.2", "off": "0.0", "width": "8", "note": "x", "log10_lr": "-3",
        "log10_opt.lr": "-0.69897",
    }  # fmt: skip


def test_an_attempt_is_told_with_its_worker_and_makes_a_trial_run_again() -> None:
    events = [*journals.beginning(), Asked(0, {}, 1), Begun(0, 1, "worker 0")]
    page = project(*events)[0]
    assert (page.status, page.tags["bilevel.attempt"], page.tags["bilevel.worker"]) == ("RUNNING", "1", "worker 0")
    assert "bilevel.attempt_why" not in page.tags
    page = project(*events, Begun(0, 2, "worker 1", 3, "lost", "worker 0 died"))[0]
    assert (page.tags["bilevel.attempt"], page.tags["bilevel.attempt_why"]) == ("2", "lost: worker 0 died")
    page = project(*events, Interrupted("SIGINT"), journals.opened(), Begun(0, 2, "worker 1", 0, "resumed"))[0]
    assert (page.status, page.tags["bilevel.attempt_why"]) == ("RUNNING", "resumed")


def test_nothing_runs_after_the_end() -> None:
    finished = journals.end(1)[1]
    left = project(*journals.beginning(), Asked(0, {}, 1), Begun(0, 1, "w"), Asked(1, {}, 1), finished)
    assert {number: page.status for number, page in left.items()} == {None: "FINISHED", 0: "KILLED", 1: "KILLED"}


def test_a_repeat_names_the_trial_that_it_repeats() -> None:
    pages = project(*journals.beginning(), Asked(3, {}, 1, of=1), Asked(4, {}, 1, of=1, confirms=True))
    assert pages[3].tags["bilevel.repeats"] == pages[4].tags["bilevel.confirms"] == "1"


def test_a_member_of_a_population_has_its_values_as_stairs_and_its_moves_as_a_tag() -> None:
    pages = project(*journals.population(members=3, turns=3, every=10))

    def curve(trial: int, name: str = "config/opt.lr") -> list[tuple[int, float]]:
        points = [point for point in pages[trial].points if point.name == name]
        return [(p.step, round(p.value, 4)) for p in sorted(points, key=lambda p: (p.step, p.milliseconds))]

    assert curve(0) == [(0, 0.1), (30, 0.1)]
    assert curve(2) == [(0, 0.025), (10, 0.025), (10, 0.08), (20, 0.08), (20, 0.144), (30, 0.144)]
    assert pages[2].tags["bilevel.moved"] == "step 10 from trial 0; step 20 from trial 0"
    assert "bilevel.moved" not in pages[0].tags
    assert pages[2].params["opt.lr"] == "0.025"  # where it began: a param never changes
    assert not [point for point in pages[1].points if point.name == "config/opt"]
    assert {page.status for page in pages.values()} == {"FINISHED"}


def test_other_searches_have_no_stairs() -> None:
    pages = project(*journals.halving(4))
    assert not [point for page in pages.values() for point in page.points if point.name.startswith("config/")]


def test_values_found_on_the_way_are_params() -> None:
    choice = {"OneOf": ["relu", "gelu"], "ordered": False, "center": None}
    found = {"lr": {"value": 0.1, "dimension": {"Log": {"low": 1e-3}}}, "act": {"value": "relu", "dimension": choice}}
    page = project(*journals.beginning(), Asked(0, {}, 1), Reported(0, 1, {"loss": 1.0}, "", found))[0]
    assert page.params == {"lr": "0.1", "log10_lr": "-1", "act": "relu"}


def test_of_several_objectives_all_are_named_and_the_first_one_is_the_objective() -> None:
    ways = {"loss": "minimize", "size": "minimize", "accuracy": "maximize"}
    started = Started("s", journals.RUN, "loss", True, 7, objectives=ways)
    metrics = {"loss": 0.5, "size": 10.0, "accuracy": 0.9}
    ended = Ended(0, "completed", 1, 0.5, values=(0.5, 10.0, 0.9), violation=2.0)
    pages = project(started, Asked(0, {}, 1), Reported(0, 1, metrics), ended)
    assert pages[None].tags["bilevel.minimize"] == "loss, size"
    assert pages[None].tags["bilevel.maximize"] == "accuracy"
    values = {point.name: point.value for point in pages[0].points}
    assert values == {**metrics, "objective": 0.5, "violation": 2.0}


def test_journals_from_before_searches_are_read() -> None:
    old = [
        {"event": "started", "study": "s", "run_id": "r", "metric": "loss", "minimize": False, "seed": 1, "format": 1},
        {"event": "asked", "trial": 0, "config": {"lr": 0.1}, "seed": 3},
        {"event": "reported", "trial": 0, "step": 1, "metrics": {"loss": 1.0}, "units": ""},
        {"event": "ended", "trial": 0, "state": "completed", "step": 1, "objective": 1.0, "reason": None,
         "learned": None},
    ]  # fmt: skip
    projection = Projection()
    for n, event in enumerate(old):
        projection.take(Entry(n, 1.0, event, 0))
    assert projection.turn()[0].params == {"lr": "0.1"}
    assert projection.leaders() == [0]


@pytest.mark.parametrize("minimize", [True, False])
def test_the_leaders_are_the_best_feasible_ones_in_order(minimize: bool) -> None:
    events: list[Event] = [Started("s", journals.RUN, "loss", minimize, 7)]
    values = {n: float(n * 37 % 101) for n in range(101)}
    for n, value in values.items():
        state = "failed" if n == 7 else "completed"
        events += [Asked(n, {}, 1), Ended(n, state, 1, value, violation=1.0 if n == 5 else 0.0)]
    ranked = sorted(values, key=lambda n: values[n], reverse=not minimize)
    wanted = [n for n in ranked if n not in (5, 7)][:COMPARED]
    assert taken(events).leaders() == wanted
    few = taken(events[: 2 * 9 + 1]).leaders()
    assert len(few) == 8
    assert few[-1] == 5


def test_the_best_configuration_of_an_extended_study_replaces_the_last_one() -> None:
    def finished(config: dict[str, Any]) -> Finished:
        return Finished("completed", {"trials": {}, "best": {"trial": 0, "objective": 1.0, "config": config}})

    events = [*journals.beginning(), finished({"opt": "SGD", "opt.momentum": 0.9})]
    page = project(*events, journals.opened(), finished({"opt": "Adam"}))[None]
    best = {name: value for name, value in page.tags.items() if name.startswith("bilevel.best.")}
    assert best == {"bilevel.best.opt": "Adam", "bilevel.best.opt.momentum": ""}


def test_text_is_what_any_database_takes() -> None:
    ended = Ended(0, "failed", 1, None, "broken \udc80 and \0 bytes")
    page = project(*journals.beginning(), Asked(0, {"path": "\udcff"}, 1), ended)[0]
    assert page.tags["bilevel.reason"] == "broken ? and ? bytes"
    assert page.params["path"] == "?"


def test_a_move_at_the_end_is_undone() -> None:
    events: list[Any] = [
        *journals.beginning(),
        Asked(0, {"lr": 0.1}, 1, {"lr": 0.1}),
        Asked(1, {"lr": 0.4}, 1, {"lr": 0.4}),
        Turned(0),
        Moved(1, 10, 0, {"lr": 0.12}, {"lr": 0.12}),
        Ended(1, "completed", 10, 3.0, undone=True),
    ]
    page = project(*events)[1]
    points = [p for p in page.points if p.name == "config/lr"]
    assert max(points, key=lambda p: (p.step, p.milliseconds)).value == 0.4
    assert page.tags["bilevel.moved"] == ""
    assert [p.value for p in page.points if p.name == "objective"] == [3.0]
