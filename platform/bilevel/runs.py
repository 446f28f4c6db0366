"""How is a run begun, gone on with, and brought to its result?"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bilevel import figures, results, sources, warm
from bilevel import history as histories
from bilevel import space as spaces
from bilevel.decisions import Decisions
from bilevel.driver import Driver
from bilevel.errors import BadInput, ClusterFailed, StoreFailed, StudyChanged
from bilevel.events import Executor, Finished, Opened, Run, Stage, Started
from bilevel.execute import Inline, Ray, Tune
from bilevel.execute.host import Script
from bilevel.execute.inline import InlineStage
from bilevel.history import History
from bilevel.progress import Progress, Watch
from bilevel.record import folder as folders
from bilevel.record import journal, model, tracking
from bilevel.record.folder import RunFolder
from bilevel.results import Result
from bilevel.sources import Source
from bilevel.study import Study

On = Inline | Ray | Tune
WAIT_FOR_TRACKER = 120.0  # seconds at the end of a run, while the tracker still makes progress


class Quiet:
    """A watch that says what must be said on standard error, and nothing else."""

    def progress(self, progress: Progress) -> None:
        """Shows nothing."""

    def say(self, text: str) -> None:
        """A line on standard error."""
        sys.stderr.write(f"bilevel: {text}\n")


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
        track: MLflow tracking URI; by default a database in the store; "none" for none.
        seconds: a time limit, for this call alone; `Study.seconds` holds over all sessions.
        slots: trials at work at a time; by default one where the objective spreads its work (of a population all its
            members), else as many as there are workers.
        watch: who looks on.
        source: where the study came from, if from a file; then `resume` can find it again.
        changes: what was set by dotted path on top of the file, for `resume`.

    Raises:
        BadInput: the study cannot work; nothing was begun.
    """
    watch = watch or Quiet()
    store = Path(store)
    uri = uri_of(track, store)
    tracking.check_uri(uri)
    on = on or Ray(workers=os.cpu_count())
    kept = _check(study, on)
    slots = _slots(study, on, slots)
    source = source or Source(None, "", {})
    document = {
        "format": 1,
        "name": study.name,
        "file": None if source.file is None else str(source.file),
        "object": source.name,
        "changes": dict(changes or {}),
        "settings": {"seed": study.seed, "trials": study.budget, "config": study.config()},
        "sha256": source.sha256,
        "source": dict(source.texts),
        "execution": {**_described(on), "slots": slots},
        "warm": warm.collect(study, store, uri),
        "track": track if track is None else tracking.redact(track),
    }
    with tracking.prepared(uri) as writer:  # its libraries load while a cluster starts
        stage = _stage(study, on, source, kept)  # what no node can hold is refused before anything is written
        try:
            folder = folders.create(store, study.name, document)
            with folder.locked():
                return _Session(study, folder, on, uri, watch, seconds, slots, source, kept, stage, writer).work()
        finally:
            stage.close()


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
    watch = watch or Quiet()
    store = Path(store)
    folder = folders.find(store, run)
    document = folder.document()
    uri = uri_of(track if track is not None else tracking.restore(document["track"]), folder.path.parent)
    tracking.check_uri(uri)
    if more < 0:
        raise BadInput(f"{folder.run_id}: {more} more trials; give a whole number from 1 on")
    with folder.locked():
        history = histories.replay(folder.events())
        if not more and history.result is not None and history.status in ("completed", "failed", "stopped"):
            standing = None if uri == "none" else tracking.sync(folder.path, uri)
            if standing is not None and standing.problem:
                watch.say(f"MLflow: {standing.problem}; run `bilevel sync {folder.run_id}` when it is back")
            return Result(folder.path, history.result)
        study, source = reload(folder, study, new_code=new_code)
        on = on or _declared(document["execution"])
        kept = _check(study, on)
        slots = _slots(study, on, slots if slots is not None else document["execution"].get("slots"))
        _check_window(folder, slots)
        if more:
            study = _extend(folder, study, more)
        return _Session(study, folder, on, uri, watch, None, slots, source, kept).work()


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
                f"{folder.run_id}: begun from Python, not from a file; give resume(..., study=...) the study"
            )
        source = Source(None, "", {})
    else:
        study, source = sources.load(f"{document['file']}:{document['object']}")
        if not new_code:
            sources.check_unchanged(document["source"], source.texts)
    study = changed(study, document["changes"])
    if not new_code and json.loads(json.dumps(study.config())) != document["settings"]["config"]:
        now, then = study.config(), document["settings"]["config"]
        paths = sorted(path for path in {*now, *then} if now.get(path) != then.get(path))
        raise StudyChanged(f"the study is not the one that the run began with: {', '.join(paths)} differ")
    return study, source


def _extend(folder: RunFolder, study: Study, more: int) -> Study:
    """The study with more trials, also for whoever resumes it later."""
    if study.budget is None:
        raise BadInput(f"{folder.run_id}: it has no number of trials that could be raised; {study.name} ends by itself")
    document = folder.document()
    longer = dataclasses.replace(study, trials=study.budget + more)
    document["changes"]["--trials"] = document["settings"]["trials"] = longer.trials
    folder.change(document)
    return longer


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


@dataclass
class _Session:
    """One driver's work on a run whose lock it holds."""

    study: Study
    folder: RunFolder
    on: On
    uri: str
    watch: Watch
    seconds: float | None
    slots: int
    source: Source
    kept: dict[Any, Any]
    stage: Stage | None = None
    writer: subprocess.Popen[bytes] | None = None

    def work(self) -> Result:
        """Go on to the end, or to where the store can no longer be written."""
        try:
            return self._work()
        except StoreFailed as error:
            self.watch.say(f"{error}\nThe run can be resumed: bilevel resume {self.folder.run_id}")
            history = histories.replay(self.folder.events())
            return Result(self.folder.path, results.result(self.folder, history, "interrupted", self.study))

    def _work(self) -> Result:
        opened = self._opened()
        before = [e for e in self.folder.events() if isinstance(e, Opened)]
        same = not before or (before[-1].hardware, before[-1].versions) == (opened.hardware, opened.versions)
        if before and not same:
            self.watch.say(f"recorded on {before[-1].hardware}, going on with {opened.hardware} (or other libraries)")
        populates = hasattr(self.study.search, "members")  # whose turns do not depend on timing anyway
        window = self.slots if self.study.deterministic and not populates else 0
        driver = Driver(
            self.study,
            self.folder,
            self._open_stage,
            self._open,
            self.watch,
            seconds=self._left(),
            same_hardware=same,
            warm=warm.restore(self.folder.document().get("warm", [])),
            window=window,
        )
        dialogue = driver.decisions.dialogue
        if dialogue.why and not before:
            self.watch.say(f"search: {dialogue.search}, {dialogue.why}")
        tracker: tracking.Tracker | None = None
        try:
            if not before:
                driver.record(self._started(window))
            driver.record(opened, commit=True)
            tracker = None if self.uri == "none" else tracking.Tracker(self.folder.path, self.uri, self.writer)
            status = self._drive(driver)
            return self._finish(driver, status, tracker)
        finally:
            try:
                driver.close()
            finally:
                if tracker is not None:
                    tracker.finish(0.0)

    def _drive(self, driver: Driver) -> str:
        try:
            return driver.drive(self.slots)
        except ClusterFailed as error:
            self.watch.say(f"{error}\nThe run can be resumed: bilevel resume {self.folder.run_id}")
            return "interrupted"

    def _finish(self, driver: Driver, status: str, tracker: tracking.Tracker | None) -> Result:
        driver.commit()
        ended = status in ("completed", "failed", "stopped")
        if ended:
            self._export(driver.history)
        document = results.result(self.folder, driver.history, status, self.study)
        if ended:
            driver.record(Finished(status, document), commit=True)
        if tracker is not None:
            state = tracker.finish(WAIT_FOR_TRACKER)
            if state.problem or state.behind:
                what = state.problem or f"{state.behind} events behind"
                self.watch.say(f"MLflow: {what}; the record is complete after `bilevel sync {self.folder.run_id}`")
        return Result(self.folder.path, document)

    def _export(self, history: History) -> None:
        """The learned model and the figures, into the run's folder."""
        best = history.best()
        state = results.final_state(self.folder, best) if best is not None else None
        tasks = None if best is None else getattr(self.study.build(best.point), "tasks", None)
        if best is not None and state is not None and "learned" in state:
            described = {"study": self.study.name, "run_id": self.folder.run_id, "config": dict(best.config)}
            model.write(self.folder.path / "model", state["learned"], described, getattr(tasks, "scaling", None))
        search = results.search(self.folder, self.study) if len(history.trials) > 1 else None
        drawn = figures.draw(results.figure_history(self.folder, history, state), search)
        home = self.folder.path / "figures"
        try:
            home.mkdir(exist_ok=True)
            for name, figure in drawn.items():
                figure.savefig(home / f"{name}.png", dpi=110)
        except OSError as error:
            raise StoreFailed(f"{home}: the figures cannot be written: {error.strerror}") from error

    def _open(self) -> Executor:
        code = () if self.source.file is None else (str(self.source.file.parent),)
        executor: Executor = self.on.open(self.study.threads, code)
        return executor

    def _open_stage(self) -> Stage:
        """What was opened before anything was written, at first; after the death of its cluster another one."""
        stage, self.stage = self.stage, None
        if isinstance(self.on, Tune) and self.study.spreads:
            self.watch.say("Tune places no trials: the objective spreads its work, and its units go to Ray actors")
        return stage or _stage(self.study, self.on, self.source, self.kept)

    def _left(self) -> float | None:
        """Seconds that are left to this session: its own limit, or what earlier sessions left of the study's."""
        limits = [] if self.seconds is None else [self.seconds]
        if self.study.seconds is not None:
            limits.append(max(0.0, self.study.seconds - results.times(self.folder)[0]))
        return min(limits, default=None)

    def _started(self, window: int) -> Started:
        study = self.study
        ways = {name: "minimize" if minimize else "maximize" for name, minimize in study.objectives.items()}
        log = tuple(dict.fromkeys(p.path for p in study.parameters if p.dimension.log))
        minimize = study.objectives[study.metric]
        return Started(
            study.name,
            self.folder.run_id,
            study.metric,
            minimize,
            study.seed,
            objectives=ways if len(ways) > 1 else {},
            log=log,
            window=window,
        )

    def _opened(self) -> Opened:
        workers = 0 if isinstance(self.on, Inline) else self.on.workers
        names = ("bilevel", "torch", "numpy", "ray", "mlflow")
        return Opened(workers, self.source.sha256, {n: _version(n) for n in names}, hardware(), _git(self.source.file))


def _stage(study: Study, on: On, source: Source, kept: dict[Any, Any]) -> Stage:
    """Where trials run: in the driver if they spread their work, else where units would.

    Raises:
        BadInput: no node can ever hold such a trial; ClusterFailed: there is no cluster.
    """
    script = Script(study.objective, study.space, study.key, study.metric, study.sign > 0, copies=not study.spreads)
    if study.spreads or isinstance(on, Inline):
        return InlineStage(script, kept)
    code = () if source.file is None else (str(source.file.parent),)
    fresh = study.isolation == "process"
    stage: Stage = on.stage(script, code, threads=study.threads, cpus=study.cpus, gpus=study.gpus, fresh=fresh)
    return stage


def hardware() -> str:
    """The class of machine that the last bits of a result depend on."""
    name = f"{os.uname().machine} {torch.backends.cpu.get_cpu_capability()}"
    return name + (f" {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "")


def _slots(study: Study, on: On, slots: int | None) -> int:
    """Trials at work at a time."""
    if slots is not None:
        if slots < 1:
            raise BadInput(f"--slots {slots}: give how many trials may be at work at a time, from 1 on")
        return slots
    if study.spreads:
        return getattr(study.search, "members", 1)
    return 1 if isinstance(on, Inline) else on.workers or os.cpu_count() or 1


def _check(study: Study, on: On) -> dict[Any, Any]:
    """What can be known to be wrong before anything starts; what was built for that, for the first trial's use."""
    kept: dict[Any, Any] = {}
    Decisions(study, History())
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
        raise BadInput(f"Study {study.name}: {type(error).__name__}: {error}; give the space other values") from error
    check = getattr(study.objective, "check", None)
    if check is not None:
        with torch.random.fork_rng(devices=[]):
            check(config, Run(study.key.child("trial", 0).integer(), 0, study.key, kept=kept))
    if study.parameters:  # what was built is of the middle of the space, and the first trial is elsewhere
        kept.clear()
    return kept


def uri_of(track: str | None, store: Path) -> str:
    """The tracking URI: the store's own database unless one is named."""
    return f"sqlite:///{(store / 'mlflow.db').resolve()}" if track is None else track


def _described(on: On) -> dict[str, Any]:
    return {"on": type(on).__name__.lower(), **dataclasses.asdict(on)}


def _declared(document: Mapping[str, Any]) -> On:
    values = {name: value for name, value in document.items() if name not in ("on", "slots")}
    kinds: dict[str, type[On]] = {"inline": Inline, "ray": Ray, "tune": Tune}
    return kinds[document["on"]](**values)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _git(file: Path | None) -> Mapping[str, Any] | None:
    """Commit of the repository that the study's file lies in, and whether it had uncommitted changes."""
    folder = file.parent if file is not None else Path.cwd()
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
        status = subprocess.run(
            ["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):  # no git, or no repository: the record says null
        return None
    return {"commit": commit.stdout.strip(), "dirty": bool(status.stdout.strip())}
