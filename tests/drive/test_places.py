"""Are a study's modules found as `python -m` and pytest find them, wherever it is run and taken up again?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from bilevel.drive import places, sources
from bilevel.errors import BadInput, StudyChanged

STUDY = """
import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import rates
from bilevel import Grid, OneOf, Report, Space, Study
{imports}

parser = argparse.ArgumentParser()
parser.add_argument("--shift", type=float, default=0.0)
SHIFT = parser.parse_args().shift
ROWS = len((Path(__file__).parents[{up}] / "rows.csv").read_text().splitlines())

@dataclass(frozen=True)
class Config:
    x: float = 0.0

def train(config, run):
    import late
    yield Report(1, {{"loss": config.x * rates.RATE + ROWS + SHIFT + late.LATE{more}}})

study = Study(name="packed", objective=train, minimize="loss", search=Grid(), space=Space(Config, x=OneOf(1.0, 2.0)))
"""


def project(home: Path, *, package: bool) -> Path:
    """The file of a study: in a package with relative imports, or in a plain folder with helpers at the root."""
    folder = home / "lab" / "studies"
    folder.mkdir(parents=True)
    (home / "rates.py").write_text("RATE = 10.0\n")
    (home / "late.py").write_text("LATE = 0.5\n")
    (home / "rows.csv").write_text("1\n2\n3\n")
    (home / "lab" / "logging.py").write_text("raise RuntimeError('it hides the library')\n")
    if package:
        (home / "lab" / "__init__.py").write_text("")
        (folder / "__init__.py").write_text("")
        (home / "lab" / "scales.py").write_text("SCALE = 100.0\n")
    imports = "from ..scales import SCALE\nfrom . import __name__ as parent\nassert parent == 'lab.studies'" * package
    (folder / "own.py").write_text(STUDY.format(imports=imports, up=2, more=" + SCALE" if package else ""))
    return folder / "own.py"


def bilevel(*argv: object, cwd: Path) -> Any:
    """A command, its result from JSON."""
    words = [sys.executable, "-m", "bilevel.cli", *map(str, argv)]
    done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False, env={**os.environ})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("package", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_study_runs_from_anywhere_and_is_taken_up_from_anywhere(package: bool, tmp_path: Path) -> None:
    home, store, nowhere = tmp_path / "home", tmp_path / "runs", tmp_path / "nowhere"
    file = project(home, package=package)
    nowhere.mkdir()
    common = ("--store", store, "--track", "none", "--json")
    wanted = 10.0 + 3 + 0.25 + 0.5 + (100.0 if package else 0.0)
    starts = [(file.parent, "own.py"), (nowhere, file)] if package else [(home, file)]
    for cwd, name in starts:
        run = bilevel("run", name, "--workers", 0, *common, "--", "--shift", "0.25", cwd=cwd)
        assert (run["status"], run["best"]["objective"]) == ("completed", wanted)
    words = ("--workers", 1, *common)
    run = bilevel("run", "-m", "lab.studies.own", "--trials", 1, *words, "--", "--shift", "0.25", cwd=home)
    assert run["best"]["objective"] == wanted
    more = bilevel("extend", run["run_id"], "--trials", 1, *words, cwd=nowhere)
    assert more["trials"]["completed"] == 2
    assert more["best"]["objective"] == wanted
    document = json.loads((store / run["run_id"] / "study.json").read_text())
    assert document["arguments"] == ["--shift", "0.25"]
    assert "../../rates.py" in document["source"]
    (home / "rates.py").write_text("RATE = 11.0\n")
    with pytest.raises(AssertionError, match=r"rates.py \(now\)"):
        bilevel("extend", run["run_id"], "--trials", 1, *words, cwd=nowhere)


def test_what_a_module_is_called_and_where_it_comes_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = project(tmp_path, package=True)
    monkeypatch.chdir(file.parent)
    place = places.of_file(file)
    assert (place.name, place.packaged) == ("lab.studies.own", True)
    assert place.folders == (tmp_path, file.parent)
    plain = project(tmp_path / "plain", package=False)
    place = places.of_file(plain)
    assert (place.name, place.packaged) == ("bilevel_study_own", False)
    assert place.folders == (plain.parent, file.parent)
    assert places.of_file(plain, [str(tmp_path)]).folders == (plain.parent, tmp_path)


@pytest.mark.parametrize(("name", "reason"), [("lab.studies.none", "no such module"), ("no.such", "ModuleNotFound")])
def test_a_module_that_is_not_there_is_said(
    name: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project(tmp_path, package=True)
    monkeypatch.chdir(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "path", list(sys.path))
        with pytest.raises(BadInput, match=rf"-m {name}: .*{reason}"):
            sources.load(name, module=True)


def test_what_follows_two_dashes_is_for_a_study_alone(capsys: pytest.CaptureFixture[str]) -> None:
    from bilevel.cli import cli

    with pytest.raises(SystemExit) as left:
        cli.main(["list", "--", "--shift", "1"])
    assert left.value.code == 2
    assert "they go with `bilevel run`" in capsys.readouterr().err


def test_a_changed_module_of_another_folder_is_seen(tmp_path: Path) -> None:
    with pytest.raises(StudyChanged, match=r"\.\./rates.py \(recorded\)"):
        sources.check_unchanged({"a.py": "", "../rates.py": "X = 1\n"}, {"a.py": ""}, tmp_path / "studies")
