"""Hyperparameter and meta-optimization: two loops, one engine.

What the outer loop decides is a small typed record; a `Space` says where each of its values comes from; a `Study` says
what is looked for; `run` does it. Tasks are in `bilevel.tasks`, inner rules in `bilevel.inner`, networks in
`bilevel.nets`, what a task of one's own is made of in `bilevel.episodes`, rules that stop trials in `bilevel.stop`.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bilevel.batched import verify
    from bilevel.drive.learner import load
    from bilevel.drive.results import Result
    from bilevel.drive.runs import resume, run
    from bilevel.drive.steering import steer
    from bilevel.execute import Inline, Ray, Tune
    from bilevel.execute.opening import shutdown
    from bilevel.meta import MetaTraining, meta_train
    from bilevel.meta.movers import SGD, Adam, AdamW, Cosine, Linear
    from bilevel.search import CMAES, GP, NSGA2, PBT, TPE, Grid, Random, Sobol
    from bilevel.search.stop import ASHA, Hyperband
    from bilevel.space import Learned, Secret, Space
    from bilevel.space.dimensions import Int, Log, LogInt, LogNormal, Normal, OneOf, Uniform
    from bilevel.study.define_by_run import define_by_run
    from bilevel.study.events import Report
    from bilevel.study.given import Run
    from bilevel.study.study import Study

# Imported when first asked for: every worker imports this package, and few of them need all of it.
_HOMES = {
    "ASHA": "search.stop",
    "CMAES": "search",
    "GP": "search",
    "NSGA2": "search",
    "PBT": "search",
    "SGD": "meta.movers",
    "TPE": "search",
    "Adam": "meta.movers",
    "AdamW": "meta.movers",
    "Cosine": "meta.movers",
    "Grid": "search",
    "Hyperband": "search.stop",
    "Inline": "execute",
    "Int": "space.dimensions",
    "Learned": "space",
    "Linear": "meta.movers",
    "Log": "space.dimensions",
    "LogInt": "space.dimensions",
    "LogNormal": "space.dimensions",
    "MetaTraining": "meta",
    "Normal": "space.dimensions",
    "OneOf": "space.dimensions",
    "Random": "search",
    "Ray": "execute",
    "Report": "study.events",
    "Result": "drive.results",
    "Run": "study.given",
    "Secret": "space",
    "Sobol": "search",
    "Space": "space",
    "Study": "study.study",
    "Tune": "execute",
    "Uniform": "space.dimensions",
    "define_by_run": "study.define_by_run",
    "load": "drive.learner",
    "meta_train": "meta",
    "resume": "drive.runs",
    "run": "drive.runs",
    "shutdown": "execute.opening",
    "steer": "drive.steering",
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
    "Cosine",
    "Grid",
    "Hyperband",
    "Inline",
    "Int",
    "Learned",
    "Linear",
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
    "Secret",
    "Sobol",
    "Space",
    "Study",
    "Tune",
    "Uniform",
    "define_by_run",
    "load",
    "meta_train",
    "resume",
    "run",
    "shutdown",
    "steer",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'bilevel' has no attribute {name!r}; it has {', '.join(__all__)}")
    try:
        value = getattr(import_module(f"bilevel.{_HOMES[name]}"), name)
    except AttributeError as error:  # within: `from bilevel import ...` would not tell
        raise ImportError(f"bilevel.{name} cannot be imported: {error}") from error
    globals()[name] = value
    if name in ("run", "resume"):
        _look_on()
    return value


def _look_on() -> None:
    """In a notebook, who runs a study sees it at work."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is not None and "kernel" in shell.trait_names():
        from bilevel.drive import progress
        from bilevel.view import notebook

        progress.default = notebook.watch


def __dir__() -> list[str]:
    return sorted(__all__)
