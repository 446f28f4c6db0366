"""Does the benchmark still speak to our side, and is its meta-gradient that of the definition, per task?"""

import dataclasses
import math
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).parent


@pytest.fixture
def benchmark_modules(monkeypatch):
    """The benchmark's files import each other by name, as scripts do."""
    monkeypatch.syspath_prepend(str(HERE))
    yield
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").parent == HERE and name != __name__:
            del sys.modules[name]


@pytest.mark.parametrize("name", ["sinusoid-5", "conv4-5"])
def test_our_side_computes_the_gradient_of_the_definition(benchmark_modules, name):
    import torch
    from cases import CASES, episodes, weights
    from ours import Ours
    from plain import meta_gradient, network, tasks_of

    case = dataclasses.replace(CASES[name], tasks=2, queries=2, steps=2)
    arrays, start = episodes(case), weights(case)
    side = Ours(case, arrays, start, "float64", workers=0)
    net = network(case, start, torch.float64)
    wanted = meta_gradient(case, net, tasks_of(case, arrays, torch.float64))
    for ours, theirs in zip(side.gradient(), wanted, strict=True):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-9 * float(max(1, theirs.abs().max())))
    side.iterate()
    side.iterate()
    assert side.memory() > 50
    side.close()


def test_two_processes_share_the_tasks_of_a_case(benchmark_modules, monkeypatch, tmp_path):
    import peers
    import torch
    from cases import CASES, episodes, weights
    from plain import meta_gradient, network, tasks_of
    from teams import Entry, Team

    monkeypatch.setattr(peers, "HOME", tmp_path)
    case = dataclasses.replace(CASES["sinusoid-1"], tasks=4)
    team = Team(Entry("two", "plain", processes=2), case, tmp_path, "float64", ours_only=True)
    try:
        team.ready()
        found = team.gradient()
        assert len(team.time(2)) == 2
        assert team.memory() > 50
    finally:
        team.close()
    whole = meta_gradient(
        case, network(case, weights(case), torch.float64), tasks_of(case, episodes(case), torch.float64)
    )
    np.testing.assert_allclose(found, torch.cat([part.ravel() for part in whole]).numpy(), rtol=1e-10)


def test_a_gradient_that_differs_is_refused(benchmark_modules, monkeypatch, tmp_path):
    import speed
    from cases import CASES

    answers = {"definition": np.ones(3), "bilevel, in process": np.array([1.0, 1.0, 1.0001])}
    monkeypatch.setattr(speed, "_gradient", lambda entry, *rest: answers[entry.label])
    with pytest.raises(speed.Failed, match="bilevel, in process differs"):
        speed.measure(CASES["sinusoid-1"], [speed.OURS], rounds=1, ours_only=True)


def test_products_are_counted_as_by_torch(benchmark_modules):
    """Forward and backward of a plain step: torch's own counter, against ours for zero inner steps."""
    import torch
    from cases import CASES, weights
    from limit import operations
    from plain import network
    from torch.utils.flop_counter import FlopCounterMode

    case = dataclasses.replace(CASES["conv4-1"], steps=0, tasks=1)
    net = network(case, weights(case), torch.float32)
    with FlopCounterMode(display=False) as counter:
        net(torch.zeros(case.sizes[1], 1, 28, 28)).sum().backward()
    assert math.isclose(operations(case), counter.get_total_flops(), rel_tol=1e-6)


def test_bars_take_the_median_of_the_ratios_within_a_round(benchmark_modules):
    import speed

    slow = speed.Measured(rounds=[8.0, 90.0, 24.0], mb=300)
    fast = speed.Measured(rounds=[1.0, 10.0, 2.0], mb=400)
    bar = speed.Bar("", "sinusoid-5", speed.LEARN2LEARN, speed.OURS, 8.0)
    found = {speed.LEARN2LEARN.label: slow, speed.OURS.label: fast}
    assert speed.ratio(bar, found) == 9.0
    assert speed.ratio(dataclasses.replace(bar, of="mb"), found) == 0.75
