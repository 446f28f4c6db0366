"""How is a search steered from outside while it runs: points to try, a trial to end, more trials or time, a note?

A request comes by `record.mailbox` to the driver that is at work, which answers with events of the journal, so that a
resumed run does the same; where no driver is at work, whoever asks writes these events.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilevel.errors import BadInput
from bilevel.record import folder as folders
from bilevel.record import journal
from bilevel.record.folder import RunFolder
from bilevel.record.journal import Journal
from bilevel.record.mailbox import Mailbox, Request
from bilevel.study import history as histories
from bilevel.study.events import Steered

if TYPE_CHECKING:
    from bilevel.study.study import Study

LOOK = 0.2
"""Seconds between two looks for an answer."""


def steer(
    run: str,
    *,
    store: str | Path = "runs",
    points: Sequence[Mapping[str, Any]] = (),
    stop: Sequence[int] = (),
    trials: int = 0,
    seconds: float = 0.0,
    tags: Mapping[int, Mapping[str, str]] | None = None,
    study: Study | None = None,
    wait: float = 30.0,
) -> str:
    """Steer a run, from another process or terminal while it is at work, or before it is resumed; what was answered.

    Args:
        run: its id (or the beginning or end of it), or its folder.
        store: directory of runs.
        points: configurations to try next, by dotted path; what they leave out is in the middle.
        stop: trials to end where they stand; they count as stopped.
        trials: configurations more.
        seconds: time more, where there is a limit.
        tags: words about trials by number, each by name; "" takes one off, and `note` is what MLflow shows as a note.
        study: needed for a run that is not at work and was not begun from a file.
        wait: seconds for a driver to answer.

    Raises:
        BadInput: it cannot be done; nothing of it was.
    """
    folder = folders.find(Path(store), run)
    what = {
        "points": [dict(point) for point in points],
        "stop": list(stop),
        "trials": trials,
        "seconds": seconds,
        "tags": {str(trial): dict(words) for trial, words in (tags or {}).items()},
    }
    if not any(what.values()):
        raise BadInput(f"{folder.run_id}: nothing is asked for; give points, stop, trials, seconds or tags")
    if folder.driven:
        return _ask(folder, what, wait)
    with folder.locked():
        return _do(folder, what, study)


def _ask(folder: RunFolder, what: Mapping[str, Any], wait: float) -> str:
    """Have the driver do it."""
    last = deque(journal.read(folder.journal), maxlen=1)
    offset = last[0].end if last else 0
    name = Mailbox(folder).put(what)
    until = time.monotonic() + wait
    while time.monotonic() < until:
        for entry in journal.read(folder.journal, offset):
            offset = entry.end
            if entry.event["event"] == "steered" and entry.event["request"] == name:
                if entry.event["refused"]:
                    raise BadInput(f"{folder.run_id}: {entry.event['said']}")
                return str(entry.event["said"])
        time.sleep(LOOK)
    return (
        "asked for, and not answered yet: the driver takes it up when it has time, or the next one at `bilevel resume"
        f" {folder.run_id}`"
    )


def _do(folder: RunFolder, what: Mapping[str, Any], study: Study | None) -> str:
    """Do it where no driver is at work."""
    from bilevel.drive import runs  # late, as they bring torch: a driver at work is asked at once
    from bilevel.drive.requests import heed
    from bilevel.record import tracking

    history = histories.replay(folder.events())
    decisions = None
    if any(what[name] for name in ("points", "stop", "trials", "seconds")):
        study, _ = runs.reload(folder, study)
        decisions = runs.told(folder, study)
        history = decisions.history
    limited = study is not None and study.seconds is not None
    events = heed(Request("", what), history, decisions, limited=limited)
    steered = events[0]
    if isinstance(steered, Steered) and steered.refused:
        raise BadInput(f"{folder.run_id}: {steered.said}")
    record = Journal(folder.journal)
    try:
        for event in events:
            record.append(event)
    finally:
        record.close()
    uri = runs.uri_of(tracking.restore(folder.document()["track"]), folder.path.parent)
    if uri != "none" and len(events) > 1:
        tracking.sync(folder.path, uri)
    said = steered.said if isinstance(steered, Steered) else ""
    goes_on = f"; go on with: bilevel resume {folder.run_id}" if decisions is not None else ""
    return f"{said}{goes_on}"
