"""Does everything that the README shows work as it is written?"""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest

from bilevel import cli, figures

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
LINES = [line.partition("#")[0].strip() for kind, text in BLOCKS if kind == "bash" for line in text.splitlines()]
MENTIONED = re.findall(r"`(bilevel [a-z][^`]*)`", README)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the README's study, a finished run of it, and samples of a new device."""
    home = tmp_path_factory.mktemp("readme")
    name = re.match(r"# (\w+\.py):", PYTHON[0])
    assert name is not None
    (home / name[1]).write_text(PYTHON[0])
    (home / "mine.csv").write_text("x,y\n-1.5,-2\n-0.5,-1\n0.5,1\n1.5,2\n")
    (home / "new.csv").write_text("x\n0.0\n1.0\n")
    return home


@pytest.fixture(autouse=True)
def here(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    monkeypatch.setattr(sys, "path", [str(home), *sys.path])
    monkeypatch.setattr(figures, "draw", lambda *_: {})


def test_every_block_is_of_a_kind_that_is_tested() -> None:
    assert {kind for kind, _ in BLOCKS} == {"python", "bash"}
    assert all(line.partition(" ")[0] in ("", "make", "bilevel") for line in LINES)


def test_an_own_network_and_tasks_take_less_than_thirty_lines() -> None:
    assert len([line for line in PYTHON[0].splitlines() if line.strip()]) < 30


def test_the_notebook_works(capsys: pytest.CaptureFixture[str]) -> None:
    Path("notebook.py").write_text(PYTHON[1])
    found: dict[str, Any] = runpy.run_path("notebook.py")
    before, after, fingerprint = capsys.readouterr().out.split()
    assert float(after) < float(before)
    assert len(fingerprint) == 64
    assert found["result"].status == "completed"
    import torch

    assert found["model"](torch.zeros(3, 1)).shape == (3, 1)


def test_the_commands_work(capsys: pytest.CaptureFixture[str]) -> None:
    """At a small size and without Ray; commands that need a cluster or serve for ever are only read."""
    for line in LINES:
        if not line.startswith("bilevel"):
            continue
        words = shlex.split(line)[1:]
        parsed = cli._parser().parse_args(words)
        if words[0] == "ui" or "--address" in words:
            continue
        if words[0] == "run":
            words = [*words[:2], *(w for w in words[2:] if not w.isdigit() and w != "--workers")]
            words += ["--workers", "0", "--track", "none", "--steps", "2", "--set", "test_episodes=4"]
        assert cli.main(words) == 0, (line, capsys.readouterr().err)
        assert parsed.command is not None


@pytest.mark.parametrize("line", sorted(set(MENTIONED)))
def test_commands_in_the_text_exist(line: str) -> None:
    words = shlex.split(line)[1:]
    if "--help" in words:
        return
    if len(words) == 1 and words[0] in ("resume", "sync", "show"):
        words.append("last")
    assert cli._parser().parse_args(words).command is not None


def test_targets_links_and_studies_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for line in LINES:
        if line.startswith("make"):
            assert f"\n{line.split()[1]}:" in makefile, line
    for link in re.findall(r"\]\(([^)]+)\)", README):
        assert link.startswith("https://") or (ROOT / link).exists(), link
    studies = {path.name for path in (ROOT / "search_spaces").glob("*.py")}
    assert set(re.findall(r"`(\w+_maml\.py)`", README)) == studies
