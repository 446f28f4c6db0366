"""What was searched, where only the tried values are known? Dimensions guessed from them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bilevel.space.dimensions import Dimension, Int, Log, LogInt, OneOf, Parameter, Uniform, same
from bilevel.space.dimensions.checks import is_number


def parameters(points: Iterable[Mapping[str, Any]], log: Sequence[str] = ()) -> tuple[Parameter, ...]:
    """A parameter for each name in the points, over the values that it has there; `log`: paths on a log scale."""
    values: dict[str, list[Any]] = {}
    for point in points:
        for name, value in point.items():
            values.setdefault(name, []).append(value)
    found = []
    for name, seen in values.items():
        path = re.sub(r"\[[^\]]*\]", "", name)
        found.append(Parameter(name, path, _dimension(seen, path in log)))
    return tuple(found)


def _dimension(values: list[Any], log: bool) -> Dimension:
    if not all(map(is_number, values)) or min(values) == max(values):
        return OneOf(*_different(values))
    low, high = min(values), max(values)
    if not is_number(high / 2 - low / 2 + high / 2 - low / 2):  # no range of floats is as wide
        return OneOf(*_different(values))
    if all(isinstance(value, int) for value in values):
        return LogInt(low, high) if log and low > 0 else Int(low, high)
    return Log(low, high) if log and low > 0 else Uniform(low, high)


def _different(values: list[Any]) -> list[Any]:
    seen: dict[tuple[bool, str], Any] = {}
    for value in values:
        plain = value if value is None or isinstance(value, bool | int | float | str) else repr(value)
        seen.setdefault((isinstance(value, str), repr(plain)), plain)
    kept: list[Any] = []
    for value in seen.values():
        if not any(same(value, other) for other in kept):
            kept.append(value)
    return sorted(kept, key=lambda v: (isinstance(v, str), str(v)))
