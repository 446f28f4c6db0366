"""How does a function that suggests its own values while it runs (Optuna's `trial.suggest_*`) become an objective?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, SupportsFloat

from bilevel.errors import BadInput
from bilevel.space.conversion import describe
from bilevel.space.dimensions import Dimension, Int, Log, LogInt, OneOf, Uniform, admit
from bilevel.study.events import Report
from bilevel.study.given import Run


def define_by_run(function: Callable[[Any], Any], metric: str | tuple[str, ...] = "value") -> DefinedByRun:
    """An objective for `Study(space=Space(dict), …)` from a function of an Optuna trial, unchanged.

    Args:
        function: `(trial) -> value`, or several values.
        metric: what the value is called, and each value that it reports on the way; of several values, a name each.
    """
    names = (metric,) if isinstance(metric, str) else tuple(metric)
    if not callable(function):
        raise BadInput(f"define_by_run: {function!r} cannot be called; give the function itself")
    if not names or not all(isinstance(name, str) and name for name in names) or len(set(names)) < len(names):
        raise BadInput(f"define_by_run: metric={metric!r}; give a name, or a tuple of different ones")
    return DefinedByRun(function, names)


@dataclass(frozen=True)
class DefinedByRun:
    """`(config, run)`, a callback objective around a function of a trial; it travels if the function does.

    A suggested value is the configuration's, if it has one of that name that the range contains; otherwise it is drawn,
    evenly, by a key of the trial and the name. What was suggested goes with every report (`Report.found`), and what the
    function returns is the last one. `optuna.TrialPruned` stops the trial where it stands.
    """

    function: Callable[[Any], Any]
    metrics: tuple[str, ...]
    suggests: ClassVar[bool] = True

    def __call__(self, config: Mapping[str, Any], run: Run) -> None:
        """Run the function, as one trial."""
        if not isinstance(config, Mapping):
            raise BadInput(f"define_by_run: the configuration is a {type(config).__name__}; use Space(dict)")
        trial = Trial(config, run, self.metrics[0])
        trial.finish(self._values(self.function(trial)))

    def _values(self, returned: Any) -> dict[str, float]:
        values = returned if isinstance(returned, Sequence) else (returned,)
        numbers = all(isinstance(value, SupportsFloat) and not isinstance(value, str) for value in values)
        if len(values) != len(self.metrics) or not numbers:
            raise TypeError(
                f"the objective returned {returned!r}; it takes a number each for {', '.join(self.metrics)}"
            )
        return {name: float(value) for name, value in zip(self.metrics, values, strict=True)}


class Trial:
    """What an objective of Optuna uses of its trial."""

    def __init__(self, config: Mapping[str, Any], run: Run, metric: str) -> None:
        """Nothing is suggested yet.

        Args:
            config: values that were chosen for this trial, by name.
            run: this attempt.
            metric: what a reported value is called.
        """
        self.number = run.trial
        self.params: dict[str, Any] = {}
        self.user_attrs: dict[str, Any] = {}
        self._config = config
        self._run = run
        self._metric = metric
        self._ranges: dict[str, Dimension] = {}
        self._found: dict[str, Any] = {}
        self._extra: dict[str, float] = {}
        self._step = -1
        self._stop = False

    # -- values --------------------------------------------------------------------------------------------------------

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """A float between two bounds, both included."""
        if log and step is not None:
            raise BadInput(f"suggest_float: {name!r} has log=True and step={step!r}; give one of the two")
        if low == high:
            return float(self._suggest(name, OneOf(float(low))))
        return float(self._suggest(name, Log(low, high) if log else Uniform(low, high, step=step)))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """A whole number between two bounds, both included."""
        if log and step != 1:
            raise BadInput(f"suggest_int: {name!r} has log=True and step={step!r}; give one of the two")
        return int(self._suggest(name, LogInt(low, high) if log else Int(low, high, step=step)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """One of several things."""
        return self._suggest(name, OneOf(*choices))

    def suggest_uniform(self, name: str, low: float, high: float) -> float:
        """`suggest_float`, by its name of old."""
        return self.suggest_float(name, low, high)

    def suggest_loguniform(self, name: str, low: float, high: float) -> float:
        """`suggest_float` on a logarithmic scale, by its name of old."""
        return self.suggest_float(name, low, high, log=True)

    def suggest_discrete_uniform(self, name: str, low: float, high: float, q: float) -> float:
        """`suggest_float` in steps, by its name of old."""
        return self.suggest_float(name, low, high, step=q)

    def _suggest(self, name: str, dimension: Dimension) -> Any:
        if name in self.params:
            if self._ranges[name] != dimension:
                raise BadInput(f"suggest: {name!r} was {self._ranges[name]!r} and now is {dimension!r}; use two names")
            return self.params[name]
        chosen = admit(dimension, self._config[name]) if name in self._config else ()
        if not chosen:
            key = self._run.key.child("trial", self.number, "suggest", name)
            chosen = (dimension.decode(key.numpy().random()),)
        self._ranges[name] = dimension
        known = OneOf(*dimension.labels) if isinstance(dimension, OneOf) else dimension
        self._found[name] = {"value": chosen[0], "dimension": describe(known, name)}
        self.params[name] = dimension.option(chosen[0]) if isinstance(dimension, OneOf) else chosen[0]
        return self.params[name]

    # -- reports -------------------------------------------------------------------------------------------------------

    def report(self, value: float, step: int) -> None:
        """A value on the way; another one of the same step is left out, as Optuna does.

        Raises:
            BadInput: a step before the last one.
        """
        if step < self._step:
            raise BadInput(f"trial.report: step {step} after step {self._step}; report steps in their order")
        if step > self._step:
            self.say(step, {self._metric: float(value)})

    def should_prune(self) -> bool:
        """Whether the study stops this trial: what it answered to the last report."""
        return self._stop

    def set_user_attr(self, key: str, value: Any) -> None:
        """Something to be kept; numbers go with the next report, as metrics."""
        self.user_attrs[key] = value
        if isinstance(value, int | float) and not isinstance(value, bool):
            self._extra[key] = float(value)

    def set_constraint(self, key: str, value: float) -> None:
        """A metric that goes with the next report; `Study(limits={key: 0.0})` makes it a constraint, as in Optuna."""
        self._extra[key] = float(value)

    def finish(self, metrics: Mapping[str, float]) -> None:
        """The last report, a step after the others."""
        self.say(self._step + 1, metrics)

    def say(self, step: int, metrics: Mapping[str, float]) -> None:
        """A report with all that was suggested so far."""
        if self._run.sink is None:
            raise RuntimeError("define_by_run works only while a study runs this objective")
        self._step = step
        self._stop = self._run.sink(Report(step, {**self._extra, **metrics}, found=dict(self._found)))
