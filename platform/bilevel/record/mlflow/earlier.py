"""What was tried before, as an MLflow experiment tells, whoever recorded it?"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from bilevel.errors import BadInput
from bilevel.record.mlflow.database import reach
from bilevel.record.mlflow.requests import first_line
from bilevel.record.redaction import redact
from bilevel.record.tracking import sqlite_file

PAGE = 1000


@dataclass(frozen=True)
class Earlier:
    """A run that has ended: parameters by name, as text, the last value of each metric, and whether it came to its end.

    `curve` has the objective's finite values by step, as far as it was asked for.
    """

    config: Mapping[str, str]
    metrics: Mapping[str, float]
    finished: bool
    stopped: bool
    place: tuple[int, int]
    """When it began [ms], and its number in its study: several may begin within a millisecond."""
    curve: tuple[tuple[int, float], ...] = ()


def earlier(uri: str, experiment: str, metric: str, *, curves: bool) -> list[Earlier]:
    """The ended runs of an experiment, oldest first; parents of our own studies and interrupted runs are left out.

    Args:
        uri: of the tracking server or its database.
        experiment: its name.
        metric: the objective.
        curves: ask for its course in all runs, a question each; without, in those that were stopped alone.

    Raises:
        BadInput: there is no such experiment, or its database cannot be reached.
    """
    from sqlalchemy.exc import SQLAlchemyError

    try:
        reach(uri)
    except SQLAlchemyError as error:
        raise BadInput(f"warm_start: {redact(uri)}: {first_line(error)}") from error
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of MLflow about its own use of SQLAlchemy
        return sorted(_ended(uri, experiment, metric, curves=curves), key=lambda run: run.place)


def _ended(uri: str, experiment: str, metric: str, *, curves: bool) -> Iterator[Earlier]:
    from mlflow import MlflowClient

    file = sqlite_file(uri)
    client = MlflowClient(uri, uri) if file is None or file.exists() else None  # it would make a database
    found = None if client is None else client.get_experiment_by_name(experiment)
    if client is None or found is None:
        raise BadInput(f"warm_start: no experiment {experiment!r} in {redact(uri)}")
    token = None
    while True:
        page = client.search_runs(
            [found.experiment_id], max_results=PAGE, order_by=["attributes.start_time"], page_token=token
        )
        for run in page:
            if run.info.status in ("FINISHED", "FAILED", "KILLED") and run.data.tags.get("bilevel.kind") != "study":
                config = dict(run.data.params)
                for name, number in run.data.metrics.items():  # a member of a population ended with other values
                    path = name.removeprefix("config/")
                    if path != name and path in config:
                        config[path] = repr(int(number) if number.is_integer() else number)
                stopped = run.data.tags.get("bilevel.state", "") == "stopped"
                if run.info.status == "KILLED" and not stopped:  # interrupted: what it had come to is no result
                    continue
                place = (run.info.start_time, int(run.data.tags.get("bilevel.trial", 0)))
                known = (curves or stopped) and metric in run.data.metrics
                points = client.get_metric_history(run.info.run_id, metric) if known else ()
                curve = sorted((point.step, point.value) for point in points if math.isfinite(point.value))
                finished = run.info.status != "FAILED"
                yield Earlier(config, dict(run.data.metrics), finished, stopped, place, tuple(curve))
        token = page.token
        if not token:
            return
