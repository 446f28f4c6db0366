"""Does the page that follows a run know what is new, and nothing twice? Its documents, made from events."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

import journals
from bilevel.errors import BadInput
from bilevel.figures import beside, search_history
from bilevel.record import documents
from bilevel.record.folder import RunFolder
from bilevel.study.events import Asked, Begun, Ended, Event, Interrupted, Left, Reported, Started, Tagged
from bilevel.view import live
from bilevel.view.following import Following, Pace, Together
from support import searches


def followed(tmp_path: Path, events: list[Event], run_id: str = journals.RUN) -> Following:
    folder = journals.folder(tmp_path, run_id)
    journals.write(folder, events)
    return Following(RunFolder(folder), share=0)


def after(following: Following, said: dict[str, Any]) -> dict[str, Any]:
    """What is new since an answer, as it travels."""
    new: dict[str, Any] = json.loads(json.dumps(following.said(said["at"]), allow_nan=False))
    return new


def test_only_what_changed_is_said_again(tmp_path: Path) -> None:
    events = journals.halving(12)
    following = followed(tmp_path, events[:60])
    first = following.said("")
    assert first["whole"]
    assert [row["n"] for row in first["rows"]] == sorted(row["n"] for row in first["rows"])
    assert first["head"]["trials"] == len(first["rows"])
    again = after(following, first)
    assert (again["rows"], again["pictures"], again["whole"]) == ([], {}, False)
    assert again["at"] == first["at"]
    journals.write(following.folder.path, events[60:70])
    new = after(following, again)
    told = {event.trial for event in events[60:70] if isinstance(event, Asked | Begun | Reported | Ended)}
    assert {row["n"] for row in new["rows"]} == told
    everything = {row["n"]: row for row in first["rows"]} | {row["n"]: row for row in new["rows"]}
    assert list(everything.values()) == Following(following.folder, share=0).said("")["rows"]


def test_only_pictures_that_changed_are_said_again(tmp_path: Path) -> None:
    following = followed(tmp_path, journals.halving(8)[:-1])
    assert following.said("")["drawing"]
    assert following.draw()
    first = following.said("")
    assert {"best_so_far", "slices", "learning_curves", "timeline"} <= first["pictures"].keys()
    assert first["order"] == list(first["pictures"])
    assert not first["drawing"]
    assert not following.draw()
    assert after(following, first)["pictures"] == {}
    journals.write(following.folder.path, [Asked(8, {"lr": 0.5}, 1, {"lr": 0.5}), Ended(8, "failed", 0, None, "no")])
    assert following.draw()
    new = after(following, first)
    assert "timeline" in new["pictures"]
    assert "learning_curves" not in new["pictures"]  # it has reported nothing


def test_what_is_drawn_at_once_does_not_wait_for_what_is_dear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr("bilevel.view.following.importance", lambda search: asked.append(search))
    folder = journals.folder(tmp_path)
    journals.write(folder, journals.halving(8))
    following = Following(RunFolder(folder))
    assert following.draw()
    first = following.said("")
    assert (first["order"], first["drawing"]) == (["best_so_far", "learning_curves"], True)
    assert not asked
    assert following.draw()
    assert asked
    rest = after(following, first)
    assert {"slices", "timeline"} <= rest["pictures"].keys()
    assert not rest["drawing"]


@pytest.mark.parametrize("at", ["", "x", "-", "a-b-c", "a-1", "a--1-2", "0-99999999999999999999-0", "ü-²-1", "%00"])
def test_a_position_that_is_none_gives_all(at: str, tmp_path: Path) -> None:
    said = followed(tmp_path, journals.halving(4)).said(at)
    assert said["whole"]
    assert len(said["rows"]) == 4


def test_a_journal_that_begins_anew_begins_the_page_anew(tmp_path: Path) -> None:
    following = followed(tmp_path, journals.halving(12))
    following.draw()
    first = following.said("")
    (following.folder.path / "journal.seal").unlink()
    (following.folder.path / "journal.jsonl").unlink()
    journals.write(following.folder.path, journals.halving(4))
    new = after(following, first)
    assert new["whole"]
    assert [row["n"] for row in new["rows"]] == [0, 1, 2, 3]
    assert new["pictures"] == {}
    assert new["drawing"]


def test_the_head_says_how_it_stands(tmp_path: Path) -> None:
    events = journals.halving(8)
    cut = next(i for i, event in enumerate(events) if isinstance(event, Ended))
    following = followed(tmp_path, events[: cut + 1])
    head = following.said("")["head"]
    assert head["state"] == "interrupted"
    assert head["counts"] == {"completed": 0, "stopped": 1, "failed": 0, "running": 0, "left off": 1}
    assert {row["state"] for row in following.said("")["rows"]} == {"stopped", "left off"}
    journals.write(following.folder.path, events[cut + 1 :])
    head = following.said("")["head"]
    assert head["state"] == "completed"
    assert head["best"]["trial"] == following._known.reader.history.best().number  # type: ignore[union-attr]
    assert head["best"]["way"] == "lowest"
    assert head["failures"][0]["reason"] == "ValueError: no"
    assert head["objectives"] == [{"name": "loss", "minimize": True}]


def test_a_driver_at_work_makes_the_run_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bilevel.view.following.STANDING", -1.0)
    following = followed(tmp_path, [*journals.beginning(), *journals.trial(0, 3)[:-2]])
    with following.folder.locked():
        said = following.said("")
        assert said["head"]["state"] == "running"
        assert said["rows"][0]["state"] == "running"
        following.draw()
    new = after(following, said)
    assert new["head"]["state"] == "interrupted"
    assert [row["state"] for row in new["rows"]] == ["left off"]  # though no event says so


def test_a_run_without_entries_has_words(tmp_path: Path) -> None:
    folder = journals.folder(tmp_path)
    (folder / "journal.jsonl").touch()
    following = Following(RunFolder(folder), share=0)
    following.draw()
    said = following.said("")
    assert said["head"]["words"] == "nothing has been written down yet"
    assert (said["rows"], said["problem"], said["head"]["best"]) == ([], "", None)
    journals.write(folder, journals.beginning())
    assert after(following, said)["head"]["study"] == "tiny"


def test_a_vanished_or_damaged_run_is_said_and_what_was_known_stays(tmp_path: Path) -> None:
    following = followed(tmp_path, journals.halving(4))
    first = following.said("")
    path = following.folder.path / "journal.jsonl"
    path.rename(tmp_path / "aside")
    gone = after(following, first)
    assert "the journal is gone" in gone["problem"]
    assert gone["head"]["trials"] == 4
    following.draw()
    lines = (tmp_path / "aside").read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:4], b"rubbish\n", *lines[5:]]))
    said = after(following, gone)
    assert "damaged" in said["problem"]
    assert after(following, said)["problem"] == said["problem"]


def test_what_cannot_be_followed_is_said_and_what_came_before_is_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    following = followed(tmp_path, journals.halving(4))
    real = following._known.reader.take

    def take(time: float, event: Event) -> None:
        if isinstance(event, Ended):
            raise OverflowError("too large")
        real(time, event)

    monkeypatch.setattr(following._known.reader, "take", take)
    said = following.said("")
    assert "cannot be followed: OverflowError: too large" in said["problem"]
    assert said["rows"]
    journals.write(following.folder.path, [Asked(9, {}, 1)])
    assert len(following.said("")["rows"]) == len(said["rows"])


def test_numbers_that_are_none_and_words_of_all_kinds_become_json(tmp_path: Path) -> None:
    wild = "</script><b>\u2028"
    point = {"x": math.inf, "big": 1 << 70, "flag": None, "many": [1, math.nan], "text": wild}
    events = [
        Started("odd", journals.RUN, "loss", True, 1, objectives={"loss": "minimize", wild: "maximize"}),
        Asked(0, point, 1, point),
        Begun(0, 1, wild),
        Reported(0, 1, {"loss": math.nan, wild: math.inf}),
        Ended(0, "completed", 1, math.inf, values=(math.inf, -1.0)),
        Asked(1, {}, 1, {}),
        Ended(1, "failed", 0, None, wild * 500),
    ]
    following = followed(tmp_path, events)
    following.draw()
    said = json.loads(json.dumps(following.said(""), allow_nan=False))
    assert said["rows"][0]["values"] == [None, -1.0]
    assert said["rows"][0]["point"]["text"] == wild
    assert len(said["rows"][1]["reason"]) == live.LONGEST
    json.dumps(following.trial(0, None), allow_nan=False)


def test_a_trial_in_full(tmp_path: Path) -> None:
    following = followed(tmp_path, journals.population())
    said = following.trial(3, None)
    assert said["moves"]
    assert said["charts"][0]["title"] == "loss"
    assert [name for name, _ in said["config"]] == ["opt", "opt.lr"]
    assert said["attempts"][0][0] == "worker 3"
    with pytest.raises(BadInput, match="no trial 4"):
        following.trial(4, None)


def test_words_and_files_of_a_trial_are_told(tmp_path: Path) -> None:
    following = followed(tmp_path, [*journals.beginning(), *journals.trial(0, 3)])
    first = following.said("")
    journals.write(following.folder.path, [Tagged(0, {"note": "<i>odd</i>"}), Left(0, {"plot.png": "a" * 64})])
    assert after(following, first)["rows"][0]["tags"] == {"note": "<i>odd</i>"}
    said = following.trial(0, None)
    assert (said["tags"], said["files"]) == ([["note", "<i>odd</i>"]], ["plot.png"])


def test_a_log_is_read_from_its_end_as_it_reads_on_a_terminal(tmp_path: Path) -> None:
    following = followed(tmp_path, journals.halving(4))
    home = following.folder.path
    assert following.trial(0, None)["log"] == {"size": 0, "text": "", "cut": False}
    (home / "logs").mkdir()
    path = home / "logs" / "trial-0000.txt"
    path.write_bytes(b"\x1b[31mred\x1b[0m\r\n10%\r50%\r100%\nbell\x07 \xff <b>\n")
    log = following.trial(0, None)["log"]
    assert log["text"] == "red\n100%\nbell\u2407 \ufffd <b>\n"
    assert following.trial(0, log["size"])["log"] == {"size": log["size"]}
    path.write_text("".join(f"line {n}\n" for n in range(20_000)))
    log = following.trial(0, log["size"])["log"]
    assert log["cut"]
    assert log["text"].startswith("line ")
    assert log["text"].endswith("line 19999\n")
    path.write_text("x" * 100_000)
    assert len(following.trial(0, None)["log"]["text"]) == live.TAIL
    (home / "errors").mkdir()
    (home / "errors" / "trial-0002.txt").write_text("Traceback\nValueError: no")
    assert following.trial(2, None)["error"].endswith("ValueError: no")


def test_several_runs_stand_side_by_side(tmp_path: Path) -> None:
    runs = []
    for number, seed in enumerate((1, 2)):
        following = followed(tmp_path, journals.halving(8 + 4 * number), f"run-{number}")
        settings = {"seed": seed, "trials": 8, "config": {"lr": "Log(1e-5, 1)", "epochs": 9 * seed}}
        document = {"format": 1, "name": "asha", "file": "/x/asha.py", "settings": settings}
        (following.folder.path / "study.json").write_text(documents.text(document))
        runs.append(following)
    together = Together(runs)
    said = together.said(["", ""], 0)
    assert said["differences"] == [["seed", "1", "2"], ["epochs", "9", "18"]]
    assert "picture" not in said
    together.draw()
    new = together.said([run["at"] for run in said["runs"]], said["beside"])
    assert [len(run["rows"]) for run in new["runs"]] == [0, 0]
    assert [entry[2] for entry in new["picture"]["legend"]] == ["run-0", "run-1"]
    assert "picture" not in together.said(["", ""], new["beside"])
    (runs[0].folder.path / "study.json").write_text("{")  # said where it is read; the rest is shown
    assert together.said(["", ""], 0)["differences"]


def test_studies_of_other_objectives_have_pictures_of_their_own() -> None:
    found = {
        "a": searches.search(searches.study(12)),
        "b": searches.search(searches.study(12, metric="acc", minimize=False)),
        "none": searches.search(searches.study(0)),
    }
    chart = beside.studies(found)
    assert chart is not None
    assert [panel.y.title for panel in chart.panels] == ["loss", "acc"]
    assert beside.studies({"none": found["none"]}) is None


def test_running_trials_are_drawn_over_the_best() -> None:
    chart = beside.running_curves(searches.search(searches.study(20, running=3)))
    assert chart is not None
    names = [layer.name for layer in chart.panels[0].layers if layer.name]
    assert names[0].startswith("the best, trial ")
    assert names[1:] == ["trial 17", "trial 18", "trial 19"]
    assert beside.running_curves(searches.search(searches.study(20))) is None
    for name, found in searches.odd().items():
        beside.running_curves(found), beside.studies({name: found})


def test_a_search_that_is_read_on_does_not_change_what_was_had() -> None:
    from bilevel.figures.search import Reader

    reader, events = Reader(), searches.study(20)
    for time, event in events[:100]:
        reader.take(time, event)
    before = reader.search(searches.MLP)
    kept = (len(before.trials), dict(before.history.ended), before.seconds)
    for time, event in events[100:]:
        reader.take(time, event)
    assert (len(before.trials), dict(before.history.ended), before.seconds) == kept
    assert reader.search(searches.MLP).fingerprint == search_history(events, searches.MLP).fingerprint


def test_what_is_dear_takes_a_small_share_of_the_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("bilevel.view.following.time.monotonic", lambda: now[0])
    pace = Pace(5.0)

    def work() -> str:
        now[0] += 2.0
        return "made"

    assert pace.due(1)
    assert pace.do(1, work) == "made"
    now[0] += 60.0
    assert not pace.due(1)  # nothing has changed
    pace.do(2, work)
    now[0] += 9.9
    assert not pace.due(3)
    now[0] += 0.2
    assert pace.due(3)


def test_what_matters_is_of_all_trials_once_the_run_has_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    running = [True]
    events = journals.halving(8)
    half = next(i for i, event in enumerate(events) if isinstance(event, Ended)) + 1
    monkeypatch.setattr("bilevel.view.following.importance", lambda search: asked.append(len(search.valued())))
    monkeypatch.setattr(Following, "_stands", lambda _: "running" if running[0] else "completed")
    folder = journals.folder(tmp_path)
    journals.write(folder, events[:half])
    following = Following(RunFolder(folder))
    following.draw()
    following.draw()
    following._matters._cost = 1e6  # a forest that took for ever: while it runs, it is not to be had again
    journals.write(folder, events[half:])
    following._draws.share = 0.0
    assert following.draw()
    assert len(asked) == 1
    running[0] = False
    following._draws.done = following._what()  # nothing else is new
    assert following.draw()
    assert asked[-1] > asked[0]
    assert not following.draw()


def test_secrets_are_on_no_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They never reach the record, of which alone the page is made."""
    from bilevel.record.trial_files import TrialFiles
    from bilevel.space.secrets import Secret

    monkeypatch.setenv("BILEVEL_TEST_KEY", "s3cret-of-mine")
    secret = Secret("BILEVEL_TEST_KEY")
    said = secret.reveal()
    events = [
        *journals.beginning(),
        Asked(0, {"key": repr(secret), "x": f"at {said}"}, 1, {"x": f"at {said}"}),
        Ended(0, "failed", 0, None, f"ValueError: {said}"),
    ]
    following = followed(tmp_path, events)
    files = TrialFiles(following.folder)
    files.log(0, f"connecting with {said}\n")
    files.traceback(0, f"ValueError: {said}")
    following.draw()
    text = json.dumps([following.said(""), following.trial(0, None)])
    assert "***" in text
    assert said not in text


def test_every_kind_of_search_can_be_followed(tmp_path: Path) -> None:
    kinds = {"pbt": journals.population(3, 3, 5), "left": [*journals.halving(8)[:40], Interrupted("SIGINT")]}
    kinds["one"] = [*journals.beginning(), *journals.trial(0, 30), *journals.end(1)]
    for name, events in kinds.items():
        following = followed(tmp_path, events, name)
        following.draw()
        said = following.said("")
        assert said["failed"] == {}
        assert said["order"]
        for row in said["rows"]:
            following.trial(row["n"], None)
