"""Does everything that the README shows work as it is written?"""

from __future__ import annotations

import inspect
import itertools
import json
import os
import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from bilevel import figures
from bilevel.cli import cli

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
FILES = {name[1]: text for text in PYTHON if (name := re.match(r"# (\w+\.py)\b", text))}
LINES = [line.partition("#")[0].strip() for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
MENTIONED = re.findall(r"`(bilevel [a-z][^`]*)`", README)
SHORT = {
    "devices.py": "--steps 2 --set test_episodes=4",
    "hybrid.py": "--steps 2 --set test_episodes=4",
    "tune.py": "--trials 8 --set epochs=2",
    "classifiers.py": "--trials 5",
    "evolve.py": "--trials 6",
    "lit.py": "--trials 5",
    "prototypes.py": "--steps 2 --set test_episodes=4 --set validate_episodes=4 --set episodes=4",
}
MINE = """
import torch
from pytorch_lightning import LightningModule
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

class Net(LightningModule):
    def __init__(self, lr, width):
        super().__init__()
        self.lr, self.net = lr, nn.Sequential(nn.Linear(1, width), nn.Tanh(), nn.Linear(width, 1))

    def training_step(self, batch, _):
        return nn.functional.mse_loss(self.net(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.log("loss", self.training_step(batch, _))

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=self.lr)

x = torch.linspace(-3, 3, 64).unsqueeze(1)
data = DataLoader(TensorDataset(x, x.sin()), batch_size=16)
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the README's files, runs of them, and samples of a new device."""
    home = tmp_path_factory.mktemp("readme")
    for name, text in FILES.items():
        (home / name).write_text(text, encoding="utf-8")
    (home / "mine.py").write_text(MINE)
    (home / "mine.csv").write_text("x,y\n-1.5,-2\n-0.5,-1\n0.5,1\n1.5,2\n")
    (home / "new.csv").write_text("x\n0.0\n1.0\n")
    return home


@pytest.fixture(autouse=True)
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "path", [str(home), *sys.path])
    monkeypatch.setattr(figures, "draw", lambda *given: {})
    monkeypatch.setattr(os, "fsync", lambda fd: None)
    for name in [*(Path(file).stem for file in FILES), "mine"]:  # of an earlier test, imported from another folder
        sys.modules.pop(name, None)


def small(words: list[str]) -> list[str]:
    """The command at a small size, in this process and without MLflow."""
    if words[0] == "run":
        sets = [part for flag, value in itertools.pairwise(words) if flag == "--set" for part in (flag, value)]
        return [*words[:2], *sets, *SHORT[words[1]].split(), "--workers", "0", "--track", "none"]
    return ["2" if before == "--trials" else word for before, word in zip(["", *words], words, strict=False)]


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    assert {kind for kind, _ in BLOCKS} == {"python", "bash", "text"}
    assert all(line.partition(" ")[0] in ("", "make", "bilevel") for line in LINES)
    assert len(FILES) == len(PYTHON) - 1, "all but the notebook"
    assert set(SHORT) == {name for name, text in FILES.items() if "study = " in text}


@pytest.mark.parametrize("name", ["devices.py", "tune.py"])
def test_a_study_takes_less_than_thirty_lines(name: str) -> None:
    assert len([line for line in FILES[name].splitlines() if line.strip()]) < 30


def test_the_notebook_works(capsys: pytest.CaptureFixture[str]) -> None:
    (notebook,) = [text for text in PYTHON if text not in FILES.values()]
    Path("notebook.py").write_text(notebook)
    found: dict[str, Any] = runpy.run_path("notebook.py")
    before, after, fingerprint = capsys.readouterr().out.split()
    assert float(after) < float(before)
    assert len(fingerprint) == 64
    assert found["result"].status == "completed"
    import torch

    assert found["model"](torch.zeros(3, 1)).shape == (3, 1)


def test_a_loop_of_ones_own_works(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path("loop.py")
    value, _, config = capsys.readouterr().out.partition(" ")
    assert float(value) < 0.1, "the optimum is 0, at x = 3 or -3"
    assert "sign" in config


def test_the_commands_work(capsys: pytest.CaptureFixture[str]) -> None:
    """At a small size and without Ray; commands that need a cluster or serve for ever are only read."""
    for line in LINES:
        if not line.startswith("bilevel"):
            continue
        words = shlex.split(line)[1:]
        parsed = cli.parsed(words)
        if words[0] in ("ui", "watch") or "--address" in words:
            continue
        assert cli.main(small(words)) == 0, (line, capsys.readouterr().err)
        assert parsed.command is not None


@pytest.mark.filterwarnings("ignore")  # of Lightning about its own use of torch, and about small data
@pytest.mark.parametrize("name", ["classifiers.py", "evolve.py", "lit.py"])
def test_the_patterns_work(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "lit.py":
        pytest.importorskip("pytorch_lightning")
    assert cli.main([*small(["run", name]), "--json"]) == 0, capsys.readouterr().err
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    count = int(SHORT[name].split()[1])
    assert found["trials"]["failed"] == 0
    assert found["trials"]["completed"] + found["trials"]["stopped"] == count
    assert found["trials"]["completed"] > 0
    if "ASHA" in FILES[name]:
        assert found["trials"]["stopped"] > 0


@pytest.mark.parametrize("line", sorted(set(MENTIONED)))
def test_commands_in_the_text_exist(line: str) -> None:
    words = shlex.split(line)[1:]
    if "--help" in words:
        return
    if len(words) == 1 and words[0] in ("resume", "sync", "show"):
        words.append("last")
    assert cli.parsed(words).command is not None


def test_names_in_the_text_exist() -> None:
    """Searches, stops, dimensions and options of a study, as the text and its tables call them."""
    import bilevel
    from bilevel import inner, tasks
    from bilevel.search import stop
    from bilevel.space import conversion
    from bilevel.study import define_by_run as defined

    homes = (bilevel, conversion, defined, stop)
    called = set(re.findall(r"`(?:bilevel\.(?:stop|conversion)\.)?(\w+)\((?:\.\.\.|[a-z_]+=[^)`]*)?\)`", README))
    assert {"TPE", "GP", "CMAES", "NSGA2", "PBT", "Random", "Sobol", "Grid", "ASHA", "Hyperband", "Median"} <= called
    for name in called - {"episode"}:
        assert any(hasattr(home, name) for home in homes), name
    takers = (bilevel.Study, bilevel.Ray, tasks.Episodes, tasks.Grouped, inner.GradientDescent, conversion.from_json)
    options = {name for taker in takers for name in inspect.signature(taker).parameters}
    text = re.sub(r"```.*?```", "", README, flags=re.DOTALL)
    assert (
        set(re.findall(r"`(\w+)=[^`]+`", text)) - {"step", "center", "PYTHONPATH", "requires_grad", "api_key"}
        <= options
    )


def test_targets_links_and_studies_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for line in LINES:
        if line.startswith("make"):
            assert f"\n{line.split()[1]}:" in makefile, line
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert link.startswith("https://") or (ROOT / link).exists(), link
    studies = {path.name for path in (ROOT / "search_spaces").glob("*.py")}
    table = [row.partition("` |")[0] for row in README.split("| `")[1:]]
    assert {name for name in table if name.endswith(".py")} == studies
