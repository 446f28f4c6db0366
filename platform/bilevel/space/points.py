"""Which values of a space are searched, and what is the configuration at a point of them (and the way back)?"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from bilevel.errors import BadInput
from bilevel.space.dimensions import Dimension, OneOf, Parameter, admit, is_dimension, same
from bilevel.space.tree import Learned, Space, children, dot, flatten, name_of

Point = dict[str, Any]
"""Values by the name of their parameter; of a choice the label of its option. All are JSON values."""


def parameters(space: Any) -> tuple[Parameter, ...]:
    """The searched values of a space, parents before those that depend on them."""
    found = tuple(_walk(space, "", "", (), False))
    names = [parameter.name for parameter in found]
    if twice := {name for name in names if names.count(name) > 1}:
        raise BadInput(f"space: {', '.join(sorted(twice))} names two values; rename a key that has a dot in it")
    return found


def settle(space: Any, point: Mapping[str, Any]) -> Any:
    """The space with every dimension replaced by the point's value, and chosen spaces in place of the choice.

    Raises:
        BadInput: the point lacks a value, or one is not its dimension's.
    """
    return _settle(space, point, "")


def point_of(space: Any, config: Mapping[str, Any]) -> Point | None:
    """The point at which the space has this configuration (by dotted path, as `flatten` gives it).

    None: a searched value is missing there or is none of its dimension's, or no option of a choice is like it.
    Constants outside of choices are not compared: runs of earlier versions of a study can be read.
    """
    return _read(space, config, "", "")


def complete(space: Any, partial: Mapping[str, Any]) -> Point:
    """The point with the values given by path or by name; those that are missing get the middle of their dimension.

    Raises:
        BadInput: a path that is not searched, or a value that is none of its dimension's.
    """
    point: Point = {}
    left = dict(partial)
    known = parameters(space)
    for parameter in known:
        if not parameter.active(point):
            continue
        dimension = parameter.dimension
        given = next((name for name in (parameter.name, parameter.path) if name in partial), None)
        if given is None:
            point[parameter.name] = dimension.middle
            continue
        left.pop(given, None)
        value = partial[given]
        if given != parameter.name and parameter.path == _path_of(parameter.when, known):
            point[parameter.name] = (*admit(dimension, value), dimension.middle)[0]  # an option that is a dimension
        else:
            point[parameter.name] = _value(given, dimension, value)
    for name, value in left.items():
        _refuse(space, known, point, name, value)
    return point


def _walk(node: Any, path: str, name: str, when: tuple[tuple[str, Any], ...], shapes: bool) -> Iterator[Parameter]:
    if isinstance(node, Learned):
        yield from _walk(node.value, path, name, when, shapes or node.builds)
        for part in ("by", "per", "start"):
            yield from _walk(vars(node)[part], dot(path, part), dot(name, part), when, False)
    elif is_dimension(node):
        yield Parameter(name, path, node, when, shapes)
        if isinstance(node, OneOf):
            for called, option in zip(node.labels, node.options, strict=True):
                yield from _walk(option, path, f"{name}[{called}]", (*when, (name, called)), shapes)
    else:
        for part, child in children(node).items():
            yield from _walk(child, dot(path, part), dot(name, part), when, shapes)


def _settle(node: Any, point: Mapping[str, Any], name: str) -> Any:
    if is_dimension(node):
        if name not in point:
            raise BadInput(f"{name}: the point has no value for it; it is one of {node!r}")
        value = _value(name, node, point[name])
        return _settle(node.option(value), point, f"{name}[{value}]") if isinstance(node, OneOf) else value
    if isinstance(node, Learned):
        parts = {"value": _settle(node.value, point, name)}
        parts |= {part: _settle(vars(node)[part], point, dot(name, part)) for part in ("by", "per", "start")}
        return dataclasses.replace(node, **parts) if _changed(vars(node), parts) else node
    inside = children(node)
    changed = _changed(inside, {part: _settle(child, point, dot(name, part)) for part, child in inside.items()})
    if not changed:
        return node
    if isinstance(node, Space):
        return node.settled(changed)
    if isinstance(node, dict):
        return {key: changed.get(str(key), value) for key, value in node.items()}
    return dataclasses.replace(node, **changed)


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in after.items() if value is not before[name]}


def _read(node: Any, config: Mapping[str, Any], path: str, name: str) -> Point | None:
    if isinstance(node, OneOf):
        return _read_choice(node, config, path, name)
    if is_dimension(node):
        fitting = admit(node, config[path]) if path in config else ()
        return {name: fitting[0]} if fitting else None
    point: Point = {}
    if isinstance(node, Learned):
        config = {dot(path, "per"): "one", dot(path, "start"): None, **config}  # what `flatten` leaves out
        own = tuple(dot(path, part) for part in ("by", "per", "start"))
        below = _read(node.value, {p: v for p, v in config.items() if not _within(p, own)}, path, name)
        if below is None:
            return None
        point |= below
    for part, child in children(node).items():
        if not isinstance(node, Learned) or part != "value":
            below = _read(child, config, dot(path, part), dot(name, part))
            if below is None:
                return None
            point |= below
    return point


def _within(path: str, tops: tuple[str, ...]) -> bool:
    return any(path == top or path.startswith(f"{top}.") for top in tops)


def _read_choice(choice: OneOf, config: Mapping[str, Any], path: str, name: str) -> Point | None:
    """The option with which the configuration is the same at and below the path; else the space that is called so."""
    there = {p: value for p, value in config.items() if _within(p, (path,))}
    alike = None
    for called, option in zip(choice.labels, choice.options, strict=True):
        inside = f"{name}[{called}]"
        below = _read(option, config, path, inside)
        if below is None:
            continue
        flat = flatten(_settle(option, below, inside), path)
        if flat.keys() == there.keys() and all(same(flat[p], there[p]) for p in flat):
            return {name: called, **below}
        if alike is None and isinstance(option, Space) and there.get(path) == name_of(option):
            alike = {name: called, **below}
    return alike


def _value(name: str, dimension: Dimension, value: Any) -> Any:
    fitting = admit(dimension, value)
    if not fitting:
        raise BadInput(f"{name}: {value!r} is none of its values, {dimension!r}")
    return fitting[0]


def _path_of(when: tuple[tuple[str, Any], ...], known: tuple[Parameter, ...]) -> str | None:
    """Where the choice lies that was made last."""
    return next((p.path for p in known if when and p.name == when[-1][0]), None)


def _refuse(space: Any, known: tuple[Parameter, ...], point: Point, name: str, value: Any) -> None:
    """Nothing, if the value is the constant that the space has there anyway."""
    there = [p for p in known if name in (p.name, p.path)]
    if there:
        wanted = " and ".join(f"{choice} is {called}" for choice, called in there[0].when)
        raise BadInput(f"{name}: it is there only when {wanted}; give that too, or leave {name} out")
    settled = flatten(settle(space, point))
    if name not in settled:
        raise BadInput(
            f"{name}: no searched value is called so; there are {', '.join(p.name for p in known) or 'none'}"
        )
    if not same(settled[name], list(value) if isinstance(value, tuple) else value):
        raise BadInput(
            f"{name}: {value!r} is not what the space has, the constant {settled[name]!r}; search it or leave it out"
        )
