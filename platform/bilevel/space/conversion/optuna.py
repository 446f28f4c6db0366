"""What are our dimensions in Optuna's terms, and Optuna's distributions in ours?

Optuna has no normal distribution, no logarithmic scale in steps and no dimension of a user's own: such a one is
searched by the place of its value in the unit interval. Of an ordered choice Optuna sees the number of the option.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any

from bilevel.errors import BadInput
from bilevel.space import Space
from bilevel.space.dimensions import Dimension, Int, Log, LogInt, OneOf, Parameter, Uniform


def from_optuna(distributions: Mapping[str, Any]) -> Space:
    """A space over a dict with what Optuna's distributions say; one of a single value becomes a constant.

    Raises:
        BadInput: what cannot be converted, with its name.
    """
    return Space(dict, **{name: _dimension(name, given) for name, given in distributions.items()})


def to_optuna(parameters: Iterable[Parameter]) -> dict[str, Any]:
    """Distributions by the names of the parameters; `outward` and `inward` convert the values."""
    return {parameter.name: distribution(parameter.dimension) for parameter in parameters}


def distribution(dimension: Dimension) -> Any:
    """The distribution by which Optuna searches a dimension."""
    from optuna import distributions as theirs  # half a second that few who import this module need

    match dimension:
        case OneOf(ordered=True):
            return theirs.IntDistribution(0, dimension.size - 1)
        case OneOf():
            return theirs.CategoricalDistribution(_categories(dimension))
        case Int():
            return theirs.IntDistribution(dimension.low, dimension.decode(1.0), step=dimension.step)
        case LogInt():
            return theirs.IntDistribution(dimension.low, dimension.high, log=True)
        case Uniform() | Log() if _direct(dimension):
            return theirs.FloatDistribution(
                dimension.low, dimension.decode(1.0), log=dimension.log, step=dimension.step
            )
        case _:
            return theirs.FloatDistribution(0.0, 1.0)


def outward(dimension: Dimension, value: Any) -> Any:
    """A value of ours as one of the dimension's `distribution`."""
    if isinstance(dimension, OneOf):
        index = min(int(dimension.encode(value) * dimension.size), dimension.size - 1)
        return index if dimension.ordered else _categories(dimension)[index]
    return value if _direct(dimension) else dimension.encode(value)


def inward(dimension: Dimension, value: Any) -> Any:
    """A value of the dimension's `distribution` as one of ours."""
    if isinstance(dimension, OneOf):
        return dimension.labels[value if dimension.ordered else _categories(dimension).index(value)]
    return value if _direct(dimension) else dimension.decode(value)


def _categories(choice: OneOf) -> list[Any]:
    """The labels; as text where Optuna would take one for another (1 for True)."""
    return list(choice.labels) if len(set(choice.labels)) == choice.size else list(map(repr, choice.labels))


def _direct(dimension: Dimension) -> bool:
    """Whether Optuna can have its values as they are; of a range in steps only if they are decimals that fit."""
    if isinstance(dimension, Uniform) and dimension.step is not None:
        low, high, step = (Decimal(str(v)) for v in (dimension.low, dimension.decode(1.0), dimension.step))
        return (high - low) % step == 0
    return isinstance(dimension, Uniform | Int | LogInt) or (isinstance(dimension, Log) and dimension.step is None)


def _dimension(name: str, given: Any) -> Any:
    """A dimension, or the constant that is its only value; Optuna's classes are known by their names."""
    kinds = {kind.__name__ for kind in type(given).__mro__}
    try:
        if "CategoricalDistribution" in kinds:
            return given.choices[0] if len(given.choices) == 1 else OneOf(*given.choices)
        if not kinds & {"FloatDistribution", "IntDistribution"}:
            raise BadInput(f"a {type(given).__name__} is none of Optuna's distributions (float, int, categorical)")
        if given.low == given.high:
            return given.low
        if "IntDistribution" in kinds:
            return LogInt(given.low, given.high) if given.log else Int(given.low, given.high, step=given.step)
        return (Log if given.log else Uniform)(given.low, given.high, step=given.step)
    except BadInput as error:
        raise BadInput(f"{name}: {error}") from error
