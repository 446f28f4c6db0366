"""Which event does a line of a journal tell, is it whole, and can it have happened there?"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Union, get_args, get_origin

from bilevel.errors import RecordDamaged
from bilevel.study.events import (
    Asked,
    Begun,
    Ended,
    Event,
    Finished,
    Kept,
    Left,
    Moved,
    Reported,
    Started,
    Steered,
    Tagged,
)  # fmt: skip

STATES = ("completed", "stopped", "failed")
LARGEST = 1 << 64
"""Whole numbers of ours are smaller: seeds have 63 bits."""


def event(said: Mapping[str, Any]) -> Event:
    """The event that a line tells, its name under "event".

    Raises:
        RecordDamaged: it is none, something is missing or of another kind, or a newer version has written it.
    """
    name = said.get("event")
    kind = _KINDS.get(name) if isinstance(name, str) else None
    if kind is None:
        raise RecordDamaged(f"event {name!r} is not known here; a newer bilevel may have written it: update this one")
    checks = _CHECKS[kind]
    values = {field: tuple(v) if isinstance(v, list) else v for field, v in said.items() if field != "event"}
    for field, value in values.items():
        if field not in checks:
            raise RecordDamaged(
                f"{name} has {field!r}, which is not known here; a newer bilevel may have written it: update this one"
            )
        if not checks[field](value):
            raise RecordDamaged(f"{name}: {field} is {str(value)[:60]!r}, which it cannot be")
    missing = [field for field in _REQUIRED[kind] if field not in values]
    if missing:
        raise RecordDamaged(f"{name} lacks {', '.join(missing)}")
    made: Event = kind(**values)
    return made


class Course:
    """The events of a run, each looked at beside those before it."""

    def __init__(self) -> None:
        self._asked: set[int] = set()
        self._began = False

    def take(self, event: Event) -> None:
        """One more.

        Raises:
            RecordDamaged: it cannot have happened here.
        """
        if isinstance(event, Started) is self._began:
            raise RecordDamaged("started twice" if self._began else "the first entry does not say of which study it is")
        self._began = True
        if isinstance(event, Asked):
            if event.trial in self._asked or event.trial < 0:
                raise RecordDamaged(f"trial {event.trial} is asked twice" if event.trial >= 0 else "a trial below 0")
            if event.of is not None:
                self._known(event.of, event)
            self._asked.add(event.trial)
        elif isinstance(event, Begun | Moved | Reported | Tagged | Left | Kept | Ended):
            self._known(event.trial, event)
        if isinstance(event, Moved):
            self._known(event.donor, event)
        for trial in event.stop if isinstance(event, Steered) else ():
            self._known(trial, event)
        if isinstance(event, Steered) and (event.trials < 0 or not 0 <= event.seconds < math.inf):
            raise RecordDamaged(f"steered gives {event.trials} trials and {event.seconds:g} s; they are from 0 on")
        for name in event.files if isinstance(event, Left) else ():
            if not is_plain(name):
                raise RecordDamaged(f"left names the file {name[:60]!r}, which lies outside of the trial's folder")
        for name, said in event.found.items() if isinstance(event, Reported) else ():
            if not isinstance(said, dict) or not {"value", "dimension"} <= said.keys():
                raise RecordDamaged(f"reported found {name!r} as {str(said)[:60]!r}; it has value and dimension")
        if isinstance(event, Ended) and event.state not in STATES:
            raise RecordDamaged(f"a trial ended {event.state!r}; it ends {', '.join(STATES)}")
        if isinstance(event, Finished) and event.status not in STATES:
            raise RecordDamaged(f"the study finished {event.status!r}; it finishes {', '.join(STATES)}")

    def _known(self, trial: int, event: Event) -> None:
        if trial not in self._asked:
            raise RecordDamaged(f"{type(event).__name__.lower()} names trial {trial}, which was never asked")


def is_plain(name: str) -> bool:
    """Whether a file's name (a path with slashes) stays within the folder that it is in."""
    parts = name.split("/")
    return bool(name) and "\0" not in name and not any(part in ("", ".", "..") for part in parts)


def result(said: Mapping[str, Any]) -> None:
    """Whether it is a study's result as `run --json` prints it.

    Raises:
        RecordDamaged: it is not; the message names what is wrong.
    """
    for name, check in _RESULT.items():
        if name not in said or not check(said[name]):
            what = str(said[name])[:60] if name in said else "nothing"
            raise RecordDamaged(f"the result's {name} is {what!r}, which it cannot be")
    best = said["best"]
    if best is not None and not (
        _is_whole(best.get("trial"))
        and _is_number(best.get("objective"))
        and isinstance(best.get("config"), dict)
        and all(best.get(name) is None or _is_number(best[name]) for name in ("runs", "ci95"))
    ):
        raise RecordDamaged(f"the result's best is {str(best)[:60]!r}; it has trial, objective and config")
    if not isinstance(said.get("pareto", []), list):
        raise RecordDamaged(f"the result's pareto is {str(said['pareto'])[:60]!r}; it is a list of trials")


# -- what a value may be -----------------------------------------------------------------------------------------------


def _is_whole(value: Any) -> bool:
    return type(value) is int and -LARGEST < value < LARGEST


def _is_number(value: Any) -> bool:
    return type(value) is float or _is_whole(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _numbers(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_number, value.values()))


def _check(hint: Any) -> Callable[[Any], bool]:
    """Whether a value of JSON may stand for an annotation of an event's field."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        options = [_check(option) for option in parts]
        return lambda value: any(fits(value) for fits in options)
    if origin is not None and issubclass(origin, Mapping):
        inside = _check(parts[1])
        return lambda value: isinstance(value, dict) and all(map(inside, value.values()))
    if origin is not None and issubclass(origin, Sequence):
        part = _check(parts[0])
        return lambda value: isinstance(value, tuple) and all(map(part, value))
    plain: dict[Any, Callable[[Any], bool]] = {
        int: _is_whole,
        float: _is_number,
        str: _is_text,
        bool: lambda value: isinstance(value, bool),
        type(None): lambda value: value is None,
    }
    return plain.get(hint, lambda _: True)


_KINDS: dict[str, Any] = {kind.__name__.lower(): kind for kind in get_args(Event)}
_CHECKS: dict[Any, dict[str, Callable[[Any], bool]]] = {
    kind: {name: _check(hint) for name, hint in typing.get_type_hints(kind).items()} for kind in get_args(Event)
}
_REQUIRED: dict[Any, list[str]] = {
    kind: [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    for kind in get_args(Event)
}
_RESULT: dict[str, Callable[[Any], bool]] = {
    "run_id": _is_text,
    "study": _is_text,
    "status": lambda value: value in (*STATES, "interrupted"),
    "trials": lambda value: isinstance(value, dict) and all(map(_is_whole, value.values())),
    "best": lambda value: value is None or isinstance(value, dict),
    "metrics": lambda value: isinstance(value, dict) and all(v is None or _is_number(v) for v in value.values()),
    "episodes": _is_number,
    "fingerprint": _is_text,
    "seconds": _is_number,
    "episodes_per_second": _is_number,
}
