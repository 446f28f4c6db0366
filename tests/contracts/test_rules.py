"""Are the gradients of an inner rule those of its definition, on real networks and to float64's precision?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bilevel import trees
from bilevel.batched import Network
from bilevel.episodes import Episode
from bilevel.inner import GradientDescent
from bilevel.nets import conv4, mlp
from support import reference
from support.reference import Weights

pytestmark = pytest.mark.usefixtures("double")

EQUAL = 1e-6  # relative, float64


@dataclass(frozen=True)
class Case:
    """A network, episodes for it, and a rate at which some steps make a difference."""

    module: Callable[[], nn.Module]
    episode: Callable[[], Episode]
    lr: float


CASES = {
    "conv4": Case(lambda: conv4(3, (1, 12, 12), hidden=4), lambda: reference.classes(2, 3, (1, 12, 12)), 0.4),
    "conv4-pool": Case(
        lambda: conv4(2, (1, 16, 16), hidden=3, pool=True), lambda: reference.classes(2, 2, (1, 16, 16)), 0.1
    ),
    "mlp-classes": Case(lambda: mlp(3, (5,), (7, 6), "tanh"), lambda: reference.classes(3, 3, (5,)), 0.5),
    "mlp-numbers": Case(lambda: mlp(2, (3,), (8,), "gelu"), lambda: reference.numbers(3, 3, 2), 0.1),
}
STEPS = (1, 5)


def made(case: Case) -> tuple[nn.Module, Weights, Episode]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = case.module()
    return module, Network(module).start(), case.episode()


def ours(rule: GradientDescent, start: Weights, episode: Episode, lr: Any) -> tuple[Tensor, Weights]:
    """Query loss after the rule's steps, summed over tasks, and its gradient at the start."""
    leaves = {name: value.clone().requires_grad_() for name, value in start.items()}
    loss = total(rule, leaves, episode, lr)
    return loss.detach(), dict(zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True))


def total(rule: GradientDescent, start: Weights, episode: Episode, lr: Any) -> Tensor:
    states = rule.adapt({"init": start, "lr": lr}, episode.support, None)
    return rule.evaluate(next(islice(states, rule.steps, None)), episode.query, None)[0].sum()


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "loop"])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", CASES)
def test_second_order_is_that_of_the_per_task_loop(name: str, steps: int, batched: bool) -> None:
    case = CASES[name]
    module, start, episode = made(case)
    rule = GradientDescent(init=Network(module, batched=batched), lr=case.lr, steps=steps)
    loss, found = ours(rule, start, episode, case.lr)
    rates = dict.fromkeys(start, torch.tensor(case.lr))
    leaves = {n: value.clone().requires_grad_() for n, value in start.items()}
    wanted = reference.query_loss(module, leaves, rates, episode, steps=steps)
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-9)
    assert reference.distance(found, reference.second_order(module, start, case.lr, episode, steps=steps)) < EQUAL


@pytest.mark.parametrize("batched", [True, False], ids=["batched", "loop"])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", CASES)
def test_first_order_is_its_defining_formula_per_task(name: str, steps: int, batched: bool) -> None:
    case = CASES[name]
    module, start, episode = made(case)
    rule = GradientDescent(init=Network(module, batched=batched), lr=case.lr, steps=steps, order=1)
    _, found = ours(rule, start, episode, case.lr)
    assert reference.distance(found, reference.first_order(module, start, case.lr, episode, steps=steps)) < EQUAL


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", ["conv4", "mlp-classes", "mlp-numbers"])
def test_second_order_is_that_of_finite_differences(name: str, steps: int) -> None:
    case = CASES[name]
    module, start, episode = made(case)
    rule = GradientDescent(init=Network(module), lr=case.lr, steps=steps)
    _, found = ours(rule, start, episode, case.lr)

    def loss(weights: Weights) -> Tensor:
        return total(rule, weights, episode, case.lr).detach()

    size = reference.inner(found, found) ** 0.5
    for direction in reference.directions(start, 3):
        slope = reference.along(loss, start, direction, h=1e-6 if "conv" in name else 1e-4)
        # Relative to the gradient's own length, as a direction may happen to be nearly across it.
        assert abs(reference.inner(found, direction) - slope) < EQUAL * size


@pytest.mark.parametrize("name", CASES)
def test_first_and_second_order_differ_here(name: str) -> None:
    """Otherwise the tests above could not tell one from the other."""
    case = CASES[name]
    module, start, episode = made(case)
    both = [
        ours(GradientDescent(init=Network(module), lr=case.lr, steps=5, order=order), start, episode, case.lr)[1]
        for order in (1, 2)
    ]
    assert reference.distance(*both) > 1e-2


@pytest.mark.parametrize("normalization", ["batch", "support"])
@pytest.mark.parametrize("name", ["conv4", "mlp-classes"])
def test_the_gradient_with_respect_to_rates_is_that_of_finite_differences(name: str, normalization: Any) -> None:
    case = CASES[name]
    module, start, episode = made(case)
    rule = GradientDescent(init=Network(module), lr=case.lr, steps=2, normalization=normalization)
    logs = {tensor: torch.full((), case.lr).log().requires_grad_() for tensor in start}

    def loss(logarithms: Weights) -> Tensor:
        return total(rule, start, episode, {tensor: value.exp() for tensor, value in logarithms.items()})

    found = dict(zip(logs, torch.autograd.grad(loss(logs), list(logs.values())), strict=True))
    plain = {tensor: value.detach() for tensor, value in logs.items()}
    size = reference.inner(found, found) ** 0.5
    for direction in reference.directions(plain, 2):
        slope = reference.along(lambda at: loss(at).detach(), plain, direction, h=1e-6)
        assert abs(reference.inner(found, direction) - slope) < EQUAL * size


def test_one_rate_for_all_has_the_sum_of_the_rates_gradients() -> None:
    case = CASES["mlp-classes"]
    module, start, episode = made(case)
    rule = GradientDescent(init=Network(module), lr=case.lr, steps=3)
    one = torch.tensor(case.lr, requires_grad=True)
    each = {name: torch.tensor(case.lr, requires_grad=True) for name in start}
    (whole,) = torch.autograd.grad(total(rule, start, episode, one), [one])
    parts = torch.autograd.grad(total(rule, start, episode, each), list(each.values()))
    assert float(whole) == pytest.approx(float(sum(parts)), rel=1e-9)


@pytest.mark.parametrize("normalization", ["batch", "support"])
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("name", CASES)
def test_adapting_without_gradients_gives_the_same_states(name: str, steps: int, normalization: Any) -> None:
    case = CASES[name]
    module, start, episode = made(case)
    rule = GradientDescent(init=Network(module), lr=case.lr, steps=steps, normalization=normalization)
    leaves = {n: value.clone().requires_grad_() for n, value in start.items()}
    states = zip(
        rule.adapt({"init": leaves}, episode.support, None),
        rule.adapt({"init": start}, episode.support, None),
        strict=True,
    )
    for learning, plain in islice(states, steps + 1):
        for tensor, value in plain.weights.items():
            assert torch.equal(value, learning.weights[tensor])
        with torch.no_grad():
            judged = rule.evaluate(plain, episode.query, None)
        assert torch.equal(judged[0], rule.evaluate(learning, episode.query, None)[0])


@pytest.mark.parametrize("name", ["conv4", "mlp-classes"])
def test_each_task_is_adapted_on_its_own(name: str) -> None:
    case = CASES[name]
    module, start, episode = made(case)
    rule = GradientDescent(init=Network(module), lr=case.lr, steps=2)
    together = next(islice(rule.adapt({"init": start}, episode.support, None), 2, None))
    for task in range(len(episode.support.x)):
        x, y = episode.support.x[task], episode.support.y[task]
        leaves = {n: value.clone().requires_grad_() for n, value in start.items()}
        rates = dict.fromkeys(start, torch.tensor(case.lr))
        alone = reference.adapted(module, leaves, rates, x, y, steps=2, exact=False)
        found = {n: value[task].detach() for n, value in together.weights.items()}
        assert reference.distance(found, {n: value.detach() for n, value in alone.items()}) < 1e-9


@pytest.mark.parametrize("normalization", ["batch", "support"])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("name", CASES)
def test_a_gradient_needs_no_number_on_the_way(name: str, order: Any, normalization: Any) -> None:
    """On torch's device without numbers: where one were asked for, a GPU would be waited for."""
    case = CASES[name]
    module, start, episode = made(case)
    start, episode = trees.to_device(start, "meta"), trees.to_device(episode, "meta")
    rule = GradientDescent(
        init=Network(module), lr=case.lr, steps=3, order=order, normalization=normalization, proximal=0.1
    )
    rates = {tensor: torch.full((), case.lr, device="meta") for tensor in start}
    loss, found = ours(rule, start, episode, rates)
    assert {value.device.type for value in (loss, *found.values())} == {"meta"}
