"""Journals brought into MLflow in this process, and all that MLflow's client then says of the runs."""

from __future__ import annotations

import math
import threading
from itertools import chain
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import ViewType

import journals
from bilevel.record.mlflow import Ledger
from bilevel.record.writer import Status, follow
from bilevel.study.events import Asked, Ended, Event, Finished, Interrupted, Left, Reported, Started, Tagged

ODD: list[Event] = [
    Started("odd'one", journals.RUN, "loss", True, 7),
    journals.opened(),
    Asked(
        0, {"a.long": "x" * 9000, "none": None, "list": [1, 2], "größe(m²)": 1.5, "text": "NUL \0, \udc80", "e": ""}, 1
    ),
    Reported(0, 1, {"loss": math.nan, "up": math.inf, "down": -math.inf, "a//b": 2.0, "test/loss@2": 1.0}),
    Reported(0, 1, {"loss": 1.0}),  # a step twice: the larger value is the latest where the time is the same
    Reported(0, 3, {"loss": -1.0, "later": 1.0}),
    Reported(0, 2, {"loss": 5.0, "later": 2.0}),
    Reported(0, 4, {f"m{n}": float(n) for n in range(600)}),
    Ended(0, "failed", 4, None, "reason " * 2000),
    Finished("failed", {"status": "failed", "trials": {"failed": 1}, "best": None, "metrics": {}}),
]
JOURNALS: dict[str, list[Event]] = {
    "one trial": [*journals.beginning(), *journals.trial(0, 30), *journals.end(1)],
    "search": list(journals.search(12)),
    "asha": journals.halving(12),
    "pbt": journals.population(3, 3, 5),
    "left": [*journals.halving(8)[:40], Interrupted("SIGINT")],
    "resumed": list(chain(*journals.interrupted(journals.halving(8), 40))),
    "odd": ODD,
    "words": [
        *journals.beginning(),
        *journals.trial(0, 3),
        Tagged(0, {"note": "diverges late", "mlflow.user": "not me", "verdict": "good"}),
        Left(0, {"plots/curve.txt": "ab", "gone.txt": ""}),
        *journals.end(1),
        Tagged(0, {"verdict": ""}),
    ],
}


class Now:
    """A driver that waits for the record."""

    def __init__(self) -> None:
        self.finishing = threading.Event()
        self.finishing.set()

    def wait(self, seconds: float) -> None:
        pass


def record(folder: Path, uri: str) -> Ledger:
    """Write the journal as a writer does whose driver waits."""
    written = Ledger(uri, folder)
    follow(written, folder, Now(), Status(folder))  # type: ignore[arg-type]
    return written


def read_back(uri: str) -> dict[str, Any]:
    """All that MlflowClient says of the runs, by name; ids and places replaced by names."""
    client = MlflowClient(uri)
    experiments = [e.experiment_id for e in client.search_experiments(filter_string="name != 'Default'")]
    runs = client.search_runs(experiments, run_view_type=ViewType.ALL, max_results=5000)
    names = {run.info.run_id: run.info.run_name for run in runs}
    found: dict[str, Any] = {}
    for run in runs:
        info, data = run.info, run.data
        histories = {
            name: sorted((p.step, p.timestamp, repr(p.value)) for p in client.get_metric_history(info.run_id, name))
            for name in data.metrics
        }
        latest = {m.key: (repr(m.value), m.timestamp, m.step) for m in data._metric_objs}
        place = info.artifact_uri.replace(info.run_id, "RUN").rpartition("/artifacts/RUN")[1:]
        found[info.run_name] = {
            "info": (info.status, info.start_time, info.end_time, info.user_id, info.lifecycle_stage, place),
            "inputs": (run.inputs.dataset_inputs, run.outputs.model_outputs if run.outputs else None),
            "params": data.params,
            "tags": {name: names.get(value, value) for name, value in data.tags.items()},
            "latest": latest,
            "histories": histories,
            "files": sorted(item.path for item in client.list_artifacts(info.run_id)),
        }
    return found


QUERIES = [
    ("tags.`bilevel.kind` = 'trial'", ["metrics.`objective` ASC"]),
    ("tags.`bilevel.kind` = 'trial'", ["metrics.`objective` DESC"]),
    ("metrics.loss < 0.3", ["params.lr ASC", "tags.`bilevel.trial` DESC"]),
    ("params.lr = '0.1'", ["attributes.start_time DESC"]),
    ("attributes.status = 'FINISHED' and tags.`bilevel.state` = 'completed'", ["attributes.end_time ASC"]),
    ("attributes.run_name LIKE 'trial %'", ["metrics.accuracy DESC"]),
    ("tags.mlflow.user != 'nobody'", []),
]


def found_by(uri: str, condition: str, order: list[str]) -> list[str]:
    client = MlflowClient(uri)
    experiments = [e.experiment_id for e in client.search_experiments()]
    order = [*order, "attributes.run_name ASC"]  # of equals
    return [run.info.run_name for run in client.search_runs(experiments, condition, order_by=order)]
