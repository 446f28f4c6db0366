"""Where does each value of a record of meta-parameters come from, and which of them are searched?"""

from bilevel.space.change import assign, parse
from bilevel.space.points import complete, parameters, point_of, settle
from bilevel.space.secrets import Secret
from bilevel.space.tree import Learned, Space, build, flatten, learned

__all__ = [
    "Learned",
    "Secret",
    "Space",
    "assign",
    "build",
    "complete",
    "flatten",
    "learned",
    "parameters",
    "parse",
    "point_of",
    "settle",
]
