"""What of a trial lies on disk besides the journal: checkpoints to go on from, what it printed, what it raised?"""

from __future__ import annotations

import hashlib
import heapq
import math
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bilevel.errors import RecordDamaged, StoreFailed
from bilevel.record import checkpoints
from bilevel.record.folder import RunFolder
from bilevel.space.secrets import redacted
from bilevel.study import reading
from bilevel.study.events import Tree
from bilevel.study.history import History, Trial, mean

BEST = 10
"""Ended trials whose last checkpoint is kept: the best of a study."""
LOG = 16_000_000
"""Bytes of output kept of a trial."""


class TrialFiles:
    """The files of a run's trials, each configuration tried `repeats` times."""

    def __init__(self, folder: RunFolder, repeats: int = 1) -> None:
        self._folder = folder
        self._repeats = repeats
        self._best: list[_Rank] | None = None  # worst first: of configurations that have ended, with checkpoints

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def last(self, trial: Trial, history: History, say: Callable[[str], None]) -> tuple[int, Tree | None]:
        """The newest checkpoint that is whole (or the donor's, if it has moved), and its step; else 0 and None.

        Older ones serve where newer ones are damaged, and that is said.
        """
        number, kept = trial.number, trial.kept
        if trial.moved is not None and not kept:
            donor, step = trial.moved
            number, kept = donor, {s: manifest for s, manifest in history.trials[donor].kept.items() if s == step}
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
        """A trial has ended: of all that have, only the best keep a checkpoint (a donor's may still be needed).

        A configuration with several seeds counts by their mean. Confirmations, of the few best, keep theirs.
        """
        if trial.confirms:
            return
        group = self._ended(trial.group, history)
        if group is None:
            return
        if self._best is None:  # an earlier driver's, too
            firsts = (t.number for t in history.trials.values() if t.of is None and t.number != trial.group)
            groups = (ended for first in firsts if (ended := self._ended(first, history)) is not None)
            self._best = [_rank(ended, history) for ended in groups]
            heapq.heapify(self._best)
        heapq.heappush(self._best, _rank(group, history))
        while len(self._best) > BEST and all(history.trials[other].moved is None for other in history.running):
            first = -heapq.heappop(self._best)[-1]
            for number in range(first, first + self._repeats):
                self._remove(number)

    # -- what trials make ----------------------------------------------------------------------------------------------

    def take(self, trial: int, files: Mapping[str, Any]) -> dict[str, str]:
        """Keep files of a trial, arrays of bytes by name (None: it is gone); their SHA-256, "" of what is gone.

        Raises:
            StoreFailed: the disk is full or gone.
        """
        home, found = self.left(trial), {}
        try:
            for name, content in files.items():
                if not reading.is_plain(name):  # a worker is not to write elsewhere
                    raise RecordDamaged(f"trial {trial} left a file {name!r}, which lies outside of its folder")
                file = home / name
                if content is None:
                    file.unlink(missing_ok=True)
                    found[name] = ""
                    continue
                file.parent.mkdir(parents=True, exist_ok=True)
                part = file.with_name(f".{file.name}.part")
                part.write_bytes(content)
                part.replace(file)
                found[name] = hashlib.sha256(content).hexdigest()
        except OSError as error:
            raise StoreFailed(f"{home}: cannot be written: {error.strerror}; free space, then resume") from error
        return found

    def again(self, trial: Trial) -> dict[str, Any]:
        """What `take` kept of a trial, for another attempt at it."""
        home = self.left(trial.number)
        return {n: np.fromfile(home / n, np.uint8) for n in trial.files if (home / n).is_file()}

    def places(self, trial: Trial) -> list[str]:
        """Where what is kept of a trial lies, in lines: its last state, its files."""
        found = []
        steps = [s for s in sorted(trial.kept) if checkpoints.folder(self._folder.path, trial.number, s).is_dir()]
        if steps:
            found.append(f"state of step {steps[-1]}: {checkpoints.folder(self._folder.path, trial.number, steps[-1])}")
        home = self.left(trial.number)
        found += [f"files: {home}"] if trial.files else []
        for name in sorted(trial.files):
            size = (home / name).stat().st_size if (home / name).is_file() else None
            found.append(f"  {name}, " + ("which is gone" if size is None else f"{size:,} bytes"))
        return found

    def faults(self, trial: Trial) -> list[str]:
        """Which of a trial's files are not what it left."""
        found = []
        for name, sha256 in sorted(trial.files.items()):
            file = self.left(trial.number) / name
            try:
                with file.open("rb") as opened:
                    same = hashlib.file_digest(opened, "sha256").hexdigest() == sha256
                found += [] if same else [f"{file}: it is not what trial {trial.number} left"]
            except OSError as error:
                found.append(f"{file}: it cannot be read: {error.strerror}")
        return found

    def left(self, trial: int) -> Path:
        """Where the files of a trial lie, if it has made any."""
        return self._folder.path / "files" / f"trial-{trial:04d}"

    # -- which checkpoints are worth their space -----------------------------------------------------------------------

    def _ended(self, first: int, history: History) -> list[Trial] | None:
        """The trials of a configuration, if all have ended and one has a checkpoint."""
        found = [history.trials.get(number) for number in range(first, first + self._repeats)]
        group = [trial for trial in found if trial is not None and trial.state != "running"]
        return group if len(group) == self._repeats and any(trial.kept for trial in group) else None

    def _remove(self, trial: int) -> None:
        shutil.rmtree(checkpoints.folder(self._folder.path, trial, 0).parent, ignore_errors=True)

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
                    file.write(redacted(text))
        except OSError as error:
            raise StoreFailed(f"{path}: cannot be written: {error.strerror}; free space, then resume") from error

    def log_of(self, trial: int) -> Path:
        """Where a trial's output lies, if it has printed anything."""
        return self._folder.log_of(trial)

    def traceback(self, trial: int, text: str) -> None:
        """Keep what a trial raised.

        Raises:
            StoreFailed: the disk is full or gone.
        """
        path = self.error_of(trial)
        try:
            path.parent.mkdir(exist_ok=True)
            path.write_text(redacted(text), encoding="utf-8")
        except OSError as error:
            raise StoreFailed(f"{path}: cannot be written: {error.strerror}; free space, then resume") from error

    def error_of(self, trial: int) -> Path:
        """Where what a trial raised lies, if it has raised anything."""
        return self._folder.error_of(trial)


_Rank = tuple[int, float, bool, float, int]


def _rank(group: list[Trial], history: History) -> _Rank:
    """How much a configuration's checkpoints are worth, ascending: as `History.leaders`, before confirmations."""
    told = [trial for trial in group if trial.objective is not None and trial.state != "failed"]
    failed = sum(trial.state == "failed" for trial in group)
    if not told:
        return -failed, -math.inf, False, -math.inf, -group[0].number
    middle = mean([float(trial.objective or 0.0) for trial in told])
    violation = sum(trial.violation for trial in told) / len(told)
    complete = history.equal or all(trial.state == "completed" for trial in told)
    return -failed, -violation, complete, -middle if history.minimize else middle, -group[0].number
