"""Does every study of the gallery run, and does the control stay at chance?"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import pytest

from bilevel import ASHA, PBT, TPE, Inline, Result, Study, figures, run
from bilevel.cli import cli
from bilevel.drive import sources

GALLERY = Path(__file__).parents[1] / "search_spaces"
SMALL = {"steps": 2, "episodes": 2, "test_episodes": 4, "validate_episodes": 4, "test_steps": 2}
CHANGES: dict[str, dict[str, Any]] = {
    "alphabets_maml": {"rule.init.hidden": 8},
    "omniglot_maml": {"rule.init.hidden": 8, "tasks.ways": 3},
    "patients_maml": {"rule.steps": 2},
    "binary_maml": {},
    "sinusoid_maml": {},
}
SEARCHED: dict[str, dict[str, Any]] = {
    "mlp_asha": {"epochs": 2},
    "optimizer_choice": {"steps": 3},
    "trees_limits": {},
    "pareto_mlp": {"epochs": 1},
    "suggested": {},
    "sinusoid_searched": SMALL | {"validate_every": 1},
    "sinusoid_pbt": SMALL | {"validate_every": 1, "steps": 4},
    "trees_again": {},
}
FOLLOWS = {"trees_again": "trees_limits"}
NEEDS = {"omniglot_maml": "omniglot", "patients_maml": "parkinsons_telemonitoring"}


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are tested elsewhere, and take seconds."""
    monkeypatch.setattr(figures, "draw", lambda *given: {})


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
    assert {path.stem for path in GALLERY.glob("*.py")} == {*CHANGES, *SEARCHED}


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


# -- searches ----------------------------------------------------------------------------------------------------------


def shortened(name: str) -> Study:
    """A search with three short trials (a population with three short turns)."""
    study, _ = sources.load(str(GALLERY / f"{name}.py"))
    for path, value in SEARCHED[name].items():
        study = study.set(path, value)
    if isinstance(study.search, PBT):
        return dataclasses.replace(study, search=dataclasses.replace(study.search, members=2, every=1))
    return dataclasses.replace(study, trials=3)


@pytest.mark.parametrize("name", SEARCHED)
def test_a_search_runs(name: str, tmp_path: Path) -> None:
    if name in FOLLOWS:
        run(shortened(FOLLOWS[name]), on=Inline(), store=tmp_path, track="none")
    study = shortened(name)
    result = run(study, on=Inline(), store=tmp_path, track="none")
    assert result.status == "completed"
    counts = result.document["trials"]
    assert counts["failed"] == 0
    assert counts["completed"] + counts["stopped"] == (2 if isinstance(study.search, PBT) else 3)
    assert counts["completed"] > 0
    if study.name == "pareto-mlp":
        assert result.document["pareto"]


def test_the_gallery_shows_each_kind_of_search() -> None:
    """Row by row what a search may ask for, and where it is shown."""
    studies = {name: sources.load(str(GALLERY / f"{name}.py"))[0] for name in SEARCHED}
    assert studies["mlp_asha"].stop is not None
    assert any(parameter.when for parameter in studies["optimizer_choice"].parameters)
    assert studies["trees_limits"].where is not None
    assert studies["trees_limits"].limits
    assert any(p.dimension.log and p.dimension.size for p in studies["trees_limits"].parameters)
    assert len(studies["pareto_mlp"].objectives) == 2
    assert studies["trees_again"].warm_start == (studies["trees_limits"].name,)
    assert studies["suggested"].searches
    assert not studies["suggested"].parameters
    searched = studies["sinusoid_searched"]
    assert (type(searched.search), type(searched.stop), searched.spreads) == (TPE, ASHA, True)
    assert isinstance(studies["sinusoid_pbt"].search, PBT)


def test_a_search_of_the_gallery_is_extended_and_is_then_the_longer_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By commands, on real trainings."""

    def said(*words: str) -> dict[str, Any]:
        assert cli.main([*words, "--store", str(tmp_path), "--workers", "0", "--track", "none", "--json"]) == 0
        document: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
        return document

    file = str(GALLERY / "optimizer_choice.py")
    long = said("run", file, "--set", "steps=3", "--trials", "14")
    short = said("run", file, "--set", "steps=3", "--trials", "12")
    again = said("extend", short["run_id"], "--trials", "2")
    assert again["trials"]["completed"] == 14
    assert again["fingerprint"] == long["fingerprint"] != short["fingerprint"]
