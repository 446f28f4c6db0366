"""Are tracking addresses checked, passwords kept out of sight, and links right?"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from bilevel.errors import BadInput
from bilevel.record.tracking import check_uri, links, redact, restore, ui_command


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
