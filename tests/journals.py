"""Journals of studies that never ran, for the tests of what reads them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from bilevel.record.journal import Journal
from bilevel.study.events import (
    Asked,
    Begun,
    Ended,
    Event,
    Fault,
    Finished,
    Interrupted,
    Kept,
    Moved,
    Opened,
    Reported,
    Started,
    Turned,
)

RUN = "20260102-030405-tiny-abcd"
RESULT = {
    "study": "tiny",
    "status": "completed",
    "fingerprint": "f" * 64,
    "metrics": {"test/accuracy@0": 0.2, "test/accuracy@1": 0.9, "test/accuracy_ci95@1": 0.01, "test/loss@1": None},
}


def folder(store: Path, run_id: str = RUN) -> Path:
    """A run folder without a journal yet."""
    path = store / run_id
    for name in ("figures", "model"):
        (path / name).mkdir(parents=True)
    source = {"tiny.py": "study = None\n", "near/by.py": "x = 1\n"}
    (path / "study.json").write_text(json.dumps({"name": "tiny", "file": "/some/tiny.py", "source": source}))
    (path / "figures" / "learning_curve.png").write_bytes(b"png")
    (path / "model" / "model.json").write_text("{}")
    return path


def beginning(run_id: str = RUN, study: str = "tiny") -> list[Event]:
    """What every journal starts with."""
    return [Started(study, run_id, "valid/loss", True, 7), opened()]


def opened() -> Opened:
    """A driver goes to work."""
    return Opened(2, "c" * 64, {"torch": "2.13.0"}, "x86_64", {"commit": "abc123", "dirty": True})


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


def end(trials: int, stopped: int = 0, failed: int = 0) -> list[Event]:
    """A fault that was survived, and the result."""
    best = {"trial": 0, "objective": 0.25, "config": {"rule.lr": 0.1}}
    counts = {"completed": trials, "stopped": stopped, "failed": failed}
    return [Fault("died", "worker 1"), Finished("completed", {**RESULT, "trials": counts, "best": best})]


# -- searches ----------------------------------------------------------------------------------------------------------


def search(trials: int, run_id: str = RUN, study: str = "search") -> Iterator[Event]:
    """A search of trivial trials with 5 values and 3 metrics each."""
    yield Started(study, run_id, "loss", True, 7, log=("lr",))
    yield opened()
    for number in range(trials):
        point = {
            "lr": 10 ** -(1 + number % 50 / 10),
            "width": 32 + number % 97,
            "drop": number % 10 / 10,
            "act": "relu",
        }
        yield Asked(number, {**point, "epochs": 1}, number, point)
        yield Begun(number, 1, f"worker {number % 2}")
        loss = (number * 7919 % 1009) / 1009
        yield Reported(number, 1, {"loss": loss, "accuracy": 1 - loss, "seconds": 0.001})
        yield Ended(number, "completed", 1, loss)
    counts = {"completed": trials, "stopped": 0, "failed": 0}
    best = {"trial": 0, "objective": 0.0, "config": {"lr": 0.1, "width": 32, "drop": 0.0, "act": "relu", "epochs": 1}}
    result = {"study": study, "status": "completed", "trials": counts, "best": best, "metrics": {"loss": 0.0}}
    yield Finished("completed", result)


def halving(trials: int = 20, run_id: str = RUN) -> list[Event]:
    """ASHA, two trials at a time: of every four one is stopped early, one fails twice, one is lost with its worker."""
    events: list[Event] = [Started("asha", run_id, "loss", True, 7, log=("lr",)), opened()]
    for n in range(0, trials, 2):
        events += [e for pair in zip_longest(_halved(n), _halved(n + 1)) for e in pair if e is not None]
    return [*events, *end(trials // 2, trials // 4, trials // 4)[1:]]


def _halved(n: int) -> list[Event]:
    lr = 10.0 ** -(n % 5)
    events: list[Event] = [Asked(n, {"lr": lr, "epochs": 9}, n, {"lr": lr}), Begun(n, 1, "worker 0")]
    last = 3 if n % 4 == 1 else 9
    for step in range(1, last + 1):
        events.append(Reported(n, step, {"loss": 1 / (step + n)}))
        if step == 2 and n % 4 >= 2:
            why = "failed" if n % 4 == 2 else "lost"
            events.append(Begun(n, 2, "worker 1", step, why, "worker 0 died" if why == "lost" else "ValueError: no"))
    state, reason = {1: ("stopped", None), 2: ("failed", "ValueError: no")}.get(n % 4, ("completed", None))
    return [*events, Ended(n, state, last, None if state == "failed" else 1 / (last + n), reason)]


def population(members: int = 4, turns: int = 5, every: int = 10, run_id: str = RUN) -> list[Event]:
    """PBT: at every turn the last member goes on from the first, with another rate."""
    events: list[Event] = [Started("pbt", run_id, "loss", True, 7, log=("opt.lr",)), opened()]
    lrs = [0.1 / 2**n for n in range(members)]

    def config(lr: float) -> dict[str, float | str]:
        return {"opt": "Adam", "opt.lr": lr}

    def point(lr: float) -> dict[str, float | str]:
        return {"opt": "Adam", "opt[Adam].lr": lr}

    for n, lr in enumerate(lrs):
        events += [Asked(n, config(lr), n, point(lr)), Begun(n, 1, f"worker {n}")]
    for turn in range(turns):
        for n in range(members):
            steps = range(turn * every + 1, (turn + 1) * every + 1)
            events += [Reported(n, step, {"loss": (n + 1) / step}) for step in steps]
            events.append(Kept(n, steps[-1], "d" * 64))
        if turn < turns - 1:
            last, step = members - 1, (turn + 1) * every
            lrs[last] = lrs[0] * (1.2 if turn % 2 else 0.8) ** (turn + 1)
            events += [Moved(last, step, 0, config(lrs[last]), point(lrs[last])), Turned(turn)]
            events.append(Begun(last, turn + 2, f"worker {last}", step, "moved"))
    events += [Ended(n, "completed", turns * every, (n + 1) / (turns * every)) for n in range(members)]
    return [*events, *end(members)[1:]]


def interrupted(events: list[Event], at: int) -> tuple[list[Event], list[Event]]:
    """The same, broken off after `at` events and gone on with."""
    return [*events[:at], Interrupted("SIGINT")], [opened(), *events[at:]]


def write(path: Path, events: list[Event] | Iterator[Event]) -> None:
    """Append events to the journal of a run folder."""
    journal = Journal(path / "journal.jsonl")
    for event in events:
        journal.append(event)
    journal.close()
