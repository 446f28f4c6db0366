"""Where to look next: a gradient step inside a run, or ask and tell across trials."""

from bilevel.outer.cmaes import CMAES
from bilevel.outer.gradient import SGD, Adam, AdamW, Cosine, Linear
from bilevel.outer.optuna import GP, NSGA2, TPE
from bilevel.outer.pbt import PBT
from bilevel.outer.plain import Grid, Random, Sobol

__all__ = ["CMAES", "GP", "NSGA2", "PBT", "SGD", "TPE", "Adam", "AdamW", "Cosine", "Grid", "Linear", "Random", "Sobol"]
