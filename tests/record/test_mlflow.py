"""Is the journal's content in MLflow, whole and once?"""

from __future__ import annotations

import json
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest

import journals
import records
from bilevel.record import tracking
from bilevel.record.journal import read
from bilevel.record.tracking import Tracker, sync
from bilevel.study.events import Asked, Ended, Finished, Opened, Reported, Started


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
    (folder / "figures" / "slices.png").write_bytes(b"png")  # figures are drawn after the end is recorded
    status = sync(folder, uri)
    assert status.complete, status
    assert status.synced == entries
    assert rows(store, counted) == before
    assert list((store / "artifacts").glob("*/artifacts/figures/slices.png"))
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
        "figures/slices.png",
        "model/model.json",
        "source/tiny.py",
        "source/near/by.py",
        "result.json",
        "best_config.json",
    }
    assert json.loads((folder / "best_config.json").read_text()) == {"rule.lr": 0.1}


@pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # MLflow's own
def test_words_are_tags_and_files_are_artifacts_of_a_trial(tmp_path: Path) -> None:
    folder = journals.folder(tmp_path)
    journals.write(folder, records.JOURNALS["words"])
    made = folder / "files" / "trial-0000" / "plots"
    made.mkdir(parents=True)
    (made / "curve.txt").write_text("1 2 3")
    written = records.record(folder, f"sqlite:///{tmp_path}/mlflow.db")
    run = written._client.get_run(written.runs[0])
    assert run.data.tags["mlflow.note.content"] == "diverges late"
    assert run.data.tags["tag.mlflow.user"] == "not me"
    assert run.data.tags["mlflow.user"] != "not me"
    assert run.data.tags["verdict"] == ""
    assert run.info.status == "FINISHED"  # what was said after its end changes nothing of that
    (kept,) = (tmp_path / "artifacts").rglob("curve.txt")
    assert kept.read_text() == "1 2 3"
    assert kept.parts[-4:-1] == ("artifacts", "files", "plots")


def test_the_page_is_known_afterwards(recorded: tuple[Path, Path, str]) -> None:
    store, folder, uri = recorded
    (parent,) = rows(store, "select run_uuid from runs where name like '2026%'")
    status = tracking.recorded(folder, uri, port=5123)
    assert status.url == f"http://127.0.0.1:5123/#/experiments/1/runs/{parent[0]}?workflowType=machine_learning"
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


# -- searches, by the writer itself ------------------------------------------------------------------------------------

WANTED = {
    "asha": {"completed": 10, "stopped": 5, "failed": 5},
    "pbt": {"completed": 20},
}
STATUS = {"completed": "FINISHED", "stopped": "KILLED", "failed": "FAILED"}


def trials(store: Path, study: str) -> list[tuple[str, str, str, str]]:
    """Number, status, state and attempt of the children that are nested under a study's one parent."""
    query = (
        "select n.value, r.status, coalesce(s.value, ''), a.value from runs r join experiments e using (experiment_id) "
        "join tags p on p.run_uuid = r.run_uuid and p.key = 'mlflow.parentRunId' "
        "join tags k on k.run_uuid = p.value and k.key = 'bilevel.kind' and k.value = 'study' "
        "join tags n on n.run_uuid = r.run_uuid and n.key = 'bilevel.trial' "
        "join tags a on a.run_uuid = r.run_uuid and a.key = 'bilevel.attempt' "
        "left join tags s on s.run_uuid = r.run_uuid and s.key = 'bilevel.state' "
        f"where e.name = '{study}' order by cast(n.value as integer)"
    )
    return rows(store, query)


@pytest.mark.parametrize("study", [pytest.param("asha", marks=pytest.mark.slow), "pbt"])
def test_a_search_of_twenty_trials_is_there_whole_nested_and_without_a_warning(study: str, tmp_path: Path) -> None:
    events = journals.halving(20) if study == "asha" else journals.population(20, 4, 5)
    folder = journals.folder(tmp_path)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    first, rest = journals.interrupted(events, len(events) // 2)
    journals.write(folder, first)
    assert sync(folder, uri).complete
    left = trials(tmp_path, study)
    assert {status for _, status, state, _ in left if not state} == {"KILLED"}
    journals.write(folder, rest[: len(rest) // 2])
    assert sync(folder, uri).complete
    running = [row for row in trials(tmp_path, study) if row[1] == "RUNNING"]
    assert running
    assert not any(state for _, _, state, _ in running)
    journals.write(folder, rest[len(rest) // 2 :])
    status = sync(folder, uri)
    assert status.complete
    found = trials(tmp_path, study)
    assert [number for number, *_ in found] == [str(n) for n in range(20)]
    states = [state for _, _, state, _ in found]
    assert {state: states.count(state) for state in set(states)} == WANTED[study]
    assert all(status == STATUS[state] for _, status, state, _ in found)
    assert rows(tmp_path, "select count(*), sum(status = 'RUNNING') from runs") == [(21, 0)]
    said = (folder / tracking.LOG_FILE).read_text().splitlines()
    assert [line for line in said if "INFO mlflow.store.db" not in line] == []  # no warning of anybody's
    again = {row[3] for row in found}
    assert again == ({"1", "2"} if study == "asha" else {"1", "4"})


def test_the_compare_page_opens_on_the_objective_and_all_searched_values(tmp_path: Path) -> None:
    folder = journals.folder(tmp_path)
    journals.write(folder, journals.search(12))
    status = sync(folder, f"sqlite:///{tmp_path}/mlflow.db")
    assert status.links["compare"].endswith(f"compareRunsMode=CHART&viewStateShareKey={journals.RUN}")
    ((text,),) = rows(
        tmp_path, f"select value from experiment_tags where key = 'mlflow.sharedViewState.{journals.RUN}'"
    )
    view = json.loads(text)
    parallel, *slices = view["compareRunCharts"]
    assert parallel["type"] == "PARALLEL"
    assert parallel["selectedMetrics"] == ["objective"]
    assert parallel["selectedParams"] == ["log10_lr", "width", "drop", "act"]
    params = {key for (key,) in rows(tmp_path, "select distinct key from params")}
    assert params >= set(parallel["selectedParams"])
    assert [chart["xaxis"]["key"] for chart in slices] == parallel["selectedParams"]
    assert {chart["yaxis"]["key"] for chart in slices} == {"objective"}
    assert view["orderByAsc"] is True


def test_without_a_kept_view_the_compare_page_shows_the_ten_best(tmp_path: Path) -> None:
    folder = journals.folder(tmp_path)
    journals.write(folder, journals.search(70))
    status = sync(folder, f"sqlite:///{tmp_path}/mlflow.db")
    best = rows(
        tmp_path, "select run_uuid from latest_metrics where key = 'objective' and step = 1 order by value limit 10"
    )
    said = json.loads((folder / "mlflow.json").read_text())
    (folder / "mlflow.json").write_text(json.dumps({**said, "view": None}))  # as a server leaves it that takes none
    status = tracking.recorded(folder, f"sqlite:///{tmp_path}/mlflow.db")
    named = status.links["compare"].partition("runs=")[2].partition("&")[0]
    assert named == "%5B%22" + "%22%2C%22".join(run for (run,) in best) + "%22%5D"
