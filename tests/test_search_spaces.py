"""Does every study of the gallery run, and does the control stay at chance?"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bilevel import Inline, Result, figures, run, sources

GALLERY = Path(__file__).parents[1] / "search_spaces"
SMALL = {"steps": 2, "episodes": 2, "test_episodes": 4, "validate_episodes": 4, "test_steps": 2}
CHANGES = {
    "alphabets_maml": {"rule.init.hidden": 8},
    "omniglot_maml": {"rule.init.hidden": 8, "tasks.ways": 3},
    "patients_maml": {"rule.steps": 2},
    "binary_maml": {},
    "sinusoid_maml": {},
}
NEEDS = {"omniglot_maml": "omniglot", "patients_maml": "parkinsons_telemonitoring"}


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are tested elsewhere, and take seconds."""
    monkeypatch.setattr(figures, "draw", lambda *_: {})


def small(name: str, store: Path, **more: object) -> Result:
    folder = Path(os.environ.get("BILEVEL_DATA", "."))
    if name in NEEDS and not (folder / NEEDS[name]).exists():
        pytest.skip(f"{NEEDS[name]} is not below BILEVEL_DATA; the README says where it is had")
    study, source = sources.load(str(GALLERY / f"{name}.py"))
    changes = {**SMALL, **CHANGES[name], **more}
    for path, value in changes.items():
        study = study.set(path, value)
    return run(study, on=Inline(), store=store, track="none", source=source, changes=changes)


def test_all_studies_are_here() -> None:
    assert {path.stem for path in GALLERY.glob("*.py")} == set(CHANGES)


@pytest.mark.parametrize("name", CHANGES)
def test_a_study_runs(name: str, tmp_path: Path) -> None:
    result = small(name, tmp_path)
    assert result.status == "completed"
    kind = "mae" if name in ("sinusoid_maml", "patients_maml") else "accuracy"
    baseline = {"mae": "mean_of_support_mae", "accuracy": "nearest_neighbour_accuracy"}[kind]
    wanted = {f"test/{kind}@0", f"test/{kind}@2", f"test/{kind}_ci95@2", f"test/{baseline}"}
    assert wanted <= set(result.metrics)


def test_labels_that_mean_nothing_are_not_learned(tmp_path: Path) -> None:
    """0.5 in the mean; half-width of 99.9 % of the sampling error over 100 episodes of 20 labels each."""
    more = {"tasks.shuffled": True, "steps": 20, "test_episodes": 100}
    result = small("binary_maml", tmp_path, **more)
    assert abs(result.metrics["test/accuracy@2"] - 0.5) < 3.3 * 0.5 / (100 * 20) ** 0.5


def test_labels_that_mean_something_are(tmp_path: Path) -> None:
    result = small("binary_maml", tmp_path, steps=20, test_episodes=100)
    assert result.metrics["test/accuracy@2"] > 0.6
