"""How does what happens become part of a run? It is written down first; then history, rules and search know of it."""

from __future__ import annotations

from bilevel.record.folder import RunFolder
from bilevel.record.journal import Journal
from bilevel.study.decisions import Decisions
from bilevel.study.events import Asked, Ended, Event, Fault


class Ledger:
    """A run's journal and what is known from it: the one place that tells of an event, in this order.

    Args:
        folder: whose journal it is; what it holds already is told first.
        decisions: what is told (its history first: see `Decisions.take`).
    """

    def __init__(self, folder: RunFolder, decisions: Decisions) -> None:
        self.decisions = decisions
        self.history = decisions.history
        self.faults = 0
        """Faults since this driver began."""
        self._folder = folder
        for event in folder.events():
            decisions.take(event)
        self._journal = Journal(folder.journal)
        self.lost = self._journal.lost
        """What of the journal was damaged and is kept aside, if anything, in words."""
        self._unseen = False

    def record(self, event: Event, *, commit: bool = False) -> None:
        """Write an event down, and let all know who decide.

        Raises:
            StoreFailed: the disk is full or gone.
        """
        self._journal.append(event)
        self.decisions.take(event)
        self._unseen |= isinstance(event, Asked | Ended)
        self.faults += isinstance(event, Fault)
        if commit:
            self._journal.commit()

    def events(self) -> list[Event]:
        """All that was recorded."""
        self._journal.commit()
        return list(self._folder.events())

    def commit(self) -> None:
        """Make all that was recorded durable, and seen by who reads the journal."""
        self._journal.commit()

    def commit_if_due(self) -> None:
        """The same, where the oldest of it has waited long enough."""
        if self._journal.due:
            self._journal.commit()

    def show(self) -> None:
        """Let who reads the journal see what was asked and what has ended; durable it is with the next commit."""
        if self._unseen:
            self._journal.flush()
            self._unseen = False

    def close(self) -> None:
        """Commit what is not yet, and let the journal go."""
        self._journal.close()
