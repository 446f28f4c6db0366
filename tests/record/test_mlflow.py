"""Is the journal's content in MLflow, whole and once, and is it found by those who look?"""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import journals
from bilevel.errors import BadInput
from bilevel.events import Asked, Ended, Finished, Interrupted, Opened, Reported, Started
from bilevel.record import tracking
from bilevel.record.journal import Entry, read
from bilevel.record.projection import LONGEST_NAME, Page, Projection, allowed
from bilevel.record.tracking import Tracker, check_uri, links, redact, restore, sync, ui_command


def project(*events: Any) -> dict[int | None, Page]:
    projection = Projection()
    for n, event in enumerate(events):
        fields = {"event": type(event).__name__.lower(), **vars(event)}
        projection.take(Entry(n, 100.0 + n, fields, 0))
    return projection.turn()


# -- what goes where ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "taken"),
    [
        ("test/accuracy@3", "test/accuracy at 3"),
        ("rule.init.by.lr", "rule.init.by.lr"),
        ("größe(m²)", "größe_m²_"),
        ("a//b", "a__b"),
        ("../x", "___x"),
        ("x" * 300, "x" * LONGEST_NAME),
    ],
)
def test_names_are_ones_that_mlflow_takes(name: str, taken: str) -> None:
    assert allowed(name) == taken


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


def test_the_study_carries_its_result_and_a_note_for_people() -> None:
    page = project(*journals.beginning(), *journals.trial(0, 1), *journals.end(1))[None]
    assert page.identity == {"bilevel.kind": "study", "bilevel.run_id": "20260102-030405-tiny-abcd"}
    assert page.tags["mlflow.source.git.commit"] == "abc123"
    assert page.tags["bilevel.git.dirty"] == "true"
    assert page.tags["bilevel.best.rule.lr"] == "0.1"
    assert page.tags["bilevel.faults"] == "1"
    assert "| test/accuracy@1 | 0.9 | ± 0.01 |" in page.tags["mlflow.note.content"]
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


# -- addresses ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("uri", ["none", "sqlite:////tmp/x.db", "http://localhost:5000", "https://u:p@host/path"])
def test_good_addresses_pass(uri: str) -> None:
    check_uri(uri)


@pytest.mark.parametrize(
    ("uri", "cause"),
    [
        ("ftp://host", "not a tracking URI"),
        ("./mlruns", "not a tracking URI"),
        ("file:///tmp/mlruns", "not a tracking URI"),
        ("http://", "no host"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("mysql+nosuchdriver://user:secret@host/db", "nosuchdriver"),
    ],
)
def test_bad_addresses_are_refused_without_the_password(uri: str, cause: str) -> None:
    with pytest.raises(BadInput, match=cause) as caught:
        check_uri(uri)
    assert "secret" not in str(caught.value)


def test_credentials_are_recorded_nowhere_and_come_back_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "https://me:s3cret@host:8443/mlflow"
    recorded = redact(uri)
    assert recorded == "https://***@host:8443/mlflow"
    assert restore("http://host") == "http://host"
    assert restore(None) is None
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert restore(recorded) == uri
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pytest.raises(BadInput, match="give --track"):
        restore(recorded)


def test_links_lead_to_the_pages_worth_a_look() -> None:
    found = links("http://me:pw@host:1/", "7", "abc", ["t0", "t1"], minimize=False)
    assert found["study"] == "http://host:1/#/experiments/7/runs/abc"
    assert "searchFilter=tags.%60bilevel.kind%60%20%3D%20%27trial%27" in found["trials"]
    assert found["trials"].endswith("orderByKey=metrics.%60objective%60&orderByAsc=false")
    assert "runs=%5B%22t0%22%2C%22t1%22%5D&experiments=%5B%227%22%5D" in found["compare"]


def test_the_dashboard_is_open_to_this_machine_alone_and_hides_the_address(tmp_path: Path) -> None:
    command, environment = ui_command(tmp_path, "postgresql://me:pw@host/db", 5001)
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert not any("pw" in part for part in command)
    assert environment["MLFLOW_BACKEND_STORE_URI"] == "postgresql://me:pw@host/db"
    assert environment["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] == "false"
    with pytest.raises(BadInput, match="dashboard of its own"):
        ui_command(tmp_path, "http://host")


def test_the_driver_does_not_import_mlflow() -> None:
    code = "import sys, bilevel.record.tracking, bilevel.figures; sys.exit('mlflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# -- the embedded store ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """A store with one run of two trials, followed live in three instalments."""
    store = tmp_path_factory.mktemp("store")
    folder = journals.folder(store)
    uri = f"sqlite:///{store}/mlflow.db"
    journals.write(folder, journals.beginning())
    tracker = Tracker(folder, uri)
    before = time.monotonic()
    tracker.status()
    assert time.monotonic() - before < 0.5  # never waits
    journals.write(folder, journals.trial(0, 1200))
    while tracker.status().synced == 0:  # as soon as it writes, more comes
        time.sleep(0.05)
    journals.write(folder, [*journals.trial(1, 3), *journals.end(2)])
    status = tracker.finish(60.0)
    assert status.complete, status
    assert status == tracker.finish(60.0)
    return store, folder, uri


def rows(store: Path, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(store / "mlflow.db") as database:
        return database.execute(query).fetchall()


def test_one_parent_and_a_child_for_each_trial(recorded: tuple[Path, Path, str]) -> None:
    store, folder, _ = recorded
    kinds = rows(store, "select value, count(*) from tags where key = 'bilevel.kind' group by value")
    assert kinds == [("study", 1), ("trial", 2)]
    names = rows(store, "select name, status from runs order by name")
    assert names == [(folder.name, "FINISHED"), ("trial 0", "FINISHED"), ("trial 1", "FINISHED")]
    (parent,) = rows(store, "select run_uuid from runs where name like '2026%'")
    children = rows(store, "select distinct value from tags where key = 'mlflow.parentRunId'")
    assert children == [parent]
    assert rows(store, "select name from experiments where experiment_id != 0") == [("tiny",)]


def test_every_step_is_there_once_at_the_journals_time(recorded: tuple[Path, Path, str]) -> None:
    store, folder, _ = recorded
    times = {e.event["step"]: round(e.t * 1000) for e in read(folder / "journal.jsonl") if e.event.get("trial") == 0
             and e.event["event"] == "reported"}  # fmt: skip
    found = rows(
        store,
        "select step, timestamp from metrics m join runs r using (run_uuid) "
        "where r.name = 'trial 0' and key = 'train/loss' order by step",
    )
    assert found == sorted(times.items())
    assert len(found) == 1200


def test_syncing_again_changes_nothing_but_removes_what_a_hung_server_made_twice(
    recorded: tuple[Path, Path, str],
) -> None:
    store, folder, uri = recorded
    entries = len(list(read(folder / "journal.jsonl")))
    assert rows(store, "select value from tags where key = 'bilevel.synced'") == [(str(entries),)]
    counted = (
        "select (select count(*) from runs where lifecycle_stage = 'active'), (select count(*) from metrics), "
        "(select count(*) from tags where run_uuid not like 'dddd%')"
    )
    before = rows(store, counted)
    ((original,),) = rows(store, "select run_uuid from runs where name = 'trial 1'")
    with sqlite3.connect(store / "mlflow.db") as database:
        # as after a kill between a batch and its mark: everything since the middle is written again
        database.execute("update tags set value = '600' where key = 'bilevel.synced'")
        # and as after a `create_run` that was given up, then carried out
        columns = [name for _, name, *_ in database.execute("pragma table_info(runs)") if name != "run_uuid"]
        names, copied = ", ".join(columns), "d" * 32
        database.execute(
            f"insert into runs (run_uuid, {names}) select '{copied}', {names} from runs where run_uuid = '{original}'"
        )
        database.execute(
            f"insert into tags (key, value, run_uuid) select key, value, '{copied}' from tags where run_uuid = "
            f"'{original}' and key in ('mlflow.parentRunId', 'bilevel.trial', 'bilevel.kind', 'mlflow.runName')"
        )
    status = sync(folder, uri)
    assert status.complete, status
    assert status.synced == entries
    assert rows(store, counted) == before
    assert rows(store, "select run_uuid, lifecycle_stage from runs where name = 'trial 1' order by 2") == [
        (original, "active"),
        (copied, "deleted"),
    ]


def test_artifacts_lie_in_the_store(recorded: tuple[Path, Path, str]) -> None:
    store, _, _ = recorded
    (folder,) = (store / "artifacts").glob("*/artifacts")
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    assert files == {
        "figures/learning_curve.png",
        "model/model.json",
        "source/tiny.py",
        "source/near/by.py",
        "result.json",
        "best_config.json",
    }
    assert json.loads((folder / "best_config.json").read_text()) == {"rule.lr": 0.1}


def test_the_page_is_known_afterwards(recorded: tuple[Path, Path, str]) -> None:
    store, folder, uri = recorded
    (parent,) = rows(store, "select run_uuid from runs where name like '2026%'")
    status = tracking.recorded(folder, uri, port=5123)
    assert status.url == f"http://127.0.0.1:5123/#/experiments/1/runs/{parent[0]}"
    assert set(status.links) == {"study", "trials", "compare"}


def test_nothing_is_left_of_the_making(recorded: tuple[Path, Path, str]) -> None:
    store, folder, _ = recorded
    assert not list(store.glob("*.part*"))
    assert not list(store.glob(".*.part*"))
    assert not list(folder.glob(".*.part"))


def test_odd_values_are_taken(recorded: tuple[Path, Path, str]) -> None:
    """A second study in the same database: values at the edges of what MLflow takes, and one that it refuses."""
    store, _, uri = recorded
    folder = journals.folder(store, "20260102-030405-odd'one-0001")
    config = {"a.long": "x" * 9000, "none": None, "list": [1, 2], "größe(m²)": 1.5}
    metrics = {"train/loss": float("nan"), "valid/loss": float("inf"), "a//b": 2.0, "test/loss@2": 1.0}
    many = {f"m{n}": float(n) for n in range(1500)}
    journals.write(
        folder,
        [
            Started("odd'one", folder.name, "train/loss", False, 0),
            Opened(None, "c", {}, "x86_64"),
            Asked(0, config, 1),
            Reported(0, 1, metrics),
            Reported(0, 2, many),
            Ended(0, "failed", 2, None, "step 2: train/loss is nan"),
            Finished("failed", {"status": "failed", "trials": {"failed": 1}, "best": None, "metrics": {}}),
        ],
    )
    status = sync(folder, uri)
    assert status.complete, status
    mine = "join runs r using (run_uuid) join experiments e using (experiment_id) where e.name = 'odd''one'"
    assert rows(store, f"select count(*) from metrics m {mine}") == [(1505,)]
    assert rows(store, f"select is_nan from metrics m {mine} and key = 'train/loss'") == [(1,)]
    assert rows(store, f"select length(p.value) from params p {mine} and key = 'a.long'") == [(6000,)]
    assert rows(store, f"select distinct r.status from tags t {mine}") == [("FAILED",)]
