"""Who carries units of work out: this process, or warm actors on a Ray cluster?

A declaration (`Inline`, `Ray`) is a value; its `open(threads, code)` gives a live `bilevel.events.Executor`.
"""

from bilevel.execute.inline import Inline
from bilevel.execute.ray import Ray

__all__ = ["Inline", "Ray"]
