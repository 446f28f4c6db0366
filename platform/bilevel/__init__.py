"""Hyperparameter and meta-optimization: two loops, one engine.

What the outer loop decides is a small typed record; a `Space` says where each of its values comes from; a `Study` says
what is looked for; `run` does it. Tasks are in `bilevel.tasks`, inner rules in `bilevel.inner`, networks in
`bilevel.nets`, schedules in `bilevel.outer`.
"""

from bilevel.batched import verify
from bilevel.events import Report, Run
from bilevel.execute import Inline, Ray
from bilevel.learner import load
from bilevel.outer import SGD, Adam, AdamW
from bilevel.runs import Result, resume, run
from bilevel.space import Learned, Space
from bilevel.study import Study
from bilevel.training import MetaTraining, meta_train

__all__ = [
    "SGD",
    "Adam",
    "AdamW",
    "Inline",
    "Learned",
    "MetaTraining",
    "Ray",
    "Report",
    "Result",
    "Run",
    "Space",
    "Study",
    "load",
    "meta_train",
    "resume",
    "run",
    "verify",
]
