"""What does one driver do with a run whose lock it holds, from its first event to its result?"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bilevel.drive import drawing, results, warm
from bilevel.drive.driver import Driver
from bilevel.drive.process import asked_to_leave, leaving
from bilevel.drive.progress import Watch
from bilevel.drive.results import Result
from bilevel.drive.sources import Source
from bilevel.errors import ClusterFailed, StoreFailed
from bilevel.execute import Inline, On, Tune, opening
from bilevel.execute.declarations import Say
from bilevel.execute.inline import InlineStage
from bilevel.execute.trial_runner import Script
from bilevel.record import tracking
from bilevel.record.folder import RunFolder
from bilevel.search.port import SearchTraits
from bilevel.study import history as histories
from bilevel.study import telling
from bilevel.study.events import Executor, Finished, Opened, Stage, Started
from bilevel.study.history import ENDED
from bilevel.study.study import Study

WAIT_FOR_TRACKER = 120.0  # seconds at the end of a run, while the tracker still makes progress


@dataclass
class Session:
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
        finally:
            opening.settle()

    def _work(self) -> Result:
        opened = self._opened()
        before = [e for e in self.folder.events() if isinstance(e, Opened)]
        same = not before or (before[-1].hardware, before[-1].versions) == (opened.hardware, opened.versions)
        if before and not same:
            self.watch.say(f"recorded on {before[-1].hardware}, going on with {opened.hardware} (or other libraries)")
        populates = SearchTraits(self.study.search).members is not None  # whose turns do not depend on timing anyway
        window = self.slots if self.study.deterministic and not populates else 0
        earlier = warm.restore(self.folder.document().get("warm", []))
        driver = Driver(
            self.study,
            self.folder,
            self._open_stage,
            self._open,
            self.watch,
            seconds=self._left(),
            same_hardware=same,
            warm=earlier,
            window=window,
        )
        if self.study.gpus and isinstance(self.on, Inline) and _device(self.study, self.on) == "cpu":
            self.watch.say(f"gpus={self.study.gpus:g}: torch finds no GPU here; trials run on the CPU (run.device)")
        asking = driver.decisions.asking
        if asking.why:
            self.watch.say(f"search: {asking.search}, {asking.why}")
        if earlier:
            self.watch.say(warm.told(self.study, earlier))
        tracker: tracking.Tracker | None = None
        try:
            if not before:
                driver.ledger.record(self._started(window))
            driver.ledger.record(opened, commit=True)
            tracker = None if self.uri == "none" else tracking.Tracker(self.folder.path, self.uri, self.writer)
            status = self._drive(driver)
            if status in ENDED and driver.decisions.over:
                self.watch.say(f"the search ends here: {driver.decisions.over}")
            return self._finish(driver, status, tracker)
        finally:
            try:
                driver.ledger.close()
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
        driver.ledger.commit()
        ended = status in ENDED
        if ended:
            drawing.export(self.folder, self.study, driver.history, self.watch.say)
        document = results.result(self.folder, driver.history, status, self.study)
        passed = telling.passed(driver.history) if ended else ""
        if passed:
            self.watch.say(passed)
        if ended:
            driver.ledger.record(Finished(status, document), commit=True)
            drawing.draw(self.folder, self.study, driver.history, self.watch.say)
        if tracker is not None:
            with leaving() as asked:
                state = tracker.finish(WAIT_FOR_TRACKER, hurry=lambda: asked.reason is not None)
            if state.problem or state.behind:
                what = state.problem or f"{state.behind} events behind"
                self.watch.say(f"MLflow: {what}; the record is complete after `bilevel sync {self.folder.run_id}`")
        return Result(self.folder.path, document)

    def _open(self) -> Executor:
        code = tuple(map(str, self.source.folders))
        return opening.executor(self.on, self.study.threads, code, self.watch.say)

    def _open_stage(self) -> Stage:
        """What was opened before anything was written, at first; after the death of its cluster another one."""
        stage, self.stage = self.stage, None
        if isinstance(self.on, Tune) and self.study.spreads:
            self.watch.say("Tune places no trials: the objective spreads its work, and its units go to Ray actors")
        return stage or stage_of(self.study, self.on, self.source, self.kept, self.watch.say)

    def _left(self) -> float | None:
        """Seconds that are left to this session: its own limit, or what earlier sessions left of the study's."""
        limits = [] if self.seconds is None else [self.seconds]
        if self.study.seconds is not None:
            limits.append(max(0.0, self.study.seconds + results.given(self.folder) - results.times(self.folder)[0]))
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
            value=study.counts,
            equal=study.equal,
        )

    def _opened(self) -> Opened:
        workers = 0 if isinstance(self.on, Inline) else self.on.workers
        names = ("bilevel", "torch", "numpy", "ray", "mlflow")
        return Opened(workers, self.source.sha256, {n: _version(n) for n in names}, hardware(), _git(self.source.file))


def _device(study: Study, on: On) -> str:
    """The device of a trial in this process."""
    return on.device or ("cuda" if study.gpus and torch.cuda.is_available() else "cpu")


def stage_of(study: Study, on: On, source: Source, kept: dict[Any, Any], say: Say) -> Stage:
    """Where trials run: in the driver if they spread their work, else where units would.

    Raises:
        BadInput: no node can ever hold such a trial; ClusterFailed: there is no cluster.
    """
    script = Script(study.objective, study.space, study.key, study.metric, study.sign > 0, copies=not study.spreads)
    if study.spreads or isinstance(on, Inline):
        return InlineStage(script, kept, asked=asked_to_leave, device=_device(study, on))
    code = tuple(map(str, source.folders))
    fresh = study.isolation == "process"
    return opening.stage(
        on, script, code, threads=study.threads, cpus=study.cpus, gpus=study.gpus, fresh=fresh, say=say
    )


def hardware() -> str:
    """The class of machine that the last bits of a result depend on."""
    name = f"{os.uname().machine} {torch.backends.cpu.get_cpu_capability()}"
    return name + (f" {torch.cuda.get_device_name()}" if torch.cuda.is_available() else "")


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
