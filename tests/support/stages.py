"""Stages in this process that answer late, and that lose what they carry."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from bilevel.execute.inline import InlineStage
from bilevel.study.events import Gone, Said


class Late(InlineStage):
    """Keeps what some trials say back for longer than what others say: any order in which they could come."""

    def __init__(self, script: Any, seed: int) -> None:
        super().__init__(script, {}, echo=False)
        self._seed, self._chance = 1000 * seed, random.Random(seed)
        self._back: list[Any] = []

    def poll(self, timeout: float) -> list[Any]:
        self._back += super().poll(timeout)
        trials = sorted({said.trial for said in self._back})
        chosen = {trial for trial in trials if self._chance.random() < self._pace(trial)} or set(trials[:1])
        now = [said for said in self._back if said.trial in chosen]
        self._back = [said for said in self._back if said.trial not in chosen]
        return now

    def _pace(self, trial: int) -> float:
        return 0.05 + 0.95 * random.Random(self._seed + trial).random() ** 2

    def close_trial(self, trial: int) -> None:
        super().close_trial(trial)
        self._back = [said for said in self._back if said.trial != trial]


def timed(seed: int) -> Any:
    return lambda script: Late(script, seed)


class Lossy(InlineStage):
    """Loses attempts before their reports come through, so many of each trial, and says it late, and again."""

    def __init__(self, script: Any, seed: int, most: float) -> None:
        super().__init__(script, {}, echo=False)
        self._chance, self._most = random.Random(seed), most
        self._lost: Counter[int] = Counter()
        self._late: list[Any] = []

    def poll(self, timeout: float) -> list[Any]:
        late, self._late = self._late, []
        return [*late, *map(self._through, super().poll(timeout)), *late]

    def _through(self, said: Any) -> Any:
        if not isinstance(said, Said) or self._lost[said.trial] >= self._most or not self._strikes(said):
            return said
        self._lost[said.trial] += 1
        self.close_trial(said.trial)
        self._late.append(said)  # of an attempt that nobody listens to any more
        return Gone(said.trial, said.attempt, "died", "worker 7 on here: killed")

    def _strikes(self, said: Said) -> bool:
        return self._chance.random() > 0.6
