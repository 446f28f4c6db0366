"""What is asked, computed, reported and ended: the vocabulary that the rooms share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

Metrics = Mapping[str, Any]
"""By name: numbers, of any kind that has a float; text is kept as a tag of the trial."""
Tree = dict[str, Any]
"""Nested dicts of tensors and JSON values."""


# -- what an objective yields ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Report:
    """What an objective says after a step: its metrics, and the state that it could go on from.

    `state` is a tree of tensors and JSON values; the driver writes it to a checkpoint when it sees fit. An objective
    that yields `Units` must not change tensors in it in place afterwards.
    """

    step: int
    metrics: Metrics
    state: Tree | None = None
    found: Mapping[str, Any] = field(default_factory=dict)
    """Values that the objective itself asked for on the way (`define_by_run`): name -> {"value", "dimension"}."""
    words: Mapping[str, str] = field(default_factory=dict)
    """What of `metrics` is text: tags of the trial, the last one of each name."""


@dataclass(frozen=True)
class Units:
    """Work that an objective wants spread: `work(shared, item)` for each item, results in the order of `items`.

    `work` is pure, picklable and the same object from step to step (it travels once); `shared` is a tree of tensors
    that travels once per `Units`; an item is small, picklable and its `str` names it to the user. Results are trees.
    """

    work: Callable[[Tree, Any], Tree]
    shared: Tree
    items: tuple[Any, ...]


# -- what an executor answers ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """All units of a ticket are computed; `results` in the order of the items."""

    ticket: int
    results: list[Tree]


@dataclass(frozen=True)
class Lost:
    """A unit of the ticket raised, or killed its worker too often; the rest of the ticket is dropped."""

    ticket: int
    unit: str
    reason: str
    traceback: str = ""


@dataclass(frozen=True)
class Fault:
    """A worker died, froze or was replaced; nothing was lost. `kind`: died, frozen, error of the node, ..."""

    kind: str
    detail: str


# -- trials, where they run --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Order:
    """An attempt at a trial, to be carried out.

    Args:
        trial: its number.
        attempt: counts from 1; what is said of an earlier attempt is out of date.
        seed: the trial's own.
        point: its searched values, by the name of their parameter.
        state: what to go on from, or None: from the start.
        attended: every report waits for an answer (go on, or stop); otherwise reports may come several at a time.
        keep: seconds between states that are wanted, and between those of a new best; 0: every one.
        files: what earlier attempts left in `Run.folder`, as arrays of bytes by name.
    """

    trial: int
    attempt: int
    seed: int
    point: Mapping[str, Any]
    state: Any = None
    attended: bool = False
    keep: tuple[float, float] = (15.0, 2.0)
    files: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Placed:
    """An attempt has found a place: `worker`, in words."""

    trial: int
    attempt: int
    worker: str


@dataclass(frozen=True)
class Said:
    """What a trial says: reports, then maybe an end or work to be spread; `output` is what it printed meanwhile.

    Without an end it waits for `Stage.answer`. `state` is the newest that it reported, if it came along, of step
    `state_step`; the reports themselves carry none. `files` are those of `Run.folder` that are new or have changed, as
    arrays of bytes, and None for those that are gone.
    """

    trial: int
    attempt: int
    reports: tuple[Report, ...] = ()
    units: Units | None = None
    end: Completed | Raised | None = None
    output: str = ""
    state: Tree | None = None
    state_step: int = 0
    files: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Completed:
    """The objective has returned; `pruned`: it ended itself before its time, by raising `optuna.TrialPruned`."""

    pruned: bool = False


@dataclass(frozen=True)
class Raised:
    """User code raised: `reason` in one line, `traceback` as text. Text travels, an exception might not unpickle."""

    reason: str
    traceback: str = ""


@dataclass(frozen=True)
class Gone:
    """An attempt was lost with its worker; nothing that it had said is. `kind` as in `Fault`."""

    trial: int
    attempt: int
    kind: str
    detail: str


class Stage(Protocol):
    """Carries trials out. Only the driver calls it, from one thread."""

    @property
    def alive(self) -> int:
        """Workers ready now (0: trials run in this process)."""
        ...

    @property
    def room(self) -> int:
        """Trials that it is meant to have at work at a time, once all workers that were asked for are there."""
        ...

    def begin(self, order: Order) -> None:
        """Take an attempt on; returns at once. It begins when there is a place."""
        ...

    def answer(self, trial: int, answer: Any) -> None:
        """Let a trial that waits go on, with the results of its units, or None after a report."""
        ...

    def close_trial(self, trial: int) -> None:
        """End an attempt, wherever it stands; its place is free for another."""
        ...

    def poll(self, timeout: float) -> list[Said | Placed | Gone | Fault]:
        """What has happened, waiting at most `timeout` seconds for the first of it."""
        ...

    def close(self) -> None:
        """End what was started; nothing stays running."""
        ...


# -- what the journal holds, besides Fault -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Started:
    """The first line of a journal: which study this is a run of."""

    study: str
    run_id: str
    metric: str
    minimize: bool
    seed: int
    format: int = 1
    objectives: Mapping[str, str] = field(default_factory=dict)
    """Of several objectives all: name -> "minimize" or "maximize"."""
    log: tuple[str, ...] = ()
    """Paths of searched values that lie on a logarithmic scale."""
    window: int = 0
    """Of a deterministic study its slots: trial n is asked when n - window has ended, and knows no later one."""
    value: str = ""
    """Which of a trial's values is its objective: "last" or "best"; "" of runs begun before that was recorded."""
    equal: bool = False
    """Stopped trials are ranked with completed ones, and not after them."""


@dataclass(frozen=True)
class Opened:
    """A driver went to work: `code` is the SHA-256 of the study's sources, `hardware` the class that bits depend on."""

    workers: int | None
    code: str
    versions: Mapping[str, str]
    hardware: str
    git: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Asked:
    """A trial is to be tried: its configuration by dotted path.

    `point` are its searched values by the name of their parameter. `of` names an earlier trial whose configuration this
    one has, with a seed of its own: a repeat, or after the search a confirmation (`confirms`). `refused` are points
    that the search proposed before, and that the study's own condition ruled out.
    """

    trial: int
    config: Mapping[str, Any]
    seed: int
    point: Mapping[str, Any] = field(default_factory=dict)
    of: int | None = None
    confirms: bool = False
    refused: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class Begun:
    """An attempt at a trial has a place to run at: `worker` in words, from which step on, and why it is another one.

    `why` is empty for the first attempt, else `lost`, `failed`, `resumed`, `paused` or `moved`.
    """

    trial: int
    attempt: int
    worker: str
    step: int = 0
    why: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Moved:
    """A member of a population goes on at `step` from the checkpoint of another one, with other values.

    `config` and `point` are its new ones, whole.
    """

    trial: int
    step: int
    donor: int
    config: Mapping[str, Any]
    point: Mapping[str, Any]


@dataclass(frozen=True)
class Turned:
    """A turn of a population is over: who moved has moved, and all go on."""

    turn: int


@dataclass(frozen=True)
class Reported:
    """One step of a trial, written once; `units` is the digest (8 hex digits) of each unit's result since the last."""

    trial: int
    step: int
    metrics: Mapping[str, float]
    units: str = ""
    found: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Tagged:
    """Words about a trial, by name: from its own reports, or from somebody who looks on; an empty one is taken off."""

    trial: int
    tags: Mapping[str, str]


@dataclass(frozen=True)
class Left:
    """Files of a trial are kept: name (a path with slashes) -> SHA-256; "" of one that is gone."""

    trial: int
    files: Mapping[str, str]


@dataclass(frozen=True)
class Steered:
    """Somebody outside asked for something, by the request of this name; `said` is the answer, `refused`: a no.

    `points` are to be tried next, searched values by the name of their parameter; `stop` are trials to be ended;
    `trials` and `seconds` come on top of what there may be.
    """

    request: str
    said: str
    points: Sequence[Mapping[str, Any]] = ()
    stop: Sequence[int] = ()
    trials: int = 0
    seconds: float = 0.0
    refused: bool = False


@dataclass(frozen=True)
class Kept:
    """A checkpoint is complete on disk: the SHA-256 of its manifest."""

    trial: int
    step: int
    manifest: str


@dataclass(frozen=True)
class Ended:
    """A trial's fate: `completed`, `stopped` or `failed`; `learned` is the SHA-256 of what it learned.

    `values` are those of several objectives, `violation` is by how much the result breaks the study's limits. `undone`:
    a member of a population ended where it had moved, without a step as what it had become; it counts as what it was.
    """

    trial: int
    state: str
    step: int
    objective: float | None
    reason: str | None = None
    learned: str | None = None
    values: Sequence[float] = ()
    violation: float = 0.0
    undone: bool = False


@dataclass(frozen=True)
class Finished:
    """The study's end and its result, as `run --json` prints it."""

    status: str
    result: Mapping[str, Any]


@dataclass(frozen=True)
class Interrupted:
    """A driver left in good order before the end; the run can be resumed."""

    reason: str


Event = (
    Started | Opened | Steered | Asked | Begun | Moved | Turned | Reported | Tagged | Left | Kept | Ended | Finished
    | Interrupted | Fault
)  # fmt: skip


class Executor(Protocol):
    """Carries units out. Only the driver calls it, from one thread.

    The results of a ticket do not depend on the number of workers, on their deaths or on the order of completion.
    """

    @property
    def alive(self) -> int:
        """Workers ready now (0: computed in this process)."""
        ...

    def submit(self, ticket: int, units: Units) -> None:
        """Take the units of a ticket on; returns at once."""
        ...

    def poll(self, timeout: float) -> list[Done | Lost | Fault]:
        """What has happened, waiting at most `timeout` seconds for the first of it."""
        ...

    def close(self) -> None:
        """End what was started; nothing stays running."""
        ...
