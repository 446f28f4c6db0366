"""Is the best that a search declares as good as what it has seen, where trials are stopped early (ASHA)?

XGBoost on real data (scikit-learn's breast cancer set), 25 trials of up to 81 rounds, ten seeds of the search. The
trainings draw nothing, so that a confirmation repeats its leader's curve and the values of two trials compare; with
`--noise` they draw rows and columns by their seed, and a confirmation is another draw.

    python tests/benchmarks/declared.py [--noise] [--seeds 10]

`complete` is the best value of the trials that went to their end, `reached` the best value that any trial has shown at
any step, `declared` what the run says, with the step that it is of. Worse is counted beyond rounding.
"""

from __future__ import annotations

import argparse
import tempfile
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
import xgboost
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split

from bilevel import ASHA, TPE, Inline, Log, Report, Result, Run, Space, Study, Uniform, figures, run

ROUNDS = 81
ROUNDING = 1e-9


def train(config: dict[str, Any], run: Run) -> Iterator[Report]:
    """Boosting, a report a round."""
    fit, valid = run.cache("data", data)
    settings = {**config, "objective": "binary:logistic", "seed": run.seed, "nthread": 1, "max_depth": 3}
    booster = None
    for step in range(1, ROUNDS + 1):
        booster = xgboost.train(settings, fit, 1, xgb_model=booster)
        chance = np.clip(booster.predict(valid), 1e-7, 1 - 1e-7)
        labels = valid.get_label()
        yield Report(step, {"loss": -np.mean(labels * np.log(chance) + (1 - labels) * np.log(1 - chance))})


def data() -> tuple[Any, Any]:
    """To train on and to judge by."""
    x, y = load_breast_cancer(return_X_y=True)
    x, held, y, labels = train_test_split(x, y, test_size=0.3, random_state=0)
    return xgboost.DMatrix(x, y), xgboost.DMatrix(held, labels)


def study(seed: int, noise: bool, **more: Any) -> Study:
    """A search with ASHA."""
    draws = {"subsample": 0.5, "colsample_bytree": 0.5} if noise else {}
    space = Space(dict, eta=Log(0.01, 1.0), min_child_weight=Log(0.1, 10.0), gamma=Uniform(0.0, 2.0), **draws)
    stop = ASHA(first=1, factor=3, last=ROUNDS)
    fixed: dict[str, Any] = {"name": "declared", "objective": train, "minimize": "loss", "search": TPE(), "trials": 25}
    return Study(**fixed, space=space, stop=stop, seed=seed, **more)


def seen(result: Result) -> tuple[float, float]:
    """The best value of complete trials, and the best of all steps, of the search itself."""
    trials, reports = result.trials, result.reports
    search = trials[trials["of"].isna()]
    complete = search[search["state"] == "completed"]["objective"].min()
    return float(complete), float(reports[reports["trial"].isin(search["trial"])]["metrics.loss"].min())


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--noise", action="store_true", help="trainings draw rows and columns by their seed")
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    figures.draw = lambda *_, **__: {}  # type: ignore[assignment]
    print(f"{'value':6}{'confirm':>8}{'seed':>6}{'complete':>11}{'reached':>11}{'declared':>11}{'step':>6}  by")
    for value in ("last", "best"):
        for confirm in (0, 1):
            below = short = 0
            for seed in range(arguments.seeds):
                with tempfile.TemporaryDirectory() as store:
                    of = study(seed, arguments.noise, value=value, confirm=confirm)
                    result = run(of, on=Inline(), store=store, track="none")
                    complete, reached = seen(result)
                best = result.best or {}
                declared = float(best["objective"])
                below += declared > complete + ROUNDING
                short += declared > reached + ROUNDING
                by = f"trial {best.get('confirmed', [best['trial']])[0]}, of {best['trial']}"
                row = f"{complete:11.5f}{reached:11.5f}{declared:11.5f}{best['step']:6}  {by}"
                print(f"{value:6}{confirm:8}{seed:6}{row}", flush=True)
            print(
                f"{value:6}{confirm:8}   worse than the best complete one: {below} of {arguments.seeds};"
                f" than the best reached one: {short} of {arguments.seeds}",
                flush=True,
            )


if __name__ == "__main__":
    main()
