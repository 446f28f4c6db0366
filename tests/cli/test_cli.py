"""Does every command do what it says, and refuse what cannot work with one line and nothing half made?"""

from __future__ import annotations

import csv
import errno
import http.server
import json
import os
import subprocess
import sys
import threading
from base64 import b64encode
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from bilevel import Inline, Ray, Tune, figures
from bilevel.cli import cli, doctor
from bilevel.drive import runs
from bilevel.drive.session import On
from bilevel.errors import BadInput
from bilevel.record import folder as folders
from bilevel.record import tracking
from programs import TINY

COMMANDS = ["run", "resume", "list", "show", "adapt", "replay", "audit", "sync", "clean", "ui", "doctor", "watch"]

LETTERS = """
from bilevel import Adam, Learned, MetaTraining, Space, Study, meta_train
from bilevel.inner import GradientDescent
from bilevel.nets import mlp
from bilevel.tasks import Episodes
import torch

def four():
    return torch.nn.Linear(2, 4)

def make(factory):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(400, 2, generator=generator)
    y = torch.arange(400) % 25
    return Study(
        name="points", objective=meta_train, maximize="valid/accuracy",
        space=Space(
            MetaTraining, tasks=Episodes(x, y, ways=5, shots=1, queries=2), episodes=2, steps=3, unit=2,
            test_episodes=4, validate_episodes=4,
            rule=Space(GradientDescent, init=Learned(factory, by=Adam(1e-2)), lr=Learned(0.1, by=Adam(1e-2))),
        ),
    )

study = make(mlp)
misfit = make(four)
"""

OWN = """
from dataclasses import dataclass
from bilevel import Report, Space, Study

@dataclass(frozen=True, kw_only=True)
class Config:
    rate: float

def objective(cfg, run):
    loss = 1.0
    for step in range(1, 6):
        loss = loss * cfg.rate
        yield Report(step, {"loss": loss if step < 4 or cfg.rate < 2 else float("nan")})

study = Study(name="own", objective=objective, minimize="loss", space=Space(Config, rate=0.5))
"""

BAG = OWN.replace("Space(Config, rate=0.5)", "Space(dict, rate=0.5)").replace("cfg.rate", "cfg['rate']")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Here are the studies, and no data; figures are not drawn, which takes seconds."""
    for name, text in {"tiny": TINY, "points": LETTERS, "own": OWN, "bag": BAG}.items():
        (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BILEVEL_DATA", raising=False)
    monkeypatch.setattr(figures, "draw", lambda *_: {})
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


FAST = ["--workers", "0", "--track", "none", "--json"]


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    """The one line with which the command refuses."""
    assert cli.main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert len(captured.err.splitlines()) == 1, captured.err
    assert captured.err.startswith("bilevel: ")
    assert not Path("runs").exists() or not list(Path("runs").iterdir()), "a half-made run is left"
    return captured.err


BAD = {
    "no such file": (["nowhere.py"], "nowhere.py: no such file; give the path"),
    "no study in it": (["tiny.py:other"], "no study named 'other'; it has study: run tiny.py:study"),
    "a path that is not there": (["tiny.py", "--set", "rule.rate=1"], "no value at 'rule.rate': rule has init"),
    "a misspelt name of a dict": (["bag.py", "--set", "nope=1"], "no value at 'nope': the space has rate"),
    "a value of the wrong type": (["tiny.py", "--set", "rule.steps=many"], "rule.steps: 'many' is a str; it takes int"),
    "a float for a whole number": (["tiny.py", "--set", "steps=1.5"], "steps: 1.5 is a float; it takes int"),
    "more ways than classes": (["points.py", "--set", "tasks.ways=9"], "9"),
    "no steps": (["tiny.py", "--steps", "0"], "MetaTraining: steps is 0; it takes at least 1"),
    "no inner steps": (["tiny.py", "--set", "rule.steps=0"], "GradientDescent: steps is 0"),
    "a negative inner rate": (["tiny.py", "--set", "rule.lr=-0.1"], "lr is -0.1; a step size is a positive number"),
    "a negative outer rate": (["tiny.py", "--set", "rule.init.by.lr=-1"], "Adam: lr is -1"),
    "a network that does not fit": (["points.py:misfit"], "the tasks have 5 classes"),
    "an unknown tracking scheme": (["tiny.py", "--track", "gopher://x"], "not a tracking URI; give sqlite:///FILE"),
    "a store below a file": (["tiny.py", "--store", "tiny.py/runs"], "name another with --store DIR"),
    "a set without a value": (["tiny.py", "--set", "steps"], "write PATH=VALUE"),
    "negative workers": (["tiny.py", "--workers", "-1"], "--workers -1"),
    "no trials": (["tiny.py", "--trials", "0"], "trials is 0"),
    "a negative time": (["tiny.py", "--time", "-1"], "--time -1: give seconds, more than 0"),
    "no time": (["tiny.py", "--time", "0"], "--time 0: give seconds, more than 0"),
    "a time that is no number": (["tiny.py", "--time", "nan"], "--time nan: give seconds, more than 0"),
    "Tune without workers": (["tiny.py", "--on", "tune"], "leave it or --on tune out"),
    "a cluster without workers": (["tiny.py", "--address", "auto"], "leave it or --address out"),
    "workers without Ray": (["tiny.py", "--on", "inline", "--workers", "3"], "leave it or --workers 3 out"),
    "GPUs without Ray": (["tiny.py", "--gpus-per-worker", "1"], "leave it or --gpus-per-worker out"),
    "a negative seed": (["tiny.py", "--seed", "-1"], "seed is -1"),
    "steps of another objective": (["own.py", "--steps", "5"], "--steps is for a MetaTraining"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_with_one_line(home: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    words, said = BAD[name]
    assert said in refused(capsys, "run", words[0], *FAST, *words[1:])


BROKEN = {
    "raises": ("x = 1\n1 / 0\n", "broken.py:2: ZeroDivisionError: division by zero"),
    "does not parse": ("x = 1\nstudy = (\n", "broken.py:2: SyntaxError"),
    "imports what is not there": ("import nowhere_to_be_found\n", "broken.py:1: ModuleNotFoundError"),
    "leaves": ("import sys\nsys.exit(3)\n", "broken.py:2: SystemExit: 3"),
    "has no study": ("x = 1\n", "no study named 'study'; it must end in `study = Study(...)`"),
    "has a wrong study": (
        "import bilevel as b\nstudy = b.Study(name='a b', objective=print, space=b.Space(dict), minimize='x')\n",
        "broken.py:2: Study: name 'a b'",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_with_its_own_line(home: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    text, said = BROKEN[name]
    (home / "broken.py").write_text(text)
    assert said in refused(capsys, "run", "broken.py", *FAST)


def test_missing_data_say_where_they_are_had(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gallery = Path(__file__).parents[2] / "search_spaces"
    for name, words in {
        "omniglot_maml.py": ("brendenlake/omniglot", "MIT", "BILEVEL_DATA"),
        "patients_maml.py": ("parkinsons_updrs.csv", "BILEVEL_DATA"),
    }.items():
        said = refused(capsys, "run", str(gallery / name), *FAST)
        assert all(word in said for word in words), said


def test_a_loss_that_turns_nan_fails_the_trial_with_step_and_reason(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["run", "own.py", *FAST, "--set", "rate=3"]) == 1
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert (document["status"], document["trials"]["failed"], document["best"]) == ("failed", 1, None)
    assert "loss is nan" in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.filterwarnings("ignore:.*is left out")
def test_a_diverging_meta_training_fails_with_its_step(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "tiny.py", *FAST, "--set", "rule.lr=1e30", "--set", "rule.steps=5"]) == 1
    captured = capsys.readouterr()
    document = json.loads(captured.out)
    assert document["status"] == "failed"
    assert "trial 0 failed: step 1: 4 of 4 episodes overflow" in captured.err
    assert "try a smaller rule.lr" in captured.err


# -- the commands that read a run --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one finished run of few-shot points."""
    home = tmp_path_factory.mktemp("read")
    (home / "points.py").write_text(LETTERS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "draw", lambda *_: {})
        patch.setattr(sys, "path", list(sys.path))
        status = cli.main(["run", str(home / "points.py"), "--store", str(home / "runs"), *FAST])
    assert status == 0
    return home / "runs"


def printed(capsys: pytest.CaptureFixture[str], *argv: object, status: int = 0) -> str:
    assert cli.main([str(word) for word in argv]) == status
    return capsys.readouterr().out


def test_standard_output_holds_the_json_alone(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "chatty.py").write_text("print('hello')\n" + OWN)
    assert cli.main(["run", "chatty.py", *FAST]) == 0
    captured = capsys.readouterr()
    document = json.loads(captured.out.splitlines()[-1])
    assert document["metrics"] == {"loss": 0.5**5}
    counts = {"step": 5, "value": "last"}
    assert document["best"] == {"trial": 0, "objective": 0.5**5, **counts, "config": {"rate": 0.5}}
    assert "own: completed" in captured.err
    assert cli.main(["run", "own.py", "--workers", "0", "--track", "none"]) == 0
    assert capsys.readouterr().out == ""


def test_list_and_show(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (row,) = json.loads(printed(capsys, "list", "--store", store, "--json"))
    assert (row["status"], row["trials"], row["step"]) == ("completed", 1, 3)
    assert row["run"] in printed(capsys, "list", "--store", store)
    document = json.loads(printed(capsys, "show", "last", "--store", store, "--json"))
    assert document["run_id"] == row["run"]
    assert {"test/accuracy@0", "test/accuracy_ci95@1", "test/nearest_neighbour_accuracy"} <= set(document["metrics"])
    text = printed(capsys, "show", row["run"], "--store", store)
    assert document["fingerprint"] in text
    assert "trial 0: completed, step 3" in text


def test_list_of_an_empty_store_says_how_to_begin(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "begin one with `bilevel run FILE`" in printed(capsys, "list", "--store", tmp_path / "none")


def test_replay_and_audit(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "replay", "last", "--store", store, "--step", 2)
    assert text.rstrip().endswith("equal")
    assert "NOT" not in text
    assert "all as recorded" in printed(capsys, "audit", "last", "--store", store, "--sample", "100%")


def test_an_audit_of_an_ordinary_search_reads_its_checkpoints(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "own.py").write_text(OWN.replace('nan")})', 'nan")}, {"step": step})'))
    assert cli.main(["run", "own.py", *FAST]) == 0
    capsys.readouterr()
    said = printed(capsys, "audit", "last")
    assert said == (
        "1 checkpoints read: all as recorded (its trials are not made of units, which alone are computed again)\n"
    )
    (state,) = Path("runs").glob("*/checkpoints/*/*/state.json")
    state.write_text(state.read_text().replace("5", "4"))
    said = printed(capsys, "audit", "last", status=1)
    assert f"{state.parent}: state.json is not what was written" in said
    assert "1 checkpoints read: 1 do not agree with the record" in said


def test_a_resumed_finished_run_gives_its_result(store: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = json.loads(printed(capsys, "show", "last", "--store", store, "--json"))
    assert json.loads(printed(capsys, "resume", "last", "--store", store, "--json")) == shown


def test_a_run_goes_on_elsewhere_with_what_else_it_began_with(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    began: On = Ray(workers=2, gpus_per_worker=0.5, address="auto", device="cpu")
    found: list[On | None] = []
    folder = SimpleNamespace(document=lambda: {"execution": None})
    monkeypatch.setattr(folders, "find", lambda *_: folder)
    monkeypatch.setattr(runs, "declared", lambda _: began)

    def resumed(*_: object, on: On | None, **__: object) -> None:
        found.append(on)
        raise BadInput("enough")

    monkeypatch.setattr(runs, "resume", resumed)
    for words in ([], ["--workers", "8"], ["--address", "host:1"], ["--workers", "0"]):
        assert cli.main(["resume", "last", *words]) == 2
    assert found == [
        None,
        Ray(workers=8, gpus_per_worker=0.5, address="auto", device="cpu"),
        Ray(workers=2, gpus_per_worker=0.5, address="host:1", device="cpu"),
        Inline(device="cpu"),
    ]
    began = Inline(device="cpu")
    assert cli.main(["extend", "last", "--trials", "1", "--workers", "3"]) == 2
    assert found[-1] == Ray(workers=3, device="cpu")
    began = Tune(workers=1, gpus_per_worker=1.0)
    assert cli.main(["resume", "last", "--workers", "3"]) == 2
    assert found[-1] == Tune(workers=3, gpus_per_worker=1.0)


def test_json_has_no_infinity(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = OWN.replace("rate: float", "rate: float\n    clip: float").replace("rate=0.5", "rate=0.5, clip=float('inf')")
    (home / "clipped.py").write_text(text)
    words = ["clipped.py", "--workers", "0", "--track", "none", "--store", home / "runs", "--json"]
    found = json.loads(printed(capsys, "run", *words))
    assert found["best"]["config"] == {"rate": 0.5, "clip": "inf"}
    assert json.loads(printed(capsys, "show", "last", "--store", home / "runs", "--json")) == found


@pytest.mark.parametrize("suffix", ["npz", "csv"])
def test_adapt_predicts_from_files(
    store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], suffix: str
) -> None:
    x, y = np.random.default_rng(0).normal(size=(5, 2)), np.arange(5)
    support, query = tmp_path / f"support.{suffix}", tmp_path / f"query.{suffix}"
    if suffix == "npz":
        np.savez(support, x=x, y=y)
        np.savez(query, x=x)
    else:
        support.write_text("a,b,y\n" + "".join(f"{a},{b},{label}\n" for (a, b), label in zip(x, y, strict=True)))
        query.write_text("a,b\n" + "".join(f"{a},{b}\n" for a, b in x))
    rows = list(
        csv.reader(
            printed(capsys, "adapt", "last", "--store", store, "--support", support, "--query", query).splitlines()
        )
    )
    assert len(rows) == 1 + 5
    assert all(int(row[0]) in range(5) for row in rows[1:])


WRONG = {
    "no such run": (["show", "nothing"], "nothing: no such run in"),
    "no such step": (["replay", "last", "--step", "9"], "no step 9; it has 1 to 3"),
    "no such unit": (["replay", "last", "--step", "1", "--unit", "7"], "units 0 to 2, not 7"),
    "no such trial": (["replay", "last", "--step", "1", "--trial", "3"], "no trial 3; the run has 0"),
    "a sample of nothing": (["audit", "last", "--sample", "0"], "--sample 0: give a fraction"),
    "nowhere to sync to": (["sync", "last"], "begun with --track none"),
    "no such support": (["adapt", "last", "--support", "x.npz", "--query", "x.npz"], "x.npz: no such file"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_not_there_is_said(store: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    words, said = WRONG[name]
    assert cli.main([*words, "--store", str(store)]) == 2
    captured = capsys.readouterr()
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1
    assert captured.out == ""


def test_clean_says_first_and_then_does(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "tiny.py", *FAST, "--steps", "2"]) == 0
    (checkpoints,) = Path("runs").glob("*/checkpoints")
    capsys.readouterr()
    assert "would delete checkpoints" in printed(capsys, "clean", "--older-than", "0", "--dry-run")
    assert checkpoints.exists()
    assert "0.0 MB freed" in printed(capsys, "clean")  # too young
    assert "deleted checkpoints" in printed(capsys, "clean", "--older-than", "0")
    assert not checkpoints.exists()
    assert printed(capsys, "show", "last")  # what was found is still known
    assert "deleted the run" in printed(capsys, "clean", "--older-than", "0", "--runs")
    assert not checkpoints.parent.exists()


def test_a_store_that_is_read_only_can_be_looked_at_and_says_so_to_who_would_write(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cli.main(["run", "tiny.py", *FAST, "--steps", "2"]) == 0
    (journal,) = Path("runs").glob("*/journal.jsonl")
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(line for line in lines if b'"event":"finished"' not in line))  # as after a kill
    journal.with_suffix(".seal").unlink()
    real = os.open

    def refuse(path: str, flags: int, *more: Any, **options: Any) -> int:
        if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, "Read-only file system", str(path))
        return real(path, flags, *more, **options)

    monkeypatch.setattr(os, "open", refuse)
    capsys.readouterr()
    for words in (["resume", "last"], ["extend", "last", "--trials", "2"], ["clean", "--older-than", "0", "--runs"]):
        assert cli.main(words) == 2
        captured = capsys.readouterr()
        assert "the store cannot be written: Read-only file system; " in captured.err
        assert len(captured.err.splitlines()) == 1
        assert captured.out == ""  # nothing is called deleted that is still there
    (row,) = json.loads(printed(capsys, "list", "--json"))
    assert row["status"] == "interrupted"
    for words in (["show", "last"], ["show", "last", "--trial", "0"], ["audit", "last"]):
        assert printed(capsys, *words)


def test_a_changed_study_is_refused_and_new_code_takes_it(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As between a kill and `resume`: the run has not ended."""
    assert cli.main(["run", "tiny.py", *FAST, "--steps", "400", "--time", "0.01"]) in (0, 1)
    (folder,) = Path("runs").glob("*/journal.jsonl")
    lines = folder.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if b'"event":"ended"' not in line and b'"event":"finished"' not in line]
    folder.write_bytes(b"".join(kept))
    (home / "tiny.py").write_text(TINY.replace("hidden=(8,)", "hidden=(9,)"))
    capsys.readouterr()
    assert cli.main(["resume", "last"]) == 2
    said = capsys.readouterr().err
    assert "the study's source changed since the run began" in said
    assert "+        rule" not in said
    assert "hidden=(8,)" in said
    assert "hidden=(9,)" in said
    assert "--new-code" in said
    (home / "tiny.py").write_text(TINY + "# a remark\n")
    assert cli.main(["resume", "last"]) == 2
    assert cli.main(["resume", "last", "--new-code", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["metrics"]["train/loss"] > 0


def test_a_trackers_password_is_in_no_file_and_is_wanted_again(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri, recorded = "http://bob:s3%2Fcretpw@127.0.0.1:1", "http://***@127.0.0.1:1"
    fast = ["--workers", "0", "--steps", "1"]
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setattr(tracking, "PATIENCE", 0.5)
    assert cli.main(["run", "tiny.py", *fast, "--track", recorded]) == 0  # it need not be on a command line
    said = capsys.readouterr()
    assert f"{recorded}: connection refused" in said.err
    assert "cretpw" not in said.err + said.out
    assert cli.main(["sync", "last"]) == 1
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    for command in (["sync", "last"], ["resume", "last"]):
        assert cli.main(command) == 2
        assert f"{recorded}: its password is not recorded" in capsys.readouterr().err
    (folder,) = folders.runs(home / "runs")
    assert folder.document()["track"] == recorded
    assert not [path for path in home.rglob("*") if path.is_file() and b"cretpw" in path.read_bytes()]


def test_doctor_asks_a_tracker_with_its_password_and_does_not_show_it(tmp_path: Path) -> None:
    told: list[str | None] = []

    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            told.append(self.headers["Authorization"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        port = server.server_port
        said = doctor._tracker(tmp_path, f"http://bob:s3%2Fcret@127.0.0.1:{port}")
    assert said == (True, f"http://***@127.0.0.1:{port}: answers 200")
    assert told == ["Basic " + b64encode(b"bob:s3/cret").decode()]
    good, text = doctor._tracker(tmp_path, f"http://bob:s3%2Fcret@127.0.0.1:{port}")
    assert not good
    assert "cret" not in text


def test_doctor_says_what_works_here(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = printed(capsys, "doctor")
    for word in ("torch", "ray", "mlflow", "BILEVEL_DATA"):
        assert word in text.lower() or word in text


# -- as a program ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        cli.main([command, "--help"])
    assert left.value.code == 0
    assert f"usage: bilevel {command}" in capsys.readouterr().out


@pytest.mark.parametrize("argv", [["--help"], ["run", "--help"], ["list"], ["list", "--json"]], ids=" ".join)
def test_words_that_compute_nothing_wait_for_no_library(argv: list[str], tmp_path: Path) -> None:
    program = (
        "import sys; from bilevel.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'ray', 'mlflow', 'optuna', 'numpy', 'pandas', 'matplotlib'}\n"
        "print(*heavy & set(sys.modules), file=sys.stderr)"
    )
    words = [sys.executable, "-c", program, *argv]
    done = subprocess.run(words, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert done.stdout
    assert not done.stderr.strip()


@pytest.mark.parametrize("command", ["resume", "extend"])
def test_help_of_what_goes_on_names_its_own_defaults(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("(default: as the run began") == 4  # workers, slots, address, track
    assert "default: the CPUs" not in said
    with pytest.raises(SystemExit):
        cli.main(["run", "--help"])
    said = " ".join(capsys.readouterr().out.split())
    assert "(default: the CPUs; 0: no Ray)" in said
    assert "as the run began" not in said


def test_the_program_refuses_as_the_function_does(home: Path) -> None:
    program = [sys.executable, "-m", "bilevel.cli"]
    done = subprocess.run([*program, "run", "nowhere.py"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    done = subprocess.run([*program, "jump"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
    assert "jump" in done.stderr


def test_a_sync_that_is_behind_is_not_called_complete(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A tracker that gets no time to write ends without a problem of its own."""
    assert cli.main(["run", "own.py", "--workers", "0", "--track", "none"]) == 0
    monkeypatch.setattr(tracking, "sync", lambda *_: tracking.TrackerStatus(behind=3))
    assert cli.main(["sync", "last", "--track", "sqlite:///m.db"]) == 1
    said = capsys.readouterr()
    assert "MLflow: 3 events behind; sync again" in said.err
    assert "complete in MLflow" not in said.out
