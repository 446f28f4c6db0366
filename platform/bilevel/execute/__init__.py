"""Who carries trials and units of work out: this process, warm actors on a Ray cluster, or Ray Tune?

A declaration (`Inline`, `Ray`, `Tune`) is a value; `opening.executor` and `opening.stage` make what is live of it: a
`study.events.Executor` for units, a `study.events.Stage` for whole trials.
"""

from bilevel.execute.declarations import Inline, On, Ray, Tune

__all__ = ["Inline", "On", "Ray", "Tune"]
