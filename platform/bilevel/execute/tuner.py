"""How do our searches and spaces work in a user's own `tune.Tuner`?"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bilevel import space as spaces
from bilevel import trees
from bilevel.episodes import Key
from bilevel.errors import BadInput
from bilevel.execute import cluster  # noqa: F401 the variables that it sets for Ray
from bilevel.search.port import Point, Problem, Search, SearcherTraits, Told
from bilevel.space import Learned, Space
from bilevel.space.dimensions import Int, Log, LogInt, Normal, OneOf, Uniform, guessed, is_dimension

from ray import tune  # isort: skip # after the variables that `cluster` sets for it
from ray.tune.search import Searcher

STEP = "training_iteration"
"""What Tune calls the step of a report."""

__all__ = ["as_tune_searcher"]


@dataclasses.dataclass(frozen=True)
class _Declared:
    """What a searcher is made of; all of it can be pickled, as Tune does with what it is given."""

    search: Search
    space: Space
    metrics: tuple[str, ...]
    modes: tuple[str, ...]
    seed: int
    last: int | None
    first: tuple[Mapping[str, Any], ...]


def as_tune_searcher(
    search: Search,
    space: Space,
    *,
    metric: str | Sequence[str],
    mode: str | Sequence[str] = "min",
    seed: int = 0,
    last: int | None = None,
    points: Sequence[Mapping[str, Any]] = (),
) -> TuneSearcher:
    """One of our searches for `TuneConfig(search_alg=...)`: `as_tune_searcher(TPE(), space, metric="loss")`.

    A trial's config is what the space describes: a dict as it is, of a dataclass the fields by name. Tune saves the
    searcher with its experiment, and `Tuner.restore` makes it go on, by what it was told, as if nothing had happened.

    Args:
        search: such as `TPE()`.
        space: over a dict or a dataclass; the Tuner's own `param_space` may add constants.
        metric: what trials report, or several objectives.
        mode: "min" or "max"; of several objectives one for each.
        seed: the same seed and the same results give the same suggestions.
        last: the `training_iteration` at which a trial is complete, if a scheduler stops trials early: values of those
            that came less far are told as such, not as final ones.
        points: configurations to begin with, by dotted path; what they leave out starts in the middle.

    Raises:
        BadInput: the search cannot search this space; the message names the field and the cure.
    """
    metrics = (metric,) if isinstance(metric, str) else tuple(metric)
    modes = (mode,) * len(metrics) if isinstance(mode, str) else tuple(mode)
    if len(modes) != len(metrics) or not set(modes) <= {"min", "max"}:
        raise BadInput(f"as_tune_searcher: mode={mode!r} for metric={metric!r}; give 'min' or 'max' for each metric")
    if space.target is not dict and not dataclasses.is_dataclass(space.target):
        raise BadInput(f"as_tune_searcher: {space!r} describes no dict or dataclass, which a trial's config has to be")
    parameters = spaces.parameters(space)
    if not parameters:
        raise BadInput(f"as_tune_searcher: nothing is searched in {space!r}; write a dimension such as lr=Log(1e-4, 1)")
    first = [spaces.complete(space, point) for point in points]
    if any(guessed(parameter.dimension) for parameter in parameters):
        first.insert(0, spaces.complete(space, {}))
    return TuneSearcher(_Declared(search, space, metrics, modes, seed, last, tuple(first)))


class TuneSearcher(Searcher):  # type: ignore[misc]
    """A search of ours as Ray Tune calls it: see `as_tune_searcher`. Its state is the history of its calls."""

    def __init__(self, declared: _Declared) -> None:
        single = len(declared.metrics) == 1
        metrics, modes = list(declared.metrics), list(declared.modes)
        super().__init__(metric=metrics[0] if single else metrics, mode=modes[0] if single else modes)
        self._declared = declared
        self._replay([])

    # -- what Tune calls -----------------------------------------------------------------------------------------------

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        """The configuration of the next trial; None: not before others have ended."""
        number, first = len(self._numbers), self._declared.first
        point = first[number] if number < len(first) else self._searcher.ask(number)
        if point is None:
            return Searcher.FINISHED if self._searcher.done else None
        self._know(["asked", trial_id, dict(point)])
        config = spaces.build(spaces.settle(self._declared.space, point))
        if isinstance(config, dict):
            return config
        return trees.fields_of(config)

    def on_trial_result(self, trial_id: str, result: Mapping[str, Any]) -> None:
        """A report on the way."""
        value = self._values(result)
        if value is not None and trial_id in self._numbers:
            self._curves.setdefault(trial_id, []).append((int(result[STEP]), value[0]))

    def on_trial_complete(self, trial_id: str, result: Mapping[str, Any] | None = None, error: bool = False) -> None:
        """A trial has ended, by itself or stopped by the Tuner's scheduler."""
        curve = dict(self._curves.pop(trial_id, ()))
        if trial_id not in self._numbers:
            return
        values = None if error or result is None else self._values(result)
        told: dict[str, Any] = {"values": None}
        if values is not None and result is not None:
            step, last = int(result[STEP]), self._declared.last
            curve[step] = values[0]
            stopped = last is not None and step < last
            told = {"values": list(values), "step": step, "stopped": stopped, "curve": sorted(curve.items())}
        again = [entry for entry in self._history if entry[:2] != ["told", trial_id]]
        if len(again) < len(self._history):  # it had failed, and a restored Tuner has run it again
            self._replay(again)
        self._know(["told", trial_id, told])

    # -- its state -----------------------------------------------------------------------------------------------------

    def save(self, checkpoint_path: str) -> None:
        """Write the history down, as JSON."""
        Path(checkpoint_path).write_text(json.dumps({"format": 1, "history": self._history}), encoding="utf-8")

    def restore(self, checkpoint_path: str) -> None:
        """Take a history up that was saved.

        Raises:
            BadInput: it is of another space or search.
        """
        try:
            history = json.loads(Path(checkpoint_path).read_text(encoding="utf-8"))["history"]
            for kind, _, what in history:
                if kind == "asked":
                    spaces.settle(self._declared.space, what)
        except (ValueError, KeyError, BadInput) as error:
            raise BadInput(f"{checkpoint_path}: no history of a search of this space ({error})") from error
        self._replay(history)

    def __getstate__(self) -> dict[str, Any]:
        return {"_declared": self._declared, "history": self._history}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["_declared"])  # type: ignore[misc]
        self._replay(state["history"])

    def _replay(self, history: list[list[Any]]) -> None:
        declared = self._declared
        problem = Problem(
            spaces.parameters(declared.space),
            Key((declared.seed,)).child("search"),
            objectives=len(declared.metrics),
            fidelity=declared.last,
        )
        self._searcher = declared.search.open(problem)
        if SearcherTraits(self._searcher).turn is not None:
            name = type(declared.search).__name__
            raise BadInput(f"{name}: members of a population exchange checkpoints; run it in a Study (--on tune)")
        self._history: list[list[Any]] = []
        self._numbers: dict[str, tuple[int, Point]] = {}
        self._curves: dict[str, list[tuple[int, float]]] = {}
        for entry in history:
            self._know(entry)

    def _know(self, entry: list[Any]) -> None:
        """Take a call up: `["asked", trial, point]` or `["told", trial, what]`."""
        kind, trial_id, what = entry
        self._history.append(entry)
        if kind == "asked":
            number = len(self._numbers)
            self._numbers[trial_id] = number, what
            self._searcher.asked(number, what)
            return
        number, point = self._numbers[trial_id]
        if what["values"] is None:
            told = Told(None)
        else:
            curve = tuple((int(step), float(value)) for step, value in what["curve"])
            told = Told(tuple(what["values"]), what["step"], what["stopped"], curve=curve)
        self._searcher.tell(number, point, told)

    def _values(self, result: Mapping[str, Any]) -> tuple[float, ...] | None:
        """What is minimized; None where a value is missing or no finite number."""
        declared, found = self._declared, []
        for metric, mode in zip(declared.metrics, declared.modes, strict=True):
            value = result.get(metric)
            if value is None or not math.isfinite(value):
                return None
            found.append(float(value) if mode == "min" else -float(value))
        return tuple(found)


# -- spaces ------------------------------------------------------------------------------------------------------------


def to_tune(space: Space) -> dict[str, Any]:
    """The space as a dictionary for `Tuner(param_space=...)`, nested as it is; what it makes of values is left to you.

    Raises:
        BadInput: what Tune has nothing for (a conditional value, a log-normal one, ...), with its name.
    """
    return {name: _theirs(name, value) for name, value in space.inside.items()}


def _theirs(name: str, value: Any) -> Any:
    if isinstance(value, Space | dict):
        inside = value.inside if isinstance(value, Space) else value
        return {key: _theirs(f"{name}.{key}", below) for key, below in inside.items()}
    if isinstance(value, Learned):
        raise BadInput(f"{name}: {value!r} is learned inside a run, which Tune cannot do; run it in a Study")
    if isinstance(value, OneOf):
        for called, option in zip(value.labels, value.options, strict=True):
            if is_dimension(option) or spaces.parameters(option):
                raise BadInput(f"{name}: what option {called} searches depends on the choice; Tune has no such spaces")
        return tune.choice([spaces.build(option) for option in value.options])
    return _domain(name, value) if is_dimension(value) else value


def _domain(name: str, dimension: Any) -> Any:
    match dimension:
        case Uniform():
            bounds = _bounds(name, dimension)
            return tune.uniform(*bounds) if dimension.step is None else tune.quniform(*bounds, dimension.step)
        case Log():
            bounds = _bounds(name, dimension)
            return tune.loguniform(*bounds) if dimension.step is None else tune.qloguniform(*bounds, dimension.step)
        case Int(step=1):
            return tune.randint(dimension.low, dimension.high + 1)
        case Int():
            return tune.qrandint(*_bounds(name, dimension), dimension.step)
        case LogInt():
            return tune.lograndint(dimension.low, dimension.high + 1)
        case Normal(step=None):
            return tune.randn(dimension.mean, dimension.sd)
        case Normal():
            return tune.qrandn(dimension.mean, dimension.sd, dimension.step)
    raise BadInput(f"{name}: Tune has nothing like {dimension!r}; give it a range, or run it in a Study")


def _bounds(name: str, dimension: Any) -> tuple[Any, Any]:
    """The ends, both included. Tune's steps are multiples of one number."""
    low, step = dimension.low, dimension.step
    if step is not None and not math.isclose(round(low / step) * step, low, abs_tol=1e-9 * step):
        raise BadInput(f"{name}: {dimension!r} starts at no multiple of its step; with Tune it has to")
    return low, dimension.decode(1.0)
