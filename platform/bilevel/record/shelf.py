"""What of a trial lies on disk besides the journal: checkpoints to go on from, what it printed, what it raised?"""

from __future__ import annotations

import heapq
import math
import shutil
from collections.abc import Callable
from pathlib import Path

from bilevel.errors import RecordDamaged, StoreFailed
from bilevel.events import Tree
from bilevel.history import History, Trial
from bilevel.record import checkpoints
from bilevel.record.folder import RunFolder

BEST = 10
"""Ended trials whose last checkpoint is kept: the best of a study."""
LOG = 16_000_000
"""Bytes of output kept of a trial."""


class Shelf:
    """The files of a run's trials."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder
        self._best: list[_Rank] | None = None  # worst first: of ended trials with checkpoints

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def last(self, trial: Trial, history: History, say: Callable[[str], None]) -> tuple[int, Tree | None]:
        """The newest checkpoint that is whole (or the donor's, if it has moved), and its step; else 0 and None.

        Older ones serve where newer ones are damaged, and that is said.
        """
        number, kept = trial.number, trial.kept
        if trial.moved is not None and not kept:
            donor, step = trial.moved
            number, kept = donor, {step: history.trials[donor].kept[step]}
        for step, manifest in sorted(kept.items(), reverse=True):
            path = checkpoints.folder(self._folder.path, number, step)
            if not path.exists():  # pruned
                continue
            try:
                return step, checkpoints.load(path, manifest)
            except RecordDamaged as error:
                say(f"{error}; an older checkpoint is used")
        return 0, None

    def keep(self, trial: int, step: int, state: Tree) -> str:
        """Write a checkpoint; the SHA-256 of its manifest.

        Raises:
            StoreFailed: the disk is full or gone.
        """
        return checkpoints.save(checkpoints.folder(self._folder.path, trial, step), state)

    def prune(self, trial: Trial) -> None:
        """Delete what is not worth its space of a trial at work."""
        checkpoints.prune(self._folder.path, trial.number, trial.kept, trial.best_step)

    def ended(self, trial: Trial, history: History) -> None:
        """A trial has ended: of all that have, only the best keep a checkpoint (a donor's may still be needed)."""
        if not trial.kept:
            return
        if self._best is None:  # an earlier driver's, too
            ended = (t for t in history.trials.values() if t.state != "running" and t.kept and t is not trial)
            self._best = [_rank(other, history.minimize) for other in ended]
            heapq.heapify(self._best)
        heapq.heappush(self._best, _rank(trial, history.minimize))
        while len(self._best) > BEST and all(history.trials[other].moved is None for other in history.running):
            *_, number = heapq.heappop(self._best)
            shutil.rmtree(checkpoints.folder(self._folder.path, -number, 0).parent, ignore_errors=True)

    # -- text ----------------------------------------------------------------------------------------------------------

    def log(self, trial: int, text: str) -> None:
        """Add to what a trial has printed.

        Raises:
            StoreFailed: the disk is full or gone.
        """
        path = self.log_of(trial)
        try:
            path.parent.mkdir(exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                if file.tell() < LOG:
                    file.write(text)
        except OSError as error:
            raise StoreFailed(f"{path}: cannot be written: {error.strerror}; free space, then resume") from error

    def log_of(self, trial: int) -> Path:
        """Where a trial's output lies, if it has printed anything."""
        return self._folder.path / "logs" / f"trial-{trial:04d}.txt"

    def traceback(self, trial: int, text: str) -> None:
        """Keep what a trial raised.

        Raises:
            StoreFailed: the disk is full or gone.
        """
        path = self._folder.path / "errors" / f"trial-{trial:04d}.txt"
        try:
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
        except OSError as error:
            raise StoreFailed(f"{path}: cannot be written: {error.strerror}; free space, then resume") from error


_Rank = tuple[float, bool, float, int]


def _rank(trial: Trial, minimize: bool) -> _Rank:
    """How much its checkpoint is worth, ascending: as `History.leaders`, but each trial by itself."""
    value = -math.inf if trial.objective is None else trial.objective * (-1 if minimize else 1)
    return -trial.violation, trial.state == "completed", value, -trial.number
