"""What is in a run's study.json, and is it what was written?"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from bilevel.errors import RecordDamaged

FORMAT = 1
CHECK = "checksum"
WITHOUT = "`list`, `show` and `report` work without it, `resume` and `adapt` do not; put a copy of it back"


class Document(dict[str, Any]):
    """A document in which a missing key is damage."""

    def __init__(self, path: Path, said: Mapping[str, Any]) -> None:
        super().__init__(said)
        self._path = path

    def __missing__(self, key: str) -> Any:
        raise RecordDamaged(f"{self._path}: {key} is missing; {WITHOUT}")


def text(document: Mapping[str, Any]) -> str:
    """A document as it is written: JSON, with a checksum over the rest."""
    return json.dumps({**document, CHECK: _sum(document)}, indent=1)


def read(path: Path) -> Document:
    """The document in a file, its checksum (where it has one: earlier versions wrote none) and its values looked at.

    Raises:
        RecordDamaged: it is not what was written, or a newer version wrote it.
    """
    try:
        said = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecordDamaged(f"{path}: {error.strerror}; {WITHOUT}") from error
    except (ValueError, RecursionError) as error:
        raise RecordDamaged(f"{path}: damaged: {error}; {WITHOUT}") from error
    if not isinstance(said, dict):
        raise RecordDamaged(f"{path}: damaged: a {type(said).__name__}, not an object; {WITHOUT}")
    written = said.pop(CHECK, None)
    if said.get("format", FORMAT) != FORMAT or isinstance(said.get("format"), bool):
        raise RecordDamaged(
            f"{path}: format {said['format']!r}, this version reads {FORMAT}; a newer bilevel may have written it:"
            f" update this one; {WITHOUT}"
        )
    if written is not None and written != _sum(said):
        raise RecordDamaged(f"{path}: it is not what was written: its checksum is another one; {WITHOUT}")
    document = Document(path, said)
    for name, fits in _CHECKS.items():
        if name in said and not fits(said[name]):
            raise RecordDamaged(f"{path}: {name} is {str(said[name])[:60]!r}, which it cannot be; {WITHOUT}")
    for name in ("settings", "execution"):
        if name in said:
            document[name] = Document(path, said[name])
    return document


def _sum(document: Mapping[str, Any]) -> str:
    try:
        return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()
    except RecursionError:  # read, but deeper than can be written
        return ""


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_place(value: Any) -> bool:
    """Whether it can be a file's path at all."""
    try:
        return _is_text(value) and b"\0" not in os.fsencode(value)
    except UnicodeEncodeError:
        return False


def _is_words(value: Any) -> bool:
    return isinstance(value, dict) and all(map(_is_text, value.values()))


def _is_settings(value: Any) -> bool:
    whole = isinstance(value, dict) and all(
        value.get(name) is None or type(value[name]) is int for name in ("seed", "trials")
    )
    return whole and isinstance(value.get("config", {}), dict)


def _is_execution(value: Any) -> bool:
    return isinstance(value, dict) and _is_text(value.get("on")) and type(value.get("slots", 1)) is int


def _is_warm(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_told, value))


def _is_told(value: Any) -> bool:
    """Whether it is a trial of an earlier run, as the search is told it."""
    if not isinstance(value, dict) or not {"point", "values", "step", "stopped", "violation"} <= value.keys():
        return False
    values, violation = value["values"], value["violation"]
    numbers = [*(values if isinstance(values, list) else []), violation]
    return (
        isinstance(value["point"], dict)
        and (values is None or isinstance(values, list))
        and all(type(number) in (int, float) for number in numbers)
        and type(value["step"]) is int
        and isinstance(value["stopped"], bool)
    )


_CHECKS: dict[str, Callable[[Any], bool]] = {
    "name": _is_text,
    "file": lambda value: value is None or _is_place(value),
    "object": _is_text,
    "changes": lambda value: isinstance(value, dict),
    "settings": _is_settings,
    "sha256": _is_text,
    "source": _is_words,
    "folders": lambda value: isinstance(value, list) and all(map(_is_place, value)),
    "arguments": lambda value: isinstance(value, list) and all(map(_is_text, value)),
    "execution": _is_execution,
    "warm": _is_warm,
    "data": _is_words,
    "track": lambda value: value is None or _is_text(value),
}
