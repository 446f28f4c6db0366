"""How many trivial trials a second, with everything recorded? Beside Ray Tune (actors reused) and Optuna (sqlite).

python tests/benchmarks/throughput.py [--trials 2000] [--rounds 3]

Rates are of the whole (ours from the program's start to the study's end, Ray's start and the figures included; theirs
from Ray's start, or the first trial, on) and of the part in which trials run; peers are compared in both. Ray Tune
comes twice: as it is, which keeps files of each trial, and told to keep none. A bar is printed beside what it is about;
the exit status is 1 if one is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STUDY = """
from dataclasses import dataclass
from bilevel import Int, Log, OneOf, Random, Report, Space, Study, TPE, Uniform

@dataclass(frozen=True, kw_only=True)
class Config:
    lr: float
    momentum: float
    width: int
    act: str

def trial(config, run):
    yield Report(1, {"loss": (config.lr - 0.01) ** 2 + config.momentum + 1 / config.width})

space = Space(Config, lr=Log(1e-4, 1.0), momentum=Uniform(0.0, 1.0), width=Int(1, 100), act=OneOf("relu", "gelu"))
study = Study(name="trivial", objective=trial, space=space, minimize="loss", search=Random(), trials=2000)
tpe = Study(name="trivial", objective=trial, space=space, minimize="loss", search=TPE(), trials=2000)
"""
BAR, TIMES, DRAINED = 150.0, 10.0, 30.0


@dataclass(frozen=True)
class Measured:
    """Trials a second of the whole, of the part in which trials ran, and runs a second that MLflow was given."""

    whole: float
    steady: float
    drained: float = 0.0
    complete: bool = True


def ours(folder: Path, name: str, trials: int, slots: int) -> Measured:
    """One `bilevel run` as a program of its own, MLflow on."""
    study = folder / "trivial.py"
    study.write_text(STUDY)
    store = folder / f"{name}-{slots}-{time.monotonic_ns()}"
    command = [
        sys.executable,
        "-m",
        "bilevel.cli",
        "run",
        f"{study}:{name}",
        "--trials",
        str(trials),
        "--workers",
        "2",
    ]
    began = time.time()
    done = subprocess.run(
        [*command, "--slots", str(slots), "--store", str(store), "--json"], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(done.stderr)
    journal = next(store.glob("*/journal.jsonl"))
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    times = [line["t"] for line in lines if line["event"] in ("begun", "ended")]
    finished = next(line["t"] for line in lines if line["event"] == "finished")
    born = next(line["t"] for line in lines if line["event"] == "started")
    with contextlib.closing(sqlite3.connect(store / "mlflow.db")) as db:
        kinds = "select count(*) from runs join tags on runs.run_uuid = tags.run_uuid where key = 'bilevel.state'"
        ended = db.execute(kinds).fetchone()[0]
        running = db.execute("select count(*) from runs where status = 'RUNNING'").fetchone()[0]
    written = (store / "mlflow.db").stat().st_mtime
    return Measured(
        trials / (finished - began),
        trials / (max(times) - min(times)),
        trials / (written - born),
        complete=ended == trials and running == 0,
    )


def tune(folder: Path, trials: int, *, files: bool) -> Measured:
    """Raw Ray Tune: a class whose actors are reused, two at a time, random search."""
    os.environ.update(TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="0" if files else "1", RAY_AIR_NEW_OUTPUT="0")
    import ray
    from ray import tune as raytune

    class Trivial(raytune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            self.config = config

        def step(self) -> dict[str, Any]:
            c = self.config
            return {"loss": (c["lr"] - 0.01) ** 2 + c["momentum"] + 1 / c["width"], "done": True, "at": time.time()}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.config = new_config
            return True

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            pass

    space = {
        "lr": raytune.loguniform(1e-4, 1.0),
        "momentum": raytune.uniform(0.0, 1.0),
        "width": raytune.randint(1, 101),
        "act": raytune.choice(["relu", "gelu"]),
    }
    began = time.perf_counter()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            grid = raytune.Tuner(
                Trivial,
                param_space=space,
                tune_config=raytune.TuneConfig(
                    num_samples=trials, max_concurrent_trials=2, reuse_actors=True, metric="loss", mode="min"
                ),
                run_config=raytune.RunConfig(storage_path=str(folder), name=f"tune-{time.monotonic_ns()}", verbose=0),
            ).fit()
        whole = time.perf_counter() - began
    finally:
        ray.shutdown()
    times = [result.metrics["at"] for result in grid]
    return Measured(trials / whole, trials / (max(times) - min(times)))


def optuna(folder: Path, trials: int) -> Measured:
    """Optuna's own loop, random search, sqlite."""
    import optuna as o

    o.logging.set_verbosity(o.logging.ERROR)

    def objective(trial: Any) -> float:
        lr, momentum = trial.suggest_float("lr", 1e-4, 1.0, log=True), trial.suggest_float("momentum", 0.0, 1.0)
        trial.suggest_categorical("act", ["relu", "gelu"])
        return float((lr - 0.01) ** 2 + momentum + 1 / trial.suggest_int("width", 1, 100))

    study = o.create_study(
        storage=f"sqlite:///{folder}/optuna-{time.monotonic_ns()}.db", sampler=o.samplers.RandomSampler(seed=0)
    )
    began = time.perf_counter()
    study.optimize(objective, n_trials=trials)
    rate = trials / (time.perf_counter() - began)
    return Measured(rate, rate)


def main() -> int:
    """Print the table; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    found: dict[str, list[Measured]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sides: dict[str, Callable[[], Measured]] = {
            "bilevel, random, 2 slots": lambda: ours(folder, "study", arguments.trials, 2),
            "bilevel, random, 8 slots": lambda: ours(folder, "study", arguments.trials, 8),
            "bilevel, TPE, 2 slots": lambda: ours(folder, "tpe", arguments.trials, 2),
            "Optuna, sqlite": lambda: optuna(folder, arguments.trials),
            "Ray Tune, actors reused": lambda: tune(folder, arguments.trials, files=True),
            "Ray Tune, without files": lambda: tune(folder, arguments.trials, files=False),
        }
        for _ in range(arguments.rounds):
            for side, measure in sides.items():
                found.setdefault(side, []).append(measure())
    return show(found)


def show(found: dict[str, list[Measured]]) -> int:
    """The table and the bars."""

    def middle(side: str, what: str) -> float:
        return statistics.median(getattr(measured, what) for measured in found[side])

    print(f"{'medians':28}{'trials/s':>10}{'while at work':>15}{'from .. to':>15}{'MLflow runs/s':>15}")
    for side, rounds in found.items():
        rates = [measured.steady for measured in rounds]
        row = f"{middle(side, 'whole'):10.1f}{middle(side, 'steady'):15.1f}{min(rates):8.0f} ..{max(rates):4.0f}"
        print(f"{side:28}{row}{middle(side, 'drained'):15.1f}")
    first, eight, _, *peers = found

    def times(side: str, what: str) -> float:
        return middle(first, what) / middle(side, what)

    bars = {
        f"random search at least {BAR:g} trials/s": middle(first, "whole") >= BAR,
        **{
            f"at least {TIMES:g} times {side}, {when}: {times(side, what):.1f}": times(side, what) >= TIMES
            for when, what in (("start-up included", "whole"), ("while at work", "steady"))
            for side in peers
        },
        "not slower with 8 slots": middle(eight, "steady") >= 0.95 * middle(first, "steady"),
        f"MLflow given at least {DRAINED:g} runs/s": middle(first, "drained") >= DRAINED,
        "MLflow complete": all(measured.complete for side in found for measured in found[side]),
    }
    for text, met in bars.items():
        print(f"{'met   ' if met else 'MISSED'}  {text}")
    return 0 if all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
