"""How is what is learned moved, at every outer step of a run? Pure functions of values, gradients and their own state.

A mover must not know what it moves, nor the tasks that its gradients come from.
"""

from bilevel.meta.movers.gradient import SGD, Adam, AdamW, Cosine, Linear

__all__ = ["SGD", "Adam", "AdamW", "Cosine", "Linear"]
