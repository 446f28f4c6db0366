"""Hyperparameter and meta-optimization: two loops, one engine.

What the outer loop decides is a small typed record; a `Space` says where each of its values comes from; a `Study` says
what is looked for; `run` does it. Tasks are in `bilevel.tasks`, inner rules in `bilevel.inner`, networks in
`bilevel.nets`, schedules in `bilevel.outer`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bilevel.batched import verify
    from bilevel.dimensions import Int, Log, LogInt, LogNormal, Normal, OneOf, Uniform
    from bilevel.events import Report, Run
    from bilevel.execute import Inline, Ray, Tune
    from bilevel.learner import load
    from bilevel.outer import CMAES, GP, NSGA2, PBT, SGD, TPE, Adam, AdamW, Grid, Random, Sobol
    from bilevel.results import Result
    from bilevel.runs import resume, run
    from bilevel.space import Learned, Space
    from bilevel.stop import ASHA, Hyperband
    from bilevel.study import Study
    from bilevel.training import MetaTraining, meta_train

# Imported when first asked for: every worker imports this package, and few of them need all of it.
_HOMES = {
    "ASHA": "stop",
    "CMAES": "outer",
    "GP": "outer",
    "NSGA2": "outer",
    "PBT": "outer",
    "SGD": "outer",
    "TPE": "outer",
    "Adam": "outer",
    "AdamW": "outer",
    "Grid": "outer",
    "Hyperband": "stop",
    "Inline": "execute",
    "Int": "dimensions",
    "Learned": "space",
    "Log": "dimensions",
    "LogInt": "dimensions",
    "LogNormal": "dimensions",
    "MetaTraining": "training",
    "Normal": "dimensions",
    "OneOf": "dimensions",
    "Random": "outer",
    "Ray": "execute",
    "Report": "events",
    "Result": "results",
    "Run": "events",
    "Sobol": "outer",
    "Space": "space",
    "Study": "study",
    "Tune": "execute",
    "Uniform": "dimensions",
    "load": "learner",
    "meta_train": "training",
    "resume": "runs",
    "run": "runs",
    "verify": "batched",
}

__all__ = [
    "ASHA",
    "CMAES",
    "GP",
    "NSGA2",
    "PBT",
    "SGD",
    "TPE",
    "Adam",
    "AdamW",
    "Grid",
    "Hyperband",
    "Inline",
    "Int",
    "Learned",
    "Log",
    "LogInt",
    "LogNormal",
    "MetaTraining",
    "Normal",
    "OneOf",
    "Random",
    "Ray",
    "Report",
    "Result",
    "Run",
    "Sobol",
    "Space",
    "Study",
    "Tune",
    "Uniform",
    "load",
    "meta_train",
    "resume",
    "run",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bilevel' has no attribute {name!r}; it has {', '.join(__all__)}")
    value = getattr(import_module(f"bilevel.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
