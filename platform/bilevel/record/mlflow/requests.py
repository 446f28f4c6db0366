"""How are pages written through MLflow's client, whatever is behind it?

A few requests a run, each of which may be repeated: MLflow keeps one copy of a metric written twice with the same
timestamp.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from bilevel.record.projection import Page
from bilevel.record.redaction import redact

BATCH = 500  # metrics in one request; MLflow takes 1,000 things, of 1 MB in all
SMALL_BATCH = 40  # parameters or tags in one request: they may be 8 KB each

_log = logging.getLogger("bilevel.record.mlflow")


class Requests:
    """The client's way.

    Args:
        client: an `MlflowClient`.
        experiment: MLflow's id of the experiment.
        birth: tags of every run that is created.
        threads: how many write at a time; more than one helps where a server does the work.
        refused: takes what MLflow will never take, in words.
    """

    def __init__(
        self, client: Any, experiment: str, birth: Mapping[str, str], threads: int, refused: list[str]
    ) -> None:
        from mlflow.exceptions import MlflowException

        self._client = client
        self._experiment = experiment
        self._birth = birth
        self._threads = threads
        self._refused = refused
        self._error: type[Exception] = MlflowException

    def children(self, parent: str) -> Iterator[tuple[int, str]]:
        """The runs below a parent, oldest first: trial's number and MLflow's id."""
        for run in self.search(f"tags.`bilevel.kind` = 'trial' and tags.`mlflow.parentRunId` = '{parent}'"):
            yield int(run.data.tags["bilevel.trial"]), run.info.run_id

    def search(self, condition: str) -> Iterator[Any]:
        """The runs of the experiment that fulfil a condition, oldest first."""
        token = None
        while True:
            found = self._client.search_runs(
                [self._experiment], condition, max_results=500, order_by=["attributes.start_time"], page_token=token
            )
            yield from found
            token = found.token
            if not token:
                return

    def create(self, page: Page, parent: str | None) -> str:
        """A new run; MLflow's id of it."""
        tags = born_with(page, parent, self._birth)
        run = self._client.create_run(self._experiment, start_time=page.born, tags=tags, run_name=page.name)
        return str(run.info.run_id)

    def write(self, pages: Mapping[int | None, Page], runs: dict[int | None, str], entries: int) -> None:
        """Children before the parent, so that its status comes last, and then the cursor."""
        failed = threading.Event()

        def one(item: tuple[int | None, Page]) -> None:
            if failed.is_set():
                return  # the others would wait out the same time-out, one after another
            try:
                self._write(*item, runs)
            except BaseException:
                failed.set()
                raise

        with ThreadPoolExecutor(self._threads) as pool:
            for _ in pool.map(one, [item for item in pages.items() if item[0] is not None]):
                pass
        if None in pages:
            self._write(None, pages[None], runs)
        self._client.set_tag(runs[None], "bilevel.synced", entries)

    def _write(self, number: int | None, page: Page, runs: dict[int | None, str]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        known = runs.get(number)
        run = known or self.create(page, runs[None])
        runs[number] = run
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
            self._refused.append(f"MLflow refused {what}: {first_line(error)}")
            _log.warning("%s", self._refused[-1])


def born_with(page: Page, parent: str | None, birth: Mapping[str, str]) -> dict[str, str]:
    """The tags of a run when it is created."""
    below = {} if parent is None else {"mlflow.parentRunId": parent}
    return {**page.tags, **page.identity, **birth, **below}


def first_line(error: Exception) -> str:
    """An error in one line, without secrets."""
    lines = redact(str(error)).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:300] if lines else ''}"
