"""Does a signal end a script as it would have without us, when the record is complete?"""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bilevel.record import folder as folders
from bilevel.study import history as histories

SCRIPT = """
import os, signal, sys
from bilevel import Inline, Report, Space, Study, Uniform, figures, run

figures.draw = lambda *_, **__: {}

def objective(config, run):
    for step in (1, 2, 3):
        yield Report(step, {"loss": 1.0 / step})
        if run.trial == 1 and step == 2:
            os.kill(os.getpid(), getattr(signal, sys.argv[2]))

for name in ("one", "two"):
    study = Study(name=name, objective=objective, minimize="loss", space=Space(dict, x=Uniform(0.0, 1.0)), trials=3)
    print(name, run(study, on=Inline(), store=sys.argv[1], track="none").status)
"""


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 1), ("SIGTERM", -signal.SIGTERM)])
def test_a_script_that_is_interrupted_does_not_go_on_to_its_next_study(number: str, code: int, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    command = [sys.executable, str(script), str(tmp_path / "runs"), number]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    (folder,) = folders.runs(tmp_path / "runs")
    # Python ends itself by SIGINT where Ctrl-C came from the system; a handler of ours raised it here.
    assert done.returncode in (code, -signal.SIGINT if number == "SIGINT" else code), done.stderr
    assert done.stdout == ""
    history = histories.replay(folder.events())
    assert folder.standing(history) == "interrupted"
    if number == "SIGINT":
        last = done.stderr.rstrip().splitlines()[-1]
        assert (
            last
            == f"KeyboardInterrupt: {folder.run_id} was interrupted; go on with bilevel.resume({str(folder.path)!r})"
        )
