"""What is a study? Its objective, its space, how and for how long it is searched: all checked when it is defined."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from bilevel import space as spaces
from bilevel.episodes import Key
from bilevel.errors import BadInput
from bilevel.search.port import Problem, Search, SearcherTraits, SearchTraits
from bilevel.search.stop import Stop
from bilevel.space import Space
from bilevel.space.dimensions import Parameter
from bilevel.space.dimensions.checks import is_number
from bilevel.study.objective import ObjectiveTraits, spreads


@dataclass(frozen=True, kw_only=True)
class Study:
    """An objective, the space of its configurations, and what to look for.

    Args:
        name: a short name; the MLflow experiment is called so.
        objective: `(config, run) -> reports`, a generator (or a function that calls `run.report`).
        space: where each value of the configuration comes from.
        minimize, maximize: the metric that is the objective, or several.
        lead: of several objectives the one by which a trial is called the best; by default the first of `minimize`.
        seed: of all randomness; the same study and seed give the same result, bit for bit.
        trials: how many; by default 1, or 50 where values are searched (a grid: all of it). Those of a study without
            searched values differ in their seeds alone.
        search: who chooses the searched values (`TPE()`, `CMAES()`, `PBT()`, ...); None: chosen by space and budget.
        stop: which trials may go on (`ASHA(...)`, `Hyperband(...)`); None: all.
        value: a trial's objective is its "last" reported value, or its "best"; by default the last, but of an objective
            that keeps its best by this metric (a meta-training by its validations) the one of what is kept.
        comparable: the metric means the same at every step, so that a trial stopped early is ranked by what it reached;
            by default only with value="best". Otherwise completed trials come first.
        where: a condition on a configuration; what it gives False for is refused before it is tried.
        limits: bounds on reported metrics, an upper one or (lower, upper), None for either; results within them come
            before all others.
        points: configurations to begin with, by dotted path; what they leave out starts in the middle.
        repeats: seeds that each configuration is tried with; it counts by its mean.
        confirm: seeds with which the leaders are tried again at the end; then they count by the mean of those alone.
        retries: attempts more at a trial whose objective raised; what the last one reports counts. A lost worker is not
            the trial's failure.
        give_up: the study ends when so many trials, its first ones, have all failed with one and the same error (but
            for the numbers in it; values that are not finite are none); None: never.
        seconds: a time limit, over all sessions of the run.
        target: the study is complete when the objective is as good as this.
        plateau: no more trials are asked for when so many in a row brought nothing better.
        warm_start: earlier runs of the same store, by id or by the name of their study, or "mlflow:EXPERIMENT", whose
            trials the search is told first, where they fit. TPE and GP compare them with the study's own by rank: their
            losses may have another scale.
        cpus, gpus: what a trial needs, fractions too, if it does not spread its work.
        isolation: "actor": trials follow each other on warm workers; "process": each has a new one.
        deterministic: which trials are tried depends on `slots`, but not on timing.
        threads: CPU threads of a unit of work; the bits depend on it, so it belongs to the study.

    Raises:
        BadInput: something does not fit; the message names it, its value and the cure.
    """

    name: str
    objective: Callable[..., Any]
    space: Space
    minimize: str | Sequence[str] | None = None
    maximize: str | Sequence[str] | None = None
    lead: str | None = None
    seed: int = 0
    trials: int | None = None
    search: Search | None = None
    stop: Stop | None = None
    value: Literal["last", "best"] | None = None
    comparable: bool | None = None
    where: Callable[[Any], Any] | None = None
    limits: Mapping[str, float | tuple[float | None, float | None]] = field(default_factory=dict)
    points: Sequence[Mapping[str, Any]] = ()
    repeats: int = 1
    confirm: int = 0
    retries: int = 0
    give_up: int | None = 5
    seconds: float | None = None
    target: float | None = None
    plateau: int | None = None
    warm_start: Sequence[str] = ()
    cpus: float = 1
    gpus: float = 0
    isolation: Literal["actor", "process"] = "actor"
    deterministic: bool = False
    threads: int = 1

    def __post_init__(self) -> None:
        _check_kinds(self)
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", self.name):
            raise BadInput(
                f"Study: name {self.name!r}; use up to 64 letters, digits, '-', '_' or '.', starting with a letter"
            )
        if not self.objectives:
            raise BadInput(f"Study {self.name}: name one metric, minimize='...' or maximize='...'")
        if not callable(self.objective):
            raise BadInput(f"Study {self.name}: objective {self.objective!r} cannot be called")
        if not isinstance(self.space, Space):
            raise BadInput(f"Study {self.name}: space is a {type(self.space).__name__}; write Space(Config, ...)")
        _check_numbers(self)
        _check_words(self)
        _check_learned(self)
        _check_search(self)

    # -- what it looks for ---------------------------------------------------------------------------------------------

    @property
    def metric(self) -> str:
        """The metric that is the objective; of several the leading one."""
        return next(iter(self.objectives))

    @property
    def objectives(self) -> dict[str, bool]:
        """Name -> whether it is minimized; the leading one first."""
        low, high = _names(self.minimize), _names(self.maximize)
        found = dict.fromkeys(low, True) | dict.fromkeys(high, False)
        return {name: found[name] for name in sorted(found, key=lambda name: name != self.lead)}

    @property
    def bounds(self) -> dict[str, tuple[float, float]]:
        """The limits: metric -> lower and upper bound, infinite where there is none."""
        pairs = {n: limit if isinstance(limit, tuple) else (None, limit) for n, limit in self.limits.items()}
        return {n: (-math.inf if a is None else a, math.inf if b is None else b) for n, (a, b) in pairs.items()}

    @property
    def sign(self) -> int:
        """What makes the objective one to be minimized."""
        return 1 if self.objectives[self.metric] else -1

    @property
    def counts(self) -> Literal["last", "best"]:
        """Which of a trial's values is its objective."""
        if self.value is not None:
            return self.value
        keeps = ObjectiveTraits(self.objective).keeps
        return "best" if keeps and self.metric.startswith(keeps) else "last"

    @property
    def equal(self) -> bool:
        """Whether stopped trials are ranked with completed ones, by what they reached."""
        return self.value == "best" if self.comparable is None else self.comparable

    @property
    def key(self) -> Key:
        """Of all the study's randomness."""
        return Key((self.seed,))

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        """The searched values."""
        return spaces.parameters(self.space)

    @property
    def spreads(self) -> bool:
        """Whether the objective yields units of work: then it runs in the driver, and its units on the workers."""
        return spreads(self.objective)

    @property
    def searches(self) -> bool:
        """Whether there is anything to search for."""
        return bool(self.parameters) or self.search is not None or ObjectiveTraits(self.objective).suggests

    @property
    def budget(self) -> int | None:
        """How many configurations are asked for; None: as many as the search has."""
        if self.trials is not None:
            return self.trials
        if not self.searches:
            return 1
        return SearchTraits(self.search).trials

    def seed_of(self, trial: int) -> int:
        """The seed that an objective is given: 31 bits, which every library of the field takes."""
        return self.key.child("trial", trial).integer() >> 32

    def problem(self, told: int = 0) -> Problem:
        """What the search is to solve; `told` earlier trials, so that it draws others than it drew for them."""
        key = self.key.child("search")
        return Problem(
            self.parameters,
            key.child("after", told) if told else key,
            objectives=len(self.objectives),
            trials=self.budget,
            fidelity=self.stop.last if self.stop is not None else None,
            constrained=bool(self.limits),
        )

    # -- changed -------------------------------------------------------------------------------------------------------

    def set(self, path: str, value: Any) -> Study:
        """The same study with the value at a dotted path replaced (a constant, a dimension, a `Space` or `Learned`).

        Where the objective suggests its own values, a name that the space does not have is one of theirs.

        Raises:
            BadInput: no such path, or a value that does not fit.
        """
        free = ObjectiveTraits(self.objective).suggests
        return dataclasses.replace(self, space=spaces.assign(self.space, path, value, free=free))

    def config(self, point: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The configuration by dotted path, of a point; without one, searched values are shown as what they are.

        What the objective asked for by itself (`define_by_run`) is no part of it.
        """
        return spaces.flatten(self.space if point is None else spaces.settle(self.space, point))

    def build(self, point: Mapping[str, Any]) -> Any:
        """The configuration that the objective is given."""
        return spaces.build(spaces.settle(self.space, point))


def _names(metrics: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if metrics is None else (metrics,) if isinstance(metrics, str) else tuple(metrics)


def _check_kinds(study: Study) -> None:
    """Whether each field is of a kind that the other checks can look into."""
    if not isinstance(study.name, str):
        raise BadInput(f"Study: name {study.name!r}; use up to 64 letters, digits, '-', '_' or '.'")
    for name, kind, wanted in (
        ("minimize", str | Sequence | None, "the name of a metric, or several"),
        ("maximize", str | Sequence | None, "the name of a metric, or several"),
        ("lead", str | None, "the name of an objective"),
        ("limits", Mapping, "bounds by metric, as {'seconds': 0.05, 'accuracy': (0.9, None)}"),
        ("points", Sequence, "a list of configurations, as [{...}]"),
        ("warm_start", Sequence, "a list of runs or studies, by name"),
        ("deterministic", bool, "True or False"),
        ("comparable", bool | None, "True or False"),
    ):
        if not isinstance(vars(study)[name], kind):
            raise BadInput(f"Study {study.name}: {name} is {vars(study)[name]!r}; it takes {wanted}")
    for point in study.points if not isinstance(study.points, str) else (study.points,):
        if not isinstance(point, Mapping):
            raise BadInput(f"Study {study.name}: points has {point!r}; it takes a list of configurations, as [{{...}}]")
    for run in study.warm_start:
        if not isinstance(run, str):
            raise BadInput(f"Study {study.name}: warm_start has {run!r}; it takes runs or studies, by name")


def _check_numbers(study: Study) -> None:
    whole = {"seed": 0, "trials": 1, "threads": 1, "repeats": 1, "confirm": 0, "retries": 0, "plateau": 1, "give_up": 1}
    for name, low in whole.items():
        value = vars(study)[name]
        if value is None and name in ("trials", "plateau", "give_up"):
            continue
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise BadInput(f"Study {study.name}: {name} is {value!r}; it takes a whole number from {low} on")
    for name, least in {"cpus": 0.0, "gpus": 0.0, "seconds": 0.0, "target": -math.inf}.items():
        value = vars(study)[name]
        if value is None and name in ("seconds", "target"):
            continue
        if not isinstance(value, int | float) or isinstance(value, bool) or not least <= value < math.inf:
            wanted = "a number" if name == "target" else "a number from 0 on"
            raise BadInput(f"Study {study.name}: {name} is {value!r}; it takes {wanted}")
    for name in ("cpus", "gpus"):
        value = vars(study)[name]
        if value > 1 and value != int(value):
            raise BadInput(f"Study {study.name}: {name}={value}; Ray takes fractions below 1, else whole numbers")


def _check_words(study: Study) -> None:
    for name, words in (("value", ("last", "best")), ("isolation", ("actor", "process"))):
        if vars(study)[name] not in words and not (name == "value" and study.value is None):
            raise BadInput(
                f"Study {study.name}: {name} is {vars(study)[name]!r}; it takes {' or '.join(map(repr, words))}"
            )
    for names in (_names(study.minimize), _names(study.maximize)):
        if len(set(names)) < len(names):
            raise BadInput(f"Study {study.name}: the objectives {', '.join(names)} name a metric twice; leave one out")
    both = set(_names(study.minimize)) & set(_names(study.maximize))
    if both:
        raise BadInput(f"Study {study.name}: {sorted(both)[0]!r} cannot be both minimized and maximized")
    if not all(isinstance(name, str) and name for name in study.objectives):
        raise BadInput(f"Study {study.name}: objectives are names of metrics, not {tuple(study.objectives)!r}")
    if study.where is not None and not callable(study.where):
        raise BadInput(f"Study {study.name}: where={study.where!r}; it takes a function of the configuration")
    for metric, bound in study.limits.items():
        pair = bound if isinstance(bound, tuple) else (None, bound)
        given = [part for part in pair if part is not None]
        if len(pair) != 2 or not given or not all(map(is_number, given)) or (len(given) == 2 and given[0] > given[1]):
            raise BadInput(
                f"Study {study.name}: limits[{metric!r}] is {bound!r}; it takes an upper bound, a number, or"
                " (lower, upper) with None for either"
            )
    if study.lead is not None and study.lead not in study.objectives:
        raise BadInput(
            f"Study {study.name}: lead={study.lead!r} is none of its objectives, {', '.join(study.objectives)}"
        )


def _check_learned(study: Study) -> None:
    allowed = ObjectiveTraits(study.objective).learns
    for path, _ in spaces.learned(study.space):
        if path.partition(".")[0] not in allowed:
            able = f"it learns what is under {', '.join(allowed)}" if allowed else "it learns nothing by gradient"
            raise BadInput(
                f"Study {study.name}: {path} is Learned, but {_name(study.objective)} cannot learn it; {able}"
            )


def _check_search(study: Study) -> None:
    for name, known in (("search", "search; use TPE(), CMAES(), Random(), ..."), ("stop", "rule; use ASHA(...), ...")):
        value = vars(study)[name]
        if isinstance(value, type):
            raise BadInput(f"Study {study.name}: {name}={_name(value)} is a class; write {_name(value)}(...)")
        if value is not None and not callable(getattr(value, "open", None)):
            raise BadInput(f"Study {study.name}: {name}={value!r} is no {known}")
    if isinstance(study.warm_start, str):
        raise BadInput(f"Study {study.name}: warm_start={study.warm_start!r}; it takes names: ({study.warm_start!r},)")
    suggests = ObjectiveTraits(study.objective).suggests
    if not study.parameters:
        for name in ("points", "where", "warm_start"):
            if vars(study)[name]:
                raise BadInput(
                    f"Study {study.name}: {name} is for searched values, and the space has none; write them as"
                    f" dimensions, such as lr=Log(1e-4, 1e-1), or leave {name} out"
                )
        if study.search is not None and study.space.values and not suggests:
            raise BadInput(
                f"Study {study.name}: nothing is searched: write a dimension such as lr=Log(1e-4, 1e-1), or leave"
                f" search={_name(study.search)}() out"
            )
    _check_together(study)
    for point in study.points:
        spaces.complete(study.space, point)
    if study.search is not None and study.parameters:
        study.search.open(study.problem())  # what it cannot search is said now
    if study.search is not None and suggests and not _grows(study.search, study.problem()):
        raise BadInput(
            f"Study {study.name}: search={_name(study.search)}() has to know all values beforehand, and the objective"
            " suggests its own while it runs; use TPE(), or declare them in the space"
        )


def _grows(search: Search, problem: Problem) -> bool:
    """Whether a search can learn of values on the way."""
    try:
        return SearcherTraits(search.open(problem)).grow is not None
    except BadInput:  # it needs something to begin with
        return False


def _check_together(study: Study) -> None:
    """Whether what is asked for goes together."""
    several = {
        "target": study.target is not None,
        "plateau": study.plateau is not None,
        "stop": study.stop is not None,
        "confirm": study.confirm > 0,
        "value='best'": study.value == "best",
    }
    lasting = {
        "repeats": study.repeats > 1,
        "confirm": study.confirm > 0,
        "plateau": study.plateau is not None,
        "stop": study.stop is not None,
        "warm_start": bool(study.warm_start),
    }
    for name, there in several.items():
        if there and len(study.objectives) > 1:
            raise BadInput(
                f"Study {study.name}: {name} is for one objective, and there are {len(study.objectives)}; "
                "leave it out, or keep one and put bounds on the others (limits)"
            )
    for name, there in lasting.items():
        if there and SearchTraits(study.search).members is not None:
            raise BadInput(
                f"Study {study.name}: {name} does not go with {_name(study.search)}, whose members live as long as the"
                f" study; leave {name} out, or search with TPE()"
            )
    if study.spreads and (study.cpus != 1 or study.gpus):
        name = "gpus" if study.gpus else "cpus"
        raise BadInput(
            f"Study {study.name}: {name} is what a trial takes that runs on one worker, and {_name(study.objective)}"
            f" spreads its work over all; leave it out, and give the workers GPUs: Ray(gpus_per_worker=...)"
        )


def _name(value: Any) -> str:
    return str(getattr(value, "__qualname__", type(value).__name__))
