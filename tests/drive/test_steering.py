"""Is a search steered from outside, and does a resumed one do the same?"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import bilevel
from bilevel import PBT, Inline, Random, Report, Result, Run, Space, Study, Uniform, figures, steer
from bilevel.cli.cli import main
from bilevel.drive import driver, results, runs
from bilevel.drive.requests import heed
from bilevel.errors import BadInput
from bilevel.record.folder import RunFolder
from bilevel.record.mailbox import Mailbox, Request
from bilevel.study.events import Steered, Tagged
from bilevel.study.history import History

SPACE = Space(dict, x=Uniform(0.0, 1.0), y=Uniform(0.0, 1.0))


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driver, "HEED_EVERY", 0.0)
    monkeypatch.setattr(figures, "draw", lambda *_, **__: {})


def study(objective: Any, **more: Any) -> Study:
    return Study(
        **({"name": "led", "objective": objective, "minimize": "loss", "space": SPACE, "search": Random()} | more)
    )


def run(of: Study, store: Path, **more: Any) -> Result:
    return bilevel.run(of, on=Inline(), store=store, track="none", **more)


def asking(store: Path, by: int, **what: Any) -> Callable[[dict[str, float], Run], Any]:
    """An objective whose trial of this number asks for something of its own run."""

    def objective(config: dict[str, float], run: Run) -> Any:
        for step in (1, 2, 3):
            yield Report(step, {"loss": config["x"] + step})
            if run.trial == by and step == 1:
                steer("last", store=store, wait=0.0, **what)

    return objective


def test_points_are_tried_next_and_count_as_trials(tmp_path: Path) -> None:
    of = study(asking(tmp_path, 1, points=[{"x": 0.25}, {"x": 0.125, "y": 1.0}]), trials=6)
    plain = run(study(asking(tmp_path, -1), trials=6), tmp_path).trials
    result = run(of, tmp_path)
    table = result.trials
    assert list(table["config.x"][2:4]) == [0.25, 0.125]
    assert list(table["config.y"][2:4]) == [0.5, 1.0]
    assert len(table) == 6
    assert list(table["config.x"][:2]) == list(plain["config.x"][:2])
    again = runs.told(RunFolder(result.folder), of)
    assert (again.left, again.asking.wanted) == (0, 0)


def test_an_interrupted_study_tries_them_when_it_is_resumed(tmp_path: Path) -> None:
    first = [False, True]

    def objective(config: dict[str, float], run: Run) -> Any:
        yield Report(1, {"loss": config["x"]})
        if run.trial == 1 and first.pop():
            steer("last", store=tmp_path, wait=0.0, points=[{"x": 0.25}], trials=1)
            yield Report(2, {"loss": config["x"]})
            raise KeyboardInterrupt

    of = study(objective, trials=3)
    with pytest.raises(KeyboardInterrupt):
        run(of, tmp_path)
    result = bilevel.resume("last", store=tmp_path, study=of)
    assert (result.status, len(result.trials), result.trials["config.x"][2]) == ("completed", 4, 0.25)


def test_a_trial_is_stopped_and_the_others_go_on(tmp_path: Path) -> None:
    result = run(study(asking(tmp_path, 0, stop=[1]), trials=3), tmp_path, slots=2)
    table = result.trials
    assert list(table["state"]) == ["completed", "stopped", "completed"]
    assert table["reason"][1] == "stopped by hand"
    assert table["step"][1] < 3


def test_more_trials_are_asked_for(tmp_path: Path) -> None:
    of = study(asking(tmp_path, 1, trials=3), trials=2, repeats=2)
    result = run(of, tmp_path)
    assert len(result.trials) == 10
    resumed = bilevel.resume(result.run_id, store=tmp_path, study=of)
    assert resumed.fingerprint == result.fingerprint
    longer = bilevel.resume(result.run_id, store=tmp_path, study=of, more=1)
    assert len(longer.trials) == 12


@pytest.mark.slow
def test_more_time_is_given(tmp_path: Path) -> None:
    def objective(config: dict[str, float], run: Run) -> float:
        if run.trial == 0:
            steer("last", store=tmp_path, wait=0.0, seconds=2.0)
        time.sleep(0.1)
        return config["x"]

    result = run(study(objective, trials=1000, seconds=0.5), tmp_path)
    assert result.document["seconds"] > 2.0


def test_a_word_about_a_trial_is_taken_down_whether_or_not_it_runs(tmp_path: Path) -> None:
    of = study(asking(tmp_path, 1, tags={0: {"note": "looks odd"}, 1: {"who": "me"}}), trials=2)
    result = run(of, tmp_path)
    assert list(result.trials["tags.note"][:1]) == ["looks odd"]
    assert result.trials["tags.who"][1] == "me"
    before = result.fingerprint
    assert steer(result.run_id, store=tmp_path, tags={1: {"who": "", "note": "fine"}}) == "trial 1: who, note"
    assert result.trials["tags.note"][1] == "fine"
    assert "tags.who" not in result.trials
    again = bilevel.resume(result.run_id, store=tmp_path, study=of)
    assert (again.status, again.fingerprint) == ("completed", before)


def test_a_finished_study_goes_on_with_what_it_was_given(tmp_path: Path) -> None:
    of = study(asking(tmp_path, -1), trials=2)
    result = run(of, tmp_path)
    said = steer(result.run_id, store=tmp_path, points=[{"x": 0.75}], trials=1, study=of)
    assert said == f"1 point to try next; 1 trial more; go on with: bilevel resume {result.run_id}"
    with pytest.raises(BadInput, match="0 of its 3 trials are left to ask for"):
        steer(result.run_id, store=tmp_path, points=[{"x": 0.5}], study=of)
    after = bilevel.resume(result.run_id, store=tmp_path, study=of)
    assert list(after.trials["config.x"][2:]) == [0.75]


def test_a_request_that_was_answered_before_its_file_could_be_removed_is_done_once(tmp_path: Path) -> None:
    first = [False, True]

    def objective(config: dict[str, float], run: Run) -> Any:
        yield Report(1, {"loss": config["x"]})
        if run.trial == 0 and first.pop():
            steer("last", store=tmp_path, wait=0.0, trials=1)
            yield Report(2, {"loss": config["x"]})
            raise KeyboardInterrupt

    of = study(objective, trials=2)
    drop = Mailbox.drop
    try:
        Mailbox.drop = lambda self, name: None  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            run(of, tmp_path)
    finally:
        Mailbox.drop = drop  # type: ignore[method-assign]
    result = bilevel.resume("last", store=tmp_path, study=of)
    assert len(result.trials) == 3
    assert not list((result.folder / "requests").iterdir())


def test_a_file_that_is_no_request_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    def objective(config: dict[str, float], run: Run) -> float:
        home = next(path for path in tmp_path.iterdir() if path.is_dir()) / "requests"
        home.mkdir(exist_ok=True)
        (home / f"{run.trial}.json").write_text(["{", "[1]", '{"trials": "many"}'][run.trial])
        return config["x"]

    result = run(study(objective, trials=3), tmp_path)
    said = [event.said for event in RunFolder(result.folder).events() if isinstance(event, Steered)]
    assert said[:2] == ["the request cannot be read"] * 2
    assert "'many' more trials" in said[-1] or len(said) == 2  # the last one comes when the study has ended
    assert len(result.trials) == 3


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ({"stop": [0]}, "trial 0 is completed; only one that runs can be stopped"),
        ({"stop": [9]}, "no trial 9 to be stopped; it has 0 to 1"),
        ({"stop": ["x"]}, "stop is ['x']; it takes numbers of trials"),
        ({"trials": -1}, "-1 more trials"),
        ({"trials": True}, "True more trials"),
        ({"seconds": 5.0}, "no time limit that could be raised"),
        ({"seconds": float("inf")}, "inf seconds more"),
        ({"points": [{"z": 1.0}]}, "z"),
        ({"points": [{"x": 2.0}]}, "x"),
        ({"points": [3]}, "a point: 3; it takes values by name"),
        ({"points": [{"x": 0.9}], "trials": 1}, "where refuses {'x': 0.9}"),
        ({"points": [{"x": 0.1}]}, "0 of its 2 trials are left"),
        ({"tags": {"7": {"a": "b"}}}, "no trial 7; it has 0 to 1"),
        ({"tags": {"0": {"a": 1}}}, "trial 0: tag 'a' is 1; names and values are text"),
        ({"tags": [1]}, "tags: [1]; it takes values by name"),
    ],
)
def test_what_cannot_be_done_is_said_and_nothing_of_it_is_done(what: dict[str, Any], why: str, tmp_path: Path) -> None:
    of = study(asking(tmp_path, -1), trials=2, where=lambda config: config["x"] < 0.9)
    result = run(of, tmp_path)
    decisions = runs.told(RunFolder(result.folder), of)
    (answer,) = heed(Request("r", what), decisions.history, decisions, limited=False)
    assert isinstance(answer, Steered)
    assert answer.refused
    assert why in answer.said
    assert (answer.trials, answer.points) == (0, ())


def test_a_population_takes_no_points_and_nothing_is_no_request(tmp_path: Path) -> None:
    of = study(asking(tmp_path, -1), search=PBT(members=3, every=1), trials=None)
    decisions = runs.Decisions(of)
    (answer,) = heed(Request("r", {"points": [{"x": 0.5}]}), decisions.history, decisions, limited=False)
    assert isinstance(answer, Steered)
    assert "its members are a population" in answer.said
    (answer,) = heed(Request("r", {"trials": 2}), decisions.history, decisions, limited=False)
    assert isinstance(answer, Steered)
    assert "it takes no more trials" in answer.said
    with pytest.raises(BadInput, match="nothing is asked for"):
        steer(run(study(asking(tmp_path, -1), trials=1), tmp_path).run_id, store=tmp_path)


def test_a_trial_that_ended_before_it_could_be_stopped_keeps_nothing_else_from_being_done(tmp_path: Path) -> None:
    of = study(asking(tmp_path, -1), trials=2)
    result = run(of, tmp_path)
    said = steer(result.run_id, store=tmp_path, stop=[0], trials=1, study=of)
    assert said.startswith("trial 0 had ended before; 1 trial more")
    assert len(bilevel.resume(result.run_id, store=tmp_path, study=of).trials) == 3


def test_what_is_said_of_a_run_that_is_not_at_work_is_no_time_at_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = run(study(asking(tmp_path, -1), trials=1), tmp_path)
    before = results.times(RunFolder(result.folder))[0]
    later = time.time() + 5000
    monkeypatch.setattr(time, "time", lambda: later)
    steer(result.run_id, store=tmp_path, tags={0: {"note": "the next morning"}})
    assert results.times(RunFolder(result.folder))[0] == before
    assert results.search(RunFolder(result.folder)).seconds < 1000


def test_words_need_no_study() -> None:
    history = History()
    refused = heed(Request("r", {"tags": {"0": {"a": "b"}}}), history, None, limited=False)
    assert isinstance(refused[0], Steered)
    assert refused[0].refused
    assert not any(isinstance(event, Tagged) for event in refused)


def test_the_command_writes_down_words_and_says_what_it_cannot_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = run(study(asking(tmp_path, -1), trials=1), tmp_path)
    words = ["steer", result.run_id, "--store", str(tmp_path)]
    assert main([*words, "--note", "0", "much too slow", "--tag", "0", "who=me"]) == 0
    assert capsys.readouterr().out == "trial 0: note, who\n"
    assert result.trials["tags.note"][0] == "much too slow"
    for wrong, why in (
        (["--tag", "0", "who"], "write NAME=WORD"),
        (["--note", "x", "y"], "begin with a trial's number"),
        (["--point", "x"], "write PATH=VALUE"),
        (["--trials", "1"], "give the study"),
    ):
        assert main([*words, *wrong]) == 2
        assert why in capsys.readouterr().err
