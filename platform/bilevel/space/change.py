"""What is a space with one of its values replaced (`--set PATH=VALUE`)?"""

from __future__ import annotations

import dataclasses
import json
from argparse import Namespace
from types import SimpleNamespace
from typing import Any

from bilevel.errors import BadInput
from bilevel.space import fits
from bilevel.space.dimensions import OneOf, is_dimension
from bilevel.space.secrets import Secret
from bilevel.space.tree import Learned, Space, children

BAGS = (dict, SimpleNamespace, Namespace)
"""What takes any name, a misspelt one too: there only names that the space has can be meant."""


def parse(text: str) -> Any:
    """A VALUE of `--set PATH=VALUE`: JSON, else the string itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def assign(node: Any, path: str, value: Any, *, whole: str | None = None, free: bool = False) -> Any:
    """The same space with the value at a dotted path replaced by a constant, a dimension, a `Space` or `Learned`.

    The label of one of a choice's options picks that option. Where names are `free`, a new one is added: an objective
    that suggests its own values takes this one instead.

    Raises:
        BadInput: no such path (the message names what is there), or a value of the wrong type.
    """
    whole = whole or path
    if isinstance(node, OneOf):
        raise BadInput(_inside(node, path, whole))
    inside = children(node)
    name, rest = (path, "") if path in inside else (path.partition(".")[0], path.partition(".")[2])
    if isinstance(node, Learned):
        if name in ("by", "per", "start"):
            return dataclasses.replace(node, **{name: _put(vars(node)[name], rest, value, whole, Any)})
        return dataclasses.replace(node, value=assign(_factory(node.value, whole), path, value, whole=whole))
    target: Any = node.target if isinstance(node, Space) else type(node) if dataclasses.is_dataclass(node) else None
    bag = target is None or (isinstance(target, type) and issubclass(target, BAGS))
    known = list(inside) if bag else fits.signature(target)[0]
    if known is not None and name not in known and not free:
        where = whole[: len(whole) - len(path)].rstrip(".") or "the space"
        raise BadInput(f"no value at {whole!r}: {where} has {', '.join(known) or 'no fields'}")
    hint = Any if target is None else fits.hints(target).get(name, Any)
    return _with(node, name, _put(inside.get(name), rest, value, whole, hint))


def _with(node: Any, name: str, new: Any) -> Any:
    if isinstance(node, dict):
        return {key: new if str(key) == name else value for key, value in node.items()}
    if isinstance(node, Space):
        return node.replace(**{name: new})
    if isinstance(new, Space | Learned) or is_dimension(new):
        return Space(type(node), **{**children(node), name: new})
    return dataclasses.replace(node, **{name: new})


def _put(child: Any, rest: str, value: Any, whole: str, hint: Any) -> Any:
    if rest:
        return assign(child, rest, value, whole=whole)
    value = tuple(value) if isinstance(value, list) else value
    if isinstance(child, Secret) and not isinstance(value, Secret):
        raise BadInput(
            f"{whole}: it is {child!r}, and what is set would be recorded; set the environment variable"
            f" {child.variable} instead"
        )
    if value is None or isinstance(value, bool | int | float | str):
        if isinstance(child, OneOf) and (picked := _pick(child, value, whole)) is not None:
            value = picked
        elif isinstance(child, Learned) and isinstance(child.value, OneOf) and child.value.contains(value):
            value = dataclasses.replace(child, value=child.value.option(value))
    fits.check(hint, value, whole)
    return float(value) if hint is float and isinstance(value, int) else value


def _pick(choice: OneOf, value: Any, whole: str) -> Any:
    """The option that is called so; None: it is a new value (or the option None)."""
    if choice.contains(value):
        return choice.option(value)
    if isinstance(value, str) and any(isinstance(option, Space) for option in choice.options):
        raise BadInput(f"{whole}: {value!r} is none of its options: {', '.join(map(str, choice.labels))}")
    return None


def _inside(choice: OneOf, path: str, whole: str) -> str:
    where = whole[: len(whole) - len(path)].rstrip(".")
    labels = [str(called) for called in choice.labels]
    spaces = [str(n) for n, option in zip(labels, choice.options, strict=True) if children(option)]
    pick = f"; pick one first, such as {where}={spaces[0]}, then set {whole}" if spaces else ""
    return f"no value at {whole!r}: {where} is a choice of {', '.join(labels)}{pick}"


def _factory(factory: Any, whole: str) -> Any:
    """A factory as a space of its parameters."""
    if isinstance(factory, Space | OneOf):
        return factory
    if callable(factory):
        return Space(factory)
    raise BadInput(f"no value at {whole!r}: {factory!r} is a number; it has by, per and start")
