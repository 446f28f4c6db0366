"""How fast does MLflow's record catch up with a search? Runs a second, ours beside plain use of MLflow's client.

By hand: `.venv/bin/python tests/benchmarks/record.py` (`--busy 2` keeps two cores at work meanwhile, as a search does).
"""

from __future__ import annotations

import argparse
import json
import logging
import multiprocessing
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import journals
from bilevel.record import status_file
from bilevel.record.journal import read
from bilevel.record.tracking import Tracker


def ours(trials: int, store: Path) -> tuple[float, float, float]:
    """A journal that is complete when the writer starts: seconds till all is there, of these writing; memory [MB]."""
    folder = journals.folder(store)
    journals.write(folder, journals.search(trials))
    began = time.monotonic()
    tracker = Tracker(folder, f"sqlite:///{store}/mlflow.db")
    process = tracker._process
    assert process is not None
    peak, first = 0.0, []

    def look() -> None:
        nonlocal peak
        while process.poll() is None:
            try:
                status = Path(f"/proc/{process.pid}/status").read_text()
                peak = max(peak, int(status.partition("VmHWM:")[2].split()[0]) / 1024)
                said = json.loads((folder / status_file.NAME).read_text())
                if said.get("study") and not first:
                    first.append(time.monotonic())
            except (OSError, ValueError, IndexError):
                pass
            time.sleep(0.02)

    watch = threading.Thread(target=look)
    watch.start()
    status = tracker.finish(600.0)
    ended = time.monotonic()
    watch.join()
    if not status.complete:
        raise SystemExit(f"not complete: {status}")
    return ended - began, ended - first[0] if first else ended - began, peak


def plain(trials: int, store: Path) -> float:
    """What a user writes: a call for each parameter, metric and tag. Seconds, MLflow imported and the database made."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{store}/mlflow.db")
    experiment = client.create_experiment("plain")
    parent = client.create_run(experiment).info.run_id
    folder = journals.folder(store)
    journals.write(folder, journals.search(trials))
    began = time.monotonic()
    run = ""
    for entry in read(folder / "journal.jsonl"):
        event = entry.event
        if event["event"] == "asked":
            run = client.create_run(experiment, tags={"mlflow.parentRunId": parent}).info.run_id
            for name, value in event["config"].items():
                client.log_param(run, name, value)
        elif event["event"] == "reported":
            for name, value in event["metrics"].items():
                client.log_metric(run, name, value, step=event["step"])
        elif event["event"] == "ended":
            client.log_metric(run, "objective", event["objective"], step=event["step"])
            client.set_tag(run, "state", event["state"])
            client.set_terminated(run)
    return time.monotonic() - began


def spin() -> None:
    """Keep a core busy."""
    while True:
        sum(range(10_000))


def median(repeats: int, measure: Callable[[Path], tuple[float, ...]]) -> tuple[float, ...]:
    """Of several runs, each in a folder of its own."""
    rows = []
    for _ in range(repeats):
        with tempfile.TemporaryDirectory() as store:
            rows.append(measure(Path(store)))
    return tuple(statistics.median(column) for column in zip(*rows, strict=True))


def main() -> None:
    """Print the rates."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--plain", type=int, default=100, help="trials written by plain use of the client")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--busy", type=int, default=0, help="processes that compute meanwhile")
    words = parser.parse_args()
    logging.disable(logging.INFO)
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    load = [multiprocessing.Process(target=spin, daemon=True) for _ in range(words.busy)]
    for process in load:
        process.start()
    whole, writing, peak = median(words.repeats, lambda store: ours(words.trials, store))
    print(f"{words.trials} trials by our writer (nice 10, sqlite, {words.busy} others compute, {peak:.0f} MB):")
    print(f"  {words.trials / whole:.0f} runs/s with its start ({whole:.1f} s), {words.trials / writing:.0f} without")
    (slow,) = median(words.repeats, lambda store: (plain(words.plain, store),))
    print(f"{words.plain} trials by plain use of MlflowClient (nice 0): {words.plain / slow:.1f} runs/s")
    for process in load:
        process.terminate()


if __name__ == "__main__":
    main()
