"""Are Hyperband's brackets those of the paper, and does each judge its own trials?"""

from __future__ import annotations

from collections import Counter

import pytest

from bilevel.errors import BadInput
from bilevel.search.stop import ASHA, Hyperband


def test_brackets_are_those_of_the_paper() -> None:
    """Li et al. 2018, algorithm 1 with R=81, eta=3: n = 81, 33.75, 15, 7.5, 5 and r = 1, 3, 9, 27, 81."""
    rule = Hyperband(last=81)
    assert [(*rungs, 81)[0] for rungs in rule.brackets] == [1, 3, 9, 27, 81]
    wanted = [81, 33.75, 15, 7.5, 5]
    assert list(rule.shares) == pytest.approx([n / sum(wanted) for n in wanted])


@pytest.mark.parametrize(("factor", "last"), [(3, 27), (2, 64), (4, 256)])
def test_brackets_spend_the_same(factor: int, last: int) -> None:
    """In exact halving each rung of a bracket costs (trials that reach it) * (its step)."""
    rule = Hyperband(factor=factor, last=last)
    costs = [
        sum(share / factor**rung * step for rung, step in enumerate((*rungs, last)))
        for share, rungs in zip(rule.shares, rule.brackets, strict=True)
    ]
    assert costs == pytest.approx([costs[0]] * len(costs))


@pytest.mark.parametrize("last", [9, 27, 81, 729])
@pytest.mark.parametrize("start", [0, 7, 100, 9_000])
def test_shares_hold_for_every_stretch_of_trials(last: int, start: int) -> None:
    rule, trials = Hyperband(last=last), 200
    counts = Counter(rule.bracket(trial) for trial in range(start, start + trials))
    for index, share in enumerate(rule.shares):
        assert abs(counts[index] - share * trials) < 4


def test_each_bracket_is_successive_halving_of_its_own() -> None:
    rule = Hyperband(last=27)
    stopper = rule.open()
    alone = [ASHA(first=rungs[0], last=27).open() if rungs else None for rungs in rule.brackets]
    value = 100.0
    for trial in range(60):
        value = (value * 17 + trial) % 101
        halving = alone[rule.bracket(trial)]
        for step in range(1, 28):
            stopped = stopper.report(trial, step, value)
            assert stopped == (halving is not None and halving.report(trial, step, value))
            if stopped:
                break


def test_bad_options_are_named() -> None:
    with pytest.raises(BadInput, match="Hyperband: last=1 is not beyond first=1"):
        Hyperband(last=1)
