"""What is an objective given beside its configuration?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from bilevel.study.events import Metrics, Report, Tree

if TYPE_CHECKING:
    from bilevel.episodes import Key  # it brings torch, which who only reads a journal can do without

T = TypeVar("T")


@dataclass
class Run:
    """One attempt at one trial, as its objective sees it."""

    seed: int
    """An integer that is this trial's own, a function of the study's seed and the trial's number."""
    trial: int
    key: Key
    """The study's key; the trial's own randomness is below `key.child("trial", trial)`."""
    state: Tree | None = None
    """What to go on from: the last state kept, or None at the start."""
    sink: Callable[[Report], bool] | None = None
    kept: dict[Any, Any] = field(default_factory=dict)
    metric: str = ""
    """What the study looks for; of several objectives the first."""
    minimize: bool = True
    device: str = "cpu"
    """The trial's torch device: "cuda" where its worker has a GPU, else what `device=` names, or the CPU."""
    place: Callable[[], Path] | None = None

    def report(self, step: int, metrics: Metrics, state: Tree | None = None) -> bool:
        """For code built on callbacks: the same as yielding `Report`. True: stop now."""
        if self.sink is None:
            raise RuntimeError("run.report works only while the study runs this objective")
        return self.sink(Report(step, metrics, state))

    @property
    def folder(self) -> Path:
        """A folder for the files that this trial makes (plots, models, predictions); what lies in it is kept.

        With the run, as artifacts in MLflow, and for the next attempt at this trial. Files travel to the driver
        together with reports and states, when they have changed: a name begun again is sent again. Empty folders,
        and links to folders, are none.
        """
        if self.place is None:
            raise RuntimeError("run.folder is there only while a study runs this objective")
        return self.place()

    def cache(self, key: Any, build: Callable[[], T]) -> T:
        """`build()`, or what it gave earlier on this worker under the same key (data that is dear to load)."""
        if key not in self.kept:
            self.kept[key] = build()
        value: T = self.kept[key]
        return value
