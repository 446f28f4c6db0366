"""Is the record what was written, and what the computation gives? Checkpoints read, units computed again, compared."""

from __future__ import annotations

import pdb
import random
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from bilevel import trees
from bilevel.drive import results
from bilevel.errors import BadInput, NotPromised, NotReproduced, RecordDamaged
from bilevel.execute import Inline, opening
from bilevel.execute.callbacks import as_generator
from bilevel.record import checkpoints
from bilevel.record.folder import RunFolder
from bilevel.record.trial_files import TrialFiles
from bilevel.study import history as histories
from bilevel.study.events import Done, Executor, Lost, Report, Reported, Tree, Units
from bilevel.study.given import Run
from bilevel.study.history import History, Trial
from bilevel.study.study import Study


@dataclass(frozen=True)
class Audited:
    """What an audit found: units compared, checkpoints read, and what does not agree."""

    units: int
    checkpoints: int
    faults: tuple[str, ...]


@dataclass(frozen=True)
class Replayed:
    """A unit computed again: its name, its digest now and in the journal, and its result."""

    name: str
    digest: str
    recorded: str
    result: Tree


def replay(
    folder: RunFolder, study: Study, *, trial: int = 0, step: int, unit: int = 0, debug: bool = False
) -> Replayed:
    """One unit again, in this process: the `unit`-th of those computed for a step (training first, then validation).

    The steps since the nearest kept checkpoint are computed again on the way to it.

    Args:
        folder: the run.
        study: its study.
        trial: the trial's number.
        step: the outer step.
        unit: which of the step's units, from 0.
        debug: stop in the debugger where the unit begins.

    Raises:
        BadInput: no such trial, step or unit.
    """
    history = histories.replay(folder.events())
    chosen = _trial(history, trial)
    recorded = _reported(folder, trial).get(step)
    if recorded is None:
        raise BadInput(f"{folder.run_id}: trial {trial} has no step {step}; it has 1 to {chosen.step}")
    if step <= chosen.since:
        raise BadInput(
            f"{folder.run_id}: trial {trial} has its configuration since step {chosen.since}, when it went on from"
            f" another one; give a later step"
        )
    count = len(recorded.units) // 8
    if count == 0:
        raise BadInput(
            f"{folder.run_id}: step {step} of trial {trial} was not computed in units; only those are replayed"
        )
    if not 0 <= unit < count:
        raise BadInput(f"{folder.run_id}: step {step} has units 0 to {count - 1}, not {unit}")
    for at, index, name, result in _computed(folder, study, chosen, step, step, debug_unit=unit if debug else None):
        if (at, index) == (step, unit):
            return Replayed(name, trees.digest(result)[:8], recorded.units[8 * unit : 8 * unit + 8], result)
    raise NotReproduced(f"trial {trial}, step {step}: the computation no longer has unit {unit}")


def units(folder: RunFolder) -> int:
    """How many units the journal has digests of; none where trials are not made of units."""
    return sum(len(event.units) // 8 for event in folder.events() if isinstance(event, Reported))


def audit(folder: RunFolder, study: Study | None, *, sample: float, seed: int, say: Callable[[str], None]) -> Audited:
    """Read every checkpoint and all that trials left; compute random units again where the checkpoints lie.

    Units of the steps that follow a random kept checkpoint (or the start) are computed, one checkpoint after another,
    until `sample` (a fraction) of all the run's units is compared. Where trials are not made of units, and where there
    is no `study`, only checkpoints are read.

    Raises:
        BadInput: nothing is recorded yet.
    """
    history = histories.replay(folder.events())
    reported = {number: _reported(folder, number) for number in history.trials}
    if not any(reported.values()):
        raise BadInput(f"{folder.run_id}: nothing is recorded yet; there is nothing to audit")
    whole, faults = _read(folder, history)
    checked, total = len(whole) + len(faults), units(folder)
    faults += [*folder.problems(), *results.model_faults(folder, history)]
    faults += [fault for trial in history.trials.values() for fault in TrialFiles(folder).faults(trial)]
    if total == 0 or study is None:
        return Audited(0, checked, tuple(faults))
    wanted, compared = max(1, round(sample * total)), 0
    begins = [(trial, 0) for trial in history.trials.values() if not trial.since]
    starts = [(trial, step) for trial, step in sorted([*begins, *whole], key=_place) if step < trial.step]
    random.Random(seed).shuffle(starts)
    share, known = -(-wanted // max(1, len(starts))), list(faults)
    for trial, step in starts:
        if compared >= wanted:
            break
        say(f"trial {trial.number}, from step {step}: computing up to {min(share, wanted - compared)} units")
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            found = _audit_from(folder, study, trial, step, share, reported[trial.number], faults)
        why = _said(warned, say)
        faults[:] = [f"{fault}; {why}" if why and fault not in known else fault for fault in faults]
        compared, known = compared + found, list(faults)
    return Audited(compared, checked, tuple(faults))


def _said(warned: list[warnings.WarningMessage], say: Callable[[str], None]) -> str:
    """Say each warning once; why the same bits cannot be promised, if it is among them."""
    for text in dict.fromkeys(str(warning.message) for warning in warned):
        say(text)
    return "; ".join(dict.fromkeys(str(w.message) for w in warned if issubclass(w.category, NotPromised)))


def _read(folder: RunFolder, history: History) -> tuple[list[tuple[Trial, int]], list[str]]:
    """The checkpoints that the journal names and that are whole, and what is wrong with the others."""
    whole: list[tuple[Trial, int]] = []
    faults: list[str] = []
    for trial in history.trials.values():
        for step, manifest in trial.kept.items():
            path = checkpoints.folder(folder.path, trial.number, step)
            if not path.exists():
                continue  # pruned
            try:
                checkpoints.load(path, manifest)
                whole.append((trial, step))
            except RecordDamaged as error:
                faults.append(str(error))
    return whole, faults


def _place(start: tuple[Trial, int]) -> tuple[int, int]:
    return start[0].number, start[1]


def _audit_from(
    folder: RunFolder,
    study: Study,
    trial: Trial,
    step: int,
    count: int,
    reported: dict[int, Reported],
    faults: list[str],
) -> int:
    compared = 0
    for at, index, name, result in _computed(folder, study, trial, step + 1, trial.step, start=step):
        recorded = reported[at].units[8 * index : 8 * index + 8]
        if not recorded:  # a comparison that came behind the others when the record was made already
            continue
        compared += 1
        if trees.digest(result)[:8] != recorded:
            faults.append(f"trial {trial.number}, step {at}, unit {index} ({name}): not what was recorded")
            break
        if compared >= count:
            break
    return compared


def _computed(
    folder: RunFolder,
    study: Study,
    trial: Trial,
    first: int,
    last: int,
    *,
    start: int | None = None,
    debug_unit: int | None = None,
) -> Iterator[tuple[int, int, str, Tree]]:
    """(step, index, name, result) of each unit of steps `first` to `last`, computed here."""
    kept = [s for s in trial.kept if s < first and checkpoints.folder(folder.path, trial.number, s).exists()]
    begin = max(kept, default=0) if start is None else start
    state = None
    if begin:
        state = checkpoints.load(checkpoints.folder(folder.path, trial.number, begin), trial.kept[begin])
    run = Run(trial.seed, trial.number, study.key, state, metric=study.metric, minimize=study.sign > 0)
    generator = as_generator(study.objective, study.build(trial.point), run)
    executor = opening.executor(Inline(), study.threads)
    pending: list[tuple[int, str, Tree]] = []
    answer: Any = None
    step = begin + 1
    while step <= last:
        try:
            yielded = generator.send(answer)
        except StopIteration:
            return
        answer = None
        if isinstance(yielded, Units):
            answer = []
            for item in yielded.items:
                if debug_unit is not None and step == first and len(pending) == debug_unit:
                    pdb.runcall(yielded.work, yielded.shared, item)
                result = _one(executor, yielded, item)
                answer.append(result)
                pending.append((len(pending), str(item), result))
        elif isinstance(yielded, Report):
            if yielded.step >= first:
                yield from ((yielded.step, *entry) for entry in pending)
            pending, step = [], yielded.step + 1


def _one(executor: Executor, units: Units, item: Any) -> Tree:
    executor.submit(0, Units(units.work, units.shared, (item,)))
    answers = executor.poll(0.0)
    while not answers:
        answers = executor.poll(0.0)
    done = answers[0]
    if not isinstance(done, Done):
        raise NotReproduced(f"unit ({item}) fails now: {done.reason if isinstance(done, Lost) else done.detail}")
    result: Tree = done.results[0]
    return result


def _trial(history: History, number: int) -> Trial:
    if number not in history.trials:
        raise BadInput(f"no trial {number}; the run has {', '.join(map(str, history.trials)) or 'none'}")
    return history.trials[number]


def _reported(folder: RunFolder, trial: int) -> dict[int, Reported]:
    return {e.step: e for e in folder.events() if isinstance(e, Reported) and e.trial == trial}
