"""What is a rule that stops trials, to a study?"""

from __future__ import annotations

from typing import Any, Protocol

from bilevel.errors import BadInput


class Stopper(Protocol):
    """A rule at work. Its state is a function of the calls of `report`, in their order: a journal rebuilds it."""

    def report(self, trial: int, step: int, value: float, *, upto: int | None = None) -> bool:
        """A trial has reached a step (they ascend within a trial) with a value to be minimized; True: stop it now.

        Args:
            trial: its number.
            step: the step, from 1.
            value: may be infinite or NaN, which is worse than any number.
            upto: of other trials, compare only with those up to this number (they have ended); None: with all.
        """
        ...


class Stop(Protocol):
    """The declaration of a rule, a frozen dataclass such as `ASHA(first=1, factor=3, last=27)`."""

    @property
    def last(self) -> int | None:
        """The last step of a trial that is not stopped, if it is known."""
        ...

    def open(self) -> Stopper:
        """The rule with nothing reported yet."""
        ...


def check_whole(rule: object, name: str, value: Any, low: int, meaning: str) -> None:
    """Whether the option `name` of a rule is a whole number from `low` on.

    Raises:
        BadInput: it is not.
    """
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise BadInput(f"{type(rule).__name__}: {name}={value!r}; it takes a whole number from {low} on, {meaning}")
