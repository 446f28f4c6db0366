"""Where to look next: a gradient step inside a run, or ask and tell across trials."""

from bilevel.outer.gradient import SGD, Adam, AdamW, Cosine, Linear

__all__ = ["SGD", "Adam", "AdamW", "Cosine", "Linear"]
