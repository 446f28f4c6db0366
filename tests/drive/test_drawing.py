"""Is a run complete whatever becomes of its pictures?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from bilevel import Inline, Log, OneOf, Result, Run, Space, Study, figures, resume, run
from bilevel.record import model
from bilevel.record.folder import RunFolder
from bilevel.study.events import Finished
from support.tiny import Said, maml, walking


def done(study: Study, store: Path, watch: Said) -> Result:
    return run(study, on=Inline(), store=store, track="none", watch=watch)


def fails(*_: Any, **__: Any) -> Any:
    raise ValueError("cannot be\ndrawn")


def test_the_end_is_recorded_before_anything_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[bool] = []

    def look(*_: Any) -> dict[str, Any]:
        (folder,) = tmp_path.iterdir()
        seen.append(isinstance(list(RunFolder(folder).events())[-1], Finished))
        return {}

    monkeypatch.setattr(figures, "draw", look)
    done(walking(), tmp_path, Said())
    assert seen == [True]


@pytest.mark.parametrize("name", ["learning_curve", "draw"])
def test_a_figure_that_fails_is_said_and_the_run_is_complete(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(figures, name, fails)
    watch = Said()
    result = done(walking(), tmp_path, watch)
    assert result.status == "completed"
    (said,) = [line for line in watch.lines if line.startswith("not drawn: ")]
    assert said.endswith("(ValueError: cannot be). The run is complete without.")
    assert resume(result.run_id, store=tmp_path, track="none").document == result.document


def test_a_full_disk_costs_the_figures_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        def savefig(self, *_: Any, **__: Any) -> None:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(figures, "draw", lambda *_: {"slices": Full()})
    watch = Said()
    assert done(walking(), tmp_path, watch).status == "completed"
    assert any("slices (OSError: [Errno 28] No space left" in line for line in watch.lines)


def test_a_model_that_cannot_be_written_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "draw", lambda *_: {})
    monkeypatch.setattr(model, "write", fails)
    watch = Said()
    result = done(maml(steps=1, validate_every=1), tmp_path, watch)
    assert result.status == "completed"
    assert any(line.startswith("the learned model could not be written") for line in watch.lines)


def clipped(cfg: dict[str, Any], run: Run) -> dict[str, float]:
    """A penalty of the largest float, and a gradient that need not be clipped."""
    return {"loss": sys.float_info.max if run.trial % 3 == 2 else cfg["lr"] / cfg["clip"]}


def test_infinite_options_and_the_largest_penalties_end_well(tmp_path: Path) -> None:
    space = Space(dict, clip=OneOf(1.0, 2.0, float("inf")), lr=Log(1e-3, 1.0))
    watch = Said()
    study = Study(name="clipped", objective=clipped, minimize="loss", space=space, trials=7, repeats=2)
    result = done(study, tmp_path, watch)
    assert result.status == "completed"
    assert not [line for line in watch.lines if "drawn" in line]
    assert (result.folder / "figures" / "slices.png").is_file()
