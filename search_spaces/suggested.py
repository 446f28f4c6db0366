"""A function written for Optuna, unchanged: it asks for its values while it runs, and may be pruned on the way.

What it suggests is known only then, so the search learns of each value when it first meets it. A space that is declared
beforehand, as in the other files, can be checked, drawn and converted before anything runs.
"""

from typing import Any

import optuna
from sklearn.datasets import load_digits
from sklearn.linear_model import SGDClassifier
from sklearn.neural_network import MLPClassifier

from bilevel import ASHA, TPE, Space, Study
from bilevel.study.define_by_run import define_by_run

EPOCHS = 27


def objective(trial: Any) -> float:
    """The error on 300 digits after some epochs on 1,200 others, of a linear classifier or of a small network."""
    x, y = load_digits(return_X_y=True)
    alpha = trial.suggest_float("alpha", 1e-6, 1e-1, log=True)
    if trial.suggest_categorical("model", ["linear", "network"]) == "linear":
        model = SGDClassifier(alpha=alpha, random_state=0)
    else:
        width = trial.suggest_int("width", 4, 64, log=True)
        rate = trial.suggest_float("rate", 1e-4, 1e-1, log=True)
        model = MLPClassifier((width,), alpha=alpha, learning_rate_init=rate, batch_size=40, random_state=0)
    error = 1.0
    for epoch in range(EPOCHS):
        model.partial_fit(x[:1200] / 16, y[:1200], classes=range(10))
        error = 1 - model.score(x[1200:1500] / 16, y[1200:1500])
        trial.report(error, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return error


study = Study(
    name="suggested",
    objective=define_by_run(objective, metric="error"),
    minimize="error",
    trials=40,
    space=Space(dict),
    search=TPE(),
    stop=ASHA(first=3, factor=3, last=EPOCHS),
)
