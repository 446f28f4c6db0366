"""Gradient-boosted trees by scikit-learn, the best of at most 3,000 leaves.

`where` refuses configurations that make no sense before they are tried; `limits` bounds a result: what keeps within it
comes before all that does not. The rate is searched on a logarithmic scale in steps of 0.01.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from sklearn.datasets import load_digits
from sklearn.ensemble import HistGradientBoostingClassifier

from bilevel import TPE, Int, Log, LogInt, Report, Run, Space, Study


@dataclass(frozen=True, kw_only=True)
class Trees:
    """What is chosen of the ensemble."""

    rate: float
    rounds: int
    depth: int
    leaves: int


def sensible(cfg: Trees) -> bool:
    """A tree of some depth cannot have more leaves than that."""
    return cfg.leaves <= 2**cfg.depth


def fit(cfg: Trees, run: Run) -> Iterator[Report]:
    """The error on 400 digits of trees grown on 400 others, and how many leaves they have."""
    x, y = run.cache("digits", lambda: load_digits(return_X_y=True))
    model = HistGradientBoostingClassifier(
        learning_rate=cfg.rate,
        max_iter=cfg.rounds,
        max_depth=cfg.depth,
        max_leaf_nodes=cfg.leaves,
        early_stopping=False,
        random_state=run.seed % 2**32,
    )
    model.fit(x[:400], y[:400])
    leaves = sum(tree.get_n_leaf_nodes() for trees in model._predictors for tree in trees)
    yield Report(1, {"error": 1 - float(model.score(x[400:800], y[400:800])), "leaves": leaves})


study = Study(
    name="trees-limits",
    objective=fit,
    minimize="error",
    trials=30,
    space=Space(
        Trees, rate=Log(0.01, 1.0, step=0.01, center=0.1), rounds=LogInt(2, 64), depth=Int(1, 6), leaves=LogInt(2, 32)
    ),
    where=sensible,
    limits={"leaves": 3000},
    search=TPE(),
)
