"""Real trainings in equal wall time: how good is the best, and how many configurations are tried? With two peers.

python tests/benchmarks/trainings.py [--seconds 20] [--rounds 5] [--slots 4]

A network on handwritten digits (27 epochs) and gradient-boosted trees (scikit-learn, 27 rounds of growth), both with
validation error to choose by and test error to judge by; each round has another split of the digits, for the choice of
a few hundred images decides tenths of a percent. "Not worse": the mean is at most half a percent above, three images of
597; the 95 % interval of the difference, round by round, is printed beside. Contestants: bilevel (TPE, ASHA), Optuna
(TPE, successive halving, threads), Ray Tune (random search, ASHA), each with the same number of trials at work. The
time counts from the first trial's beginning, so that nobody's start-up does; it is printed, too.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import logging
import os
import statistics
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

LAST = 27
WORSE = 0.5
"""Percent by which an error may be above a peer's and be called no worse."""


@dataclass(frozen=True)
class Tried:
    """What a contestant came to: errors of what it would choose, configurations tried, seconds of both kinds."""

    valid: float
    error: float
    tried: int
    seconds: float
    start: float


def digits(seed: int) -> Any:
    """Handwritten digits as 800 for training, 400 for validation, 597 for the test, by lot."""
    import numpy as np
    from sklearn.datasets import load_digits

    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(y))
    return x[order] / 16, y[order]


def network(config: dict[str, Any], data: Any) -> Iterator[tuple[float, float]]:
    """Validation and test error after each epoch of a small network."""
    import torch
    from torch import nn

    x, y = torch.tensor(data[0], dtype=torch.float32), torch.tensor(data[1])
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(64, config["width"]), nn.ReLU(), nn.Dropout(config["dropout"]), nn.Linear(config["width"], 10)
    )
    adam = torch.optim.Adam(model.parameters(), lr=config["lr"], weight_decay=config["decay"])
    for epoch in range(LAST):
        model.train()
        for batch in torch.randperm(800, generator=torch.Generator().manual_seed(epoch)).split(32):
            adam.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            adam.step()
        model.eval()
        with torch.no_grad():
            wrong = (model(x[800:]).argmax(1) != y[800:]).double()
        yield float(wrong[:400].mean()), float(wrong[400:].mean())


def trees(config: dict[str, Any], data: Any) -> Iterator[tuple[float, float]]:
    """Validation and test error after each two rounds of growth."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    x, y = data
    model = HistGradientBoostingClassifier(
        learning_rate=config["lr"],
        max_leaf_nodes=config["width"],
        min_samples_leaf=config["least"],
        l2_regularization=config["decay"],
        early_stopping=False,
        warm_start=True,
        random_state=0,
    )
    for step in range(1, LAST + 1):
        model.set_params(max_iter=2 * step)
        model.fit(x[:800], y[:800])
        wrong = (model.predict(x[800:]) != y[800:]).astype(float)
        yield float(wrong[:400].mean()), float(wrong[400:].mean())


TASKS: dict[str, tuple[Callable[..., Iterator[tuple[float, float]]], dict[str, tuple[Any, ...]]]] = {
    "network": (
        network,
        {
            "lr": ("log", 1e-5, 1e-1),
            "width": ("logint", 8, 256),
            "dropout": ("uniform", 0.0, 0.6),
            "decay": ("log", 1e-7, 1e-1),
        },
    ),
    "trees": (
        trees,
        {"lr": ("log", 0.01, 1.0), "width": ("logint", 3, 31), "least": ("int", 1, 40), "decay": ("log", 1e-6, 10.0)},
    ),
}


def ours(task: str, seconds: float, slots: int, seed: int, folder: Path) -> Tried:
    """Bilevel: TPE and ASHA on warm Ray actors, journal and MLflow on."""
    from bilevel import ASHA, TPE, Int, Log, LogInt, Ray, Report, Space, Study, Uniform, figures, run
    from bilevel.record import journal

    kinds = {"log": Log, "logint": LogInt, "int": Int, "uniform": Uniform}
    train, space = TASKS[task]

    def objective(config: dict[str, Any], run: Any) -> Iterator[Report]:
        data = run.cache("digits", lambda: digits(seed))
        for step, (valid, test) in enumerate(train(config, data), 1):
            yield Report(step, {"valid": valid, "test": test})

    study = Study(
        name=f"trainings-{task}",
        objective=objective,
        minimize="valid",
        seed=seed,
        trials=100_000,
        space=Space(dict, **{name: kinds[kind](*bounds) for name, (kind, *bounds) in space.items()}),
        search=TPE(),
        stop=ASHA(first=1, factor=3, last=LAST),
        cpus=min(1.0, (os.cpu_count() or 1) / slots),
    )
    figures.draw = lambda *_: {}
    began = time.time()
    allowance = seconds + _start_up()
    result = run(study, on=Ray(workers=slots), slots=slots, store=folder, seconds=allowance)
    entries = list(journal.read(result.folder / "journal.jsonl"))
    first = next(entry.t for entry in entries if entry.event["event"] == "begun")
    history = _history(entries, first + seconds)
    return Tried(*history, min(seconds, entries[-1].t - first), first - began)


def _start_up() -> float:
    return 12.0  # more than it takes: what is reported after the time is over does not count


def _history(entries: list[Any], until: float) -> tuple[float, float, int]:
    """Errors of the completed trial that was best in validation, and how many configurations were begun."""
    test: dict[int, tuple[float, float]] = {}
    best, chosen, begun = float("inf"), 1.0, 0
    for entry in entries:
        event = entry.event
        if entry.t > until:
            break
        if event["event"] == "begun":
            begun += event["attempt"] == 1
        elif event["event"] == "reported":
            test[event["trial"]] = event["metrics"]["valid"], event["metrics"]["test"]
        elif event["event"] == "ended" and event["state"] == "completed" and event["trial"] in test:
            valid, error = test[event["trial"]]
            if valid < best:
                best, chosen = valid, error
    return best, chosen, begun


def optuna(task: str, seconds: float, slots: int, seed: int, folder: Path) -> Tried:
    """Optuna: TPE with constant liar and successive halving, trials in threads, sqlite."""
    import optuna as o
    import torch

    torch.set_num_threads(1)
    o.logging.set_verbosity(o.logging.ERROR)
    train, space = TASKS[task]
    data = digits(seed)
    began = time.monotonic()

    def objective(trial: Any) -> float:
        config = {}
        for name, (kind, low, high) in space.items():
            suggest = trial.suggest_int if kind in ("int", "logint") else trial.suggest_float
            config[name] = suggest(name, low, high, log=kind.startswith("log"))
        valid = 1.0
        for step, (valid, test) in enumerate(train(config, data), 1):
            if time.monotonic() - began > seconds:
                trial.study.stop()
                raise o.TrialPruned
            trial.report(valid, step)
            trial.set_user_attr("test", test)
            if trial.should_prune():
                raise o.TrialPruned
        return valid

    study = o.create_study(
        storage=f"sqlite:///{folder}/{task}-{seed}.db",
        sampler=o.samplers.TPESampler(seed=seed, constant_liar=True),
        pruner=o.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        study.optimize(objective, n_jobs=slots, timeout=seconds)
    done = study.get_trials(states=[o.trial.TrialState.COMPLETE])
    best = min(done, key=lambda trial: trial.value, default=None)
    return Tried(best.value if best else 1.0, best.user_attrs["test"] if best else 1.0, len(study.trials), seconds, 0.0)


def tune(task: str, seconds: float, slots: int, seed: int, folder: Path) -> Tried:
    """Ray Tune: random search and ASHA, actors reused."""
    os.environ.update(TUNE_DISABLE_AUTO_CALLBACK_LOGGERS="1", RAY_AIR_NEW_OUTPUT="0")
    import ray
    from ray import tune as raytune

    train, space = TASKS[task]

    class Training(raytune.Trainable):  # type: ignore[misc]
        def setup(self, config: dict[str, Any]) -> None:
            import torch

            torch.set_num_threads(1)
            self.data = digits(seed)
            self.steps = train(config, self.data)
            self.done = 0

        def step(self) -> dict[str, Any]:
            valid, test = next(self.steps)
            self.done += 1
            return {"valid": valid, "test": test, "done": self.done == LAST}

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self.steps, self.done = train(new_config, self.data), 0
            return True

        def save_checkpoint(self, checkpoint_dir: str) -> None:
            pass

    makers = {
        "log": raytune.loguniform,
        "logint": raytune.lograndint,
        "int": raytune.randint,
        "uniform": raytune.uniform,
    }
    param_space = {
        name: makers[kind](low, high + (kind in ("int", "logint"))) for name, (kind, low, high) in space.items()
    }
    ray.init(num_cpus=slots, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    times: dict[str, float] = {}

    class Clock(raytune.Callback):  # type: ignore[misc]
        def on_trial_start(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            times.setdefault("first", time.time())
            times.setdefault(trial.trial_id, time.time())

        def on_trial_complete(self, iteration: int, trials: Any, trial: Any, **info: Any) -> None:
            times[f"end {trial.trial_id}"] = time.time()

    began = time.time()
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            results = raytune.Tuner(
                Training,
                param_space=param_space,
                tune_config=raytune.TuneConfig(
                    metric="valid",
                    mode="min",
                    num_samples=-1,
                    max_concurrent_trials=slots,
                    reuse_actors=True,
                    time_budget_s=seconds + _start_up(),
                    scheduler=raytune.schedulers.ASHAScheduler(grace_period=1, reduction_factor=3, max_t=LAST),
                    search_alg=raytune.search.basic_variant.BasicVariantGenerator(random_state=seed),
                ),
                run_config=raytune.RunConfig(
                    storage_path=str(folder), name=f"{task}-{seed}", verbose=0, callbacks=[Clock()]
                ),
            ).fit()
    finally:
        ray.shutdown()
    until = times["first"] + seconds
    whole = [
        row.metrics
        for row in results
        if row.metrics
        and row.metrics.get("training_iteration") == LAST
        and times.get(f"end {row.metrics['trial_id']}", until + 1) <= until
    ]
    best = min(whole, key=lambda metrics: metrics["valid"], default={"valid": 1.0, "test": 1.0})
    tried = sum(begun <= until for name, begun in times.items() if name != "first" and not name.startswith("end "))
    return Tried(best["valid"], best["test"], tried, seconds, times["first"] - began)


CONTESTANTS: dict[str, Callable[..., Tried]] = {"bilevel": ours, "Optuna": optuna, "Ray Tune + ASHA": tune}


def main() -> int:
    """Print the table; 1 if somebody does better."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--one", nargs=3, metavar=("TASK", "CONTESTANT", "SEED"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        task, name, seed = arguments.one
        with tempfile.TemporaryDirectory() as folder:
            found = CONTESTANTS[name](task, arguments.seconds, arguments.slots, int(seed), Path(folder))
        sys.stdout.write(json.dumps(vars(found)) + "\n")
        sys.stdout.flush()
        os._exit(0 if threading.active_count() else 1)
    return compare(arguments)


def compare(arguments: argparse.Namespace) -> int:
    """Each contestant in a process of its own, in turn, round after round."""
    import subprocess

    missed = False
    for task in TASKS:
        found: dict[str, list[Tried]] = {}
        for seed in range(arguments.rounds):
            for name in CONTESTANTS:
                words = [
                    "--seconds",
                    str(arguments.seconds),
                    "--slots",
                    str(arguments.slots),
                    "--one",
                    task,
                    name,
                    str(seed),
                ]
                done = subprocess.run([sys.executable, __file__, *words], capture_output=True, text=True)
                if done.returncode:
                    raise SystemExit(done.stderr)
                found.setdefault(name, []).append(Tried(**json.loads(done.stdout.splitlines()[-1])))
        print(f"{task}: {arguments.rounds} rounds of {arguments.seconds:g} s, {arguments.slots} trials at a time")
        print(f"{'':18}{'validation':>12}{'test error':>12}  {'of each round':34}{'tried/s':>8}{'start-up [s]':>14}")
        for name, tries in found.items():
            errors = " ".join(f"{100 * tried.error:.1f}" for tried in tries)
            valid, error = (100 * statistics.mean(getattr(t, kind) for t in tries) for kind in ("valid", "error"))
            rate = statistics.median(tried.tried / tried.seconds for tried in tries)
            start = statistics.median(tried.start for tried in tries)
            print(f"{name:18}{valid:10.2f} %{error:10.2f} %  {errors:34}{rate:8.2f}{start:14.1f}")
        us, *_ = found.values()
        rate = statistics.median(tried.tried for tried in us)
        for name, tries in list(found.items())[1:]:
            mean, half = interval([100 * (ours.error - theirs.error) for ours, theirs in zip(us, tries, strict=True)])
            good = mean <= WORSE
            faster = rate > statistics.median(tried.tried for tried in tries)
            missed |= not (good and faster)
            print(f"{'met   ' if good else 'MISSED'}  not worse than {name}: {mean:+.2f} % +- {half:.2f}")
            print(f"{'met   ' if faster else 'MISSED'}  more tried than by {name}")
    return 1 if missed else 0


def interval(values: list[float]) -> tuple[float, float]:
    """Mean and half-width of its 95 % interval (Student's t)."""
    from scipy.stats import t

    if len(values) < 2:
        return values[0], float("inf")
    error = statistics.stdev(values) / len(values) ** 0.5
    return statistics.mean(values), float(t.ppf(0.975, len(values) - 1)) * error


if __name__ == "__main__":
    sys.exit(main())
