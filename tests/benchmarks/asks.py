"""How long does a search take to say where to look next, as its history grows, beside Optuna's own sampler?

    python tests/benchmarks/asks.py [--quick]

Six searched values (two floats, two whole numbers, an ordered and an unordered choice). The history is told, then a
few trials more are asked for; the median of their times is printed in milliseconds, beside the memory that the history
takes. Optuna's column is its TPE with its defaults over the same history, in memory.
"""

from __future__ import annotations

import argparse
import logging
import math
import statistics
import time
import tracemalloc
from collections.abc import Callable

import optuna
import torch

from bilevel.episodes import Key
from bilevel.search import GP, NSGA2, TPE, Random, Sobol
from bilevel.search.port import Point, Problem, Search, Told
from bilevel.space.dimensions import Int, Log, LogInt, OneOf, Parameter, Uniform

PARAMETERS = tuple(
    Parameter(name, name, dimension)
    for name, dimension in {
        "lr": Log(1e-5, 1e-1),
        "dropout": Uniform(0.0, 0.8),
        "width": LogInt(16, 1024),
        "depth": Int(1, 8),
        "batch": OneOf(16, 32, 64, 128, ordered=True),
        "act": OneOf("relu", "gelu", "tanh"),
    }.items()
)
ASKS = 7


def loss(point: Point) -> float:
    """Of a trial: smooth, with an optimum inside."""
    rate, width = math.log10(point["lr"]) + 3, math.log2(point["width"] / 128)
    return rate**2 + width**2 / 4 + (point["dropout"] - 0.2) ** 2 + point["depth"] / 8 + (point["act"] == "tanh")


def ours(search: Search, length: int) -> tuple[float, float]:
    """Milliseconds to ask after `length` trials, and MB that the search then holds."""
    problem = Problem(PARAMETERS, Key((0,)).child("search"), trials=length + ASKS)
    source = Random().open(problem)
    tracemalloc.start()
    searcher = search.open(problem)
    for number in range(length):
        point = source.ask(number)
        assert point is not None
        searcher.asked(number, point)
        searcher.tell(number, point, Told((loss(point),)))
    held = tracemalloc.get_traced_memory()[0] / 2**20
    tracemalloc.stop()
    times = []
    for number in range(length, length + ASKS):
        began = time.perf_counter()
        asked = searcher.ask(number)
        times.append(time.perf_counter() - began)
        assert asked is not None
        searcher.asked(number, asked)
        searcher.tell(number, asked, Told((loss(asked),)))
    return 1000 * statistics.median(times), held


def optunas(length: int) -> float:
    """Milliseconds of Optuna's own TPE."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    ask: Callable[[optuna.Trial], Point] = lambda trial: {  # noqa: E731
        "lr": trial.suggest_float("lr", 1e-5, 1e-1, log=True),
        "dropout": trial.suggest_float("dropout", 0.0, 0.8),
        "width": trial.suggest_int("width", 16, 1024, log=True),
        "depth": trial.suggest_int("depth", 1, 8),
        "batch": (16, 32, 64, 128)[trial.suggest_int("batch", 0, 3)],
        "act": trial.suggest_categorical("act", ("relu", "gelu", "tanh")),
    }
    for _ in range(length):
        trial = study.ask()
        study.tell(trial, loss(ask(trial)))
    study.sampler = optuna.samplers.TPESampler(seed=0)
    times = []
    for _ in range(ASKS):
        began = time.perf_counter()
        trial = study.ask()
        point = ask(trial)
        times.append(time.perf_counter() - began)
        study.tell(trial, loss(point))
    return 1000 * statistics.median(times)


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="short histories, without the Gaussian process")
    quick = parser.parse_args().quick
    logging.disable(logging.INFO)
    torch.set_num_threads(1)
    lengths = (20, 100) if quick else (20, 100, 1000, 3000, 10_000)
    searches: dict[str, Search] = {"Random": Random(), "Sobol": Sobol(), "TPE": TPE(), "NSGA2": NSGA2()}
    if not quick:
        searches["GP"] = GP()
    print(f"{'milliseconds an ask after':28}" + "".join(f"{length:>12,}" for length in lengths) + "   MB held")
    for name, search in searches.items():
        found = [ours(search, length) for length in lengths]
        print(f"{name:28}" + "".join(f"{ms:12.2f}" for ms, _ in found) + f"{found[-1][1]:10.1f}")
    print(f"{'TPE of Optuna':28}" + "".join(f"{optunas(length):12.2f}" for length in lengths))


if __name__ == "__main__":
    main()
