"""Is what is written in bulk, read back, what MLflow's client would have written?"""

from __future__ import annotations

import logging
import shutil
import sqlite3
import time
import tracemalloc
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name, _validate_param_name, _validate_tag_name
from sqlalchemy.exc import OperationalError

import journals
from bilevel.record import writer
from bilevel.record.journal import read
from bilevel.record.mlflow import Ledger, ledger, tables
from bilevel.record.mlflow.database import prepare_database
from bilevel.record.projection import LONGEST_NAME, allowed
from bilevel.study.events import Asked, Begun, Event, Interrupted
from records import JOURNALS, QUERIES, found_by, read_back, record

pytestmark = pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning")  # MLflow's own


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database of MLflow's with nothing in it."""
    store = tmp_path_factory.mktemp("empty")
    prepare_database(f"sqlite:///{store}/mlflow.db", store)
    return store / "mlflow.db"


def store_of(home: Path, empty: Path, events: list[Event]) -> tuple[Path, str]:
    """A store with a database and a run's journal; the run's folder and the database's URI."""
    folder = journals.folder(home)
    shutil.copy(empty, home / "mlflow.db")
    journals.write(folder, events)
    return folder, f"sqlite:///{home}/mlflow.db"


@pytest.mark.parametrize("chunk", [7, 1000])
@pytest.mark.parametrize("name", list(JOURNALS))
def test_both_ways_read_the_same(
    name: str, chunk: int, tmp_path: Path, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CHUNK", chunk)
    folder, uri = store_of(tmp_path / "bulk", empty, JOURNALS[name])
    bulk = record(folder, uri)
    assert bulk._tables is not None
    other = journals.folder(tmp_path / "client")
    shutil.copy(empty, other.parent / "mlflow.db")
    shutil.copy(folder / "journal.jsonl", other / "journal.jsonl")
    monkeypatch.setattr(ledger, "open_tables", lambda *_: None)
    other_uri = f"sqlite:///{other.parent}/mlflow.db"
    assert record(other, other_uri)._tables is None
    assert read_back(uri) == read_back(other_uri)
    for condition, order in QUERIES:
        assert found_by(uri, condition, order) == found_by(other_uri, condition, order), condition


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_writer_killed_around_any_transaction_leaves_nothing_twice_and_nothing_out(
    moment: str, tmp_path: Path, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "CHUNK", 25)
    events = journals.halving(8)
    folder, uri = store_of(tmp_path / "whole", empty, events)
    record(folder, uri)
    wanted = read_back(uri)
    other = journals.folder(tmp_path / "killed")
    shutil.copy(empty, other.parent / "mlflow.db")
    shutil.copy(folder / "journal.jsonl", other / "journal.jsonl")
    write = tables.Tables.write
    calls = 0

    class Killed(BaseException):
        pass

    def dies(self: Any, *args: Any) -> None:
        nonlocal calls
        calls += 1
        if moment == "after":
            write(self, *args)
        if calls % 2 or moment == "after":
            raise Killed
        write(self, *args)

    monkeypatch.setattr(tables.Tables, "write", dies)
    other_uri = f"sqlite:///{other.parent}/mlflow.db"
    for _ in range(50):
        try:
            record(other, other_uri)
        except Killed:
            continue
        break
    assert calls >= 4
    assert read_back(other_uri) == wanted


def test_a_record_begun_by_the_client_is_gone_on_with_in_bulk_and_back(
    tmp_path: Path, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the cursor is behind what is there, as after a kill between a request and its mark."""
    events = journals.halving(12)
    folder, uri = store_of(tmp_path / "whole", empty, events)
    record(folder, uri)
    other = journals.folder(tmp_path / "mixed")
    shutil.copy(empty, other.parent / "mlflow.db")
    other_uri = f"sqlite:///{other.parent}/mlflow.db"
    lines = (folder / "journal.jsonl").read_bytes().splitlines(keepends=True)
    for turn, (start, stop) in enumerate(pairwise([0, 20, 55, 60, 100, len(lines)])):
        with (other / "journal.jsonl").open("ab") as journal:
            journal.writelines(lines[start:stop])
        with monkeypatch.context() as patch:
            if turn % 2 == 0:
                patch.setattr(ledger, "open_tables", lambda *_: None)
            record(other, other_uri)
        with sqlite3.connect(other.parent / "mlflow.db") as database:
            database.execute(f"update tags set value = '{max(0, stop - 15)}' where key = 'bilevel.synced'")
    record(other, other_uri)
    assert read_back(other_uri) == read_back(uri)


@given(st.text() | st.text(alphabet="./ a:\n"))
def test_mlflow_takes_any_name_as_it_is_written(name: str) -> None:
    written = allowed(name)
    for check in (_validate_metric_name, _validate_param_name, _validate_tag_name):
        check(written)
    assert 0 < len(written) <= LONGEST_NAME


def test_tables_that_are_not_as_expected_are_left_to_the_client(
    tmp_path: Path, empty: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, uri = store_of(tmp_path, empty, journals.halving(4))
    monkeypatch.setitem(tables._COLUMNS, "metrics", {"run_uuid", "key", "value"})
    with caplog.at_level(logging.WARNING):
        assert record(folder, uri)._tables is None
    assert "MLflow's database is not as expected" in caplog.text
    assert len(read_back(uri)) == 5


def test_a_write_that_fails_for_another_cause_than_an_outage_is_left_to_the_client(
    tmp_path: Path, empty: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder, uri = store_of(tmp_path, empty, journals.halving(4))

    def fails(*_: Any) -> None:
        raise AttributeError("no such thing in this version")

    monkeypatch.setattr(tables.Tables, "write", fails)
    with caplog.at_level(logging.WARNING):
        assert record(folder, uri)._tables is None
    assert "not written in bulk (AttributeError: no such thing" in caplog.text
    statuses = sorted(run["info"][0] for run in read_back(uri).values())
    assert statuses == ["FAILED", "FINISHED", "FINISHED", "FINISHED", "KILLED"]


def test_an_outage_is_not_taken_for_a_change_of_mlflow(
    tmp_path: Path, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "LOCK_WAIT", 10)
    folder, uri = store_of(tmp_path, empty, journals.halving(4))
    whole = Ledger(uri, folder)
    entries = list(read(folder / "journal.jsonl"))
    projection = writer.Projection()
    for entry in entries[:20]:
        projection.take(entry)
    whole.find("asha", journals.RUN)
    pages = projection.turn()
    whole.runs[None] = whole._requests.create(pages[None], None)
    with sqlite3.connect(tmp_path / "mlflow.db", isolation_level=None) as database:
        database.execute("begin immediate")
        with pytest.raises(OperationalError, match="locked"):
            whole.write(pages, 20)
        database.execute("rollback")
    assert whole._tables is not None
    assert set(whole.runs) == {None}
    record(folder, uri)
    assert len(read_back(uri)) == 5


@pytest.mark.slow
def test_ten_thousand_children_are_found_again_quickly(tmp_path: Path, empty: Path) -> None:
    folder, uri = store_of(tmp_path, empty, [])
    journals.write(folder, journals.search(10_000))
    record(folder, uri)
    again = Ledger(uri, folder)
    tracemalloc.start()
    began = time.monotonic()
    assert again.find("search", journals.RUN) == 40_003
    seconds = time.monotonic() - began
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(again.runs) == 10_001
    assert seconds < 5
    assert peak < 20e6


def test_a_reopened_trial_is_running_again(tmp_path: Path, empty: Path) -> None:
    events: list[Event] = [*journals.beginning(), Asked(0, {}, 1), Begun(0, 1, "w"), Interrupted("SIGINT")]
    folder, uri = store_of(tmp_path, empty, events)
    record(folder, uri)
    assert {run["info"][0] for run in read_back(uri).values()} == {"KILLED"}
    journals.write(folder, [journals.opened(), Begun(0, 2, "w", 0, "resumed")])
    record(folder, uri)
    assert {run["info"][0] for run in read_back(uri).values()} == {"RUNNING"}
