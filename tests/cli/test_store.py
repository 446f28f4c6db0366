"""Is every run of a store shown whatever befell its neighbours, and is nothing deleted that was not meant?"""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from bilevel import Int
from bilevel.cli import cli
from support.tiny import finished, maml, walking


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("made")
    for _ in range(2):
        finished(store, dataclasses.replace(walking(steps=Int(2, 3)), trials=2))
    return store


@pytest.fixture
def store(made: Path, tmp_path: Path) -> Path:
    """Two finished runs."""
    shutil.copytree(made, tmp_path / "runs")
    return tmp_path / "runs"


def runs(store: Path) -> list[Path]:
    return sorted(path.parent for path in store.glob("[!.]*/study.json"))


def swapped(file: Path, before: bytes, after: bytes) -> None:
    data = file.read_bytes()
    assert before in data
    file.write_bytes(data.replace(before, after, 1))


DAMAGE = {
    "a bit of the journal": (lambda run: swapped(run / "journal.jsonl", b"asked", b"bsked"), "damaged", "byte "),
    "zeros": (
        lambda run: (run / "journal.jsonl").write_bytes(bytes(500)), "damaged", "no entry of it can be read",
    ),
    "no journal": (lambda run: (run / "journal.jsonl").unlink(), "damaged", "the journal is gone"),
    "a bit of study.json": (
        lambda run: swapped(run / "study.json", b'"name"', b'"oame"'), "completed", "study.json: it is not what was",
    ),
    "no study.json": (lambda run: (run / "study.json").unlink(), "completed", "study.json: No such file"),
    "the end of the journal": (
        lambda run: swapped(run / "journal.jsonl", b'"event":"finished"', b'"event":"finashed"'),
        "interrupted",
        "an older state of the run",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("file", "text"),
    [("model.json", b"{}"), ("learned.safetensors", b""), ("MANIFEST.json", b"{"), ("model.json", None)],
)
def test_a_damaged_model_is_said_wherever_its_run_is_shown(
    file: str, text: bytes | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = finished(tmp_path, maml())
    if text is None:
        (run.folder / "model" / file).unlink()
    else:
        (run.folder / "model" / file).write_bytes(text)
    assert cli.main(["list", "--store", str(tmp_path), "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["status"] == "completed"
    assert row["problem"].startswith("this run is damaged: ")
    assert file in row["problem"]
    assert cli.main(["show", run.run_id, "--store", str(tmp_path)]) == 0
    assert file in capsys.readouterr().err


@pytest.mark.parametrize("name", DAMAGE)
def test_a_damaged_run_is_said_and_the_others_are_listed(
    store: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    harm, status, why = DAMAGE[name]
    first, second = runs(store)
    harm(first)
    assert cli.main(["list", "--store", str(store), "--json"]) == 0
    one, two = json.loads(capsys.readouterr().out)
    assert (one["run"], one["status"]) == (first.name, status)
    assert one["problem"].startswith("this run is damaged: ")
    assert why in one["problem"]
    assert (two["run"], two["status"], two["trials"], two["problem"]) == (second.name, "completed", 2, None)
    assert cli.main(["list", "--store", str(store)]) == 0
    said = capsys.readouterr().out
    assert second.name in said
    assert f"{first.name}: this run is damaged: " in said
    shown = cli.main(["show", first.name, "--store", str(store), "--json"])
    captured = capsys.readouterr()
    assert shown == (1 if status == "damaged" else 0)
    assert why in captured.err
    assert "Traceback" not in captured.err


def test_one_damaged_run_does_not_keep_others_from_being_cleaned(
    store: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = runs(store)
    (first / "journal.jsonl").write_bytes(bytes(500))
    assert cli.main(["clean", "--store", str(store), "--older-than", "0", "--runs"]) == 0
    assert f"left alone: {first.name}" in capsys.readouterr().out
    assert first.exists()
    assert not second.exists()


@pytest.mark.parametrize("more", [[], ["--runs"]])
@pytest.mark.parametrize("linked", ["run", "checkpoints", "above"])
def test_nothing_outside_of_the_store_is_deleted(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], linked: str
) -> None:
    first, second = runs(store)
    shutil.rmtree(second)
    elsewhere = tmp_path / "elsewhere"
    moved = first / "checkpoints" if linked == "checkpoints" else first
    shutil.move(moved, elsewhere)
    moved.symlink_to(elsewhere)
    inside = elsewhere if linked == "checkpoints" else elsewhere / "checkpoints"
    if linked == "above":
        moved.unlink()
        (tmp_path / "other").mkdir()
        moved.symlink_to(tmp_path / "other" / ".." / "elsewhere")
    kept = sorted(inside.rglob("*"))
    assert kept
    assert cli.main(["clean", "--store", str(store), "--older-than", "0", *more]) == 0
    assert sorted(inside.rglob("*")) == kept
    said = capsys.readouterr().out
    assert "left alone" in said or linked == "checkpoints"


def test_a_store_that_is_a_link_itself_is_cleaned(store: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(store)
    assert cli.main(["clean", "--store", str(tmp_path / "link"), "--older-than", "0", "--runs"]) == 0
    assert runs(store) == []


@pytest.mark.parametrize("days", ["nan", "inf", "-1", "-inf", "1e400"])
def test_clean_wants_a_number_that_was_meant(store: Path, capsys: pytest.CaptureFixture[str], days: str) -> None:
    assert cli.main(["clean", "--store", str(store), f"--older-than={days}", "--runs"]) == 2
    assert "give days, from 0 on" in capsys.readouterr().err
    assert len(runs(store)) == 2
