"""Which rules stop trials? Another name of `bilevel.search.stop`, for studies that say `bilevel.stop`."""

from bilevel.search.stop import ASHA, Hyperband, Median, Stop, Stopper

__all__ = ["ASHA", "Hyperband", "Median", "Stop", "Stopper"]
