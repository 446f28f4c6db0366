"""Where does each value of a record of meta-parameters come from?"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from bilevel.errors import BadInput
from bilevel.space import fits
from bilevel.space.dimensions import OneOf, is_dimension, label
from bilevel.space.secrets import Secret, holds

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
        known, required = fits.signature(target)
        for name in values:
            if known is not None and name not in known:
                raise BadInput(f"Space for {name_of(target)}: no field {name!r}; it has {', '.join(known) or 'none'}")
        for name in required:
            if name not in values and (dataclasses.is_dataclass(target) or name not in FROM_TASK):
                told = "" if dataclasses.is_dataclass(target) else f" (tasks tell a network {', '.join(FROM_TASK)})"
                raise BadInput(
                    f"Space for {name_of(target)}: {name!r} has no source; give it a value, a dimension or"
                    f" Learned(...){told}"
                )
        hints = fits.hints(target)
        inside = {**fits.defaults(target), **values}
        for name, value in inside.items():
            if name in values or is_dimension(value):
                fits.check(hints.get(name, Any), value, f"{name_of(target)}.{name}")
        self.inside = {name: inside[name] for name in (*(known or ()), *inside) if name in inside}
        self._floats = frozenset(name for name, hint in hints.items() if fits.floats(hint))

    def __repr__(self) -> str:
        inside = "".join(f", {name}={value!r}" for name, value in self.values.items())
        return f"Space({name_of(self.target)}{inside})"

    def replace(self, **values: Any) -> Space:
        """The same space with some values changed."""
        return Space(self.target, **{**self.values, **values})

    def settled(self, values: Mapping[str, Any]) -> Space:
        """The same space with values of its dimensions in their places, which were checked with the dimensions."""
        space = copy.copy(self)
        whole = {n: float(v) if n in self._floats and isinstance(v, int) else v for n, v in values.items()}
        space.values, space.inside = {**self.values, **whole}, {**self.inside, **whole}
        return space

    def fits_hint(self, hint: Any) -> bool:
        """Whether what it makes may stand in a field with this annotation."""
        return fits.makes(self.target, hint)


@dataclass(frozen=True)
class Learned:
    """A value that moves inside a run: it starts from `value` and is moved by `by` at every outer step.

    Each of its parts may be a dimension, as may be what is below them.

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
        for by in _alternatives(self.by):
            if not callable(getattr(by, "move", None)) and not isinstance(by, Space):
                raise BadInput(f"Learned: by={by!r} does not move values; use SGD(...), Adam(...) or AdamW(...)")
        fits.check(Literal["one", "tensor"], self.per, "Learned.per")
        fits.check(str | None, self.start, "Learned.start")
        for value in _alternatives(self.value):
            if not _number(value) and not callable(value) and not isinstance(value, Space):
                raise BadInput(f"Learned: {value!r} is neither a number nor a factory of an nn.Module")
        if self.builds and "tensor" in _alternatives(self.per):
            raise BadInput("Learned: per='tensor' is for a number, such as a rate")

    @property
    def builds(self) -> bool:
        """Whether it starts from what a factory makes: its values may decide the shapes of what is learned."""
        return not all(map(_number, _alternatives(self.value)))

    def fits_hint(self, hint: Any) -> bool:  # noqa: ARG002
        """Whether it may stand in a field with this annotation: the objective says what it can learn."""
        return True

    def build(self, given: Mapping[str, Any]) -> Any:
        """What the factory makes, with those of `given` (shape, ways, outputs) that it takes and does not have."""
        space = self.value if isinstance(self.value, Space) else Space(self.value)
        extra = {n: v for n, v in given.items() if n in fits.named(space.target) and n not in space.values}
        return space.target(**{name: build(value) for name, value in space.values.items()}, **extra)


def build(node: Any) -> Any:
    """The record that a space describes, its secrets revealed; `Learned` values stay, for the objective to build."""
    if isinstance(node, Space):
        unsaid = {name: value for name, value in node.inside.items() if name not in node.values and holds(value)}
        return node.target(**{name: build(value) for name, value in {**node.values, **unsaid}.items()})
    if isinstance(node, Secret):
        return node.reveal()
    if isinstance(node, Learned):
        return dataclasses.replace(node, by=build(node.by))
    if isinstance(node, dict):
        return {name: build(value) for name, value in node.items()}
    if is_dimension(node):
        raise BadInput(f"{node!r} has no value yet; give the space a point first: build(settle(space, point))")
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        kept = {name: build(value) for name, value in children(node).items() if holds(value)}
        return dataclasses.replace(node, **kept) if kept else node
    return node


def learned(node: Any, path: str = "") -> Iterator[tuple[str, Learned]]:
    """`(dotted path, Learned)` for every learned value below a space or a built record."""
    if isinstance(node, Learned):
        yield path, node
    elif isinstance(node, OneOf):
        for option in node.options:
            yield from learned(option, path)
    else:
        for name, value in children(node).items():
            yield from learned(value, dot(path, name))


def flatten(node: Any, path: str = "") -> dict[str, Any]:
    """Every value by its dotted path: JSON values as they are, objects by their names, their fields below them.

    A dimension is shown as text; what is below an option of a choice is at such paths as `opt[Adam].lr`.
    """
    if isinstance(node, Learned):
        flat = flatten(node.value, path)
        for name in ("by", "per", "start"):
            value = vars(node)[name]
            if name == "by" or value not in ("one", None):
                flat |= flatten(value, dot(path, name))
        return flat
    if node is None or isinstance(node, bool | int | float | str):
        return {path: node}
    if isinstance(node, tuple | list) and all(isinstance(v, bool | int | float | str) for v in node):
        return {path: list(node)}
    if is_dimension(node):
        flat = {path: repr(node)}
        if isinstance(node, OneOf):
            for called, option in zip(node.labels, node.options, strict=True):
                flat |= flatten(option, f"{path}[{called}]") if isinstance(option, Space | Learned) else {}
        return flat
    flat = {path: name_of(node)} if path else {}
    for name, value in children(node).items():
        flat |= flatten(value, dot(path, name))
    return flat


def _alternatives(value: Any) -> list[Any]:
    """What a value may be: the options of a choice, else itself."""
    return list(value.options) if isinstance(value, OneOf) else [value]


def _number(value: Any) -> bool:
    return is_dimension(value) or (isinstance(value, int | float) and not isinstance(value, bool))


def children(node: Any) -> dict[str, Any]:
    """What a space, a dict or a dataclass's instance holds, by name."""
    if isinstance(node, Space):
        return node.inside
    if isinstance(node, dict):
        return {str(name): value for name, value in node.items()}
    if dataclasses.is_dataclass(node) and not isinstance(node, type):
        return {f.name: getattr(node, f.name) for f in dataclasses.fields(node) if f.init}
    return {}


def name_of(value: Any) -> str:
    """What records call a thing; the fields of a record have paths of their own."""
    if dataclasses.is_dataclass(value) or isinstance(value, dict):
        value = value if isinstance(value, type) else type(value)
    return str(label(value))


def dot(path: str, name: str) -> str:
    """The path of what is called so below another path."""
    return f"{path}.{name}" if path else name


@label.register
def _(thing: Space) -> Any:
    return label(thing.target)


@label.register
def _(thing: Learned) -> Any:
    return f"Learned({label(thing.value)})"
