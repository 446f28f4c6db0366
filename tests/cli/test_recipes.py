"""Do the recipes work as they stand?"""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from bilevel import Inline, Study, figures, run
from bilevel.cli import reference

BLOCKS = re.findall(r"## (.*?)\n.*?```python\n(.*?)```", reference.pages()["recipes"], re.DOTALL)


@pytest.mark.parametrize("text", [text for _, text in BLOCKS], ids=[re.sub(r"\W+", "-", name) for name, _ in BLOCKS])
def test_each_is_a_study_that_runs(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "draw", lambda *_, **__: {})
    found: dict[str, Any] = {"__name__": "recipe"}
    exec(compile(text, "recipe.py", "exec"), found)
    study: Study = found["study"]
    result = run(dataclasses.replace(study, trials=2), on=Inline(), store=tmp_path, track="none")
    assert result.status == "completed"
    assert not (result.trials["state"] == "failed").any()


def test_there_are_some() -> None:
    assert len(BLOCKS) == 4
