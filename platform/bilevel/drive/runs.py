"""How is a run begun, gone on with, and brought to its result?"""

from __future__ import annotations

import dataclasses
import json
import os
import typing
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from bilevel import space as spaces
from bilevel.drive import data, progress, results, sources, warm
from bilevel.drive.process import Leaving, leaving
from bilevel.drive.progress import Quiet, Watch
from bilevel.drive.results import Result
from bilevel.drive.session import Session, stage_of
from bilevel.drive.sources import Source
from bilevel.errors import BadInput, RecordDamaged, StudyChanged, described
from bilevel.execute import Inline, On, Ray, Tune
from bilevel.figures.comparison import verdict
from bilevel.record import folder as folders
from bilevel.record import journal, tracking
from bilevel.record.folder import RunFolder
from bilevel.record.redaction import redact
from bilevel.search.port import SearchTraits
from bilevel.space import fits
from bilevel.space.dimensions import admit
from bilevel.space.secrets import redacted
from bilevel.study import history as histories
from bilevel.study.decisions import Decisions
from bilevel.study.events import Asked, Stage
from bilevel.study.given import Run
from bilevel.study.history import ENDED
from bilevel.study.objective import ObjectiveTraits
from bilevel.study.study import Study


def run(
    study: Study,
    *,
    on: On | None = None,
    store: str | Path = "runs",
    track: str | None = None,
    seconds: float | None = None,
    slots: int | None = None,
    watch: Watch | None = None,
    source: Source | None = None,
    changes: Mapping[str, Any] | None = None,
) -> Result:
    """Run a study to its end, record it, and give its result.

    Args:
        study: what to do.
        on: `Inline()`, `Ray(workers=...)` or `Tune(workers=...)`; by default Ray with one worker per CPU.
        store: directory of runs.
        track: MLflow tracking URI; by default a database in the store; "none" for none. With `***` for its secrets
            it is completed from the variable MLFLOW_TRACKING_URI.
        seconds: a time limit, for this call alone; `Study.seconds` holds over all sessions.
        slots: trials at work at a time; by default one where the objective spreads its work (of a population all its
            members), else as many as there are workers.
        watch: who looks on.
        source: where the study came from, if from a file; then `resume` can find it again.
        changes: what was set by dotted path on top of the file, for `resume`.

    Raises:
        BadInput: the study cannot work; nothing was begun.
        KeyboardInterrupt: Ctrl-C, in a script: when the record is complete. Who gives a `watch`, or is in a notebook,
            gets the result, which says `interrupted`.
    """
    named, watch = watch, watch or progress.default()
    store = Path(store)
    uri = uri_of(tracking.restore(track), store)
    tracking.check_uri(uri)
    on = on or Ray(workers=os.cpu_count())
    if not isinstance(on, Inline | Ray | Tune):
        raise BadInput(f"run: on={on!r}; it takes Inline(), Ray(workers=...) or Tune(workers=...)")
    kept = _check(study, on)
    _check_slots(slots)
    source = source or Source(None, "", {})
    document: dict[str, Any] = {
        "format": 1,
        "name": study.name,
        "file": None if source.file is None else str(source.file),
        "object": source.name,
        "changes": dict(changes or {}),
        "settings": {"seed": study.seed, "trials": study.budget, "config": study.config()},
        "sha256": source.sha256,
        "source": dict(source.texts),
        "folders": [str(folder) for folder in source.folders],
        "arguments": list(source.arguments),
        "execution": {"on": type(on).__name__.lower(), **dataclasses.asdict(on)},
        "warm": warm.collect(study, store, uri),
        "data": data.digests(study),
        "track": track if track is None else redact(track),
    }
    with leaving() as asked, tracking.prepared(uri) as writer:  # its libraries load while a cluster starts
        # what no node can hold is refused before anything is written
        stage = stage_of(study, on, source, kept, watch.say)
        try:
            slots = _slots(study, slots, stage)
            document["execution"]["slots"] = slots
            folder = folders.create(store, study.name, document)
            with folder.locked():
                found = Session(study, folder, on, uri, watch, seconds, slots, source, kept, stage, writer).work()
        finally:
            stage.close()
    return found if named else _returned(found, watch, asked)


def _returned(found: Result, watch: Watch, asked: Leaving) -> Result:
    """The result, to a script or a notebook; where something simpler is better, that is said.

    Raises:
        KeyboardInterrupt: of a script, which Ctrl-C ends, too; a notebook shows that the run was interrupted.
    """
    if isinstance(watch, Quiet):
        asked.pass_on(found.folder)
    simpler = verdict(found.metrics)
    if simpler is not None:
        watch.say(simpler)
    return found


def resume(
    run: str,
    *,
    store: str | Path = "runs",
    study: Study | None = None,
    on: On | None = None,
    track: str | None = None,
    slots: int | None = None,
    watch: Watch | None = None,
    new_code: bool = False,
    more: int = 0,
) -> Result:
    """Go on with a run where its record ends; a finished one gives its result again.

    Args:
        run: its id (or the beginning or end of it), or its folder.
        store: directory of runs.
        study: needed where the run was not begun from a file.
        on: where to compute; by default as the run began.
        track: MLflow tracking URI; by default as the run began.
        slots: trials at work at a time; by default as the run began.
        watch: who looks on.
        new_code: take the study's file as it is now, though it changed.
        more: trials to add, to a finished run too.

    Raises:
        BadInput: no such run; StudyChanged: the file changed; RunLocked: another driver is at work on it.
    """
    named, watch = watch, watch or progress.default()
    store = Path(store)
    folder = folders.find(store, run)
    document = folder.document()
    uri = uri_of(tracking.restore(document["track"] if track is None else track), folder.path.parent)
    tracking.check_uri(uri)
    if more < 0:
        raise BadInput(f"{folder.run_id}: {more} more trials; give a whole number from 1 on")
    with leaving() as asked, folder.locked():
        history = histories.replay(folder.events())
        if not more and history.result is not None and history.status in ENDED:
            finished = results.recorded(folder, history) or history.result
            for problem in folder.problems():
                watch.say(problem)
            standing = None if uri == "none" else tracking.sync(folder.path, uri)
            if standing is not None and not standing.complete:
                what = standing.problem or f"{standing.behind} events behind"
                watch.say(f"MLflow: {what}; run `bilevel sync {folder.run_id}` when it is back")
            return Result(folder.path, finished)
        study, source = reload(folder, study, new_code=new_code)
        study = _as_begun(folder, study, watch)
        if not new_code:
            _check_points(folder, study)
        on = on or declared(document["execution"])
        kept = _check(study, on)
        _check_slots(slots)
        slots = slots or document["execution"].get("slots", 1)
        _check_window(folder, slots)
        if more:
            study = _extend(folder, study, more)
        found = Session(study, folder, on, uri, watch, None, slots, source, kept).work()
    return found if named else _returned(found, watch, asked)


def reload(folder: RunFolder, study: Study | None = None, *, new_code: bool = False) -> tuple[Study, Source]:
    """The study that a run is of, imported again from where it was.

    Raises:
        BadInput: it was not begun from a file and no study is given, or the file is gone.
        StudyChanged: the source or the configuration differs from the recorded one.
    """
    document = folder.document()
    if document["file"] is None:
        if study is None:
            raise BadInput(
                f"{folder.run_id}: begun from Python, not from a file, so give the study: in Python, by study=..."
            )
        source = Source(None, "", {})
    else:
        if not new_code:
            _check_file(document)
        study, source = sources.load(
            f"{document['file']}:{document['object']}",
            arguments=document.get("arguments", []),
            folders=document.get("folders", []),
        )
        if not new_code:
            sources.check_unchanged(document["source"], source.texts, Path(document["file"]).parent)
    study = changed(study, document["changes"])
    now, then = json.loads(json.dumps(study.config())), document["settings"]["config"]
    # A path that the record does not have, and that says nothing, is a field that came with a later version.
    paths = sorted(path for path in {*now, *then} if now.get(path) != then.get(path) and (path in then or now[path]))
    if not new_code and paths:
        raise StudyChanged(f"the study is not the one that the run began with: {', '.join(paths)} differ")
    other = data.difference(document.get("data", {}), study)
    if other is not None:
        warnings.warn(f"{folder.run_id}: {other}", stacklevel=2)
    return study, source


def _as_begun(folder: RunFolder, study: Study, watch: Watch) -> Study:
    """The study with the objective that its earlier trials have, where that was not recorded yet: the last value."""
    began = journal.started(folder.journal)
    if began is None or began.value or study.value is not None or study.counts == "last":
        return study
    watch.say(
        f"{folder.run_id} began when a trial's objective was its last validation, and goes on so; in new runs it is the"
        " best one, of the weights that are kept"
    )
    return dataclasses.replace(study, value="last")


def _check_file(document: Mapping[str, Any]) -> None:
    """Whether the study's file is the one that the run began with: before it is run, not after.

    Raises:
        StudyChanged: it is another one.
    """
    file = Path(document["file"])
    if file.name in document["source"] and file.is_file():
        now = file.read_text(encoding="utf-8", errors="replace")
        if now != document["source"][file.name]:
            sources.check_unchanged({file.name: document["source"][file.name]}, {file.name: now})


def _check_points(folder: RunFolder, study: Study) -> None:
    """Whether what the journal says was tried can be of this space.

    Raises:
        RecordDamaged: it cannot.
    """
    parameters = study.parameters
    for event in folder.events():
        if not isinstance(event, Asked):
            continue
        for point in (event.point, *event.refused):
            for parameter in parameters:
                name = parameter.name
                there = name in point
                if there is not parameter.active(point) or (there and not admit(parameter.dimension, point[name])):
                    what = f"{name} is {point[name]!r}" if there else f"{name} is missing"
                    wanted = f"it is one of {parameter.dimension!r}"
                    raise RecordDamaged(f"{folder.journal}: trial {event.trial}: {what}; {wanted}; {journal.WITHOUT}")


def _extend(folder: RunFolder, study: Study, more: int) -> Study:
    """The study with more trials, also for whoever resumes it later."""
    if study.budget is None:
        raise BadInput(f"{folder.run_id}: it has no number of trials that could be raised; {study.name} ends by itself")
    document = folder.document()
    longer = dataclasses.replace(study, trials=study.budget + more)
    over = _over(folder, longer)
    if over:
        raise BadInput(
            f"{folder.run_id}: {over}, so more trials would change nothing; change that in the study and extend it with"
            " --new-code"
        )
    document["changes"]["--trials"] = document["settings"]["trials"] = longer.trials
    folder.change(document)
    return longer


def _over(folder: RunFolder, study: Study) -> str:
    """What ends a study whatever its number of trials, if it has."""
    if study.seconds is not None and results.times(folder)[0] >= study.seconds + results.given(folder):
        return f"its time, {study.seconds:g} s, is over"
    return told(folder, study).over


def told(folder: RunFolder, study: Study) -> Decisions:
    """A study's decisions, as far as its run has come."""
    began = journal.started(folder.journal)
    window = began.window if began else 0
    decisions = Decisions(study, warm=warm.restore(folder.document().get("warm", [])), window=window)
    for event in folder.events():
        decisions.take(event)
    return decisions


def _check_window(folder: RunFolder, slots: int) -> None:
    began = journal.started(folder.journal)
    if began is not None and began.window and began.window != slots:
        raise BadInput(
            f"{folder.run_id}: a deterministic study keeps the slots it began with, {began.window}; leave --slots out"
            f" (workers may change)"
        )


def changed(study: Study, changes: Mapping[str, Any]) -> Study:
    """The study with the values of `--set`, `--seed` and `--trials` in place."""
    for path, value in changes.items():
        if path in ("--seed", "--trials"):
            study = dataclasses.replace(study, **{path[2:]: value})
        else:
            study = study.set(path, value)
    return study


def _check_slots(slots: int | None) -> None:
    if slots is not None and slots < 1:
        raise BadInput(f"--slots {slots}: give how many trials may be at work at a time, from 1 on")


def _slots(study: Study, slots: int | None, stage: Stage) -> int:
    """Trials at work at a time."""
    if slots is not None:
        return slots
    return SearchTraits(study.search).members or 1 if study.spreads else stage.room


def _check(study: Study, on: On) -> dict[Any, Any]:
    """What can be known to be wrong before anything starts; what was built for that, for the first trial's use."""
    kept: dict[Any, Any] = {}
    Decisions(study).next(1)  # the search is asked once: a condition may refuse everything
    if study.isolation == "process" and (study.spreads or isinstance(on, Inline)):
        where = "it spreads its work from the driver" if study.spreads else "trials run in this process (--workers 0)"
        raise BadInput(f"Study {study.name}: isolation='process' gives each trial a process of its own, but {where}")
    try:
        config = study.build(spaces.complete(study.space, {}))
    except BadInput:
        raise
    except Exception as error:
        if study.parameters:  # the class refuses the middle of the space; elsewhere it need not
            return kept
        why = redacted(described(error))
        raise BadInput(f"Study {study.name}: {why}; give the space other values") from error
    check = ObjectiveTraits(study.objective).check
    if check is not None:
        with torch.random.fork_rng(devices=[]):
            view = Run(study.seed_of(0), 0, study.key, kept=kept)
            check(config, dataclasses.replace(view, metric=study.metric, minimize=study.sign > 0))
    if study.parameters:  # what was built is of the middle of the space, and the first trial is elsewhere
        kept.clear()
    return kept


def uri_of(track: str | None, store: Path) -> str:
    """The tracking URI: the store's own database unless one is named."""
    return f"sqlite:///{(store / 'mlflow.db').resolve()}" if track is None else track


def declared(document: Mapping[str, Any]) -> On:
    """Where a run was begun, from its document's `execution`."""
    values = {name: value for name, value in document.items() if name not in ("on", "slots")}
    kinds: dict[str, type[On]] = {"inline": Inline, "ray": Ray, "tune": Tune}
    if document["on"] not in kinds:
        raise RecordDamaged(
            f"study.json: the run began on {document['on']!r}, which is not known here; a newer bilevel may have"
            " written it; say where to go on with --workers N"
        )
    hints = typing.get_type_hints(kinds[document["on"]])
    for name, value in values.items():
        if name not in hints or not fits.fits(hints[name], value):
            raise RecordDamaged(
                f"study.json: execution.{name} is {value!r}, which it cannot be; say where to go on with --workers N"
            )
    return kinds[document["on"]](**values)
