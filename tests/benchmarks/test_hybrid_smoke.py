"""Does the comparison of hybrids spend the same on every method, and say what its numbers say?"""

import dataclasses
import math
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SMALL = {"episodes": 2, "test_episodes": 4, "validate_episodes": 4, "rule.steps": 1, "test_steps": 1}


@pytest.fixture
def hybrid(monkeypatch):
    """The benchmark, a script that is imported by name."""
    monkeypatch.syspath_prepend(str(HERE))
    import hybrid

    yield hybrid
    del sys.modules["hybrid"]


@pytest.fixture
def family(hybrid):
    whole = hybrid.FAMILIES["sinusoid"]
    return dataclasses.replace(
        whole, changes=SMALL, steps=32, metric="test/loss@1", search=dataclasses.replace(whole.search, every=4)
    )


@pytest.mark.parametrize(("rule", "rate"), [("maml", 1e-3), ("learned", 1e-3), ("tpe", None), ("hybrid", None)])
def test_every_method_spends_the_same(hybrid, family, rule, rate):
    row = hybrid.measure(hybrid.Job(family, rule, rate, 0))
    assert row["adaptations"] == 64
    assert math.isfinite(row["score"])
    assert row["rate"] == rate or 1e-4 <= row["rate"] <= 1e-1


def test_what_is_there_is_not_run_again_unless_a_setting_changed(hybrid, family, tmp_path):
    jobs = [hybrid.Job(family, "maml", 1e-3, seed) for seed in (0, 1)]
    file = tmp_path / "found.jsonl"
    for number, job in enumerate(jobs):
        hybrid.Bench(file, 1)._keep({"key": job.key, "score": float(number)})
    assert [row["score"] for row in hybrid.Bench(file, 1).results(jobs)] == [0.0, 1.0]
    other = dataclasses.replace(family, changes={**SMALL, "episodes": 3})
    assert dataclasses.replace(jobs[0], family=other).key not in hybrid.Bench(file, 1)._rows


def test_the_table_says_which_wins(hybrid, family):
    def rows(*scores):
        return [{"score": score, "rate": 1e-3, "adaptations": 64} for score in scores]

    found = {"MAML": rows(0.5, 0.6, 0.7), "tuned (oracle)": rows(0.1, 0.1, 0.2), "hybrid": rows(0.2, 0.31, 0.4)}
    lines = list(hybrid.table(family, found))
    assert "0.6000 ± 0.2484  0.6000" in lines[2]  # t(0.975, 2) = 4.3027, times 0.1 / sqrt(3)
    assert lines[2].endswith("-0.2967 ± 0.0143: significantly better")
    assert lines[3].endswith("no significant difference") or lines[3].endswith("significantly worse")
    assert lines[-1] == "best in the mean: tuned (oracle); of those that count what they spend: hybrid"
