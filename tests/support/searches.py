"""Histories of searches as a journal would hold them, deterministic, with any number of trials."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

import numpy as np

from bilevel.figures import Search, search_history
from bilevel.space.dimensions import Int, Log, LogInt, OneOf, Parameter, Uniform
from bilevel.study.events import Asked, Begun, Ended, Event, Fault, Finished, Moved, Opened, Reported, Started

BEGAN = 1_760_000_000.0  # unix time [s]
MLP = (
    Parameter("lr", "lr", Log(1e-5, 1.0)),
    Parameter("width", "width", LogInt(16, 512)),
    Parameter("act", "act", OneOf("relu", "gelu", "tanh")),
    Parameter("opt", "opt", OneOf("Sgd", "Adam")),
    Parameter("opt[Sgd].momentum", "opt.momentum", Uniform(0.0, 0.99), when=(("opt", "Sgd"),)),
    Parameter("opt[Adam].beta2", "opt.beta2", Uniform(0.9, 0.999), when=(("opt", "Adam"),)),
    Parameter("layers", "layers", Int(1, 6)),
)
Timed = list[tuple[float, Event]]


def valley(point: Mapping[str, Any]) -> float:
    """A loss with its best near lr = 0.01; width helps, the rest hardly matters."""
    rate = math.log10(point["lr"]) + 2.0
    momentum = 0.05 * abs(point.get("opt[Sgd].momentum", 0.9) - 0.9)
    act = {"relu": 0.0, "gelu": -0.01, "tanh": 0.03}[point["act"]]
    return 0.1 + 0.12 * rate**2 + 0.4 / math.sqrt(point["width"]) + momentum + act


def points(parameters: Sequence[Parameter], count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Random ones."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        point: dict[str, Any] = {}
        for parameter in parameters:
            place = float(rng.random())
            if parameter.active(point):
                point[parameter.name] = parameter.dimension.decode(place)
        made.append(point)
    return made


def study(
    count: int = 40,
    parameters: Sequence[Parameter] = MLP,
    loss: Callable[[Mapping[str, Any]], float] = valley,
    *,
    metric: str = "loss",
    minimize: bool = True,
    steps: int = 27,
    rungs: Sequence[int] = (1, 3, 9),
    workers: int = 4,
    fails: Callable[[Mapping[str, Any]], bool] = lambda point: point.get("lr", 0.0) > 0.4,
    lost: Sequence[int] = (),
    limit: float | None = None,
    objectives: Mapping[str, str] | None = None,
    broken_at: int | None = None,
    running: int = 0,
    seed: int = 0,
) -> Timed:
    """A search by random points with successive halving on some workers, as its journal tells it.

    Args:
        fails: points that diverge.
        lost: trials whose first worker dies under them.
        limit: trials whose loss is above it break a limit by the rest.
        broken_at: the trial before which the driver is killed; another one goes on an hour later.
        running: so many of the last trials have not ended.
    """
    rng = np.random.default_rng(seed)
    started = Started("mlp", "mlp-20261125-000000-ab12", metric, minimize, 7, objectives=dict(objectives or {}))
    versions = {"bilevel": "0.1.0", "torch": "2.13.0", "numpy": "2.1.0"}
    opened = Opened(workers, "a" * 64, versions, "x86_64 AVX2", {"commit": "b" * 40, "dirty": False})
    events: Timed = [(BEGAN, started), (BEGAN, opened)]
    free, now, rung_values = [BEGAN + 0.2 * w for w in range(workers)], BEGAN, {r: [] for r in rungs}
    for number, point in enumerate(points(parameters, count, seed)):
        worker = int(np.argmin(free))
        now = free[worker]
        if number == broken_at:
            resumed = max(t for t, _ in events) + 3600.0
            free = [resumed + 2.0] * workers
            now = resumed + 2.0
            events.append((resumed, opened))
        config = {"epochs": steps, **{p.path: point[p.name] for p in parameters if p.name in point}}
        events.append((now, Asked(number, config, 1000 + number, point)))
        events.append((now + 0.01, Begun(number, 1, f"worker {worker}")))
        if number in lost:
            events.append((now + 0.5, Fault("died", f"worker {worker}")))
            events.append((now + 0.6, Begun(number, 2, f"worker {workers}", 0, "lost")))
            now += 0.6
        final, state, reason, step, value = loss(point), "completed", None, 0, math.nan
        pace = 0.2 + 0.1 * float(rng.random())
        for step in range(1, steps + 1):
            value = final + (2.3 - final) * math.exp(-step / (1 + 4 * final)) + 0.01 * float(rng.normal())
            value = value if minimize else 1.0 - value / 3
            if fails(point) and step > 1:
                value = math.nan
            now += pace
            events.append((now, Reported(number, step, {metric: value, "train": 0.9 * value})))
            if math.isnan(value):
                state, reason = "failed", f"step {step}: {metric} is nan"
                break
            if step in rung_values:
                seen = rung_values[step]
                worse = sum((old < value) == minimize for old in seen)
                seen.append(value)
                if worse > len(seen) / 2:
                    state = "stopped"
                    break
        free[worker] = now + 0.05
        if number >= count - running:
            continue
        values = _several(point, value, objectives)
        violation = max(0.0, value - limit) if limit is not None and state != "failed" else 0.0
        objective = value if state != "failed" else None
        fate = Ended(number, state, step, objective, reason, None, values if state != "failed" else (), violation)
        events.append((now + 0.02, fate))
    if not running:
        last = max([t for t, _ in events])
        events.append((last + 0.5, Finished("completed", {"fingerprint": "c" * 64})))
    return sorted(events, key=lambda pair: pair[0])


def _several(point: Mapping[str, Any], value: float, objectives: Mapping[str, str] | None) -> tuple[float, ...]:
    if not objectives:
        return ()
    more = [float(point.get("width", 10)) * point.get("layers", 1), 0.5 + 0.1 * point.get("layers", 1)]
    return (value, *more)[: len(objectives)]


@cache
def odd() -> dict[str, Search]:
    """Searches at the edges of what there can be."""
    long = "a_very_long_name_of_a_value_in_a_nested_space." * 3
    forty = tuple(Parameter(f"layer{n}.{long if n % 9 == 0 else ''}rate", f"p{n}", Log(1e-4, 1)) for n in range(40))
    wild = "<b>$x_1$</b> & 'y' \"z\" </script><script>alert(1)</script>"
    only = (Parameter("act", "act", OneOf("relu", "gelu", wild)), Parameter("flag", "flag", OneOf(True, False, None)))

    def flat(point: Mapping[str, Any]) -> float:
        return 0.5 + 0.01 * len(str(point))

    never: Callable[[Mapping[str, Any]], bool] = lambda point: False  # noqa: E731
    return {
        "none": search(study(0)),
        "one": search(study(1)),
        "two": search(study(2)),
        "running": search(study(3, running=3)),
        "failed": search(study(12, fails=lambda point: True, rungs=())),
        "one parameter": search(study(25, MLP[:1], lambda p: abs(math.log10(p["lr"]) + 2), rungs=()), MLP[:1]),
        "choices": search(study(30, only, flat, metric=wild, rungs=(), fails=never), only),
        "forty": search(study(60, forty, lambda p: p[forty[1].name], rungs=(), fails=never), forty),
        "guessed": search(study(40, limit=0.2), None),
        "constant": search(study(15, MLP, lambda p: 0.5, steps=1, rungs=(), fails=never)),
        "interrupted": search([pair for pair in study(20, running=4) if not isinstance(pair[1], Finished)]),
    }


def population(members: int = 4, turns: int = 6, every: int = 100, seed: int = 0) -> Timed:
    """Population-based training of a rate: the worst member goes on from the best one with another rate."""
    rng = np.random.default_rng(seed)
    parameters = (Parameter("lr", "lr", Log(1e-4, 1e-1)), Parameter("drop", "drop", Uniform(0, 0.5)))
    events: Timed = [(BEGAN, Started("pbt", "pbt-1", "loss", True, 1, log=("lr",))), (BEGAN, Opened(4, "", {}, ""))]
    rates = {n: dict(p) for n, p in enumerate(points(parameters, members, seed))}
    level = dict.fromkeys(rates, 2.0)
    for n, point in rates.items():
        events += [(BEGAN + 0.1, Asked(n, point, n, dict(point))), (BEGAN + 0.1, Begun(n, 1, f"worker {n}"))]
    for turn in range(turns):
        for n in rates:
            for part in range(1, 11):
                level[n] *= 1 - 0.03 / (1 + abs(math.log10(rates[n]["lr"]) + 2 + 0.2 * turn))
                step = turn * every + part * every // 10
                events.append((BEGAN + step / 10 + n / 100, Reported(n, step, {"loss": level[n]})))
        order = sorted(level, key=lambda n: level[n])
        best, worst = order[0], order[-1]
        if turn < turns - 1:
            factor = float(rng.choice([0.8, 1.25]))
            rates[worst] = {"lr": rates[best]["lr"] * factor, "drop": rates[best]["drop"]}
            level[worst] = level[best]
            at = (turn + 1) * every
            events.append((BEGAN + at / 10 + 0.5, Moved(worst, at, best, dict(rates[worst]), dict(rates[worst]))))
    end = BEGAN + turns * every / 10 + 1
    events += [(end, Ended(n, "completed", turns * every, level[n])) for n in rates]
    return sorted(events, key=lambda pair: pair[0])


@cache
def large() -> Search:
    """Ten thousand trials."""
    return search(study(10_000, workers=8, steps=9, rungs=(1, 3)))


def search(events: Timed, parameters: Sequence[Parameter] | None = MLP) -> Search:
    """What the views are drawn from."""
    return search_history(events, parameters)
