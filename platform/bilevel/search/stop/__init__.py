"""May this trial go on? Rules that compare trials at the same step."""

from bilevel.search.stop.asha import ASHA
from bilevel.search.stop.hyperband import Hyperband
from bilevel.search.stop.median import Median
from bilevel.search.stop.port import Stop, Stopper

__all__ = ["ASHA", "Hyperband", "Median", "Stop", "Stopper"]
