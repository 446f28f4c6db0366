"""Over which values is a searched one chosen, and how do they lie in the unit interval?"""

from bilevel.space.dimensions.choices import OneOf, admit, label
from bilevel.space.dimensions.numbers import Int, Log, LogInt, LogNormal, Normal, Uniform
from bilevel.space.dimensions.port import Dimension, Parameter, guessed, is_dimension, same

__all__ = [
    "Dimension",
    "Int",
    "Log",
    "LogInt",
    "LogNormal",
    "Normal",
    "OneOf",
    "Parameter",
    "Uniform",
    "admit",
    "guessed",
    "is_dimension",
    "label",
    "same",
]
