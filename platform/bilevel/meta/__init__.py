"""Meta-training: tasks, an inner rule and outer movement, as an objective like any other."""

from bilevel.meta.configuration import MetaTraining
from bilevel.meta.objective import meta_train

__all__ = ["MetaTraining", "meta_train"]
