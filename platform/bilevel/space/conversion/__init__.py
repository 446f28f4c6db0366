"""How does a space of another library, or of a file, become one of ours, and ours theirs?"""

from bilevel.space.conversion.optuna import distribution, from_optuna, inward, outward, to_optuna
from bilevel.space.conversion.text import describe, from_json, read, to_json
from bilevel.space.conversion.tune import from_tune

__all__ = [
    "describe",
    "distribution",
    "from_json",
    "from_optuna",
    "from_tune",
    "inward",
    "outward",
    "read",
    "to_json",
    "to_optuna",
]
