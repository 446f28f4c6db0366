"""What can an objective do? A function of `(config, run)`, and what it may say of itself beside that."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from bilevel.study.events import Units
from bilevel.study.given import Run
from bilevel.traits import Trait, Traits


class ObjectiveTraits(Traits):
    """What an objective may say of itself, as attributes (of a function, too: `train.learns = ("rule",)`)."""

    learns = Trait[tuple[str, ...]](())
    """The fields of its configuration below which it can learn what is `Learned`."""
    spreads = Trait[bool | None](None)
    """Whether it yields units of work; not said: whether its code names `Units`."""
    keeps = Trait[str]("")
    """How metrics begin by which it keeps its best weights: as an objective their best value counts."""
    suggests = Trait[bool](False)
    """Whether it asks for values of its own while it runs (`define_by_run`)."""
    check = Trait[Callable[[Any, Run], None] | None](None)
    """`check(config, run)` raises BadInput for what can be known to be wrong before anything starts."""


def spreads(objective: Callable[..., Any]) -> bool:
    """Whether an objective yields units of work: then it runs in the driver, and its units on the workers."""
    said = ObjectiveTraits(objective).spreads
    if said is not None:
        return bool(said)
    names = getattr(getattr(objective, "__code__", None), "co_names", ())
    if "Units" not in names:
        return False
    known = getattr(objective, "__globals__", {})  # it may be an attribute of something else
    return "bilevel" in names or any(Units in (known.get(n), getattr(known.get(n), "Units", None)) for n in names)
