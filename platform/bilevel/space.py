"""Where does each value of a record of meta-parameters come from?"""

from __future__ import annotations

import dataclasses
import inspect
import json
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, Union

from bilevel.errors import BadInput

T = TypeVar("T")

FROM_TASK = ("shape", "ways", "outputs")
"""What the engine hands to a factory whose signature takes it: a sample's shape, and the number of outputs (twice)."""


class Space:
    """The shape of a record, and for each of its values where it comes from.

    `Space(target, **values)`: `target` is a dataclass (or a factory, inside `Learned`); a value is a constant, another
    `Space`, or `Learned(...)`. Every value has a dotted path, such as `rule.init.by.lr`.

    Raises:
        BadInput: an unknown name, a missing value or one of the wrong type, with the field named.
    """

    def __init__(self, target: Callable[..., Any], /, **values: Any) -> None:
        self.target = target
        self.values = values
        known, required = _signature(target)
        for name in values:
            if known is not None and name not in known:
                raise BadInput(f"Space for {_name(target)}: no field {name!r}; it has {', '.join(known) or 'none'}")
        for name in required:
            if name not in values and (dataclasses.is_dataclass(target) or name not in FROM_TASK):
                raise BadInput(
                    f"Space for {_name(target)}: {name!r} has no source; give it a value, a dimension or Learned(...)"
                )
        hints = _hints(target)
        for name, value in values.items():
            _check(hints.get(name, Any), value, f"{_name(target)}.{name}")

    def __repr__(self) -> str:
        inside = "".join(f", {name}={value!r}" for name, value in self.values.items())
        return f"Space({_name(self.target)}{inside})"

    def replace(self, **values: Any) -> Space:
        """The same space with some values changed."""
        return Space(self.target, **{**self.values, **values})


@dataclass(frozen=True)
class Learned:
    """A value that moves inside a run: it starts from `value` and is moved by `by` at every outer step.

    Args:
        value: a number, or a factory of an `nn.Module` (or a `Space` of one). The factory is called under a generator
            keyed by the study's seed and the trial; `shape`, `ways` and `outputs` are handed to it if it takes them.
        by: who moves it: `SGD`, `Adam`, `AdamW`.
        per: for a number: "one" for all of the learned network's tensors, or one per "tensor".
        start: begin from the learned weights of an earlier run (its folder) or of a `.safetensors` file.

    A number that must stay positive (a rate) is learned in log-space.
    """

    value: Any
    by: Any = dataclasses.field(kw_only=True)
    per: Literal["one", "tensor"] = dataclasses.field(default="one", kw_only=True)
    start: str | None = dataclasses.field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not callable(getattr(self.by, "move", None)) and not isinstance(self.by, Space):
            raise BadInput(f"Learned: by={self.by!r} does not move values; use SGD(...), Adam(...) or AdamW(...)")
        _check(Literal["one", "tensor"], self.per, "Learned.per")
        _check(str | None, self.start, "Learned.start")
        number = isinstance(self.value, int | float) and not isinstance(self.value, bool)
        if not number and not callable(self.value) and not isinstance(self.value, Space):
            raise BadInput(f"Learned: {self.value!r} is neither a number nor a factory of an nn.Module")
        if self.per == "tensor" and not number:
            raise BadInput("Learned: per='tensor' is for a number, such as a rate")

    def build(self, given: Mapping[str, Any]) -> Any:
        """What the factory makes, with those of `given` (shape, ways, outputs) that it takes and does not have."""
        space = self.value if isinstance(self.value, Space) else Space(self.value)
        known, _ = _signature(space.target)
        extra = {n: v for n, v in given.items() if known is not None and n in known and n not in space.values}
        return space.target(**{name: build(value) for name, value in space.values.items()}, **extra)


def build(node: Any) -> Any:
    """The record that a space describes; `Learned` values stay as they are, for the objective to build."""
    if isinstance(node, Space):
        return node.target(**{name: build(value) for name, value in node.values.items()})
    if isinstance(node, Learned):
        return dataclasses.replace(node, by=build(node.by))
    if isinstance(node, dict):
        return {name: build(value) for name, value in node.items()}
    return node


def learned(node: Any, path: str = "") -> Iterator[tuple[str, Learned]]:
    """`(dotted path, Learned)` for every learned value below a space or a built record."""
    if isinstance(node, Learned):
        yield path, node
        return
    for name, value in _children(node).items():
        yield from learned(value, _dot(path, name))


def flatten(node: Any, path: str = "") -> dict[str, Any]:
    """Every value by its dotted path: JSON values as they are, objects by their names, their fields below them."""
    if isinstance(node, Learned):
        flat = flatten(node.value, path)
        for name in ("by", "per", "start"):
            value = getattr(node, name)
            if name == "by" or value not in ("one", None):
                flat |= flatten(value, _dot(path, name))
        return flat
    if node is None or isinstance(node, bool | int | float | str):
        return {path: node}
    if isinstance(node, tuple | list) and all(isinstance(v, bool | int | float | str) for v in node):
        return {path: list(node)}
    flat = {path: _name(node)} if path else {}
    for name, value in _children(node).items():
        flat |= flatten(value, _dot(path, name))
    return flat


def assign(node: Any, path: str, value: Any, *, whole: str | None = None) -> Any:
    """The same space with the value at a dotted path replaced.

    Raises:
        BadInput: no such path (the message names what is there), or a value of the wrong type.
    """
    whole = whole or path
    name, _, rest = path.partition(".")
    if isinstance(node, Learned):
        if name in ("by", "per", "start"):
            return dataclasses.replace(node, **{name: _put(getattr(node, name), rest, value, whole, Any)})
        return dataclasses.replace(node, value=assign(_as_space(node.value, whole), path, value, whole=whole))
    children = _children(node)
    if isinstance(node, dict):
        known: list[str] | None = list(node)
    else:
        target = node.target if isinstance(node, Space) else type(node) if dataclasses.is_dataclass(node) else None
        known = _signature(target)[0] if target is not None else []
        hints = _hints(target) if target is not None else {}
    if known is not None and name not in known:
        where = whole[: len(whole) - len(path)].rstrip(".") or "the space"
        raise BadInput(f"no value at {whole!r}: {where} has {', '.join(known) or 'no fields'}")
    hint = Any if isinstance(node, dict) else hints.get(name, Any)
    new = _put(children.get(name), rest, value, whole, hint)
    if isinstance(node, dict):
        return {**node, name: new}
    if isinstance(node, Space):
        return node.replace(**{name: new})
    if isinstance(new, Space | Learned):
        return Space(type(node), **{**children, name: new})
    return dataclasses.replace(node, **{name: new})


def parse(text: str) -> Any:
    """A VALUE of `--set PATH=VALUE`: JSON, else the string itself."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _put(child: Any, rest: str, value: Any, whole: str, hint: Any) -> Any:
    if rest:
        return assign(child, rest, value, whole=whole)
    value = tuple(value) if isinstance(value, list) else value
    _check(hint, value, whole)
    return float(value) if hint is float and isinstance(value, int) and not isinstance(value, bool) else value


def _as_space(factory: Any, whole: str) -> Space:
    if isinstance(factory, Space):
        return factory
    if callable(factory):
        return Space(factory)
    raise BadInput(f"no value at {whole!r}: {factory!r} is a number; it has by, per and start")


def _children(node: Any) -> dict[str, Any]:
    if isinstance(node, Space):
        defaults = {}
        if dataclasses.is_dataclass(node.target) or not isinstance(node.target, type):
            parameters = _parameters(node.target)
            defaults = {n: p.default for n, p in parameters.items() if p.default is not inspect.Parameter.empty}
        merged = {**defaults, **node.values}
        return {n: v for n, v in merged.items() if not repr(v).startswith("<factory>")}
    if isinstance(node, dict):
        return {str(name): value for name, value in node.items()}
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return {f.name: getattr(node, f.name) for f in dataclasses.fields(node) if f.init}
    return {}


def _parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    try:
        return dict(inspect.signature(target).parameters)
    except (TypeError, ValueError):  # some builtins have no signature
        return {}


def _signature(target: Callable[..., Any]) -> tuple[list[str] | None, list[str]]:
    """Names that a target takes (None: any) and those that it requires."""
    parameters = _parameters(target)
    kinds = inspect.Parameter
    if any(p.kind is kinds.VAR_KEYWORD for p in parameters.values()):
        return None, []
    known = [n for n, p in parameters.items() if p.kind is not kinds.VAR_POSITIONAL]
    return known, [n for n in known if parameters[n].default is kinds.empty]


def _hints(target: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(inspect.getattr_static(target, "__init__") if isinstance(target, type) else target)
    except (TypeError, NameError, AttributeError):  # a factory whose annotations cannot be resolved is not checked
        return {}


def _check(hint: Any, value: Any, where: str) -> None:
    if isinstance(value, Space | Learned):
        return
    if not _fits(hint, value):
        wanted = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
        raise BadInput(f"{where}: {value!r} is a {type(value).__name__}; it takes {wanted}")


def _fits(hint: Any, value: Any) -> bool:
    """Whether a value is of an annotated type, as far as plain types go; what is beyond them is let through."""
    if hint is Any:
        return True
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(_fits(option, value) for option in typing.get_args(hint))
    if origin is Literal:
        return value in typing.get_args(hint)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        parts = [part for part in typing.get_args(hint) if part is not Ellipsis]
        return isinstance(value, tuple | list) and all(any(_fits(part, v) for part in parts) for v in value)
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if hint is None or hint is type(None):
        return value is None
    if hint in (str, bool, dict, list, tuple):
        return isinstance(value, hint)
    if origin in (dict, Mapping, typing.get_origin(Mapping[str, int])):
        return isinstance(value, Mapping)
    plain = isinstance(hint, type) and not getattr(hint, "_is_protocol", False)
    if (plain or getattr(hint, "_is_protocol", False)) and isinstance(value, int | float | str | bool):
        return plain and isinstance(value, hint)
    return True


def _name(value: Any) -> str:
    named = value.target if isinstance(value, Space) else value
    if not isinstance(named, type) and not hasattr(named, "__qualname__"):
        named = type(named)
    return str(getattr(named, "__qualname__", named)).replace("<locals>.", "")


def _dot(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name
