"""What does Ray Tune see of a study: trials that it is given one by one, and answers to what they report?"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from bilevel.execute import cluster, internals
from bilevel.execute.actors import line
from bilevel.execute.settings import Settings
from bilevel.execute.stage import KEY
from bilevel.execute.trial_runner import raised
from bilevel.execute.tune_mailbox import Greeting, Mailbox
from bilevel.execute.worker import BilevelWorker, Played, Spoiled
from bilevel.study.events import Order

import ray  # isort: skip # after the variables that `cluster` sets for it
from ray import tune
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search import Searcher

ENVIRONMENT = {
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # files named by relative paths are found as on other executors
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # seconds; the journal is what a run is resumed from
    "TUNE_MAX_PENDING_TRIALS_PG": "64",  # else processes start one after the other
    "TUNE_PRINT_ALL_TRIAL_ERRORS": "0",
    "TUNE_RESULT_BUFFER_LENGTH": "1",
}
"""What Tune reads while it runs."""


def carry_out(mailbox: Mailbox, trial: type[tune.Trainable], resources: dict[str, float], *, reuse: bool) -> None:
    """Have Tune run what comes through the mailbox, until that is closed; what Tune wrote meanwhile is removed.

    Args:
        mailbox: where orders come from and news goes to.
        trial: made by `trial_class`.
        resources: of each trial, as `tune.with_resources` takes them.
        reuse: whether a trial may follow another one in a process.
    """
    name = f"bilevel-{uuid.uuid4().hex[:8]}"
    session = internals.session_folder() or Path(tempfile.gettempdir())
    try:
        with cluster.environment(ENVIRONMENT), _quiet():
            tune.run(
                tune.with_resources(trial, resources),
                name=name,
                storage_path=str(session / "bilevel"),
                search_alg=_Orders(mailbox),
                scheduler=_Answers(mailbox),
                num_samples=-1,
                reuse_actors=reuse,
                raise_on_failed_trial=False,
                verbose=0,
                trial_dirname_creator=lambda trial: trial.trial_id,
            )
    finally:
        for left in (session / "bilevel" / name, *(session / "artifacts").glob(f"*/{name}")):
            shutil.rmtree(left, ignore_errors=True)


def trial_class(script: Any, settings: Settings, device: str, luggage: Any) -> type[tune.Trainable]:
    """What runs in the process of a trial.

    Args:
        script: pickled, or where that lies in Ray's object store.
        settings, device: as for `BilevelWorker`.
        luggage: where it lies in Ray's object store.
    """

    class BilevelTrial(tune.Trainable):  # type: ignore[misc]
        """A worker that Tune has placed. Its first result is a greeting, each of the next ones what the trial said."""

        _order: Order | None
        _greeted: bool

        def setup(self, config: dict[str, Any]) -> None:
            self._worker = BilevelWorker(settings, device, ray.get(luggage))
            self._knows = False
            self._take(config)

        def reset_config(self, new_config: dict[str, Any]) -> bool:
            self._worker.leave()
            self._take(new_config)
            return True

        def step(self) -> dict[str, Any]:
            if not self._greeted:
                self._greeted = True
                handle = ray.get_runtime_context().current_actor
                return {"greeting": Greeting(self._worker.hello(), handle)}
            return {"played": self._play()}

        def cleanup(self) -> None:
            self._worker.leave()

        def _take(self, config: dict[str, Any]) -> None:
            self._order = config["attempt"].order
            self._greeted = False
            self.config.clear()  # it would travel back with every result

        def _play(self) -> Any:
            order, self._order = self._order, None
            told = None if self._knows else ray.get(script) if isinstance(script, ray.ObjectRef) else script
            try:
                played = self._worker.play(KEY, order, told)
            except Exception as error:  # noqa: BLE001 it ends this trial
                return Played((), raised(error), "", None, 0, 0.0)
            self._knows = True
            return played

    return BilevelTrial


class _Orders(Searcher):  # type: ignore[misc]
    """What Tune takes for a search: the driver's orders, as they come."""

    def __init__(self, mailbox: Mailbox) -> None:
        super().__init__()
        self._mailbox = mailbox

    def suggest(self, trial_id: str) -> dict[str, Any] | str | None:
        seat = self._mailbox.take(trial_id)
        if seat is not None:
            return {"attempt": seat.parcel}
        return Searcher.FINISHED if self._mailbox.closed else None

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:  # noqa: ARG002
        self._mailbox.left(trial_id)

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the journal knows."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: the journal knows."""


class _Answers(FIFOScheduler):  # type: ignore[misc]
    """What Tune takes for a rule of stopping: the driver's answers."""

    def __init__(self, mailbox: Mailbox) -> None:
        super().__init__()
        self._mailbox = mailbox

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:  # noqa: ARG002
        if "greeting" in result:
            go_on = self._mailbox.placed(trial.trial_id, result["greeting"])
        elif isinstance(result["played"], Spoiled):
            greeting = self._mailbox.spoiled(trial.trial_id)
            if greeting is not None:
                ray.kill(greeting.handle)
            go_on = True  # stopped, Tune would give the process another trial; so it hears that it is dead
        else:
            go_on = self._mailbox.heard(trial.trial_id, result["played"])
        return str(self.CONTINUE if go_on else self.STOP)

    def on_trial_error(self, tune_controller: Any, trial: Any) -> None:  # noqa: ARG002
        self._mailbox.lost(trial.trial_id, lambda: _why(trial))

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:  # noqa: ARG002
        trial.last_result.pop("played", None)  # Tune keeps it to the end

    def choose_trial_to_run(self, tune_controller: Any) -> None:
        """None: the next in line, without a look at all the earlier ones. When the driver leaves, none is to wait."""
        if self._mailbox.closed:
            for trial in [trial for trial in tune_controller.get_live_trials() if trial.status == trial.PENDING]:
                tune_controller.stop_trial(trial)


def _why(trial: Any) -> str:
    """What Tune wrote down of a lost trial, in a line."""
    try:
        return line(ray.exceptions.RayError(Path(trial.error_file).read_text(encoding="utf-8", errors="replace")))
    except (OSError, TypeError):  # it found no place for the file
        return "its process is gone"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Within: Tune says nothing; what there is to say the driver says."""
    loggers = [logging.getLogger(name) for name in ("ray.tune", "ray.train", "ray.air")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
