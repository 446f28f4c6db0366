"""Does a value, or whatever a dimension may give, fit the annotated type of its field?"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Union

from bilevel.errors import BadInput
from bilevel.space.dimensions import Dimension, OneOf, is_dimension, label


def check(hint: Any, value: Any, where: str) -> None:
    """Whether a source of the field `where` fits its annotation `hint`.

    Raises:
        BadInput: it does not, or a dimension hides in a list, where it has no path.
    """
    if is_dimension(value):
        _check_dimension(hint, value, where)
    elif isinstance(value, Mapping):
        for name, inside in value.items():
            check(Any, inside, f"{where}.{name}")
    elif isinstance(value, tuple | list) and any(map(_source, value)):
        raise BadInput(f"{where}: values inside a list have no path; use a dict, or OneOf over whole lists")
    if not fits(hint, value):
        raise BadInput(f"{where}: {value!r} is a {type(value).__name__}; it takes {_wanted(hint)}")


def fits(hint: Any, value: Any) -> bool:
    """Whether a value is of an annotated type, as far as plain types go; what is beyond them is let through."""
    if hint is Any or is_dimension(value):
        return True
    origin = typing.get_origin(hint)
    if origin in (Union, types.UnionType):
        return any(fits(option, value) for option in typing.get_args(hint))
    if _source(value):
        return bool(value.fits_hint(hint))
    if origin is Literal:
        return value in typing.get_args(hint)
    if isinstance(origin, type) and issubclass(origin, Sequence):
        parts = [part for part in typing.get_args(hint) if part is not Ellipsis]
        return isinstance(value, tuple | list) and all(any(fits(part, v) for part in parts) for v in value)
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


def makes(target: Callable[..., Any], hint: Any) -> bool:
    """Whether what a class makes may stand where `hint` is; a function's result is not known."""
    if hint in (int, float, str, bool):
        return not isinstance(target, type) or issubclass(target, hint)
    if not isinstance(target, type) or not isinstance(hint, type) or getattr(hint, "_is_protocol", False):
        return hint is not None and typing.get_origin(hint) is not Literal
    return issubclass(target, hint)


def floats(hint: Any) -> bool:
    """Whether a whole number given for this annotation means a float."""
    if typing.get_origin(hint) in (Union, types.UnionType):
        return float in typing.get_args(hint) and int not in typing.get_args(hint)
    return hint is float


def parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter] | None:
    """The parameters of a target; None: it has no signature, as `dict`."""
    try:
        return dict(inspect.signature(target).parameters)
    except (TypeError, ValueError):
        return None


def signature(target: Callable[..., Any]) -> tuple[list[str] | None, list[str]]:
    """Names that a target takes (None: any) and those that it requires."""
    found, kinds = parameters(target), inspect.Parameter
    if found is None or any(p.kind is kinds.VAR_KEYWORD for p in found.values()):
        return None, []
    known = [n for n, p in found.items() if p.kind is not kinds.VAR_POSITIONAL]
    return known, [n for n in known if found[n].default is kinds.empty]


def named(target: Callable[..., Any]) -> list[str]:
    """The parameters that a target has by name, whatever else it takes (`**options`)."""
    kinds = inspect.Parameter
    return [n for n, p in (parameters(target) or {}).items() if p.kind not in (kinds.VAR_POSITIONAL, kinds.VAR_KEYWORD)]


def defaults(target: Callable[..., Any]) -> dict[str, Any]:
    """Values that the parameters of a dataclass or a function have if none are given, as far as one can see."""
    if isinstance(target, type) and not dataclasses.is_dataclass(target):
        return {}
    given = {n: p.default for n, p in (parameters(target) or {}).items() if p.default is not inspect.Parameter.empty}
    return {name: value for name, value in given.items() if not repr(value).startswith("<factory>")}


def hints(target: Any) -> dict[str, Any]:
    """Annotations of a target's parameters, where they can be resolved; the others are not checked."""
    try:
        return typing.get_type_hints(inspect.getattr_static(target, "__init__") if isinstance(target, type) else target)
    except (TypeError, NameError, AttributeError):
        return {}


def _source(value: Any) -> bool:
    """Whether it is a `Space` or `Learned`, which say themselves what they fit."""
    return is_dimension(value) or hasattr(type(value), "fits_hint")


def _check_dimension(hint: Any, dimension: Dimension, where: str) -> None:
    if isinstance(dimension, OneOf):
        for option in dimension.options:
            if is_dimension(option):
                _check_dimension(hint, option, where)
            elif not fits(hint, option):
                shown = f"option {label(option)!r} of {dimension!r}"
                raise BadInput(f"{where}: {shown} is a {type(option).__name__}; it takes {_wanted(hint)}")
        return
    for value in (dimension.decode(0.0), dimension.middle, dimension.decode(1.0)):
        if not fits(hint, value):
            cure = "; use Int, LogInt or OneOf" if isinstance(value, float) and fits(hint, 1) else ""
            raise BadInput(
                f"{where}: {dimension!r} gives {value!r}, a {type(value).__name__}; it takes {_wanted(hint)}{cure}"
            )


def _wanted(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
