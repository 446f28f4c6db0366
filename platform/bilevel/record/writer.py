"""How does the journal get into MLflow? A process that follows it in batches until its driver is done, or dies.

Started by `bilevel.record.tracking`. It may be killed at any moment: the next one finds what is there and goes on.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import select
import signal
import sys
import threading
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

from bilevel.record.journal import read
from bilevel.record.mlflow import Ledger, first_line, load, locked
from bilevel.record.projection import Page, Projection, text
from bilevel.record.redaction import redact
from bilevel.record.shared_view import shared
from bilevel.record.status_file import NAME
from bilevel.record.summary_note import note
from bilevel.record.tracking import children
from bilevel.study.history import replay

CHUNK = 1000  # journal entries between two cursors
LOOK_EVERY = 1.0  # seconds between looks at the journal
LONGEST_WAIT = 15.0  # seconds between attempts during an outage

_log = logging.getLogger("bilevel.record.writer")


class Control:
    """What the driver wants: it says which run to follow, then "finish", or is gone."""

    def __init__(self) -> None:
        self.finishing = threading.Event()
        self._orders: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._driver = os.getppid()
        threading.Thread(target=self._watch, daemon=True).start()

    def order(self) -> dict[str, str]:
        """The run's folder, MLflow's URI, and the file for what is to be complained of; waits for it."""
        order: dict[str, str] = json.loads(self._orders.get())
        return order

    def wait(self, seconds: float) -> None:
        """Let time pass; less of it once the driver waits for us."""
        if self.finishing.is_set():
            time.sleep(min(seconds, 0.5))
        else:
            self.finishing.wait(seconds)

    def _watch(self) -> None:
        heard, ordered = b"", False
        while True:
            ready, _, _ = select.select([0], [], [], 1.0)
            said = os.read(0, 4096) if ready else None
            if said == b"" or os.getppid() != self._driver:
                os._exit(3)  # the driver is dead: whoever resumes or syncs the run goes on from the cursor
            *lines, heard = (heard + (said or b"")).split(b"\n")
            for line in lines:
                if ordered:
                    self.finishing.set()
                else:
                    self._orders.put(line)
                ordered = True


class Status:
    """The file in which the driver, and later commands, read how the record stands."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._said: dict[str, Any] = {"pid": os.getpid(), "synced": 0, "behind": 0, "problem": None}
        self._lines = self._read = 0  # of the journal, as far as it was looked at

    def say(self, **news: Any) -> None:
        """Replace the file."""
        said = {**self._said, **news}
        with (self._folder / "journal.jsonl").open("rb") as journal:
            journal.seek(self._read)
            for block in iter(lambda: journal.read(1 << 20), b""):
                self._lines += block.count(b"\n")
                self._read += len(block)
        said["behind"] = max(0, self._lines - said["synced"])
        if said["problem"] != self._said["problem"]:
            _log.warning("%s", said["problem"] or "writing again")
        self._said = said
        part = self._folder / f".{NAME}.part"
        part.write_text(json.dumps(said), encoding="utf-8")
        part.replace(self._folder / NAME)


def follow(ledger: Ledger, folder: Path, control: Control, status: Status) -> None:
    """Write the journal's entries as they come; returns when the driver waits and all is written."""
    projection = Projection()
    offset = seen = 0
    cursor: int | None = None
    while True:
        ending = control.finishing.is_set()  # asked before the look: what was written before "finish" is then seen
        before = seen
        for entry in islice(read(folder / "journal.jsonl", offset), CHUNK):
            projection.take(entry)
            offset, seen = entry.end, entry.n + 1
            if cursor is None:
                cursor = ledger.find(projection.study, projection.run_id)
            if seen <= cursor:
                projection.turn()
        if cursor is not None and seen > cursor:
            pages = projection.turn()
            _annotate(pages, folder)
            ledger.write(pages, seen)
            cursor = seen
        status.say(synced=seen, problem=_refusals(ledger), **_pages(ledger, projection))
        if seen == before:
            if ending:
                if projection.ended:
                    ledger.illustrate()
                status.say(view=_share(ledger, projection))
                if ledger.runs and ledger.served:
                    ledger.find(projection.study, projection.run_id)  # removes what a hung server created twice
                return
        elif seen - before == CHUNK or ending:
            continue
        control.wait(LOOK_EVERY)


def persist(uri: str, folder: Path, control: Control, status: Status) -> None:
    """Follow the journal through any outage: after a failure everything is found again and gone on with."""
    pause = 0.5
    began = time.monotonic()
    while True:
        try:
            began = time.monotonic()
            follow(Ledger(uri, folder), folder, control, status)
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, the record is completed later and the cause is said
            status.say(problem=describe(error, uri))
            _log.debug("the attempt failed", exc_info=error)
        pause = 0.5 if time.monotonic() - began > 60 else min(2 * pause, LONGEST_WAIT)
        control.wait(pause)


def describe(error: Exception, uri: str) -> str:
    """An outage in a few words, without secrets."""
    text = redact(str(error))
    place = redact(uri)
    if "Connection refused" in text:
        return f"{place}: connection refused"
    if any(words in text for words in ("Read timed out", "ConnectTimeout", "connection timeout expired")):
        return f"{place}: no answer within {os.environ.get('MLFLOW_HTTP_REQUEST_TIMEOUT')} s"
    return f"{place}: {first_line(error)}"


def main() -> int:
    """Follow one run's journal; the driver says which on stdin and keeps it open while it lives."""
    os.nice(10)  # the workers come first
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver's to judge
    control = Control()
    load()
    order = control.order()
    uri, folder = order["uri"], Path(order["run"])
    with Path(order["log"]).open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    sys.stderr = _Redacting(sys.stderr)
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.WARNING)
    status = Status(folder)
    while True:
        try:
            with locked(folder / "mlflow.lock"):
                persist(uri, folder, control, status)
                return 0
        except BlockingIOError:
            status.say(problem="another process is writing this run's record")
            control.wait(0.2)


class _Redacting:
    """A stream without credentials: libraries quote URIs in their complaints."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        return self._stream.write(redact(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _annotate(pages: Mapping[int | None, Page], folder: Path) -> None:
    """Put what people read first on the page of a study that has ended."""
    page = pages.get(None)
    if page is not None and page.result is not None:
        history = replay(entry.typed() for entry in read(folder / "journal.jsonl"))
        page.tags["mlflow.note.content"] = text(note(folder.name, page.result, history))


def _pages(ledger: Ledger, projection: Projection) -> dict[str, Any]:
    return {
        "experiment": ledger.experiment,
        "study": ledger.runs.get(None),
        "trials": [ledger.runs[trial] for trial in projection.leaders() if trial in ledger.runs],
        "minimize": projection.minimize,
    }


def _share(ledger: Ledger, projection: Projection) -> str | None:
    """Keep the view that compares the trials; what a link calls it."""
    study, parameters = ledger.runs.get(None), projection.searched()
    if study is None or len(projection.leaders()) < 2 or not parameters:
        return None
    view = shared(children(study), parameters, projection.objectives, minimize=projection.minimize)
    return projection.run_id if ledger.share(projection.run_id, view) else None


def _refusals(ledger: Ledger) -> str | None:
    if not ledger.refused:
        return None
    more = f" (and {len(ledger.refused) - 1} more)" if len(ledger.refused) > 1 else ""
    return ledger.refused[0] + more


if __name__ == "__main__":
    code = main()
    sys.stderr.flush()
    os._exit(code)  # the driver waits for us: the libraries' own farewell takes a second
