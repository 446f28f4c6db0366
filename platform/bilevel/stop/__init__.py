"""May this trial go on? Rules that compare trials at the same step."""

from bilevel.stop.asha import ASHA
from bilevel.stop.hyperband import Hyperband
from bilevel.stop.median import Median
from bilevel.stop.port import Stop, Stopper

__all__ = ["ASHA", "Hyperband", "Median", "Stop", "Stopper"]
