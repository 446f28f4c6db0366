"""How does a search of several objectives look by each of them? The same search, led by one after the other."""

from __future__ import annotations

import dataclasses

from bilevel.figures.search import Search
from bilevel.study.history import Trial


def each(search: Search) -> list[Search]:
    """The search by its leading objective, then by each other one: there that one decides who is best."""
    names = list(search.history.objectives)
    return [search, *(_by(search, index) for index in range(1, len(names)))]


def _by(search: Search, index: int) -> Search:
    history = search.history
    name = list(history.objectives)[index]
    trials = {number: _judged(trial, index) for number, trial in history.trials.items()}
    own = dataclasses.replace(history, metric=name, minimize=history.objectives[name], trials=trials)
    tracks = {
        number: dataclasses.replace(track, curve=track.others[name]) if name in track.others else track
        for number, track in search.tracks.items()
    }
    return dataclasses.replace(search, history=own, tracks=tracks)


def _judged(trial: Trial, index: int) -> Trial:
    value = trial.values[index] if index < len(trial.values) else None
    return dataclasses.replace(trial, objective=value)
