"""Forty trials of milliseconds: how long does the whole program take beside Optuna in one process, and on what?

    python tests/benchmarks/short.py [--rounds 3] [--case lightgbm] [--side inline]

Whole programs, from the start of Python to the end of the process, the median of the rounds: 30 LightGBM trainings of
about 5 ms (random search), and 40 XGBoost trainings under successive halving. Sides: bilevel as it is by default (Ray
workers), bilevel in one process (`Inline()`), Optuna in one process with its trials in memory, Optuna with a database
(SQLite), which is what we keep. Of ours it is told where the time goes. `twice`: `run()` a second time in the same
process, the seconds from the call until its record begins and until its first trial does.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

BORN = time.time()
SIDES = ("ray", "inline", "optuna", "optuna, SQLite")
CASES = {"lightgbm": 30, "xgboost": 40}
"""Name -> trials."""
LAST = 27
TWICE = "twice"
BAR = 2.5
"""Times Optuna's time."""

Phases = dict[str, float]


# -- the trainings -----------------------------------------------------------------------------------------------------


def data() -> Any:
    """400 rows of 10 numbers, whose class is that of a sum."""
    import numpy as np

    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 10))
    return x, (x[:, 0] + x[:, 1] * x[:, 2] + 0.3 * rng.normal(size=400) > 0).astype(int)


def lightgbm(config: dict[str, Any], known: Any, callbacks: Any = ()) -> float:
    """Error on the last hundred rows."""
    import lightgbm as library

    x, y = known
    settings = {"objective": "binary", "num_threads": 1, "verbose": -1, **config}
    model = library.train(settings, library.Dataset(x[:300], y[:300]), num_boost_round=10)
    return float(((model.predict(x[300:]) > 0.5) != y[300:]).mean())


def xgboost(config: dict[str, Any], known: Any, callbacks: Any = ()) -> float:
    """Error on the last hundred rows, told after each round."""
    import xgboost as library

    x, y = known
    settings = {"objective": "binary:logistic", "eval_metric": "error", "nthread": 1, **config}
    valid = library.DMatrix(x[300:], y[300:])
    told: dict[str, Any] = {}
    library.train(
        settings,
        library.DMatrix(x[:300], y[:300]),
        num_boost_round=LAST,
        evals=[(valid, "valid")],
        evals_result=told,
        callbacks=list(callbacks),
        verbose_eval=False,
    )
    return float(told["valid"]["error"][-1])


TRAININGS: dict[str, Callable[..., float]] = {"lightgbm": lightgbm, "xgboost": xgboost}
SPACES: dict[str, dict[str, tuple[Any, ...]]] = {
    "lightgbm": {"learning_rate": ("log", 0.01, 0.5), "num_leaves": ("logint", 2, 31), "lambda_l2": ("log", 1e-6, 10)},
    "xgboost": {"learning_rate": ("log", 0.01, 0.5), "max_depth": ("int", 1, 6), "reg_lambda": ("log", 1e-6, 10.0)},
}


# -- the sides ---------------------------------------------------------------------------------------------------------


def study(case: str) -> Any:
    """Ours."""
    from bilevel import ASHA, Int, Log, LogInt, Random, Space, Study, callbacks

    kinds = {"log": Log, "logint": LogInt, "int": Int}
    training = TRAININGS[case]

    def objective(config: dict[str, Any], run: Any) -> Any:
        known = run.cache("data", data)
        if case == "xgboost":
            return training(config, known, [callbacks.xgboost(run)])
        return training(config, known)

    return Study(
        name=case,
        objective=objective,
        minimize="valid/error" if case == "xgboost" else "loss",
        space=Space(dict, **{name: kinds[kind](*bounds) for name, (kind, *bounds) in SPACES[case].items()}),
        search=Random(),
        stop=ASHA(first=1, factor=3, last=LAST) if case == "xgboost" else None,
        trials=CASES[case],
    )


def ours(case: str, side: str, folder: Path) -> Phases:
    """A program of ours; seconds of its parts."""
    began = time.time()
    from bilevel import Inline, run
    from bilevel.drive import drawing, runs, session
    from bilevel.record import tracking

    wanted = study(case)
    phases: Phases = {"Python and this file": began - BORN, "imports": time.time() - began}
    with (
        timed(phases, "start of stage", runs, "stage_of"),
        timed(phases, "figures", drawing, "draw"),
        timed(phases, "wait for MLflow", tracking.Tracker, "finish"),
        timed(phases, "driving", session.Driver, "drive"),
    ):
        called = time.time()
        result = run(wanted, on=Inline() if side == "inline" else None, store=folder / "runs")
        returned = time.time()
    times = events(result)
    first, last = times["begun"][0], times["ended"][-1]
    phases["first worker"] = max(0.0, first - times["opened"][0])
    phases["trials"] = last - first
    phases["close of workers"] = phases.pop("driving") - phases["first worker"] - phases["trials"]
    phases["run()"] = returned - called
    assert len(times["ended"]) == CASES[case], result
    return phases


@contextmanager
def timed(phases: Phases, name: str, owner: Any, attribute: str) -> Iterator[None]:
    """Within: the seconds in a function are added up."""
    before = getattr(owner, attribute)
    phases[name] = 0.0

    def instead(*arguments: Any, **options: Any) -> Any:
        began = time.time()
        try:
            return before(*arguments, **options)
        finally:
            phases[name] += time.time() - began

    setattr(owner, attribute, instead)
    try:
        yield
    finally:
        setattr(owner, attribute, before)


def events(result: Any) -> dict[str, list[float]]:
    """Times of a run's events, by kind."""
    from bilevel.record import journal

    found: dict[str, list[float]] = {}
    for entry in journal.read(result.folder / "journal.jsonl"):
        found.setdefault(entry.event["event"], []).append(entry.t)
    return found


def twice(case: str, folder: Path) -> Phases:
    """`run()`, and again: seconds until the record and the first trial begin."""
    from bilevel import run

    phases: Phases = {}
    for which in ("first", "second"):
        called = time.time()
        times = events(run(study(case), store=folder / "runs"))
        phases[f"{which}: record"] = times["opened"][0] - called
        phases[f"{which}: first trial"] = times["begun"][0] - called
        phases[f"{which}: run()"] = time.time() - called
    return phases


def optuna(case: str, side: str, folder: Path) -> Phases:
    """The same with Optuna."""
    import optuna as library

    library.logging.set_verbosity(library.logging.ERROR)
    known = data()

    def objective(trial: Any) -> float:
        config = {}
        for name, (kind, low, high) in SPACES[case].items():
            suggest = trial.suggest_int if kind in ("int", "logint") else trial.suggest_float
            config[name] = suggest(name, low, high, log=kind.startswith("log"))
        return TRAININGS[case](config, known, [_pruning(trial)] if case == "xgboost" else [])

    asked = library.create_study(
        storage=f"sqlite:///{folder}/optuna.db" if "SQLite" in side else None,
        sampler=library.samplers.RandomSampler(seed=0),
        pruner=library.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
    )
    asked.optimize(objective, n_trials=CASES[case])
    assert len(asked.trials) == CASES[case]
    return {}


def _pruning(trial: Any) -> Any:
    """What `optuna_integration.XGBoostPruningCallback` does."""
    import optuna as library
    from xgboost.callback import TrainingCallback

    class Pruning(TrainingCallback):  # type: ignore[misc, unused-ignore]
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
            trial.report(evals_log["valid"]["error"][-1], epoch + 1)
            if trial.should_prune():
                raise library.TrialPruned
            return False

    return Pruning()


# -- side by side ------------------------------------------------------------------------------------------------------


def program(case: str, side: str) -> tuple[float, Phases]:
    """Seconds of a whole program, and of its parts."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        done = subprocess.run(
            [sys.executable, __file__, "--one", case, side, folder],
            check=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        ended = time.time()
    phases: Phases = json.loads(done.stdout.strip().splitlines()[-1])
    told = phases.pop("told")
    if "run()" in phases:
        phases["end of process"] = ended - told
    return ended - began, phases


def compare(rounds: int, cases: list[str], sides: list[str]) -> int:
    """Print the table; 1 if a side of ours takes longer than the bar."""
    missed = False
    for case in cases:
        found: dict[str, list[float]] = {side: [] for side in sides}
        parts: dict[str, list[Phases]] = {side: [] for side in sides}
        for _ in range(rounds):
            for side in sides:
                whole, phases = program(case, side)
                found[side].append(whole)
                parts[side].append(phases)
        theirs = statistics.median(found["optuna"]) if "optuna" in found else None
        print(f"{case}, {CASES[case]} trials, {rounds} rounds")
        for side in sides:
            mine = statistics.median(found[side])
            times = "" if theirs is None else f"  {mine / theirs:4.1f} x Optuna"
            print(f"  {side:15} {mine:6.2f} s  ({min(found[side]):.2f} to {max(found[side]):.2f}){times}")
            if theirs is not None and side in ("ray", "inline"):
                missed |= mine > BAR * theirs
            for name in parts[side][0]:
                print(f"      {name:24} {statistics.median(part[name] for part in parts[side]):6.2f} s")
    return int(missed)


def compare_twice(rounds: int) -> None:
    """Print what a second `run()` in the same process waits for."""
    found = [program("lightgbm", TWICE)[1] for _ in range(rounds)]
    print(f"run() twice in one process, lightgbm, {rounds} rounds")
    for name in found[0]:
        print(f"      {name:24} {statistics.median(part[name] for part in found):6.2f} s")


def main() -> int:
    """What is asked for on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--case", choices=[*CASES, TWICE])
    parser.add_argument("--side", choices=SIDES, action="append")
    parser.add_argument("--one", nargs=3, metavar=("CASE", "SIDE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        case, side, folder = arguments.one
        whole = twice(case, Path(folder)) if side == TWICE else None
        phases = whole or (optuna if "optuna" in side else ours)(case, side, Path(folder))
        print(json.dumps({**phases, "told": time.time()}), flush=True)
        return 0
    cases = [case for case in CASES if arguments.case in (None, case)]
    missed = compare(arguments.rounds, cases, arguments.side or list(SIDES))
    if arguments.case in (None, TWICE):
        compare_twice(arguments.rounds)
    return missed


if __name__ == "__main__":
    sys.exit(main())
