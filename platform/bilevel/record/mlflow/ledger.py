"""Which runs of MLflow are a study's, and what is written to them? Found by tags, created once, brought up to date."""

from __future__ import annotations

import getpass
import json
import logging
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from bilevel.record.mlflow.database import prepare_database, reach
from bilevel.record.mlflow.requests import Requests, first_line
from bilevel.record.mlflow.tables import Tables, open_tables
from bilevel.record.projection import Page
from bilevel.record.shared_view import TAG
from bilevel.record.tracking import artifacts

WRITERS = 4  # threads, where a server does the work

_log = logging.getLogger("bilevel.record.mlflow")


class Ledger:
    """The runs of one study: found by their tags or created, then written to. Every call may be repeated."""

    def __init__(self, uri: str, folder: Path) -> None:
        from mlflow import MlflowClient  # late: 3 s, in which the driver's death must be noticed

        reach(uri)
        prepare_database(uri, folder.parent)
        self.refused: list[str] = []
        self.runs: dict[int | None, str] = {}
        self.experiment = ""
        self.served = uri.startswith(("http://", "https://"))
        self._uri = uri
        self._folder = folder
        self._client = MlflowClient(uri, uri)
        self._birth = {
            "mlflow.user": getpass.getuser(),
            "mlflow.source.name": self._source(),
            "mlflow.source.type": "LOCAL",
        }
        self._tables: Tables | None = None if self.served else open_tables(self._client, self._birth)
        if self._tables is None and not self.served:
            _log.warning("MLflow's database is not as expected: it is written through MLflow's client, which is slower")

    def find(self, study: str, run_id: str) -> int:
        """The number of journal entries that are there for certain; what exists is found, duplicates are removed."""
        self.experiment = self._experiment(study)
        threads = WRITERS if self.served else 1  # in this process a second thread gains nothing
        self._requests = Requests(self._client, self.experiment, self._birth, threads, self.refused)
        self.runs = {}
        cursor = 0
        mine = f"tags.`bilevel.kind` = 'study' and tags.`bilevel.run_id` = {_quoted(run_id)}"
        for run in self._requests.search(mine):
            if self._one_only(None, run.info.run_id):
                cursor = int(run.data.tags.get("bilevel.synced", 0))
        if None in self.runs:
            for number, child in (self._tables or self._requests).children(self.runs[None]):
                self._one_only(number, child)
        return cursor

    def write(self, pages: Mapping[int | None, Page], entries: int) -> None:
        """Bring the runs to what the pages say, and set the cursor: so many entries of the journal are written."""
        page = pages.get(None)
        if None not in self.runs:
            self.runs[None] = self._requests.create(pages[None], None)
        if page is not None and page.source:
            self._upload_source(self.runs[None])
        if page is not None and page.result is not None:
            self._upload_result(self.runs[None], page.result)
        for number, own in pages.items():
            if own.files and number is not None:  # before the cursor, so that an outage loses none
                if number not in self.runs:
                    self.runs[number] = self._requests.create(own, self.runs[None])
                self._upload_files(self.runs[number], number, own.files)
        if self._tables is not None:
            from sqlalchemy.exc import DBAPIError, OperationalError

            try:
                self._tables.write(pages, self.runs, entries)
            except Exception as error:
                if isinstance(error, OperationalError) or (
                    isinstance(error, DBAPIError) and error.connection_invalidated
                ):
                    raise  # an outage: the disk is full, the server gone
                _log.warning("not written in bulk (%s): from here on through MLflow's client", first_line(error))
                self._tables = None
            else:
                return
        self._requests.write(pages, self.runs, entries)

    def _experiment(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        found = self._client.get_experiment_by_name(name)
        if found is None:
            place = None if self.served else artifacts(self._folder.parent, self._uri).as_uri()
            try:
                return str(self._client.create_experiment(name, artifact_location=place))
            except MlflowException:
                found = self._client.get_experiment_by_name(name)  # another run was quicker
                if found is None:
                    raise
        if found.lifecycle_stage != "active":
            raise ValueError(f"experiment {name!r} was deleted in MLflow: restore it there, then sync")
        return str(found.experiment_id)

    def _one_only(self, number: int | None, run: str) -> bool:
        """Take a found run as that of a trial; of two, the emptier is deleted.

        A server that hung carries a `create_run` out later, though we gave it up: then there are two for a while.
        """
        mine = self.runs.get(number)
        if mine is not None and mine != run:
            fuller = self._content(run) > self._content(mine)
            self._client.delete_run(mine if fuller else run)
            if not fuller:
                return False
        self.runs[number] = run
        return True

    def _content(self, run: str) -> int:
        data = self._client.get_run(run).data
        return len(data.tags) + len(data.metrics)

    # -- files ---------------------------------------------------------------------------------------------------------

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

    def illustrate(self) -> None:
        """Upload the figures of a study that has ended: they are drawn after its end is recorded."""
        if None in self.runs:
            self._upload(self.runs[None], "figures")

    def share(self, key: str, view: str) -> bool:
        """Keep a view of the charts, for a link to name; whether the server took it."""
        from mlflow.exceptions import MlflowException

        try:
            self._client.set_experiment_tag(self.experiment, TAG + key, view)
        except MlflowException as error:
            _log.warning("the page that compares trials opens as MLflow will: %s", first_line(error))
            return False
        return True

    def _upload(self, run: str, name: str) -> None:
        if (self._folder / name).is_dir():
            self._client.log_artifacts(run, str(self._folder / name), name)

    def _upload_files(self, run: str, trial: int, names: set[str]) -> None:
        """What a trial has made, as it is now; a file may be gone again."""
        home = self._folder / "files" / f"trial-{trial:04d}"
        for name in sorted(names):
            if (home / name).is_file():
                self._client.log_artifact(run, str(home / name), str(PurePosixPath("files", name).parent))

    def _upload_result(self, run: str, result: Mapping[str, Any]) -> None:
        self._upload(run, "model")
        self._client.log_dict(run, dict(result), "result.json")
        if result.get("best"):
            self._client.log_dict(run, result["best"]["config"], "best_config.json")


def _quoted(text: str) -> str:
    return f'"{text}"' if "'" in text else f"'{text}'"
