"""What is a fixed number of adaptations best spent on: MAML, learned inner rates, TPE and a retraining, or a hybrid?

    python tests/benchmarks/hybrid.py                    # the sinusoid, 10 seeds
    python tests/benchmarks/hybrid.py --family alphabets # Alphabets 5-way 1-shot, a small network, 3 seeds
    python tests/benchmarks/hybrid.py --quick            # the sinusoid, 3 seeds

Every method adapts to the same number of training episodes, all its trials or members together (32,000 on the
sinusoid), with the same networks, episodes per outer step, inner steps and Adam; outer rates are constant. Validations
come on top, about as many for each. What is reported is the test metric of the weights that did best in validation, on
600 tasks that are the same for all methods of a seed.

- MAML: the start is learned, inner and outer rate are set by hand.
- learned rates: besides, one inner rate per tensor, in log-space, by gradient.
- "tuned": with the outer rate that does best in test on a grid, each tried with the whole budget on other seeds. These
  trials are not counted: an oracle, which says what could be had.
- TPE, then retrain: learned rates; half the budget for 16 trials of the outer rate by TPE, the other half to train with
  the best one.
- hybrid: learned rates; four members, each with its own start and a quarter of the budget, the outer rate by PBT.

Intervals (95 %) are Student's over seeds; a difference from the hybrid is that of pairs of equal seeds, and significant
where its interval leaves out 0 (one test each, not corrected for their number). A run that diverges counts as infinite
loss or no accuracy. What is in OUT already is not run again, unless the setting changed.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import math
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from scipy import stats

from bilevel import (
    PBT,
    TPE,
    Inline,
    Log,
    Result,
    Study,
    figures,
    run,
)
from bilevel.drive import sources

GALLERY = Path(__file__).parents[2] / "search_spaces"
OUTER = Log(1e-4, 1e-1)
TRIALS = 16
"""Of TPE, on half the budget."""
VALIDATIONS = 40
"""Of a method, spread over its trials."""
TUNED_ON = (1000, 1001)
"""Seeds of the grid; reported are those from 0 on."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """A distribution over tasks, and how much is spent on it.

    `steps` are the outer steps of the whole budget; `by_hand` is the outer rate and `grid` those that are tuned over;
    `inner` is the inner rate set by hand, from which the learned ones start.
    """

    name: str
    study: str
    changes: Mapping[str, Any]
    steps: int
    seeds: int
    metric: str
    by_hand: float
    grid: tuple[float, ...]
    inner: float
    search: PBT

    @property
    def sign(self) -> int:
        """What makes the metric one to be minimized."""
        return 1 if self.metric.startswith("test/loss") else -1


FAMILIES = {
    "sinusoid": Family(
        name="sinusoid",
        study="sinusoid_pbt",
        changes={},
        steps=2000,
        seeds=10,
        metric="test/loss@5",
        by_hand=1e-3,
        grid=(4e-3, 8e-3, 1.6e-2, 3.2e-2),
        inner=0.01,
        search=PBT(members=4, every=100),
    ),
    "alphabets": Family(
        name="alphabets",
        study="alphabets_maml",
        changes={
            "rule.init.hidden": 16,
            "rule.init.by.schedule": None,
            "rule.lr.by.schedule": None,
            "unit": 4,
            "validate_episodes": 50,
        },
        steps=960,
        seeds=3,
        metric="test/accuracy@3",
        by_hand=1e-3,
        grid=(2e-3, 4e-3, 8e-3, 1.6e-2),
        inner=0.4,
        search=PBT(members=4, every=48),
    ),
}


# -- studies -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One method with one seed; `rate` is the outer rate, None where it is searched."""

    family: Family
    rule: str
    rate: float | None
    seed: int

    @property
    def key(self) -> str:
        """What its result is kept under: all that decides it."""
        family = self.family
        config = alone(family, 0, 1.0, steps=family.steps, validations=VALIDATIONS).config()
        more = {"maml": family.inner, "tpe": (OUTER, TRIALS), "hybrid": (OUTER, family.search)}
        settings = repr((config, VALIDATIONS, more.get(self.rule)))
        return f"{self.rule} {self.rate} seed {self.seed}, {hashlib.sha256(settings.encode()).hexdigest()[:16]}"


def alone(family: Family, seed: int, rate: Any, *, steps: int, validations: int, learned: bool = True) -> Study:
    """A meta-training of so many outer steps at this outer rate, inner rates learned or set by hand."""
    study, _ = sources.load(str(GALLERY / f"{family.study}.py"))
    study = dataclasses.replace(study, search=None, trials=None, value="best", seed=seed)
    inner = {} if learned else {"rule.lr": family.inner}
    every = max(1, steps // validations)
    changes = {**family.changes, "rule.init.by.lr": rate, "steps": steps, "validate_every": every, **inner}
    for path, value in changes.items():
        study = study.set(path, value)
    return study


def population(family: Family, seed: int) -> Study:
    """The hybrid: a quarter of the budget for each of four members."""
    members = family.search.members
    study = alone(family, seed, OUTER, steps=family.steps // members, validations=VALIDATIONS // members)
    return dataclasses.replace(study, search=family.search)


def trials(family: Family, seed: int) -> Study:
    """TPE's search for an outer rate, on half the budget."""
    study = alone(family, seed, OUTER, steps=family.steps // 2 // TRIALS, validations=1)
    return dataclasses.replace(study.set("test_episodes", 2), search=TPE(), trials=TRIALS)


def measure(job: Job) -> dict[str, Any]:
    """Run one method with one seed: its score, the outer rate that it came to, and what it cost."""
    family, began, done = job.family, time.process_time(), []
    whole = {"steps": family.steps, "validations": VALIDATIONS}
    rate = job.rate
    if job.rule == "tpe":
        done.append(_finished(trials(family, job.seed)))
        rate = None if done[0].best is None else float(done[0].best["config"]["rule.init.by.lr"])
        spent = TRIALS * (family.steps // 2 // TRIALS)
        whole = {"steps": family.steps - spent, "validations": VALIDATIONS - TRIALS}
    if job.rule == "hybrid":
        done.append(_finished(population(family, job.seed)))
    elif rate is not None:
        done.append(_finished(alone(family, job.seed, rate, learned=job.rule != "maml", **whole)))
    last = done[-1]
    score = last.metrics.get(family.metric) if last.best is not None else None
    return {
        "key": job.key,
        "score": (math.inf if family.sign > 0 else 0.0) if score is None else score,
        "rate": None if last.best is None else last.best["config"]["rule.init.by.lr"],
        "adaptations": sum(result.document["episodes"] for result in done),
        "cpu_seconds": round(time.process_time() - began, 1),
    }


def _finished(study: Study) -> Result:
    """A run in this process; figures, which take seconds, are not drawn."""
    with (
        tempfile.TemporaryDirectory() as store,
        mock.patch.object(figures, "draw", return_value={}),
    ):
        return run(study, on=Inline(), track="none", store=store)


# -- running -----------------------------------------------------------------------------------------------------------


class Bench:
    """Results of jobs, kept in a file, and how those that are missing are had."""

    def __init__(self, file: Path, processes: int) -> None:
        self._file = file
        self._processes = processes
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = file.read_text().splitlines() if file.exists() else []
        self._rows = {row["key"]: row for row in map(json.loads, lines)}

    def results(self, jobs: Sequence[Job]) -> list[dict[str, Any]]:
        """Of each job, in order; what is missing is run first."""
        missing = list({job.key: job for job in jobs if job.key not in self._rows}.values())
        if missing:
            context = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(self._processes, mp_context=context) as pool:
                for number, done in enumerate(as_completed([pool.submit(measure, job) for job in missing]), 1):
                    self._keep(done.result())
                    print(f"{number} of {len(missing)} runs", file=sys.stderr)
        return [self._rows[job.key] for job in jobs]

    def _keep(self, row: dict[str, Any]) -> None:
        with self._file.open("a") as file:
            file.write(json.dumps(row) + "\n")
        self._rows[row["key"]] = row


def tuned(family: Family, rule: str, bench: Bench) -> float:
    """The outer rate of the grid that does best, by the median over the seeds of the grid."""
    jobs = [Job(family, rule, rate, seed) for rate in family.grid for seed in TUNED_ON]
    scores = np.array([row["score"] for row in bench.results(jobs)]).reshape(len(family.grid), -1)
    print(f"{rule}: " + ", ".join(f"{r:g}: {s}" for r, s in zip(family.grid, scores.mean(1).round(4), strict=True)))
    return family.grid[int(np.argmin(family.sign * scores.mean(1)))]


def contest(family: Family, seeds: Sequence[int], bench: Bench) -> dict[str, list[dict[str, Any]]]:
    """The results of all methods, by name, the hybrid's last; seed by seed, so that some are whole early."""
    by_hand = family.by_hand
    methods: dict[str, tuple[str, float | None]] = {
        f"MAML, outer rate {by_hand:g}": ("maml", by_hand),
        "MAML, tuned (oracle)": ("maml", tuned(family, "maml", bench)),
        f"learned rates, outer rate {by_hand:g}": ("learned", by_hand),
        "learned rates, tuned (oracle)": ("learned", tuned(family, "learned", bench)),
        "TPE, then retrain": ("tpe", None),
        "hybrid": ("hybrid", None),
    }
    bench.results([Job(family, *method, seed) for seed in seeds for method in methods.values()])
    return {name: bench.results([Job(family, *method, seed) for seed in seeds]) for name, method in methods.items()}


# -- the table ---------------------------------------------------------------------------------------------------------


def interval(sample: Sequence[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval (Student's t)."""
    values = np.asarray(sample)
    error = float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()), float(stats.t.ppf(0.975, len(values) - 1)) * error


def table(family: Family, found: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterable[str]:
    """The lines that are printed."""
    scores = {name: [row["score"] for row in rows] for name, rows in found.items()}
    ours = np.array(scores["hybrid"])
    yield f"{family.name}: {family.metric}, {len(ours)} seeds, {'less' if family.sign > 0 else 'more'} is better"
    yield f"{'':34} {'mean ± 95 %':>17} {'median':>7} {'outer rates':>17} {'adaptations':>11}  hybrid minus this"
    for name, rows in found.items():
        mean, half = interval(scores[name])
        rates = sorted(row["rate"] for row in rows if row["rate"] is not None) or [math.nan]
        span = f"{rates[0]:.2g}" if rates[0] == rates[-1] else f"{rates[0]:.2g} to {rates[-1]:.2g}"
        spent = max(row["adaptations"] for row in rows)
        line = f"{name:34} {mean:8.4f} ± {half:6.4f} {np.median(scores[name]):7.4f} {span:>17} {spent:11d}"
        yield line if name == "hybrid" else f"{line}  {verdict(family, ours, scores[name])}"
    best = min(scores, key=lambda name: family.sign * float(np.mean(scores[name])))
    fair = min(
        (name for name in scores if "oracle" not in name), key=lambda name: family.sign * float(np.mean(scores[name]))
    )
    yield f"best in the mean: {best}; of those that count what they spend: {fair}"


def verdict(family: Family, ours: Any, theirs: Sequence[float]) -> str:
    """The hybrid's difference, in pairs of equal seeds, and whether it is one."""
    mean, half = interval(ours - np.asarray(theirs))
    if not abs(mean) > half:
        return f"{mean:+.4f} ± {half:.4f}: no significant difference"
    return f"{mean:+.4f} ± {half:.4f}: significantly {'better' if family.sign * mean < 0 else 'worse'}"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--family", choices=FAMILIES, default="sinusoid")
    parser.add_argument("--seeds", type=int, help="seeds 0, 1, ...; by default the family's")
    parser.add_argument("--quick", action="store_true", help="3 seeds")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument("--out", type=Path, default=Path(".bench/hybrid"), help="folder of results")
    options = parser.parse_args()
    family = FAMILIES[options.family]
    seeds = options.seeds or (3 if options.quick else family.seeds)
    bench = Bench(options.out / f"{family.name}.jsonl", options.jobs)
    print("\n".join(table(family, contest(family, range(seeds), bench))))


if __name__ == "__main__":
    main()
