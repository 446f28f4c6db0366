"""Can a user read about every public name, every command, and in the words of the tool that she comes from?"""

from __future__ import annotations

import importlib
import re

import pytest

from bilevel.cli import main
from bilevel.cli.reference import ROOMS, explained, names, overview, pages
from bilevel.errors import BadInput


@pytest.mark.parametrize("room", ROOMS)
def test_every_public_name_has_a_explained(room: str) -> None:
    for name in importlib.import_module(room).__all__:
        text = explained(f"{room}.{name}")
        assert text.startswith(f"{room}.{name}")
        assert "\n\n" in text, name
        assert f"  {name} " in overview()


@pytest.mark.parametrize("page", pages())
def test_what_a_page_names_is_there(page: str) -> None:
    """Every name with a capital, and every dotted one, in code on the right-hand side of the tables."""
    known = {name.rpartition(".")[2] for name in names()}
    for line in pages()[page].splitlines():
        if line.startswith("| ") and not line.startswith(("| Optuna", "| Ray Tune")):
            ours = line.split(" | ", 1)[1]
            code = " ".join(re.findall(r"`([^`]*)`", ours))
            for name in re.findall(r"(?<![\w.'\"-])([A-Z][A-Za-z0-9]+)\(", code):
                assert name in known, (line, name)
            for path in re.findall(r"bilevel\.[\w.]+", code):
                module, _, name = path.rpartition(".")
                assert hasattr(importlib.import_module(module), name), path


def test_a_command_explains_itself(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "extend"]) == 0
    assert "add trials to a run" in capsys.readouterr().out.lower()


def test_help_alone_lists_all(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help"]) == 0
    assert "GradientDescent" in capsys.readouterr().out


def test_a_page_is_printed_as_it_is_where_nobody_looks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["help", "optuna"]) == 0
    assert "| `n_jobs=4` (threads) |" in capsys.readouterr().out


def test_a_name_that_is_nearly_right_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(BadInput, match=r"help Groupd: nothing is called so; did you mean .*Grouped"):
        explained("Groupd")
    assert main(["help", "qwzx"]) == 2
    assert "see `bilevel help`" in capsys.readouterr().err


def test_a_signature_shows_names_and_defaults() -> None:
    assert "TPE(startup=10, candidates=24, window=1000)" in explained("TPE").replace("\n    ", " ").replace("( ", "(")
