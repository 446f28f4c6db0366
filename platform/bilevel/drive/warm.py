"""What do earlier runs tell a new search?"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bilevel import space as spaces
from bilevel.errors import BadInput, RecordDamaged
from bilevel.record import folder as folders
from bilevel.record import projection
from bilevel.record.folder import RunFolder
from bilevel.search.port import Told
from bilevel.space.dimensions import OneOf, same
from bilevel.study import history as histories
from bilevel.study.history import History, Trial
from bilevel.study.outcome import excess
from bilevel.study.study import Study

EXPERIMENT = "mlflow:"


def collect(study: Study, store: Path, uri: str) -> list[dict[str, Any]]:
    """The trials of `study.warm_start`, as far as they fit the space: kept with the run, which so stays reproducible.

    Whether they keep within limits is judged by those of this study; one that did not report what they bound is left
    out.

    Raises:
        BadInput: no such run or experiment, another objective, or not one trial that fits.
    """
    found: list[dict[str, Any]] = []
    for name in study.warm_start:
        if name.startswith(EXPERIMENT):
            found += _experiment(study, name.removeprefix(EXPERIMENT), uri)
    for name in study.warm_start:
        if not name.startswith(EXPERIMENT):
            found += _runs(study, name, store)
    return found


def _runs(study: Study, name: str, store: Path) -> list[dict[str, Any]]:
    """The ended trials of one run by its id, or of all runs of a study by its name."""
    found: list[dict[str, Any]] = []
    ended, values = 0, set[str]()
    for folder in _folders(study, name, store):
        history = histories.replay(folder.events())
        trials = [trial for trial in history.trials.values() if trial.state != "running"]
        if not trials:
            continue
        if dict(history.objectives) != study.objectives:
            raise BadInput(
                f"Study {study.name}: warm_start={name!r} looks for {_ways(history.objectives)}, this study for"
                f" {_ways(study.objectives)}; trials can be compared only by the same objective"
            )
        found += [said for trial in trials if (said := _said(study, history, trial)) is not None]
        ended, values = ended + len(trials), values.union(*(trial.point for trial in trials))
    if not found:
        known = ", ".join(sorted(values)) or "not searched"
        why = f"of its {ended} ended trials none fits this space; its values are {known}{_limited(study)}"
        what = why if ended else "none of its trials has ended"
        raise BadInput(f"Study {study.name}: warm_start={name!r}: {what}")
    return found


def _folders(study: Study, name: str, store: Path) -> list[RunFolder]:
    of_study = [folder for folder in folders.runs(store) if _called(study, folder, name)]
    try:
        return of_study or [folders.find(store, name)]
    except BadInput as error:
        raise BadInput(f"Study {study.name}: warm_start={name!r}: {error}") from error


def _called(study: Study, folder: RunFolder, name: str) -> bool:
    """Whether a run is of the study of this name; one that cannot be read is left out, and that is said."""
    try:
        return bool(folder.document()["name"] == name)
    except RecordDamaged as error:
        warnings.warn(f"Study {study.name}: warm_start={name!r} leaves {folder.run_id} out: {error}", stacklevel=2)
        return False


def restore(said: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], Told]]:
    """What `collect` gave, as the search is told it."""
    told = []
    for trial in said:
        values = None if trial["values"] is None else tuple(trial["values"])
        told.append((trial["point"], Told(values, trial["step"], trial["stopped"], trial["violation"])))
    return told


def told(study: Study, earlier: Sequence[tuple[Mapping[str, Any], Told]]) -> str:
    """In a line, what the search knows when it begins."""
    values = [told.values[0] for _, told in earlier if told.values is not None and not told.violation]
    best = f", the best with {study.metric} {study.sign * min(values):.5g}" if values else ""
    return f"warm start: told the search {len(earlier)} trials of {', '.join(study.warm_start)}{best}"


def _experiment(study: Study, name: str, uri: str) -> list[dict[str, Any]]:
    """The runs of an MLflow experiment whose parameters fit the space and that have the objectives as metrics."""
    if uri == "none":
        raise BadInput(
            f"Study {study.name}: warm_start={EXPERIMENT + name!r} needs a tracking server; give --track URI"
        )
    from bilevel.record.mlflow.earlier import earlier  # dear, and rarely wanted

    said: list[dict[str, Any]] = []
    best = study.counts == "best"
    written = {projection.metric(known, study.metric): known for known in (*study.objectives, *study.limits)}
    runs = earlier(uri, name, projection.metric(study.metric, study.metric), curves=best)
    for run in runs:
        metrics = {**run.metrics, **{written[n]: run.metrics[n] for n in written if n in run.metrics}}
        point = spaces.point_of(study.space, _config(study, run.config))
        values = [metrics.get(metric) for metric in study.objectives]
        if best and run.curve:
            values[0] = study.sign * min(study.sign * value for _, value in run.curve)
        if point is None or (run.finished and None in values):
            continue
        ways = [1 if minimize else -1 for minimize in study.objectives.values()]
        told = [way * value for way, value in zip(ways, values, strict=True) if value is not None]
        good = run.finished and all(map(math.isfinite, told))
        violation = excess(study, metrics) if good else 0.0
        if math.isfinite(violation):
            step = max((step for step, _ in run.curve), default=0)
            said.append(_entry(point, told if good else None, step, run.stopped, violation))
    if not said:
        wanted = ", ".join([*(p.path for p in study.parameters), *study.objectives])
        raise BadInput(
            f"Study {study.name}: warm_start={EXPERIMENT + name!r}: of its {len(runs)} ended runs none fits; they need"
            f" {wanted} as parameters and metrics{_limited(study)}"
        )
    return said


def _config(study: Study, texts: Mapping[str, str]) -> dict[str, Any]:
    """Parameters as they were before somebody wrote them as text; what may have been several options is left out.

    We write JSON, MLflow's `log_param` what Python prints (`True`).
    """
    config: dict[str, Any] = {}
    paths = {projection.allowed(p.path): p.path for p in study.parameters}
    for written, text in texts.items():
        path = paths.get(written, written)
        choices = [p.dimension for p in study.parameters if p.path == path and isinstance(p.dimension, OneOf)]
        labels = [label for choice in choices for label in choice.labels]
        alike = [label for label in labels if text in (projection.text(label), str(label))]
        if not alike:
            config[path] = _value(text)
        elif all(same(label, alike[0]) for label in alike):
            config[path] = alike[0]
    return config


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _entry(
    point: Mapping[str, Any], values: list[float] | None, step: int, stopped: bool, violation: float
) -> dict[str, Any]:
    return {"point": dict(point), "values": values, "step": step, "stopped": stopped, "violation": violation}


def _said(study: Study, history: History, trial: Trial) -> dict[str, Any] | None:
    point = spaces.point_of(study.space, trial.config)
    if point is None:
        return None
    values: list[float] | None = None
    violation = 0.0
    if trial.objective is not None:
        reported, metrics = list(trial.values or (trial.objective,)), trial.metrics
        if study.counts == "best" and trial.best is not None:  # which the earlier study may not have gone by
            reported[0], metrics = trial.best, {**metrics, **trial.best_metrics}
        violation = excess(study, metrics)
        if math.isinf(violation):
            return None
        ways = [1 if minimize else -1 for minimize in history.objectives.values()]
        values = [way * value for way, value in zip(ways, reported, strict=True)]
    return _entry(point, values, trial.step, trial.state == "stopped", violation)


def _ways(objectives: Mapping[str, bool]) -> str:
    return ", ".join(f"{'minimize' if low else 'maximize'} {name}" for name, low in objectives.items())


def _limited(study: Study) -> str:
    return f"; limits need {', '.join(study.limits)}" if study.limits else ""
