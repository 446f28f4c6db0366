"""What is the best network found at the cost of 30 full trainings, where trials are stopped early (ASHA)?

Learning curves are those of `curves.py`, real trainings on a grid; between its points losses are interpolated (on a
logarithmic scale, in the coordinates of the space), so that the space is a continuum. Four virtual workers train at
slightly different speeds; a trial that diverges fails. The result is the best complete trial.
"""

from __future__ import annotations

import heapq
import math
from functools import cache
from typing import Any

import numpy as np
from curves import AXES, EPOCHS, curves
from numpy.typing import NDArray
from scipy.interpolate import RegularGridInterpolator

from bilevel.episodes import Key
from bilevel.search.port import Point, Problem, Search, Searcher, Told
from bilevel.search.stop import ASHA, Stopper
from bilevel.space.dimensions import Log, LogInt, Parameter, Uniform

COST = 30 * EPOCHS
WORKERS = 4
PARAMETERS = (
    Parameter("rate", "rate", Log(min(AXES["rate"]), max(AXES["rate"]))),
    Parameter("width", "width", LogInt(4, 128)),
    Parameter("momentum", "momentum", Uniform(0.0, 0.95)),
    Parameter("decay", "decay", Log(1e-5, 1e-2)),
)


@cache
def _interpolators(name: str) -> tuple[Any, Any]:
    """Of log losses, and of whether the nearest network diverged."""
    losses = curves(name)
    places = [np.linspace(0, 1, len(options)) for options in AXES.values()]
    logs = np.log(np.minimum(losses, 1e3))
    return (
        RegularGridInterpolator(places, logs),
        RegularGridInterpolator(places, np.isinf(losses).astype(float), method="nearest"),
    )


def curve(name: str, point: Point) -> NDArray[np.float64]:
    """Losses after each epoch, infinite once it diverges."""
    logs, diverged = _interpolators(name)
    place = [[parameter.dimension.encode(point[parameter.name]) for parameter in PARAMETERS]]
    return np.where(diverged(place)[0] > 0.5, math.inf, np.exp(logs(place)[0]))


def regret(name: str, value: float) -> float:
    """0 at the grid's best network, 1 at its median one."""
    losses = curves(name)[..., -1]
    return float((value - losses.min()) / (np.median(losses) - losses.min()))


class _Trial:
    def __init__(self, number: int, point: Point, losses: NDArray[np.float64], seconds: float) -> None:
        self.number, self.point, self.losses, self.seconds = number, point, losses, seconds
        self.epoch = 0

    def told(self, *, stopped: bool) -> Told:
        seen = tuple((epoch + 1, float(self.losses[epoch])) for epoch in range(self.epoch))
        if not math.isfinite(seen[-1][1]):
            return Told(None)
        return Told(seen[-1][1:], step=self.epoch, stopped=stopped, curve=seen)


def run(search: Search, name: str, seed: int, stop: ASHA | None) -> float:
    """The regret of the best complete trial at the cost."""
    key = Key((seed,))
    searcher: Searcher = search.open(Problem(PARAMETERS, key.child("search"), fidelity=EPOCHS if stop else None))
    stopper: Stopper | None = stop.open() if stop else None
    clock: list[tuple[float, int, _Trial]] = []
    count, best = 0, math.inf

    def begin(now: float) -> None:
        nonlocal count
        point = searcher.ask(count)
        if point is not None:
            searcher.asked(count, point)
            trial = _Trial(count, point, curve(name, point), 0.8 + 0.4 * key.child("speed", count).numpy().random())
            heapq.heappush(clock, (now + trial.seconds, count, trial))
            count += 1

    for _ in range(WORKERS):
        begin(0.0)
    for _ in range(COST):
        now, number, trial = heapq.heappop(clock)
        trial.epoch += 1
        value = float(trial.losses[trial.epoch - 1])
        stopped = stopper is not None and stopper.report(number, trial.epoch, value) and trial.epoch < EPOCHS
        if stopped or trial.epoch == EPOCHS or not math.isfinite(value):
            searcher.tell(number, trial.point, trial.told(stopped=stopped))
            if trial.epoch == EPOCHS:
                best = min(best, value)
            begin(now)
        else:
            heapq.heappush(clock, (now + trial.seconds, number, trial))
    return regret(name, best)
