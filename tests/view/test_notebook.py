"""Is a study at work, its result and its end seen in a notebook?"""

from __future__ import annotations

from typing import Any

import nbclient
import nbformat
import pytest
from rich.text import Text

from bilevel.view import notebook

CELLS = (
    """
import time
from bilevel import Inline, Log, Random, Report, Space, Study, run

def train(cfg, run):
    for step in range(1, 4):
        time.sleep(0.05)
        yield Report(step, {"loss": (cfg["lr"] - 0.1) ** 2 + 1 / step}, state={"step": step})

study = Study(
    name="cells", objective=train, minimize="loss", trials=6, search=Random(), space=Space(dict, lr=Log(1e-3, 1.0))
)
result = run(study, on=Inline(), track="none")
result
""",
    "result.figures",
    "result.figures['slices']",
    "result.state()",
    """
import os, signal, threading
threading.Timer(0.4, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
broken = run(study, on=Inline(), track="none")
broken
""",
    """
from bilevel import resume
resume(broken.run_id, study=study)
""",
)


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> list[list[Any]]:
    """Of each cell what a kernel gives."""
    home = tmp_path_factory.mktemp("notebook")
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in CELLS])
    resources = {"metadata": {"path": str(home)}}
    nbclient.NotebookClient(book, timeout=200, kernel_name="python3", resources=resources).execute()
    return [cell.outputs for cell in book.cells]


def data(outputs: list[Any], kind: str, form: str) -> str:
    return "".join(output.data[form] for output in outputs if output.output_type == kind)


def test_a_study_is_seen_at_work_and_at_its_end(outputs: list[list[Any]]) -> None:
    shown = data(outputs[0], "display_data", "text/html")
    assert "/6 trials" in shown
    assert shown.count("<pre") == 1, "one picture, which is kept up to date"
    result = data(outputs[0], "execute_result", "text/html")
    assert "cells: completed (6 completed), best trial" in result
    assert "<td>lr</td>" in result
    assert "<td>loss</td>" in result
    said = "".join(output.text for output in outputs[0] if output.output_type == "stream")
    assert "Warning" not in said


def test_figures_show_all_of_them_or_one(outputs: list[list[Any]]) -> None:
    every, one = (data(cell, "execute_result", "text/html") for cell in outputs[1:3])
    assert every.count("<img") > 3
    assert one.count("<img") == 1
    assert one in every
    assert data(outputs[1], "execute_result", "text/plain").startswith("<Figures: best_so_far, ")
    assert data(outputs[3], "execute_result", "text/plain") == "{'step': 3}"


def test_an_interrupted_result_says_so_and_how_it_goes_on(outputs: list[list[Any]]) -> None:
    assert "cells: interrupted" in data(outputs[4], "execute_result", "text/html")
    assert "go on with resume(" in data(outputs[4], "execute_result", "text/plain")
    assert ", study=...)" in data(outputs[4], "execute_result", "text/plain")
    assert "cells: completed (6 completed)" in data(outputs[5], "execute_result", "text/plain")


def test_what_a_user_wrote_is_no_markup() -> None:
    shown = notebook.html(Text("<script>alert(1)</script> [red]x[/red]"))
    assert "<script>" not in shown
    assert "[red]x[/red]" in shown
