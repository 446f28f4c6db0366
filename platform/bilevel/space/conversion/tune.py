"""What is the search space of a Ray Tune dictionary? Its objects are known by their names: Ray is not imported."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from bilevel.errors import BadInput
from bilevel.space import Space
from bilevel.space.dimensions import Int, Log, LogInt, Normal, OneOf, Uniform


def from_tune(config: Mapping[str, Any]) -> Space:
    """The space over a dict with the domains of `tune.uniform` and its kin, nested as they are, and the constants.

    `tune.grid_search([...])` becomes `OneOf(...)`: with `search=Grid()` each of its values is tried. The ends of
    quantized ranges are as likely as their other values (Tune gives them half as much).

    Raises:
        BadInput: what cannot be converted (`sample_from`, a quantized `lograndint`, …), with its name.
    """
    return Space(dict, **{name: _convert(name, value) for name, value in config.items()})


def _convert(name: str, value: Any) -> Any:
    if isinstance(value, Mapping):
        if set(value) == {"grid_search"}:
            return _choice(name, list(value["grid_search"]))
        return {key: _convert(f"{name}.{key}", inside) for key, inside in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_convert(f"{name}[{index}]", inside) for index, inside in enumerate(value))
    if not hasattr(value, "get_sampler"):
        return value
    if type(value).__name__ == "Categorical":
        return _choice(name, value.categories)
    with _named(name):
        return _number(value)


def _choice(name: str, options: list[Any]) -> Any:
    """A choice; of one option, that option."""
    converted = [_convert(name, option) for option in options]
    with _named(name):
        return converted[0] if len(converted) == 1 else OneOf(*converted)


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    try:
        yield
    except BadInput as error:
        raise BadInput(f"{name}: {error}") from error


def _number(domain: Any) -> Any:
    kind, sampler, step = type(domain).__name__, domain.get_sampler(), None
    if hasattr(sampler, "q"):
        sampler, step = sampler.get_sampler(), sampler.q
    match kind, str(sampler):
        case "Float", "Normal":
            return Normal(sampler.mean, sampler.sd, step=step)
        case "Float", "Uniform":
            return Uniform(domain.lower, domain.upper, step=step)
        case "Float", "LogUniform":
            return Log(domain.lower, domain.upper, step=step)
        case "Integer", "Uniform":
            return _whole(domain, step or 1)
        case "Integer", "LogUniform" if step in (None, 1):
            return LogInt(domain.lower, domain.upper - 1)
        case "Integer", "LogUniform":
            raise BadInput("whole numbers on a logarithmic scale have no step here; use lograndint, or choice")
        case "Function", _:
            raise BadInput("sample_from computes its value; give a range, and compute with it in the objective")
        case _:
            raise BadInput(f"{kind} with {sampler} sampling is not known; give a range or choice")


def _whole(domain: Any, step: int) -> Int:
    """Tune leaves the upper bound out, except where there is a step."""
    if step == 1:
        return Int(domain.lower, domain.upper - 1)
    low, high = -(-domain.lower // step) * step, domain.upper // step * step
    return Int(low, high, step=step)
