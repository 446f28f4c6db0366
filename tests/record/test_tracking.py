"""Are tracking addresses checked, passwords kept out of sight, and links right?"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

import journals
from bilevel.errors import BadInput
from bilevel.record.redaction import redact
from bilevel.record.tracking import LOG_FILE, check_uri, links, restore, sync, ui_command


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


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://bob:s3cr/etpw@127.0.0.1:5998/db",
        "postgresql://bob:s3cr@etpw@127.0.0.1/db",
        "postgresql://bob:s3cr?etpw@127.0.0.1/db",
        "postgresql://bob:s3cr#etpw@127.0.0.1/db",
        "postgresql://bob:s3cr etpw@127.0.0.1/db",
        "postgresql://bob:s3cr'etpw@127.0.0.1/db",
        "postgresql://bob:s3cretpw",
        "postgresql://127.0.0.1/db?user=bob&password=s3cr@etpw",
        "postgresql://127.0.0.1/db?user=bob&password=s3cr etpw",
        "http://bob:s3cr@etpw@127.0.0.1:1",
        "http://bob:s3cr\\etpw@127.0.0.1:1",
        "http://127.0.0.1:1/?access_token=s3cretpw",
        "bob:s3cretpw@127.0.0.1",
        "host=127.0.0.1 password=s3cretpw",
    ],
)
def test_an_address_whose_password_cannot_be_told_from_the_rest_is_refused_without_it(uri: str) -> None:
    with pytest.raises(BadInput, match=r"percent-encode|MLFLOW_TRACKING_TOKEN|not a tracking URI") as caught:
        check_uri(uri)
    assert "s3cr" not in str(caught.value)
    assert "etpw" not in str(caught.value)


@pytest.mark.parametrize(
    ("uri", "recorded"),
    [
        ("https://me:s3cret@host:8443/mlflow", "https://***@host:8443/mlflow"),
        ("https://s3cret@host", "https://***@host"),
        ("postgresql://me:s3:cret@[::1]:5432/db", "postgresql://***@[::1]:5432/db"),
        (
            "postgresql+psycopg://me:s3%2Fcr%40et@host/db?sslmode=require",
            "postgresql+psycopg://***@host/db?sslmode=require",
        ),
        ("postgresql://h:1/db?user=me&password=s3cret", "postgresql://h:1/db?user=me&password=***"),
        ("postgresql:///db?host=/run&sslpassword=s3%40cret", "postgresql:///db?host=/run&sslpassword=***"),
        ("postgresql://me:s3cret@h/db?pass%77ord=s3cret", "postgresql://***@h/db?pass%77ord=***"),
        ("postgresql://h/db?user=me;PWD=s3cret&api_key=s3cret&s3cret", "postgresql://h/db?user=***&api_key=***&***"),
    ],
)
def test_credentials_are_recorded_nowhere_and_come_back_from_the_environment(
    uri: str, recorded: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_uri(uri)
    assert redact(uri) == recorded
    assert redact(recorded) == recorded
    assert redact(f"cannot open '{uri}', nor {uri} ") == f"cannot open '{recorded}', nor {recorded} "
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    assert restore(recorded) == uri
    for other in ("", "postgresql://me:s3cret@elsewhere/db"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", other)
        with pytest.raises(BadInput, match="give --track"):
            restore(recorded)


def test_an_address_without_credentials_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for uri in (
        "http://host",
        "sqlite:////home/me@work/a b.db",
        "sqlite:///file:x.db?mode=rwc&uri=true",
        "postgresql://host/db?sslmode=require",
        "none",
        None,
    ):
        assert restore(uri) == uri
        assert uri is None or redact(uri) == uri


@pytest.mark.parametrize(
    "uri",
    [
        "postgresql://user:p@ss@host/db",
        "postgresql://bob:s3cr/etpw@127.0.0.1:5998/db",
        "postgresql://bob:s3cr?etpw@host/db",
        "postgresql://host/db?user=bob&password=s3cr@etpw",
    ],
)
def test_what_cannot_be_told_apart_is_hidden_whole(uri: str) -> None:
    assert redact(f"cannot open {uri} at all") == "cannot open postgresql://*** at all"


def test_a_database_server_that_is_away_costs_no_more_than_any_other_and_is_named(tmp_path: Path) -> None:
    pytest.importorskip("psycopg")
    folder = journals.folder(tmp_path)
    journals.write(folder, [*journals.beginning(), *journals.trial(0, 2), *journals.end(1)])
    began = time.monotonic()
    status = sync(folder, "postgresql://bob:s3cret@127.0.0.1:1/db")
    assert time.monotonic() - began < 40.0  # MLflow alone takes 100; most of ours is its import
    assert status.problem == "postgresql://***@127.0.0.1:1/db: connection refused"
    assert "s3cret" not in (folder / LOG_FILE).read_text()


def test_links_lead_to_the_pages_worth_a_look() -> None:
    found = links("http://me:pw@host:1/?token=pw#pw", "7", "abc", ["t0", "t1"], minimize=False)
    assert found["study"] == "http://host:1/#/experiments/7/runs/abc?workflowType=machine_learning"
    assert "searchFilter=tags.%60bilevel.kind%60%20%3D%20%27trial%27" in found["trials"]
    assert "tags.%60mlflow.parentRunId%60%20%3D%20%27abc%27&" in found["trials"]  # and not those of other runs
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
