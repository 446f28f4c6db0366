"""What does MLflow hold of a study, and how is it written there so that writing twice is writing once?

The only module that imports MLflow. Runs are found again by tags; MLflow keeps one copy of a metric written twice with
the same timestamp; the tag `bilevel.synced` of the parent says up to where the journal is written for certain.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from bilevel.record.projection import Page
from bilevel.record.tracking import artifacts, redact, sqlite_file

BATCH = 500  # metrics in one request; MLflow takes 1,000 things, of 1 MB in all
SMALL_BATCH = 40  # parameters or tags in one request: they may be 8 KB each
WRITERS = 4  # threads, where a server does the work

_log = logging.getLogger("bilevel.record.mlflow")


class Ledger:
    """The runs of one study: found by their tags or created, then written to. Every call may be repeated."""

    def __init__(self, uri: str, folder: Path) -> None:
        from mlflow import MlflowClient  # late: 3 s, in which the driver's death must be noticed
        from mlflow.exceptions import MlflowException

        prepare_database(uri, folder.parent)
        self.refused: list[str] = []
        self.runs: dict[int | None, str] = {}
        self.experiment = ""
        self._uri = uri
        self._folder = folder
        self._client = MlflowClient(uri, uri)
        self._error: type[Exception] = MlflowException
        self.served = uri.startswith(("http://", "https://"))
        self._threads = WRITERS if self.served else 1  # in this process a second thread gains nothing

    def find(self, study: str, run_id: str) -> int:
        """The number of journal entries that are there for certain; what exists is found, duplicates are removed."""
        self.experiment = self._experiment(study)
        self.runs = {}
        cursor = 0
        for run in self._search(f"tags.`bilevel.kind` = 'study' and tags.`bilevel.run_id` = {_quoted(run_id)}"):
            if self._one_only(None, run):
                cursor = int(run.data.tags.get("bilevel.synced", 0))
        if None in self.runs:
            mine = f"tags.`bilevel.kind` = 'trial' and tags.`mlflow.parentRunId` = '{self.runs[None]}'"
            for run in self._search(mine):
                self._one_only(int(run.data.tags["bilevel.trial"]), run)
        return cursor

    def write(self, pages: Mapping[int | None, Page]) -> None:
        """Bring the runs to what the pages say: children before the parent, so that its status comes last."""
        if None in pages and None not in self.runs:
            self._create(None, pages[None])
        failed = threading.Event()

        def one(item: tuple[int | None, Page]) -> None:
            if failed.is_set():
                return  # the others would wait out the same time-out, one after another
            try:
                self._write(*item)
            except BaseException:
                failed.set()
                raise

        with ThreadPoolExecutor(self._threads) as pool:
            for _ in pool.map(one, [item for item in pages.items() if item[0] is not None]):
                pass
        if None in pages:
            self._write(None, pages[None])

    def mark(self, entries: int) -> None:
        """Set the cursor: so many entries of the journal are written."""
        self._client.set_tag(self.runs[None], "bilevel.synced", entries)

    def _experiment(self, name: str) -> str:
        found = self._client.get_experiment_by_name(name)
        if found is None:
            place = None if self.served else artifacts(self._folder.parent, self._uri).as_uri()
            try:
                return str(self._client.create_experiment(name, artifact_location=place))
            except self._error:
                found = self._client.get_experiment_by_name(name)  # another run was quicker
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise ValueError(f"experiment {name!r} was deleted in MLflow: restore it there, then sync")
        return str(found.experiment_id)

    def _search(self, condition: str) -> Iterator[Any]:
        token = None
        while True:
            page = self._client.search_runs(
                [self.experiment], condition, max_results=1000, order_by=["attributes.start_time"], page_token=token
            )
            yield from page
            token = page.token
            if not token:
                return

    def _one_only(self, number: int | None, run: Any) -> bool:
        """Take a found run as that of a trial; of two, the emptier is deleted.

        A server that hung carries a `create_run` out later, though we gave it up: then there are two for a while.
        """
        mine = self.runs.get(number)
        if mine is not None and mine != run.info.run_id:
            other = self._client.get_run(mine)
            fuller = len(run.data.tags) + len(run.data.metrics) > len(other.data.tags) + len(other.data.metrics)
            self._client.delete_run(mine if fuller else run.info.run_id)
            if not fuller:
                return False
        self.runs[number] = run.info.run_id
        return True

    def _create(self, number: int | None, page: Page) -> str:
        tags = {**page.tags, **page.identity, "mlflow.source.name": self._source(), "mlflow.source.type": "LOCAL"}
        tags["mlflow.user"] = getpass.getuser()
        if number is not None:
            tags["mlflow.parentRunId"] = self.runs[None]
        run = self._client.create_run(self.experiment, start_time=page.born, tags=tags, run_name=page.name)
        self.runs[number] = run.info.run_id
        return str(run.info.run_id)

    def _write(self, number: int | None, page: Page) -> None:
        from mlflow.entities import Metric, Param, RunTag

        known = self.runs.get(number)
        run = known or self._create(number, page)
        points = [Metric(p.name, p.value, p.milliseconds, p.step) for p in page.points]
        params = [Param(*item) for item in page.params.items()]
        tags = [RunTag(*item) for item in page.tags.items()] if known else []  # a new run has them already
        first = min(len(points), BATCH)
        self._log(run, [*params[:SMALL_BATCH], *points[:first], *tags[:SMALL_BATCH]])
        for items, size in (
            (params[SMALL_BATCH:], SMALL_BATCH),
            (points[first:], BATCH),
            (tags[SMALL_BATCH:], SMALL_BATCH),
        ):
            for start in range(0, len(items), size):
                self._log(run, items[start : start + size])
        if page.status == "RUNNING":
            if known is not None:
                self._client.update_run(run, status="RUNNING")
        elif page.status is not None:
            self._client.set_terminated(run, page.status, page.since)
        if page.source:
            self._upload_source(run)
        if page.result is not None:
            self._upload_result(run, page.result)

    def _log(self, run: str, items: Sequence[Any]) -> None:
        """One request; what the server will never take is found by halving, said, and left out."""
        kinds: dict[str, list[Any]] = {"Metric": [], "Param": [], "RunTag": []}
        for item in items:
            kinds[type(item).__name__].append(item)
        try:
            self._client.log_batch(run, kinds["Metric"], kinds["Param"], kinds["RunTag"])
        except self._error as error:
            if getattr(error, "error_code", "") != "INVALID_PARAMETER_VALUE":
                raise
            if len(items) > 1 and "'active' state" not in str(error):
                self._log(run, items[: len(items) // 2])
                self._log(run, items[len(items) // 2 :])
                return
            what = items[0].key if len(items) == 1 else f"{len(items)} values"
            self.refused.append(f"MLflow refused {what}: {first_line(error)}")
            _log.warning("%s", self.refused[-1])

    def _source(self) -> str:
        file = self._document().get("file")
        return Path(file).name if file else "python"

    def _document(self) -> dict[str, Any]:
        path = self._folder / "study.json"
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        return document

    def _upload_source(self, run: str) -> None:
        for name, text in self._document().get("source", {}).items():
            parts = [part for part in PurePosixPath(name).parts if part not in ("/", "..", ".")]
            self._client.log_text(run, text, "/".join(["source", *parts]))

    def _upload_result(self, run: str, result: Mapping[str, Any]) -> None:
        for name in ("figures", "model"):
            if (self._folder / name).is_dir():
                self._client.log_artifacts(run, str(self._folder / name), name)
        self._client.log_dict(run, dict(result), "result.json")
        if result.get("best"):
            self._client.log_dict(run, result["best"]["config"], "best_config.json")


def prepare_database(uri: str, store: Path) -> None:
    """Make an sqlite database with MLflow's tables, in one step: a kill in between leaves none, not half of one."""
    file = sqlite_file(uri)
    if file is None or _has_content(file):
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    file.parent.mkdir(parents=True, exist_ok=True)
    with locked(file.with_name(f".{file.name}.lock"), wait=True):
        if _has_content(file):
            return  # another run was quicker
        for left in file.parent.glob(f".{file.name}.*.part*"):
            left.unlink()  # of a process that was killed here
        part = file.with_name(f".{file.name}.{os.getpid()}.part")
        made = SqlAlchemyStore(f"sqlite:///{part}", artifacts(store, uri).as_uri())
        made.engine.dispose()
        part.replace(file)


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock that the system lets go of when this process dies.

    Raises:
        BlockingIOError: another process holds it, and we do not wait.
    """
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def first_line(error: Exception) -> str:
    """An error in one line, without secrets."""
    lines = redact(str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"


def _has_content(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0


def _quoted(text: str) -> str:
    return f'"{text}"' if "'" in text else f"'{text}'"
