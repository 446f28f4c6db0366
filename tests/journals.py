"""Journals of studies that never ran, for the tests of what reads them."""

from __future__ import annotations

import json
from pathlib import Path

from bilevel.events import Asked, Ended, Event, Fault, Finished, Kept, Opened, Reported, Started
from bilevel.record.journal import Journal

RESULT = {
    "study": "tiny",
    "status": "completed",
    "fingerprint": "f" * 64,
    "metrics": {"test/accuracy@0": 0.2, "test/accuracy@1": 0.9, "test/accuracy_ci95@1": 0.01, "test/loss@1": None},
}


def folder(store: Path, run_id: str = "20260102-030405-tiny-abcd") -> Path:
    """A run folder without a journal yet."""
    path = store / run_id
    for name in ("figures", "model"):
        (path / name).mkdir(parents=True)
    source = {"tiny.py": "study = None\n", "near/by.py": "x = 1\n"}
    (path / "study.json").write_text(json.dumps({"name": "tiny", "file": "/some/tiny.py", "source": source}))
    (path / "figures" / "learning_curve.png").write_bytes(b"png")
    (path / "model" / "model.json").write_text("{}")
    return path


def beginning(run_id: str = "20260102-030405-tiny-abcd", study: str = "tiny") -> list[Event]:
    """What every journal starts with."""
    opened = Opened(2, "c" * 64, {"torch": "2.13.0"}, "x86_64", {"commit": "abc123", "dirty": True})
    return [Started(study, run_id, "valid/loss", True, 7), opened]


def trial(number: int, steps: int) -> list[Event]:
    """One trial from question to end; a value is a function of trial and step."""
    events: list[Event] = [Asked(number, {"rule.lr": 0.1 * (number + 1), "rule.steps": 5, "name": "x"}, 11 + number)]
    for step in range(1, steps + 1):
        metrics = {"train/loss": 1.0 / (step + number)}
        if step == steps:
            metrics |= {"test/accuracy@0": 0.2, "test/accuracy@1": 0.9, "test/accuracy_ci95@1": 0.01}
        events.append(Reported(number, step, metrics, "00000000"))
    events.append(Kept(number, steps, "d" * 64))
    return [*events, Ended(number, "completed", steps, 1.0 / (steps + number), None, "e" * 64)]


def end(trials: int) -> list[Event]:
    """A fault that was survived, and the result."""
    best = {"trial": 0, "objective": 0.25, "config": {"rule.lr": 0.1}}
    counts = {"completed": trials, "stopped": 0, "failed": 0}
    return [Fault("died", "worker 1"), Finished("completed", {**RESULT, "trials": counts, "best": best})]


def write(path: Path, events: list[Event]) -> None:
    """Append events to the journal of a run folder."""
    journal = Journal(path / "journal.jsonl")
    for event in events:
        journal.append(event)
    journal.close()
