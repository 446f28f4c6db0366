"""Forty histories at the edges of what a journal can hold: numbers, names, options, states and times."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bilevel.figures import History, Search, search_history
from bilevel.space.dimensions import Int, Log, LogInt, LogNormal, Normal, OneOf, Parameter, Uniform
from bilevel.study.events import Asked, Begun, Ended, Event, Opened, Reported, Started
from support import searches

MOST, LEAST, INF = sys.float_info.max, 5e-324, math.inf
RATE = Parameter("lr", "lr", Log(1e-4, 1.0))


@dataclass(frozen=True)
class Tried:
    """What is made up of a search: trial n has the nth point and curve; one without values has failed."""

    curves: Sequence[Sequence[float]]
    parameters: Sequence[Parameter] | None = (RATE,)
    points: Sequence[Mapping[str, Any]] = ()
    metric: str = "loss"
    state: str = "completed"
    pace: float = 1.0
    first: int = 1
    several: Mapping[str, str] = field(default_factory=dict)
    violation: float = 0.0

    def events(self) -> Iterator[tuple[float, Event]]:
        """As the journal has them."""
        yield 0.0, Started("odd", "odd-1", self.metric, True, 0, objectives=self.several)
        yield 0.0, Opened(1, "", {}, "")
        dimensions = {p.name: p.dimension for p in self.parameters or ()}
        for n, curve in enumerate(self.curves):
            place = (n * 0.618034 + 0.05) % 1
            point = self.points[n] if n < len(self.points) else {k: d.decode(place) for k, d in dimensions.items()}
            now = n * self.pace
            yield now, Asked(n, point, n, point)
            yield now, Begun(n, 1, f"worker {n % 3}")
            for step, value in enumerate(curve, self.first):
                yield now, Reported(n, step, {self.metric: value})
            if self.state == "running":
                continue
            good = bool(curve) and math.isfinite(curve[-1])
            values = tuple(curve[-1] * (i + 1) for i in range(len(self.several))) if good else ()
            state = self.state if good else "failed"
            end = Ended(n, state, len(curve), curve[-1] if good else None, None if good else "no", None, values)
            yield now + self.pace, Ended(**{**vars(end), "violation": self.violation if good else 0.0})


def flat(*values: float) -> list[list[float]]:
    """One report a trial."""
    return [[value] for value in values]


def _twelve(number: float) -> list[list[float]]:
    return flat(*(number if n % 4 == 3 else 0.1 * (n + 1) for n in range(12)))


def _options(*options: Any) -> Sequence[Parameter]:
    return (Parameter("pick", "pick", OneOf(*options)), RATE)


def _wide(dimension: Any) -> Tried:
    return Tried(flat(*(0.1 * n for n in range(12))), (Parameter("x", "x", dimension), RATE))


def tried() -> dict[str, Tried]:
    """All forty."""
    usual = flat(*(0.1 * (n * 7 % 12 + 1) for n in range(12)))
    wild = "损失[/b] $\\frac{x$ <b>&amp;é_😀\n%{y}"
    return {
        "penalty of float max": Tried(_twelve(MOST)),
        "penalty of minus float max": Tried(_twelve(-MOST)),
        "penalty of 1e300": Tried(_twelve(1e300)),
        "penalty of 5e-324": Tried(_twelve(LEAST)),
        "penalty of 1e-310": Tried(_twelve(1e-310)),
        "from least to most": Tried(flat(LEAST, 1e-200, 1.0, 1e200, MOST, *range(1, 8))),
        "both signs": Tried(flat(-MOST, MOST, -1.0, 1.0, 0.0, LEAST, -LEAST, *range(6))),
        "all float max": Tried(flat(*[MOST] * 12)),
        "all least": Tried(flat(*[LEAST] * 12)),
        "all zero": Tried(flat(*[0.0] * 12)),
        "all equal": Tried(flat(*[0.25] * 12)),
        "neighbours at 1e16": Tried(flat(*(1e16 + 2 * n for n in range(12)))),
        "neighbours of one": Tried(flat(*(1 + n * 2.3e-16 for n in range(12)))),
        "all negative and huge": Tried(flat(*(-1e300 * n for n in range(1, 13)))),
        "infinite option": Tried(usual, _options(1.0, 2.0, INF)),
        "infinite option, guessed": Tried(usual, None, [{"clip": [1.0, 2.0, INF][n % 3], "lr": n} for n in range(12)]),
        "options of no kind": Tried(usual, _options(True, 1, "1", None, -INF, 1e308)),
        "guessed over all floats": Tried(usual, None, [{"x": (-1) ** n * MOST} for n in range(12)]),
        "guessed beyond floats": Tried(usual, None, [{"x": 10 ** (400 * (n % 2)) + n} for n in range(12)]),
        "widest linear": _wide(Uniform(0.0, MOST)),
        "tiniest linear": _wide(Uniform(0.0, LEAST * 8)),
        "widest logarithmic": _wide(Log(LEAST, MOST)),
        "far steps": _wide(Uniform(1e15, 1e15 + 10, step=0.5)),
        "large whole": _wide(Int(-(2**62), 2**62)),
        "large whole, logarithmic": _wide(LogInt(1, 10**300)),
        "wide normal": _wide(Normal(0.0, 1e300)),
        "wide lognormal": _wide(LogNormal(0.0, 50.0)),
        "none": Tried([]),
        "one": Tried([[3.0, 2.0, 1.0]]),
        "one, diverging": Tried([[10.0 ** (30 * n) for n in range(1, 11)] + [INF]]),
        "all failed": Tried([[math.nan]] * 12),
        "nothing reported": Tried([[]] * 12),
        "all running": Tried([[1.0, 0.5]] * 4, state="running"),
        "all stopped": Tried([[1.0, 0.5 + n] for n in range(12)], state="stopped"),
        "no time at all": Tried(usual, pace=0.0),
        "wild names": Tried(usual, (Parameter(wild, wild, OneOf(wild, "_", "")), RATE), metric=wild),
        "far steps of a training": Tried([[1.0, 0.5, 0.2 * n] for n in range(1, 13)], first=10**15),
        "two objectives": Tried(_twelve(1e300), several={"loss": "minimize", "cost": "minimize"}, violation=MOST),
        "diverging curves": Tried([[0.5 * 10.0 ** (25 * s + n) for s in range(12)] for n in range(12)]),
        "ten of two values": Tried(usual[:10], (RATE, Parameter("w", "w", Int(1, 5)))),
    }


def search(of: Tried) -> Search:
    """What views are drawn from."""
    return search_history(of.events(), of.parameters)


def history(of: Tried) -> History:
    """What single figures are drawn from."""
    metrics = {n: [(of.first + i, {of.metric: v}) for i, v in enumerate(curve)] for n, curve in enumerate(of.curves)}
    return History(metrics, of.metric)


def large() -> Search:
    """Ten thousand trials with penalties of float max among them."""
    events = [
        (t, Reported(e.trial, e.step, {"loss": MOST}) if isinstance(e, Reported) and e.trial % 9 == 8 else e)
        for t, e in searches.study(10_000, workers=8, steps=3, rungs=(1,))
    ]
    return searches.search(events)
