"""What do earlier runs tell a new search?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bilevel import history as histories
from bilevel import space as spaces
from bilevel.errors import BadInput
from bilevel.history import History, Trial
from bilevel.outer.search import Told
from bilevel.record import folder as folders
from bilevel.record.folder import RunFolder
from bilevel.study import Study


def collect(study: Study, store: Path) -> list[dict[str, Any]]:
    """The trials of `study.warm_start`, as far as they fit the space: kept with the run, which so stays reproducible.

    Raises:
        BadInput: no such run, another objective, or not one trial that fits.
    """
    found: list[dict[str, Any]] = []
    for run, folder in _folders(study, store):
        history = histories.replay(folder.events())
        if dict(history.objectives) != study.objectives:
            raise BadInput(
                f"Study {study.name}: warm_start={run!r} looks for {_ways(history.objectives)}, this study for"
                f" {_ways(study.objectives)}; trials can be compared only by the same objective"
            )
        fitting = [said for trial in history.trials.values() if (said := _said(study, history, trial)) is not None]
        if not fitting:
            raise BadInput(
                f"Study {study.name}: warm_start={run!r}: of its {len(history.trials)} trials none fits this space; "
                f"its values are {', '.join(_searched(history)) or 'not searched'}"
            )
        found += fitting
    return found


def _folders(study: Study, store: Path) -> Iterator[tuple[str, RunFolder]]:
    """The runs that are meant: by id, or all of a study by its name."""
    for name in study.warm_start:
        of_study = [folder for folder in folders.runs(store) if folder.document()["name"] == name]
        yield from ((name, folder) for folder in of_study or [folders.find(store, name)])


def restore(said: Sequence[Mapping[str, Any]]) -> list[tuple[Mapping[str, Any], Told]]:
    """What `collect` gave, as the search is told it."""
    told = []
    for trial in said:
        values = None if trial["values"] is None else tuple(trial["values"])
        told.append((trial["point"], Told(values, trial["step"], trial["stopped"], trial["violation"])))
    return told


def _said(study: Study, history: History, trial: Trial) -> dict[str, Any] | None:
    if trial.state not in ("completed", "stopped", "failed"):
        return None
    point = spaces.point_of(study.space, trial.config)
    if point is None:
        return None
    values: list[float] | None = None
    if trial.objective is not None:
        ways = [1 if minimize else -1 for minimize in history.objectives.values()]
        values = [way * value for way, value in zip(ways, trial.values or (trial.objective,), strict=True)]
    return {
        "point": dict(point),
        "values": values,
        "step": trial.step,
        "stopped": trial.state == "stopped",
        "violation": trial.violation,
    }


def _ways(objectives: Mapping[str, bool]) -> str:
    return ", ".join(f"{'minimize' if low else 'maximize'} {name}" for name, low in objectives.items())


def _searched(history: History) -> list[str]:
    return sorted({name for trial in history.trials.values() for name in trial.point})
