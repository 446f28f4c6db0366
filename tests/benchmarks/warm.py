"""Does it help a search to be told of earlier runs, and should they count less as its own trials come in?

    python tests/benchmarks/warm.py [--seeds 10] [--search GP]

Tables of `tables.py`. Earlier are 50 trials, by TPE, on the same table (the study is run again, with other seeds) or on
the next one of its family (another data set, where losses have another scale). Then a search has 40 evaluations: told
nothing; told all with their values; told all (`warm_start`: by rank, as soon as it has trials of its own to compare
with); told all until it has 20 trials of its own, and then nothing any more (the sharpest discount); told nothing, but
begun at the three best configurations (`points`). Regret as in `tables.py`, after 10, 20 and 40 evaluations, mean over
tables; intervals (95 %) are over seeds, of the difference to nothing told.
"""

from __future__ import annotations

import argparse
import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from unittest import mock

import numpy as np
import torch
from tables import NAMES, interval, table

from bilevel import GP, TPE
from bilevel.episodes import Key
from bilevel.search import samplers
from bilevel.search.port import Point, Problem, Search, Told

EARLIER, OWN, LOOKS = 50, 40, (10, 20, 40)
Trials = list[tuple[Point, Told]]


@dataclass(frozen=True)
class Way:
    """How earlier trials are used: until there are so many own ones, by rank, the best of them to begin with."""

    until: float = 0.0
    ranks: bool = True
    starts: int = 0


def searched(search: Search, name: str, key: Key, trials: int, told: Trials, way: Way) -> Trials:
    """What a search tries on a table that knows of earlier trials."""
    with mock.patch.object(samplers, "_FEW", samplers._FEW if way.ranks else math.inf):
        return _searched(search, name, key, trials, told, way.until, way.starts)


def _searched(search: Search, name: str, key: Key, trials: int, told: Trials, until: float, starts: int) -> Trials:
    known = table(name)
    problem = Problem(known.parameters, key, trials=trials)
    own: Trials = []
    searcher = search.open(problem)
    for number, (point, result) in enumerate(told if until else (), 1):
        searcher.tell(-number, point, result)
    first = [point for point, _ in sorted(told, key=lambda trial: trial[1].values or (math.inf,))][:starts]
    for number in range(trials):
        if number == until:  # from here on it knows its own trials alone
            searcher = search.open(problem)
            for before, (point, result) in enumerate(own):
                searcher.asked(before, point)
                searcher.tell(before, point, result)
        proposed = first[number] if number < len(first) else searcher.ask(number)
        assert proposed is not None
        searcher.asked(number, proposed)
        own.append((proposed, Told((known.value(proposed),))))
        searcher.tell(number, *own[-1])
    return own


WAYS = {
    "told nothing": Way(),
    "told values": Way(math.inf, ranks=False),
    "told (warm_start)": Way(math.inf),
    "until 20 of its own": Way(20, ranks=False),
    "begun at the best": Way(starts=3),
}


def pairs(same: bool) -> list[tuple[str, str]]:
    """(earlier table, table): the same, or the next of its family."""
    families = [[f"{family}/{name}" for name in names] for family, names in NAMES.items()]
    return [(tables[index - (not same)], tables[index]) for tables in families for index in range(len(tables))]


def measure(search: Search, same: bool, seeds: int) -> np.ndarray:
    """Regrets, [ways, seeds, looks, pairs]."""
    found = np.empty((len(WAYS), seeds, len(LOOKS), len(pairs(same))))
    for column, (before, name) in enumerate(pairs(same)):
        for seed in range(seeds):
            key = Key((seed,)).child(before, name)
            told = searched(TPE(), before, key.child("earlier"), EARLIER, [], Way())
            for row, way in enumerate(WAYS.values()):
                own = searched(search, name, key.child("search"), OWN, told, way)
                regrets = [table(name).regret(result.values[0]) for _, result in own if result.values]
                best = np.minimum.accumulate(regrets)
                found[row, seed, :, column] = [best[look - 1] for look in LOOKS]
    return found


def show(found: np.ndarray) -> None:
    """A row for each way."""
    print(f"{'':22}" + "".join(f"{f'after {look}':>30}" for look in LOOKS))
    means = found.mean(-1)  # [ways, seeds, looks]
    for row, way in enumerate(WAYS):
        cells: Sequence[str] = [
            "{:10.4f}  ({:+.4f} ±{:.4f})".format(
                means[row, :, look].mean(), *interval(means[row, :, look] - means[0, :, look])
            )
            for look in range(len(LOOKS))
        ]
        print(f"{way:22}" + "".join(f"{cell:>30}" for cell in cells))


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--search", choices=("TPE", "GP"), default="TPE")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    search: Search = {"TPE": TPE(), "GP": GP()}[given.search]
    for same in (True, False):
        print(f"\n{given.search}, earlier trials on {'the same table' if same else 'the next table of its family'}")
        show(measure(search, same, given.seeds))


if __name__ == "__main__":
    main()
