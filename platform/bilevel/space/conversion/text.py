"""What is a space as text (JSON), and which text is one?"""

from __future__ import annotations

import dataclasses
import importlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from bilevel import trees
from bilevel.errors import BadInput
from bilevel.space import Space
from bilevel.space.dimensions import Int, Log, LogInt, LogNormal, Normal, OneOf, Uniform
from bilevel.space.secrets import Secret
from bilevel.space.tree import children

_KINDS = {kind.__name__: kind for kind in (Uniform, Log, Int, LogInt, Normal, LogNormal)}
_KEYS: dict[str, tuple[str, ...]] = {
    "Space": ("values",),
    "object": ("values",),
    "dict": (),
    "tuple": (),
    "OneOf": ("ordered", "center"),
    **dict.fromkeys(_KINDS, ()),
    "Secret": (),
}
"""What is described under which key, and what may stand beside it."""


def to_json(space: Space) -> str:
    """A space of plain values, dimensions, dicts and dataclasses as JSON; `from_json` reads it.

    Raises:
        BadInput: a value that JSON cannot hold, such as a function, with its path.
    """
    return json.dumps(describe(space), indent=1, allow_nan=False)


def from_json(text: str, *, allow: Sequence[str] = ()) -> Space:
    """The space that `to_json` wrote. The text decides nothing that is run but the making of dataclasses.

    Args:
        text: what `to_json` wrote.
        allow: packages (or modules) that may be imported for their dataclasses. Those of this library, and of modules
            that are imported already, need not be named; nothing else is ever imported.

    Raises:
        BadInput: it is no such text, or names what is not an allowed dataclass.
    """
    try:
        space = read(json.loads(text), allow=allow)
    except (ValueError, RecursionError) as error:
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
    if isinstance(value, Secret):
        return {"Secret": value.variable}
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


def read(described: Any, *, allow: Sequence[str] = ()) -> Any:
    """What `describe` described; `allow` as of `from_json`.

    Raises:
        BadInput: nothing is described so.
    """
    if isinstance(described, float) and not math.isfinite(described):
        raise BadInput(f"from_json: {described} is no value of a space")
    if isinstance(described, list):
        return [read(inside, allow=allow) for inside in described]
    if not isinstance(described, dict):
        return described
    kinds = [name for name in described if name in _KEYS]
    if len(kinds) != 1 or described.keys() - {kinds[0], *_KEYS[kinds[0]]}:
        shown = str(described)[:200]
        raise BadInput(f"from_json: {shown} is none of {', '.join(_KEYS)}; give what to_json wrote")
    try:
        return _made(kinds[0], described[kinds[0]], described, allow)
    except BadInput:
        raise
    except Exception as error:
        raise BadInput(f"from_json: {kinds[0]}: {error}; give what to_json wrote") from error


def _made(kind: str, content: Any, described: dict[str, Any], allow: Sequence[str]) -> Any:
    values = {name: read(inside, allow=allow) for name, inside in described.get("values", {}).items()}
    if kind == "dict":
        return {name: read(inside, allow=allow) for name, inside in content.items()}
    if kind == "tuple":
        return tuple(read(inside, allow=allow) for inside in content)
    if kind == "OneOf":
        options = [read(inside, allow=allow) for inside in content]
        ordered = described.get("ordered", False)
        if not isinstance(content, list) or not isinstance(ordered, bool):
            raise TypeError(f"options {str(content)[:60]!r}, ordered {ordered!r}; a list, and true or false")
        return OneOf(*options, ordered=ordered, center=described.get("center"))
    if kind == "Space":
        return Space(dict if content == "dict" else _imported(content, allow), **values)
    if kind == "object":
        return _imported(content, allow)(**values)
    if kind == "Secret":
        return Secret(content)
    return _KINDS[kind](**content)


def _path(target: Any, where: str) -> str:
    if target is dict:
        return "dict"
    name = getattr(target, "__qualname__", str(target))
    if not isinstance(target, type) or not dataclasses.is_dataclass(target) or "." in name:
        raise BadInput(f"{where or 'space'}: {name} cannot be written as JSON; dataclasses at the top of a module can")
    return f"{target.__module__}.{name}"


def _imported(path: str, allow: Sequence[str]) -> Any:
    """The dataclass at a dotted path, of a module that is there already or that may be imported."""
    if not isinstance(path, str):
        raise TypeError(f"{path!r} names no class")
    home, _, name = path.rpartition(".")
    if not home:
        raise BadInput(f"from_json: {path} names no module; give what to_json wrote")
    allowed = any(home == known or home.startswith(f"{known}.") for known in ("bilevel", *allow))
    try:
        module = importlib.import_module(home) if allowed else sys.modules.get(home)
    except (ImportError, ValueError) as error:
        raise BadInput(f"from_json: {path} cannot be imported ({error}); install what it comes from") from error
    if module is None:
        top = home.partition(".")[0]
        raise BadInput(
            f"from_json: {path} is not imported for a text to have it; import {home} yourself, or allow it:"
            f" from_json(text, allow=[{top!r}])"
        )
    found = vars(module).get(name)  # no attribute, which a module may make, or import, when it is asked for
    if not isinstance(found, type) or not dataclasses.is_dataclass(found):
        raise BadInput(f"from_json: {path} is not a dataclass")
    return found


def _dot(where: str, name: Any) -> str:
    return f"{where}.{name}" if where else str(name)
