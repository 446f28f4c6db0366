"""Does a long traceback keep the user's own lines?"""

from __future__ import annotations

import traceback
from pathlib import Path

import numpy as np

from bilevel.view import tables
from bilevel.view.raised import shortened
from support import searches
from view.test_tables import text

SITE = "/home/me/.venv/lib/python3.11/site-packages/sklearn"


def frame(file: str, line: int, code: str) -> str:
    return f'  File "{file}", line {line}, in run\n    {code}\n    ^^^^^^^\n'


def deep(libraries: int = 30) -> str:
    frames = [frame("/home/me/venv/lib/python3.11/site-packages/bilevel/execute/trial_runner.py", 3, "next(made)")]
    frames += [frame("/home/me/study.py", 21, "cross_val_score(model, x, y)")]
    frames += [frame(f"{SITE}/base.py", n, f"inner{n}()") for n in range(libraries)]
    frames += [frame("/home/me/helpers/clean.py", 9, "raise ValueError(x)")]
    frames += [frame("/usr/lib/python3.11/json/decoder.py", n, f"decode{n}()") for n in range(9)]
    return "Traceback (most recent call last):\n" + "".join(frames) + "ValueError: mine\n"


def test_the_users_frames_and_the_last_one_stay() -> None:
    said = shortened(deep())
    for kept in ("study.py", "cross_val_score(model, x, y)", "clean.py", "raise ValueError(x)", "decode8()"):
        assert kept in said
    assert "... 1 frame of libraries left out\n" in said
    assert "... 30 frames of libraries left out\n" in said
    assert "... 8 frames of libraries left out\n" in said
    assert "inner" not in said
    assert "decode7" not in said
    assert said.startswith("Traceback")
    assert said.endswith("\nValueError: mine")


def test_a_chain_keeps_both_ends_and_what_stands_between() -> None:
    between = "\nDuring handling of the above exception, another exception occurred:\n\n"
    said = shortened(deep() + between + deep().replace("study.py", "other.py"))
    assert between.strip() in said
    assert said.count("ValueError: mine") == 2
    assert "study.py" in said
    assert "other.py" in said
    assert said.count("decode8()") == 2


def test_what_is_no_traceback_stays_as_it_is() -> None:
    assert shortened("no traceback\n  at all\n") == "no traceback\n  at all"
    assert shortened("") == ""


def test_a_real_traceback_ends_in_the_library_and_names_this_file() -> None:
    try:
        np.linalg.cholesky(np.zeros((2, 3)))
    except np.linalg.LinAlgError as error:
        whole = "".join(traceback.format_exception(error))
    said = shortened(whole)
    assert Path(__file__).name in said
    assert said.splitlines()[-1] == whole.splitlines()[-1]


def test_the_users_line_of_a_deep_traceback_is_shown_beside_long_output() -> None:
    found = searches.odd()["failed"]
    said = text(tables.trial(found, 0, "".join(f"line {n}\n" for n in range(99)), raised=deep()))
    assert "line 98" in said
    assert "study.py" in said
    assert "30 frames of libraries left out" in said
