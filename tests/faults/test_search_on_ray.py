"""Does a search on Ray lose nothing and come to the same, whatever kills its driver and its workers?"""

from __future__ import annotations

import os
import random
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import storms
from support.storms import Home

SEED = int(os.environ.get("BILEVEL_FAULT_SEED", secrets.randbelow(10**6)))
"""Of the moments of the faults; it is part of the test's name, and the variable repeats a run."""


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Home]:
    with storms.home(tmp_path) as made:
        yield made


@pytest.mark.parametrize("seed", [SEED])
def test_drivers_and_workers_killed_lose_nothing_and_change_nothing(place: Home, seed: int) -> None:
    """One slot: the fingerprint is that of an undisturbed run in one process."""
    chance = random.Random(seed)
    expected = place.run("undisturbed", "study", "--workers", 0, "--track", "none", pace=0.0).end()[1]
    found = storms.weather(
        place, "store", "study", ("--workers", 2, "--slots", 1), chance, drivers=3, workers=3, gap=40
    )
    assert (found.drivers, found.workers) == (3, 3)
    figures = storms.check(place, "store", 40)
    assert found.document["fingerprint"] == expected["fingerprint"]
    assert found.document["trials"] == expected["trials"]
    assert found.document["trials"]["stopped"] > 10
    assert figures["attempts again"] > 0
    assert "RUNNING" not in storms.statuses(place, "store")
