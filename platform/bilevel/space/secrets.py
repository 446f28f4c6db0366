"""Which values of a configuration are written down nowhere? Those that the environment gives at run time."""

from __future__ import annotations

import json
import os
from typing import Any
from urllib.parse import quote

from bilevel.errors import BadInput
from bilevel.space import fits
from bilevel.space.dimensions import label

SHORTEST = 4
"""Characters of a secret at least: what is shorter cannot be told from other text, and so not be kept out of it."""
HIDDEN = "***"
_revealed: set[str] = set()  # in this process, in each form in which text may have them


class Secret:
    """A constant that is read from an environment variable where the trial runs, and recorded nowhere.

    `Space(Config, api_key=Secret("API_KEY"))`: the objective's configuration has the text itself. Study, journal,
    MLflow, fingerprint and command line have the variable's name alone, and what a trial prints or raises is written
    down with `***` in place of the text. Processes inherit variables, as Ray's workers on this machine do; on other
    machines it has to be set there, too.

    Raises:
        BadInput: no name of a variable.
    """

    def __init__(self, variable: str) -> None:
        if not isinstance(variable, str) or not variable or set(variable) & set("=\0"):
            raise BadInput("Secret: give the name of an environment variable, as Secret('API_KEY')")
        self.variable = variable

    def __repr__(self) -> str:
        return f"Secret({self.variable!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.variable == self.variable

    def __hash__(self) -> int:
        return hash((Secret, self.variable))

    def fits_hint(self, hint: Any) -> bool:
        """Whether text may stand in a field with this annotation."""
        return fits.fits(hint, "")

    def reveal(self) -> str:
        """The text, from now on hidden in what this process writes down.

        Raises:
            BadInput: the variable is not set, or what it holds is too short to be hidden.
        """
        value = os.environ.get(self.variable)
        if value is None:
            raise BadInput(
                f"{self!r}: the environment variable {self.variable} is not set; export it before the run, on every"
                " machine that trials run on"
            )
        if len(value.strip()) < SHORTEST:
            raise BadInput(
                f"{self!r}: the environment variable {self.variable} has fewer than {SHORTEST} characters, which"
                " cannot be kept out of other text"
            )
        _revealed.update({value, value.strip(), json.dumps(value)[1:-1], repr(value)[1:-1], quote(value, safe="")})
        return value


def redacted(text: str) -> str:
    """The text with `***` for every secret that this process was given."""
    for value in sorted(_revealed, key=len, reverse=True):
        text = text.replace(value, HIDDEN)
    return text


def begun(text: str) -> str:
    """The end of a text that may be the beginning of a secret: what follows will tell."""
    for length in range(min(len(text), max(map(len, _revealed), default=0)), 0, -1):
        if any(len(value) > length and value.startswith(text[-length:]) for value in _revealed):
            return text[-length:]
    return ""


def holds(value: Any) -> bool:
    """Whether it is a secret, or a dict with one in it."""
    return isinstance(value, Secret) or (isinstance(value, dict) and any(map(holds, value.values())))


@label.register
def _(thing: Secret) -> Any:
    return repr(thing)
