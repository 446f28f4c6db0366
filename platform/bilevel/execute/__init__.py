"""Who carries trials and units of work out: this process, warm actors on a Ray cluster, or Ray Tune?

A declaration (`Inline`, `Ray`, `Tune`) is a value; its `open(threads, code)` gives a live `study.events.Executor`.
"""

from bilevel.execute.inline import Inline
from bilevel.execute.ray import Ray
from bilevel.execute.tune import Tune

__all__ = ["Inline", "Ray", "Tune"]
