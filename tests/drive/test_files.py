"""Is what a trial makes kept with it: files, words, states, whatever becomes of the trial?"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import bilevel
from bilevel import ASHA, Inline, Random, Ray, Report, Result, Run, Space, Study, Tune, Uniform, figures
from bilevel.cli.cli import main
from bilevel.errors import RecordDamaged
from bilevel.record.folder import RunFolder
from bilevel.record.trial_files import TrialFiles

WORKERS = [pytest.param(Ray(workers=1), marks=pytest.mark.slow), pytest.param(Tune(workers=1), marks=pytest.mark.slow)]
SPACE = Space(dict, x=Uniform(0.0, 1.0))


@pytest.fixture(autouse=True)
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "draw", lambda *_, **__: {})


def made(objective: Any, store: Path, on: Any = None, **more: Any) -> Result:
    study = Study(name="files", objective=objective, minimize="loss", space=SPACE, search=Random(), **more)
    return bilevel.run(study, on=on or Inline(), store=store, track="none")


def texts(result: Result, trial: int) -> dict[str, str]:
    return {name: path.read_text() for name, path in result.files(trial).items()}


def leaves(config: dict[str, float], run: Run) -> Iterator[Report]:
    for step in (1, 2, 3):
        (run.folder / "plots").mkdir(exist_ok=True)
        (run.folder / "plots" / f"{step}.txt").write_text(f"{run.trial} at {step}")
        (run.folder / "newest.txt").write_text(str(step))
        if step == 3:
            (run.folder / "plots" / "1.txt").unlink()
        verdict = {"verdict": "good" if config["x"] < 0.5 else "bad"}
        yield Report(step, {"loss": config["x"], **verdict}, {"step": step})


@pytest.mark.parametrize("on", [Inline(), *WORKERS])
def test_what_lies_in_a_trials_folder_is_kept_and_what_is_gone_is_gone(on: Any, tmp_path: Path) -> None:
    result = made(leaves, tmp_path, on, trials=2)
    for trial in (0, 1):
        assert texts(result, trial) == {
            "newest.txt": "3",
            "plots/2.txt": f"{trial} at 2",
            "plots/3.txt": f"{trial} at 3",
        }
        assert not (result.folder / "files" / f"trial-{trial:04d}" / "plots" / "1.txt").exists()
    assert result.best is not None
    assert result.files() == result.files(result.best["trial"])
    assert list(result.trials["tags.verdict"]) == ["good" if x < 0.5 else "bad" for x in result.trials["config.x"]]


@pytest.mark.parametrize("on", [Inline(), *WORKERS])
def test_a_trial_that_is_stopped_early_keeps_its_files(on: Any, tmp_path: Path) -> None:
    result = made(leaves, tmp_path, on, trials=6, stop=ASHA(first=1, factor=2, last=3), seed=3)
    stopped = result.trials[result.trials["state"] == "stopped"]
    assert len(stopped)
    for trial, step in zip(stopped["trial"], stopped["step"], strict=True):
        assert texts(result, trial)["newest.txt"] == str(step)


def stumbles(config: dict[str, float], run: Run) -> Iterator[Report]:
    diary = run.folder / "diary.txt"
    diary.write_text((diary.read_text() if diary.exists() else "") + "begun;")
    yield Report(1 if run.state is None else 2, {"loss": 1.0}, {"at": 1})
    if run.state is None:
        raise OSError("the first attempt fails")


@pytest.mark.parametrize("on", [Inline(), *WORKERS])
def test_another_attempt_finds_what_the_one_before_left(on: Any, tmp_path: Path) -> None:
    result = made(stumbles, tmp_path, on, trials=1, retries=1)
    assert texts(result, 0) == {"diary.txt": "begun;begun;"}


def test_an_audit_reads_what_trials_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = made(leaves, tmp_path, trials=2)
    words = ["audit", result.run_id, "--store", str(tmp_path)]
    assert main(words) == 0
    result.files(0)["newest.txt"].write_text("4")
    result.files(1)["newest.txt"].unlink()
    capsys.readouterr()
    assert main(words) == 1
    said = "".join(capsys.readouterr().out.split())
    assert "itisnotwhattrial0left" in said
    assert "itcannotberead" in said


def fails(config: dict[str, float], run: Run) -> Iterator[Report]:
    (run.folder / "why.txt").write_text(f"{config['x']:.1f}")
    yield Report(1, {"loss": config["x"]})
    (run.folder / "late.txt").write_text("before the end")
    raise ValueError("no more")


def test_a_trial_that_fails_keeps_its_files(tmp_path: Path) -> None:
    result = made(fails, tmp_path, trials=1)
    assert result.status == "failed"
    assert set(result.files(0)) == {"why.txt", "late.txt"}


def test_nothing_stays_among_temporary_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made(leaves, tmp_path / "runs", trials=2)
    made(fails, tmp_path / "runs", trials=1)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_worker_cannot_write_outside_of_a_trials_folder(tmp_path: Path) -> None:
    with pytest.raises(RecordDamaged, match="outside of its folder"):
        TrialFiles(RunFolder(tmp_path)).take(0, {"../../evil.txt": b"x"})
    assert not list(tmp_path.rglob("evil.txt"))


def words(config: dict[str, float], run: Run) -> dict[str, Any]:
    run.report(1, {"loss": 0.5, "phase": "warm-up"})
    run.report(2, {"loss": 0.4, "phase": "main"})
    return {"loss": config["x"], "verdict": "done"}


def test_words_that_are_reported_are_tags_and_the_last_one_counts(tmp_path: Path) -> None:
    result = made(words, tmp_path, trials=1)
    row = result.trials.iloc[0]
    assert (row["state"], row["tags.phase"], row["tags.verdict"]) == ("completed", "main", "done")
    assert "metrics.phase" not in result.trials


def text_for_the_objective(config: dict[str, float], run: Run) -> dict[str, Any]:
    return {"loss": "low"}


def test_text_for_the_objective_itself_fails_the_trial_and_says_so(tmp_path: Path) -> None:
    result = made(text_for_the_objective, tmp_path, trials=1)
    assert result.trials["reason"][0] == "step 1: metric 'loss' is a str; it takes a number"


def test_show_names_where_state_files_and_tags_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = made(leaves, tmp_path, trials=1)
    assert main(["show", result.run_id, "--trial", "0", "--store", str(tmp_path)]) == 0
    said = "".join(capsys.readouterr().out.split())
    state = result.folder / "checkpoints" / "trial-0000" / "step-00000003"
    assert state.is_dir()
    assert f"stateofstep3:{state}" in said
    assert f"files:{result.folder / 'files' / 'trial-0000'}" in said
    assert "newest.txt,1bytes" in said
    assert "verdict" in said


def test_the_folder_outlives_a_driver_that_is_interrupted(tmp_path: Path) -> None:
    script = tmp_path / "interrupted.py"
    script.write_text(_INTERRUPTED)
    done = subprocess.run([sys.executable, str(script), str(tmp_path / "runs")], capture_output=True, timeout=120)
    assert b"attempts: begun;begun;" in done.stdout, done.stderr.decode()


_INTERRUPTED = """
import os, signal, sys
from bilevel import Inline, Report, Space, Study, Uniform, resume, run

def objective(config, run):
    diary = run.folder / "diary.txt"
    diary.write_text((diary.read_text() if diary.exists() else "") + "begun;")
    begin = 0 if run.state is None else run.state["step"]
    for step in range(begin + 1, 5):
        yield Report(step, {"loss": 1.0 / step}, {"step": step})
        if step == 2 and run.state is None:
            os.kill(os.getpid(), signal.SIGTERM)

study = Study(name="one", objective=objective, minimize="loss", space=Space(dict, x=Uniform(0.0, 1.0)), trials=1)
signal.signal(signal.SIGTERM, lambda *_: None)
first = run(study, on=Inline(), store=sys.argv[1], track="none")
assert first.status == "interrupted", first
last = resume(first.run_id, store=sys.argv[1], study=study)
assert last.status == "completed", last
print("attempts:", last.files()["diary.txt"].read_text())
"""
