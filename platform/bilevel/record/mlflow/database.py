"""Is there a database to write to? MLflow's embedded one is made, whole or not at all; a server must answer."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from bilevel.record.tracking import HTTP_TIMEOUT, artifacts, sqlite_file

# What a database's driver calls the seconds that it waits for a connection; others have their own idea
_PATIENCE = dict.fromkeys(("psycopg", "psycopg2", "pymysql", "mysqldb"), "connect_timeout")


def load() -> None:
    """Import what takes seconds, before it is needed."""
    import_module("mlflow.store.tracking.sqlalchemy_store")


def reach(uri: str) -> None:
    """Connect once to a database server: MLflow would try ten times, silently, for a minute and a half.

    Raises:
        sqlalchemy.exc.OperationalError: it cannot be reached, or will not have us; the cause is in it.
    """
    if sqlite_file(uri) is not None or uri.startswith(("http://", "https://")):
        return
    from sqlalchemy import NullPool, create_engine, make_url

    url = make_url(uri)
    word = _PATIENCE.get(url.get_dialect().driver)
    patience = {word: HTTP_TIMEOUT} if word is not None and word not in url.query else {}
    create_engine(url, poolclass=NullPool, connect_args=patience).connect().close()


def prepare_database(uri: str, store: Path) -> None:
    """Make an sqlite database with MLflow's tables, in one step: a kill in between leaves none, not half of one."""
    file = sqlite_file(uri)
    if file is None or _has_content(file):
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    with locked(file.with_name(f".{file.name}.lock"), wait=True):
        if _has_content(file):
            return  # another run was quicker
        for left in file.parent.glob(f".{file.name}.*.part*"):
            left.unlink()  # of a process that was killed here
        part = file.with_name(f".{file.name}.{os.getpid()}.part")
        _make(part, artifacts(store, uri).as_uri())
        part.replace(file)


def _make(file: Path, artifacts_uri: str) -> None:
    """MLflow's tables in a new file: synced once, at the end, and not after each of MLflow's migrations (6 s)."""
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def relax(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous = OFF")

    event.listen(Engine, "connect", relax)
    try:
        made = SqlAlchemyStore(f"sqlite:///{file}", artifacts_uri)
    finally:
        event.remove(Engine, "connect", relax)
    made.engine.dispose()
    with file.open("rb") as written:
        os.fsync(written.fileno())


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold a lock that the system lets go of when this process dies.

    Raises:
        BlockingIOError: another process holds it, and we do not wait.
    """
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def _has_content(file: Path) -> bool:
    return file.exists() and file.stat().st_size > 0
