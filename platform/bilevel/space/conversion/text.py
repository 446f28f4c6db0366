"""What is a space as text (JSON), and which text is one?"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
from collections.abc import Mapping
from typing import Any

from bilevel import trees
from bilevel.errors import BadInput
from bilevel.space import Space
from bilevel.space.dimensions import Int, Log, LogInt, LogNormal, Normal, OneOf, Uniform
from bilevel.space.tree import children

_KINDS = {kind.__name__: kind for kind in (Uniform, Log, Int, LogInt, Normal, LogNormal)}


def to_json(space: Space) -> str:
    """A space of plain values, dimensions, dicts and dataclasses as JSON; `from_json` reads it.

    Raises:
        BadInput: a value that JSON cannot hold, such as a function, with its path.
    """
    return json.dumps(describe(space), indent=1, allow_nan=False)


def from_json(text: str) -> Space:
    """The space that `to_json` wrote. Dataclasses are imported by their dotted path; nothing else is ever called.

    Raises:
        BadInput: it is no such text, or names what is not an importable dataclass.
    """
    try:
        space = read(json.loads(text))
    except json.JSONDecodeError as error:
        raise BadInput(f"from_json: this is not JSON ({error}); give what to_json wrote") from error
    if not isinstance(space, Space):
        raise BadInput(f"from_json: this describes a {type(space).__name__}; give what to_json wrote of a Space")
    return space


def describe(value: Any, where: str = "") -> Any:
    """A source of a value (a space, a dimension, a constant) as plain JSON values.

    Raises:
        BadInput: JSON cannot hold it.
    """
    if value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and math.isfinite(value)):
        return value
    if isinstance(value, tuple | list):
        items = [describe(inside, f"{where}[{index}]") for index, inside in enumerate(value)]
        return items if isinstance(value, list) else {"tuple": items}
    if isinstance(value, OneOf):
        options = [
            describe(option, f"{where}[{called}]") for called, option in zip(value.labels, value.options, strict=True)
        ]
        return {"OneOf": options, "ordered": value.ordered, "center": value.center}
    if type(value) in _KINDS.values():
        return {type(value).__name__: trees.fields_of(value)}
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return {"dict": {name: describe(inside, _dot(where, name)) for name, inside in value.items()}}
    if isinstance(value, Space):
        inside = {name: describe(part, _dot(where, name)) for name, part in value.values.items()}
        return {"Space": _path(value.target, where), "values": inside}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        inside = {name: describe(part, _dot(where, name)) for name, part in children(value).items()}
        return {"object": _path(type(value), where), "values": inside}
    raise BadInput(f"{where}: {value!r} cannot be written as JSON; plain values, dimensions and dataclasses can")


def read(described: Any) -> Any:
    """What `describe` described.

    Raises:
        BadInput: nothing is described so.
    """
    if isinstance(described, list):
        return [read(inside) for inside in described]
    if not isinstance(described, dict):
        return described
    kind = next((name for name in described if name in (*_KINDS, "Space", "object", "dict", "tuple", "OneOf")), None)
    if kind is None:
        raise BadInput(f"from_json: {described!r} is none of Space, object, dict, tuple, OneOf, {', '.join(_KINDS)}")
    try:
        return _made(kind, described[kind], described)
    except (TypeError, AttributeError) as error:
        raise BadInput(f"from_json: {kind}: {error}; give what to_json wrote") from error


def _made(kind: str, content: Any, described: dict[str, Any]) -> Any:
    values = {name: read(inside) for name, inside in described.get("values", {}).items()}
    if kind == "dict":
        return {name: read(inside) for name, inside in content.items()}
    if kind == "tuple":
        return tuple(read(inside) for inside in content)
    if kind == "OneOf":
        return OneOf(*map(read, content), ordered=described.get("ordered", False), center=described.get("center"))
    if kind == "Space":
        return Space(dict if content == "dict" else _imported(content), **values)
    if kind == "object":
        return _imported(content)(**values)
    return _KINDS[kind](**content)


def _path(target: Any, where: str) -> str:
    if target is dict:
        return "dict"
    name = getattr(target, "__qualname__", str(target))
    if not isinstance(target, type) or not dataclasses.is_dataclass(target) or "." in name:
        raise BadInput(f"{where or 'space'}: {name} cannot be written as JSON; dataclasses at the top of a module can")
    return f"{target.__module__}.{name}"


def _imported(path: str) -> Any:
    """The dataclass at a dotted path; importing its module is all that is done."""
    module, _, name = path.rpartition(".")
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise BadInput(f"from_json: {path} cannot be imported ({error}); install what it comes from") from error
    if not isinstance(found, type) or not dataclasses.is_dataclass(found):
        raise BadInput(f"from_json: {path} is not a dataclass")
    return found


def _dot(where: str, name: Any) -> str:
    return f"{where}.{name}" if where else str(name)
