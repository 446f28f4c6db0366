"""How far is MLflow behind the journal? The driver's side: starts the process that writes, and never waits for it."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO
from urllib.parse import quote, urlsplit, urlunsplit

from bilevel.errors import BadInput
from bilevel.record import status_file
from bilevel.record.redaction import is_clear, redact, shown

UI_PORT = 5000
LOG_FILE = "mlflow.log"
HTTP_TIMEOUT = 10  # seconds that the writer gives a tracking server for one answer
PATIENCE = 5.0  # seconds that `finish` waits while the server is out of reach
STALL = 90.0  # seconds that `finish` waits without any news from the writer
RESTART_AFTER = 30.0  # seconds between restarts of a writer that died
_SCHEMES = ("sqlite", "postgresql", "mysql", "mssql", "http", "https")


@dataclass(frozen=True)
class TrackerStatus:
    """How the record in MLflow stands: entries of the journal written, entries not yet written, what is wrong."""

    synced: int = 0
    behind: int = 0
    problem: str | None = None
    url: str | None = None
    """The study's page, once it is known."""
    links: dict[str, str] = field(default_factory=dict)
    """Pages worth a look by name: study, trials, compare."""

    @property
    def complete(self) -> bool:
        """Whether MLflow holds all that the journal holds."""
        return self.behind == 0 and self.problem is None


class Tracker:
    """Keeps a run's record in MLflow up to date by a process of its own, at lower priority than the workers.

    The process ends when this one does, however it does. Nothing here raises: a tracker that fails never touches a run.

    Args:
        run_folder: `STORE/RUN_ID`, with its journal.
        uri: MLflow tracking URI (see `check_uri`); it may hold a password, which reaches no file and no command line.
        writer: a process that is `prepared`.
    """

    def __init__(self, run_folder: Path, uri: str, writer: subprocess.Popen[bytes] | None = None) -> None:
        self._folder = run_folder
        self._uri = uri
        self._process = writer
        self._started = time.monotonic()
        self._finished: TrackerStatus | None = None
        self._failure: str | None = None
        if writer is None:
            self._start()
        else:
            self._order()

    def status(self) -> TrackerStatus:
        """How the record stands, as of the last second or so; never blocks."""
        if self._finished is not None:
            return self._finished
        process = self._process
        if process is None or process.poll() is not None:
            code = None if process is None else process.returncode
            failure = self._failure or f"its writer ended with status {code}; see {self._folder / LOG_FILE}"
            if time.monotonic() - self._started > RESTART_AFTER:
                if process is not None and process.stdin is not None:
                    process.stdin.close()
                self._start()
            return _read(self._folder, self._uri, problem=failure)
        return _read(self._folder, self._uri, writer=process.pid)

    def finish(self, timeout: float, *, hurry: Callable[[], bool] = lambda: False) -> TrackerStatus:
        """Wait until all is written, at most `timeout` seconds; end the writer.

        Where the server is out of reach, or `hurry` says that somebody wants to leave, 5 seconds have to do.
        """
        if self._finished is not None:
            return self._finished
        self._tell(b"finish\n")
        deadline = time.monotonic() + timeout
        news, troubled, last = time.monotonic(), None, None
        while self._process is not None and self._process.poll() is None:
            now, status = time.monotonic(), self.status()
            if status != last:
                last, news = status, now
            troubled = (troubled or now) if status.problem or hurry() else None
            if now > deadline or now - news > STALL or (troubled and now - troubled > PATIENCE):
                break
            time.sleep(min(0.05, max(0.0, deadline - now)))
        finished = self._end()
        self._finished = finished
        return finished

    def _start(self) -> None:
        self._started = time.monotonic()
        try:
            with (self._folder / LOG_FILE).open("ab") as log:
                self._process = _writer(log)
            self._failure = None
        except OSError as error:
            self._process, self._failure = None, f"its writer cannot be started: {error}"
            return
        self._order()

    def _order(self) -> None:
        """Say which run to follow."""
        with contextlib.suppress(OSError):
            (self._folder / status_file.NAME).unlink()
        folder = self._folder.resolve()
        order = {"run": str(folder), "uri": self._uri, "log": str(folder / LOG_FILE)}
        self._tell(json.dumps(order).encode() + b"\n")

    def _tell(self, line: bytes) -> None:
        if self._process is None or self._process.stdin is None:
            return
        try:
            self._process.stdin.write(line)
        except BrokenPipeError:
            self._failure = None  # it is gone, which `status` says better

    def _end(self) -> TrackerStatus:
        process = self._process
        if process is None:
            return self.status()
        code = process.poll()
        if code is None:
            process.terminate()
            try:
                process.wait(2.0)
            except subprocess.TimeoutExpired:
                process.kill()  # stopped, or deep in a library
                process.wait()
        if process.stdin is not None:
            process.stdin.close()
        if code not in (None, 0):
            return _read(self._folder, self._uri, problem=f"its writer ended with status {code}; see {LOG_FILE}")
        return _read(self._folder, self._uri, writer=process.pid)


@contextlib.contextmanager
def prepared(uri: str) -> Iterator[subprocess.Popen[bytes] | None]:
    """Within: a writer that loads its libraries, for the `Tracker` of a run to come; None where nothing is tracked."""
    try:
        writer = None if uri == "none" else _writer(subprocess.DEVNULL)
    except OSError:  # the tracker will try, and say it
        writer = None
    try:
        yield writer
    finally:
        if writer is not None and writer.stdin is not None:
            writer.kill()  # no tracker has taken it, or it is gone already
            writer.wait()
            writer.stdin.close()


def _writer(log: IO[bytes] | int) -> subprocess.Popen[bytes]:
    environment = {
        **os.environ,
        **_QUIET,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # its own: 246 s of silence; ours are seen in the status
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(HTTP_TIMEOUT),
        "OMP_NUM_THREADS": "1",
    }
    return subprocess.Popen(
        # -P: a file of the user's named like a library must not shadow it
        [sys.executable, "-P", "-c", _WRITER, str(Path(__file__).parents[1])],
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=log,
        env=environment,
        process_group=0,  # a Ctrl-C is the driver's to judge
    )


def sync(run_folder: Path, uri: str, timeout: float = 600.0) -> TrackerStatus:
    """Complete a run's record in MLflow now; the status says what is still missing, if anything."""
    return Tracker(run_folder, uri).finish(timeout)


def check_uri(uri: str) -> None:
    """Refuse a tracking URI that cannot work; whether a server answers is not looked at.

    Raises:
        BadInput: an unknown scheme, a path, a database in memory, a database driver that is not installed, or a
            password that cannot be told from the rest, so that it could not be kept out of the record.
    """
    if uri == "none":
        return
    scheme = uri.partition(":")[0].partition("+")[0].lower()
    cure = "give sqlite:///FILE, postgresql://..., mysql://..., http(s)://HOST or none"
    if "://" not in uri or scheme not in _SCHEMES:
        raise BadInput(f"--track {shown(uri)}: not a tracking URI; {cure}")
    if scheme == "sqlite":
        if sqlite_file(uri) is None:
            raise BadInput(f"--track {shown(uri)}: a database in memory is gone with its process; give sqlite:///FILE")
        return
    if not is_clear(uri):
        raise BadInput(
            f"--track {shown(uri)}: user, password, host and port cannot be told apart; percent-encode what is special"
            " in them (@ as %40, / as %2F, ? as %3F, # as %23, a space as %20), and give the port as a number"
        )
    if scheme in ("http", "https"):
        _check_server(uri, cure)
    else:
        _check_database(uri, cure)


def _check_server(uri: str, cure: str) -> None:
    parts = urlsplit(uri)
    if not parts.hostname:
        raise BadInput(f"--track {redact(uri)}: no host in it; {cure}")
    if parts.query:  # MLflow appends its paths to it
        token = "give user:password@HOST, or a token in the variable MLFLOW_TRACKING_TOKEN"
        raise BadInput(f"--track {redact(uri)}: a server's address has no ?...; {token}")


def _check_database(uri: str, cure: str) -> None:
    from sqlalchemy.engine import make_url  # late: only those who name a database server pay for the import
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        make_url(uri).get_dialect().import_dbapi()
    except ImportError as error:
        extra = " (pip install 'psycopg[binary]')" if uri.lower().startswith("postgresql") else ""
        raise BadInput(f"--track {redact(uri)}: its database driver is not installed: {error}{extra}") from error
    except (ArgumentError, NoSuchModuleError) as error:
        raise BadInput(f"--track {redact(uri)}: {redact(str(error))}; {cure}") from error


def restore(given: str | None) -> str | None:
    """A tracking URI with `***`, as `redact` gives it, with its secrets from the variable MLFLOW_TRACKING_URI.

    Raises:
        BadInput: the variable does not name the same server.
    """
    if given is None or "***" not in given:
        return given
    known = os.environ.get("MLFLOW_TRACKING_URI", "")
    if redact(known) == given:
        return known
    raise BadInput(
        f"--track {shown(given)}: its password is not recorded; give --track URI again with it, or the whole URI in the"
        " variable MLFLOW_TRACKING_URI"
    )


def sqlite_file(uri: str) -> Path | None:
    """The file of an sqlite URI; None for another scheme or a database in memory."""
    scheme, separator, path = uri.partition(":///")
    path = path.partition("?")[0]
    if not separator or scheme.partition("+")[0] != "sqlite" or path in ("", ":memory:"):
        return None
    return Path(path).resolve()


def links(
    base: str,
    experiment: str,
    study: str,
    trials: Sequence[str] = (),
    *,
    minimize: bool = True,
    view: str | None = None,
) -> dict[str, str]:
    """The dashboard's pages that show what a reviewer wants (it opens on others).

    Args:
        base: the server, e.g. `http://127.0.0.1:5000`; credentials in it are dropped.
        experiment: MLflow's id of the experiment.
        study: MLflow's id of the parent run.
        trials: MLflow's ids of children, for the page that compares them (those that did best).
        minimize: whether the smaller objective comes first.
        view: what the kept view that compares all trials is called (see `shared_view`); without it MLflow's own page
            compares those that did best, and opens on the first metric of the alphabet.
    """
    parts = urlsplit(base)
    netloc = parts.netloc.rpartition("@")[2]
    host = urlunsplit(parts._replace(netloc=netloc, query="", fragment="")).rstrip("/")
    runs = f"{host}/#/experiments/{experiment}/runs"
    only_trials = quote(children(study), safe="")
    training = "workflowType=machine_learning"  # or MLflow opens its pages for language models
    order = f"orderByKey={quote('metrics.`objective`', safe='.')}&orderByAsc={'true' if minimize else 'false'}"
    found = {
        "study": f"{runs}/{study}?{training}",
        "trials": f"{runs}?{training}&compareRunsMode=CHART&searchFilter={only_trials}&{order}",
    }
    if view is not None:
        found["compare"] = f"{runs}?{training}&compareRunsMode=CHART&viewStateShareKey={quote(view, safe='')}"
    elif len(trials) > 1:
        chosen = quote(json.dumps(list(trials), separators=(",", ":")), safe="")
        within = quote(json.dumps([experiment]), safe="")
        found["compare"] = f"{host}/#/compare-runs?runs={chosen}&experiments={within}&{training}"
    return found


def children(study: str) -> str:
    """MLflow's filter of the trials' runs of a study's."""
    return f"tags.`bilevel.kind` = 'trial' and tags.`mlflow.parentRunId` = '{study}'"


def dashboard(uri: str, port: int = UI_PORT) -> str:
    """Where the dashboard of a tracking URI is: the server itself, or `bilevel ui` on a port of this machine."""
    return uri if uri.startswith(("http://", "https://")) else f"http://127.0.0.1:{port}"


def recorded(run_folder: Path, uri: str, port: int = UI_PORT) -> TrackerStatus:
    """How a run's record stood when its last writer ended."""
    return _read(run_folder, uri, port=port)


def ui_command(store: Path, uri: str, port: int = UI_PORT) -> tuple[list[str], dict[str, str]]:
    """Command line and environment of a dashboard for a database, open to this machine alone.

    Raises:
        BadInput: the URI names a server, which has a dashboard already.
    """
    if uri.startswith(("http://", "https://")):
        raise BadInput(f"{redact(uri)} is a server with a dashboard of its own: open it in a browser")
    command = [sys.executable, "-P", "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    environment = {
        **os.environ,
        **_QUIET,
        "MLFLOW_BACKEND_STORE_URI": uri,  # not in the command line, which others can read
        "MLFLOW_DEFAULT_ARTIFACT_ROOT": artifacts(store, uri).as_uri(),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",  # a third of the memory
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
    }
    return [*command, "--workers", "1"], environment


def artifacts(store: Path, uri: str) -> Path:
    """Where artifacts lie when no server keeps them: beside an sqlite file, else in the store."""
    file = sqlite_file(uri)
    return (store.resolve() if file is None else file.parent) / "artifacts"


# As `python -m bilevel.record.writer`, without running `bilevel/__init__.py`: torch alone would take 2 s and 200 MB
_WRITER = """\
import runpy, sys, types
package = types.ModuleType("bilevel")
package.__path__ = [sys.argv[1]]
sys.modules["bilevel"] = package
runpy.run_module("bilevel.record.writer", run_name="__main__")
"""
_QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}


def _read(
    folder: Path, uri: str, *, writer: int | None = None, problem: str | None = None, port: int = UI_PORT
) -> TrackerStatus:
    """What the writer (that of a process id, or any) last said of itself."""
    said, damage = status_file.read(folder)
    if writer is not None and said.get("pid") != writer:
        return TrackerStatus(behind=_lines(folder), problem=problem)
    found: dict[str, str] = {}
    if said.get("study"):
        base = dashboard(uri, port)
        found = links(
            base,
            said.get("experiment") or "",
            said["study"],
            said.get("trials") or (),
            minimize=bool(said.get("minimize")),
            view=said.get("view"),
        )
    return TrackerStatus(
        synced=said.get("synced", 0),
        behind=said.get("behind", 0) if said else _lines(folder),
        problem=problem or damage or said.get("problem"),
        url=found.get("study"),
        links=found,
    )


def _lines(folder: Path) -> int:
    try:
        return (folder / "journal.jsonl").read_bytes().count(b"\n")
    except OSError:
        return 0
