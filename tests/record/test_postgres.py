"""Is a record in PostgreSQL, written in bulk, what MLflow's client would have written there?

Skipped where the server's programs are not installed; `make test` installs Debian's where it may.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import journals
from bilevel.record import writer
from bilevel.record.mlflow import ledger
from bilevel.record.tracking import sync
from records import JOURNALS, QUERIES, found_by, read_back, record

psycopg = pytest.importorskip("psycopg")
DEBIANS = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
INITDB, POSTGRES = (
    next((str(place / name) for place in DEBIANS if (place / name).exists()), shutil.which(name))
    for name in ("initdb", "postgres")
)
pytestmark = [
    pytest.mark.skipif(INITDB is None or POSTGRES is None, reason="no PostgreSQL"),
    pytest.mark.filterwarnings("ignore::sqlalchemy.exc.SADeprecationWarning"),  # MLflow's own
]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server of this test's own; the URI of a database on it that always exists."""
    user = "nobody" if os.geteuid() == 0 else None  # it refuses to be root's
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as home:
        if user is not None:
            shutil.chown(home, user)
        data = ["-D", f"{home}/data"]
        initdb = [INITDB, *data, "-U", "me", "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(initdb, user=user, cwd=home, check=True, capture_output=True)
        command = [POSTGRES, *data, "-p", str(port), "-k", home, "-c", "fsync=off", "-h", "127.0.0.1"]
        process = subprocess.Popen(command, user=user, cwd=home, stderr=subprocess.DEVNULL)
        uri = f"postgresql://me@127.0.0.1:{port}/postgres"
        try:
            deadline = time.monotonic() + 60
            while True:
                try:
                    psycopg.connect(uri).close()
                    break
                except psycopg.OperationalError:
                    assert time.monotonic() < deadline
                    time.sleep(0.1)
            yield uri
        finally:
            process.send_signal(signal.SIGINT)  # SIGTERM waits until all are gone, pooled connections too
            process.wait()


def database(server: str, name: str) -> str:
    """A new one; its URI."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"create database {name}")
    return server.rpartition("/")[0] + f"/{name}"


@pytest.mark.slow
def test_both_ways_read_the_same(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "CHUNK", 50)
    bulk, client = database(server, "bulk"), database(server, "client")
    places = {}
    for number, (name, events) in enumerate(JOURNALS.items()):
        places[name] = journals.folder(tmp_path / "bulk", f"run-{number}")
        journals.write(places[name], [type(e)(**{**vars(e), **_renamed(e, number)}) for e in events])
        assert record(places[name], bulk)._tables is not None
        assert record(places[name], bulk)._tables is not None  # again: nothing changes
    monkeypatch.setattr(ledger, "open_tables", lambda *_: None)
    for number, name in enumerate(JOURNALS):
        folder = journals.folder(tmp_path / "client", f"run-{number}")
        shutil.copy(places[name] / "journal.jsonl", folder / "journal.jsonl")
        record(folder, client)
    assert read_back(bulk) == read_back(client)
    for condition, order in QUERIES:
        assert found_by(bulk, condition, order) == found_by(client, condition, order), condition


@pytest.mark.slow
def test_a_password_is_in_neither_files_nor_tables(server: str, tmp_path: Path) -> None:
    plain = database(server, "secret")
    for number, uri in enumerate(
        (plain.replace("me@", "me:s3cretpw@"), plain.replace("me@", "") + "?user=me&password=s3cretpw")
    ):
        folder = journals.folder(tmp_path, f"run-{number}")
        journals.write(folder, [*journals.beginning(), *journals.trial(0, 2), *journals.end(1)])
        assert sync(folder, uri).complete
        away = sync(folder, uri.replace("/secret", "/nowhere"))
        assert 'database "nowhere" does not exist' in (away.problem or "")
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"s3cretpw" in path.read_bytes()]
    assert "s3cretpw" not in str(read_back(uri))


def _renamed(event: journals.Event, number: int) -> dict[str, str]:
    return {"run_id": f"run-{number}"} if isinstance(event, journals.Started) else {}
