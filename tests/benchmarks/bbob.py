"""How many of the targets of the BBOB functions does a search reach? Ours beside pycma, `cmaes` and Optuna, in one run.

    python tests/benchmarks/bbob.py [--only cmaes,tpe,gp] [--quick] [--instances 1-3] [--dimensions 2,5] [--seeds N]

The functions (PyPI: coco-experiment) have a box of [-5, 5]. A target is a distance to the optimum's value, 51 of them
from 10 to 1e-8, evenly on a logarithmic scale; what is printed is the fraction of (function, instance, target) that is
reached within so many evaluations per dimension, with an interval (95 %, bootstrap over pairs of function and
instance). CMA-ES gets 1,000 evaluations per dimension, TPE 100, GP 10 (and both only every third function in 5-D, they
are slow). pycma and `cmaes` run as they are published: BIPOP and IPOP, each run from a random place in [-4, 4] with
sigma 2; pycma also without the box, where it is free to look for better values outside, and from the middle. Three runs
of CMA-ES, because one says little in 2-D: `cmaes` solved between 0.74 and 0.90 there. `--quick`: every fourth function,
one instance, too few to judge by. One process; half an hour.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import chdir
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cma
import cocoex
import numpy as np
import optuna
import torch
from cmaes import CMA
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from bilevel.episodes import Key
from bilevel.search import CMAES, GP, TPE
from bilevel.search.port import Problem, Search, Told
from bilevel.space.dimensions import Parameter, Uniform

LOW, HIGH = -5.0, 5.0
TARGETS = 10 ** np.linspace(1, -8, 51)
MARKS = (10, 100, 1000)
"""Evaluations per dimension that are printed."""

Function = Callable[[Sequence[float]], float]
Contestant = Callable[[Function, int, int], None]
"""Minimizes a function of so many dimensions, with this seed, until the function has had enough."""


# -- functions ---------------------------------------------------------------------------------------------------------


class Enough(Exception):
    """The budget is spent, or every target is reached."""


class Counted:
    """A function that notes when each target was first reached."""

    def __init__(self, function: Any, optimum: float, budget: int) -> None:
        self._function, self._optimum, self._budget = function, optimum, budget
        self._calls, self._left = 0, 0
        self.reached = np.full(len(TARGETS), np.inf)

    def __call__(self, x: Sequence[float]) -> float:
        if self._calls >= self._budget or self._left == len(TARGETS):
            raise Enough
        value = float(self._function(x))
        self._calls += 1
        while self._left < len(TARGETS) and value - self._optimum <= TARGETS[self._left]:
            self.reached[self._left] = self._calls
            self._left += 1
        return value


def optimum(function: Any) -> float:
    """The least value: COCO writes the best place into the working directory."""
    with tempfile.TemporaryDirectory() as folder, chdir(folder):
        function._best_parameter("print")
        return float(function(np.loadtxt(Path("._bbob_problem_best_parameter.txt"))))


# -- contestants -------------------------------------------------------------------------------------------------------


def ours(search: Search) -> Contestant:
    def run(function: Function, size: int, seed: int) -> None:
        axes = tuple(Parameter(f"x{i}", f"x{i}", Uniform(LOW, HIGH)) for i in range(size))
        searcher = search.open(Problem(axes, Key((seed,)).child("search")))
        number = 0
        while True:
            point = searcher.ask(number)
            searcher.asked(number, point)
            searcher.tell(number, point, Told((function(list(point.values())),)))
            number += 1

    return run


def pycma(*, box: bool, middle: bool) -> Contestant:
    def run(function: Function, size: int, seed: int) -> None:
        generator = np.random.RandomState(seed)
        options = {"verbose": -9, "seed": seed + 1, **({"bounds": [LOW, HIGH]} if box else {})}
        begin = np.zeros(size) if middle else lambda: generator.uniform(-4, 4, size)
        cma.fmin2(function, begin, (HIGH - LOW) / 6 if middle else 2.0, options, restarts=100, bipop=True)

    return run


def cmaes_ipop(function: Function, size: int, seed: int) -> None:
    generator = np.random.RandomState(seed)
    population = None
    while True:
        optimizer = CMA(
            mean=generator.uniform(-4, 4, size),
            sigma=2.0,
            bounds=np.array([[LOW, HIGH]] * size),
            seed=int(generator.randint(2**31)),
            population_size=population,
        )
        while not optimizer.should_stop():
            drawn = [optimizer.ask() for _ in range(optimizer.population_size)]
            optimizer.tell([(x, function(x)) for x in drawn])
        population = 2 * optimizer.population_size


def optunas(make: Callable[[int], optuna.samplers.BaseSampler]) -> Contestant:
    def run(function: Function, size: int, seed: int) -> None:
        study = optuna.create_study(sampler=make(seed))
        while True:
            trial = study.ask()
            value = function([trial.suggest_float(f"x{i}", LOW, HIGH) for i in range(size)])
            study.tell(trial, value)

    return run


@dataclass(frozen=True)
class Game:
    """Who plays, ours first, and to how many evaluations per dimension."""

    evaluations: int
    players: Mapping[str, Contestant]
    rivals: tuple[str, ...]  # ours has to be no worse


GAMES = {
    "cmaes": Game(
        1000,
        {
            "CMAES (ours)": ours(CMAES()),
            "pycma BIPOP": pycma(box=True, middle=False),
            "pycma BIPOP, no box": pycma(box=False, middle=False),
            "pycma BIPOP, middle": pycma(box=True, middle=True),
            "cmaes IPOP": cmaes_ipop,
        },
        ("pycma BIPOP", "pycma BIPOP, no box", "pycma BIPOP, middle", "cmaes IPOP"),
    ),
    "tpe": Game(
        100,
        {
            "TPE (ours)": ours(TPE()),
            "Optuna TPE": optunas(lambda seed: optuna.samplers.TPESampler(seed=seed)),
        },
        ("Optuna TPE",),
    ),
    "gp": Game(
        10,
        {
            "GP (ours)": ours(GP()),
            "Optuna GP": optunas(lambda seed: optuna.samplers.GPSampler(seed=seed)),
        },
        ("Optuna GP",),
    ),
}


# -- the run -----------------------------------------------------------------------------------------------------------


def play(player: Contestant, evaluations: int, size: int, where: str, seeds: int) -> NDArray[np.float64]:
    """When each target was reached, in evaluations per dimension, [functions x instances, seeds, targets]."""
    found = []
    for function in cocoex.Suite("bbob", "", f"dimensions:{size} {where}"):
        best = optimum(function)
        for seed in range(seeds):
            counted = Counted(function, best, evaluations * size)
            try:
                player(counted, size, seed)
            except Enough:
                found.append(counted.reached / size)
    return np.array(found).reshape(-1, seeds, len(TARGETS))


def interval(samples: NDArray[np.float64]) -> tuple[float, float, float]:
    """The mean, and where it lies with 95 % when rows are drawn anew."""
    generator = np.random.default_rng(0)
    means = samples[generator.integers(len(samples), size=(4000, len(samples)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(samples.mean()), float(low), float(high)


def compare(name: str, size: int, functions: Sequence[int], instances: str, seeds: int) -> None:
    """One game in one dimension, printed."""
    game = GAMES[name]
    where = f"function_indices:{','.join(map(str, functions))} instance_indices:{instances}"
    marks = [mark for mark in MARKS if mark <= game.evaluations]
    title = f"{size}-D, {len(functions)} functions, instances {instances}, runs of each: {seeds}"
    print(f"\n{title:<58}" + "".join(f"{f'{mark} per dimension':<22}" for mark in marks))
    solved: dict[str, NDArray[np.float64]] = {}
    for player, run in game.players.items():
        began = time.perf_counter()
        reached = play(run, game.evaluations, size, where, seeds)
        row = ""
        for mark in marks:
            mean, low, high = interval((reached <= mark).mean(axis=(1, 2)))
            row += f"{mean:.3f} [{low:.3f}, {high:.3f}]".ljust(22)
        print(f"  {player:<45}{time.perf_counter() - began:>7.0f} s  {row}", flush=True)
        solved[player] = (reached <= game.evaluations).mean(axis=(1, 2))
    first = next(iter(solved))
    for rival in game.rivals:
        mean, low, high = interval(solved[first] - solved[rival])
        verdict = "not below" if mean >= 0 else "BELOW"
        print(f"  {first} - {rival}: {mean:+.3f} [{low:+.3f}, {high:+.3f}], {verdict}", flush=True)


def main() -> None:
    """Prints a table for each game and dimension."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="cmaes,tpe,gp", help="games, with commas between")
    parser.add_argument("--quick", action="store_true", help="every fourth function, one instance")
    parser.add_argument("--instances", default="1-3")
    parser.add_argument("--dimensions", default="2,5")
    parser.add_argument("--seeds", type=int, help="runs of each function and instance; three of CMA-ES, else one")
    given = parser.parse_args()
    torch.set_num_threads(1)
    threadpool_limits(1)  # matrices are tiny
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", module="cma|optuna|torch")
    for name in given.only.split(","):
        for size in map(int, given.dimensions.split(",")):
            every = 4 if given.quick else 3 if name != "cmaes" and size > 2 else 1
            instances = given.instances.split("-")[0] if given.quick else given.instances
            seeds = given.seeds or (3 if name == "cmaes" else 1)
            compare(name, size, range(1, 25, every), instances, seeds)


if __name__ == "__main__":
    main()
