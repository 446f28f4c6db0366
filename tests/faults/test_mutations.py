"""Is a damaged file an error, an older state that is said, or harmless? `mutated.py` beside this asks more often."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

import bilevel.drive.session
from faults import mutated
from faults.mutated import Case, cases, tried

COUNT = 150
DEAR = 15
"""Of those whose readers take a tenth of a second, and not a hundredth."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Case]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bilevel.drive.session, "_git", lambda _: None)
        patch.setattr(mutated, "TEXTS", 5)
        yield {case.name: case for case in cases(tmp_path_factory.mktemp("mutated"))}


NAMES = {
    "study.json": DEAR,
    "journal.jsonl, ended": DEAR,
    "journal.jsonl, to go on": DEAR,
    "journal.seal": DEAR // 2,
    "checkpoint, state.safetensors": COUNT,
    "checkpoint, state.json": COUNT,
    "checkpoint, MANIFEST.json": COUNT,
    "model, learned.safetensors": COUNT,
    "model, model.json": COUNT,
    "model, MANIFEST.json": COUNT,
    "adapt, support.npz": COUNT,
    "adapt, support.csv": COUNT,
    "adapt, query.npz": COUNT,
    "adapt, query.csv": COUNT,
    "a space as JSON": COUNT,
    "study.json, forged": DEAR,
    "journal.jsonl, ended, forged": DEAR,
    "journal.jsonl, to go on, forged": DEAR,
    "model.json, forged": DEAR // 2,
    "a space as JSON, odd": COUNT,
}


def test_all_files_are_here(made: dict[str, Case], tmp_path: Path) -> None:
    assert list(made) == list(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_no_harm_gives_a_traceback_or_a_silent_difference(made: dict[str, Case], name: str) -> None:
    counts, bad = tried(made[name], NAMES[name], seed=3)
    assert bad == []
    assert sum(counts.values()) == NAMES[name]
    assert counts["error"] + counts["said"] > 0 or name in ("journal.seal", "model.json, forged")
