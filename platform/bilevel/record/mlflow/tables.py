"""How are hundreds of pages written at once? Into the tables of MLflow's own database, in one transaction.

What is read back is what MLflow's client would have written, at a fraction of the cost. This knows MLflow's tables from
the inside; where they are not as expected, or the database is neither sqlite nor PostgreSQL, `open_tables` gives None,
and the client does it.
"""

from __future__ import annotations

import importlib
import math
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from bilevel.record.mlflow.requests import born_with
from bilevel.record.projection import Page, Point

LARGEST = 1.7976931348623157e308  # what MLflow keeps for an infinity
LOCK_WAIT = 20_000  # milliseconds that sqlite waits for another writer, as MLflow's own sessions do
_COLUMNS = {
    "tags": {"run_uuid", "key", "value"},
    "params": {"run_uuid", "key", "value"},
    "metrics": {"run_uuid", "key", "value", "timestamp", "step", "is_nan"},
    "latest_metrics": {"run_uuid", "key", "value", "timestamp", "step", "is_nan"},
}
_OF_A_RUN = {"run_uuid", "name", "user_id", "status", "start_time", "end_time", "artifact_uri", "lifecycle_stage"}


class Tables:
    """The database's way; see `open_tables`."""

    def __init__(self, engine: Any, tables: Mapping[str, Any], birth: Mapping[str, str]) -> None:
        from sqlalchemy import bindparam, tuple_, update

        self._engine = engine
        self._tables = tables
        self._birth = birth
        self._sqlite = engine.dialect.name == "sqlite"
        self._model: dict[str, Any] = {}  # the parent's row, as MLflow made it
        insert: Callable[[Any], Any] = importlib.import_module(f"sqlalchemy.dialects.{engine.dialect.name}").insert
        tag, latest = insert(tables["tags"]), insert(tables["latest_metrics"])
        now, before = latest.excluded, tables["latest_metrics"].c
        later = tuple_(now.step, now.timestamp, now.value) > tuple_(before.step, before.timestamp, before.value)
        fields = ("value", "timestamp", "step", "is_nan")
        runs = tables["runs"]
        mine = update(runs).where(runs.c.run_uuid == bindparam("run"))
        self._statements = {
            "runs": insert(runs),
            "params": insert(tables["params"]).on_conflict_do_nothing(),
            "metrics": insert(tables["metrics"]).on_conflict_do_nothing(),
            "latest_metrics": latest.on_conflict_do_update(
                index_elements=["key", "run_uuid"], set_={name: now[name] for name in fields}, where=later
            ),
            "tags": tag.on_conflict_do_update(index_elements=["key", "run_uuid"], set_={"value": tag.excluded.value}),
            "again": mine.values(status=bindparam("to")),
            "ended": mine.values(status=bindparam("to"), end_time=bindparam("at")),
        }

    def children(self, parent: str) -> Iterator[tuple[int, str]]:
        """The runs below a parent, oldest first: trial's number and MLflow's id."""
        from sqlalchemy import select

        runs, tags = self._tables["runs"], self._tables["tags"]
        below, number = tags.alias(), tags.alias()
        query = (
            select(number.c.value, runs.c.run_uuid)
            .join(below, below.c.run_uuid == runs.c.run_uuid)
            .join(number, number.c.run_uuid == runs.c.run_uuid)
            .where(below.c.key == "mlflow.parentRunId", below.c.value == parent, number.c.key == "bilevel.trial")
            .where(runs.c.lifecycle_stage == "active")
            .order_by(runs.c.start_time)
        )
        with self._engine.connect() as db:
            for trial, run in db.execute(query):
                yield int(trial), str(run)

    def write(self, pages: Mapping[int | None, Page], runs: dict[int | None, str], entries: int) -> None:
        """All pages and the cursor, or nothing."""
        parent = str(runs[None])
        if self._model.get("run_uuid") != parent:
            self._model = self._row(parent)
        made: dict[int | None, str] = {}
        rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for number, page in pages.items():
            run = runs.get(number)
            if run is None:
                made[number] = run = uuid.uuid4().hex
                rows["runs"].append(self._new(run, page))
                page.tags.update(born_with(page, parent, self._birth), **{"mlflow.runName": page.name})
            elif page.status is not None:
                kind = "again" if page.status == "RUNNING" else "ended"
                rows[kind].append({"run": run, "to": page.status, "at": page.since})
            rows["tags"] += [{"run_uuid": run, "key": name, "value": value} for name, value in page.tags.items()]
            rows["params"] += [{"run_uuid": run, "key": name, "value": value} for name, value in page.params.items()]
            metrics = [_metric(run, point) for point in page.points]
            rows["metrics"] += metrics
            rows["latest_metrics"] += latest(metrics)
        rows["tags"].append({"run_uuid": parent, "key": "bilevel.synced", "value": str(entries)})
        with self._engine.begin() as db:  # all is at hand: others may want the database
            if self._sqlite:
                db.exec_driver_sql(f"PRAGMA busy_timeout = {LOCK_WAIT}")
            for kind, statement in self._statements.items():
                if rows[kind]:
                    db.execute(statement, rows[kind])
        runs.update(made)

    def _row(self, run: str) -> dict[str, Any]:
        from sqlalchemy import select

        table = self._tables["runs"]
        with self._engine.connect() as db:
            row = dict(db.execute(select(table).where(table.c.run_uuid == run)).mappings().one())
        if run not in str(row["artifact_uri"]):
            raise LookupError(f"MLflow's artifacts of run {run} lie in {row['artifact_uri']}, which does not name it")
        return row

    def _new(self, run: str, page: Page) -> dict[str, Any]:
        """A new run's row: its parent's, with what is its own."""
        parent = self._model
        ended = page.status not in (None, "RUNNING")
        return parent | {
            "run_uuid": run,
            "name": page.name,
            "user_id": self._birth["mlflow.user"],
            "status": page.status or "RUNNING",
            "start_time": page.born,
            "end_time": page.since if ended else None,
            "artifact_uri": parent["artifact_uri"].replace(parent["run_uuid"], run),
        }


def open_tables(client: Any, birth: Mapping[str, str]) -> Tables | None:
    """The tables behind a client, if they are as we know them; `birth` are tags of every run that is created."""
    try:
        from mlflow.store.db.base_sql_model import Base
        from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

        store = client._tracking_client.store
        tables = Base.metadata.tables
        columns = {name: {column.name for column in tables[name].columns} for name in [*_COLUMNS, "runs"]}
        known = type(store) is SqlAlchemyStore and columns["runs"] >= _OF_A_RUN
        if known and store.engine.dialect.name in ("sqlite", "postgresql") and columns | _COLUMNS == columns:
            return Tables(store.engine, tables, birth)
    except (ImportError, AttributeError, KeyError):
        pass
    return None


def _metric(run: str, point: Point) -> dict[str, Any]:
    """A row of `metrics`, numbers that SQL does not have in MLflow's way."""
    value = point.value
    nan = math.isnan(value)
    if nan or math.isinf(value):
        value = 0.0 if nan else math.copysign(LARGEST, value)
    return {
        "run_uuid": run,
        "key": point.name,
        "value": value,
        "timestamp": point.milliseconds,
        "step": point.step,
        "is_nan": nan,
    }


def latest(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each metric of a run the last one: by step, then time, then value; of equals the first."""
    found: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}
    for row in metrics:
        place = (row["step"], row["timestamp"], row["value"])
        if row["key"] not in found or place > found[row["key"]][0]:
            found[row["key"]] = (place, row)
    return [row for _, row in found.values()]
