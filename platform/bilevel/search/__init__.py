"""Where to look next, across trials? Ask and tell; and which trials may go on (`stop/`).

A search sees the unit cube and minimizes. It must not know trials, journals or who carries anything out.
"""

from bilevel.search.cmaes import CMAES
from bilevel.search.optuna import GP, NSGA2, TPE
from bilevel.search.pbt import PBT
from bilevel.search.plain import Grid, Random, Sobol

__all__ = ["CMAES", "GP", "NSGA2", "PBT", "TPE", "Grid", "Random", "Sobol"]
