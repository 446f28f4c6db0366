"""Does gradient descent move as its equations say, on problems solved by hand?"""

from __future__ import annotations

import dataclasses
from itertools import islice
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from bilevel.batched import Network
from bilevel.episodes import Batch, Key
from bilevel.errors import BadInput
from bilevel.inner import Adapted, GradientDescent
from bilevel.nets import conv4
from support import reference

pytestmark = pytest.mark.usefixtures("double")

A = 0.3  # inner step size
START = torch.tensor([2.0, -1.0], dtype=torch.float64)
TARGETS = torch.tensor([[0.5, 0.25], [-3.0, 1.0], [1.0, 1.0]], dtype=torch.float64)  # [tasks, 2]


class Point(nn.Module):
    """Predicts its own weight w whatever the input: with half the squared distance, a quadratic of curvature 1."""

    def __init__(self) -> None:
        super().__init__()
        self.w = nn.Parameter(START.clone())

    def forward(self, x: Tensor) -> Tensor:
        return x * 0 + self.w


def half_square(prediction: Tensor, y: Tensor) -> Tensor:
    return (prediction - y).square().sum(-1) / 2


def point(**changes: Any) -> GradientDescent:
    return GradientDescent(**{"init": Network(Point()), "lr": A, "loss": half_square, **changes})


def tasks(samples: int = 1) -> Batch:
    y = TARGETS.unsqueeze(1).expand(-1, samples, -1)
    return Batch(torch.zeros_like(y), y)


def after(rule: GradientDescent, meta: dict[str, Any], support: Batch, steps: int) -> Adapted:
    return next(islice(rule.adapt(meta, support, None), steps, None))


# -- curvature 1: everything by hand -----------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_weights_after_k_steps(steps: int) -> None:
    found = after(point(), {"init": {"w": START}}, tasks(), steps).weights["w"]
    assert torch.allclose(found, TARGETS + (1 - A) ** steps * (START - TARGETS))


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize(("order", "power"), [(2, 2), (1, 1)])
def test_the_meta_gradient_of_each_order(steps: int, order: int, power: int) -> None:
    w = START.clone().requires_grad_()
    rule = point(steps=steps, order=order)
    loss, _ = rule.evaluate(after(rule, {"init": {"w": w}}, tasks(), steps), tasks(), None)
    for task, target in enumerate(TARGETS):
        (found,) = torch.autograd.grad(loss[task], [w], retain_graph=True)
        assert torch.allclose(found, (1 - A) ** (power * steps) * (START - target), rtol=1e-12)


@pytest.mark.parametrize("order", [1, 2])
def test_the_gradient_of_the_rate(order: int) -> None:
    """d/da of (1-a)^2k |w-t|^2 / 2; first order takes each slope for a constant: the sum of the slopes on the way."""
    steps = 3
    rate = torch.tensor(A, requires_grad=True)
    rule = point(steps=steps, order=order)
    meta = {"init": {"w": START.clone().requires_grad_()}, "lr": rate}
    loss, _ = rule.evaluate(after(rule, meta, tasks(), steps), tasks(), None)
    (found,) = torch.autograd.grad(loss.sum(), [rate])
    squares = (START - TARGETS).square().sum()
    exact = -steps * (1 - A) ** (2 * steps - 1) * squares
    constant = -((1 - A) ** steps) * sum((1 - A) ** k for k in range(steps)) * squares
    assert float(found.detach()) == pytest.approx(float(exact if order == 2 else constant), rel=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_proximal_term_slows_the_way_to_its_own_optimum(steps: int) -> None:
    """Curvature 1 + p; the optimum (t + p w) / (1 + p) is approached by (1 - a (1 + p))^k."""
    pull = 0.7
    found = after(point(proximal=pull), {"init": {"w": START}}, tasks(), steps).weights["w"]
    optimum = (TARGETS + pull * START) / (1 + pull)
    assert torch.allclose(found, optimum + (1 - A * (1 + pull)) ** steps * (START - optimum))


@pytest.mark.parametrize("order", [1, 2])
def test_the_meta_gradient_with_a_proximal_term(order: int) -> None:
    pull, steps = 0.7, 3
    w = START.clone().requires_grad_()
    rule = point(proximal=pull, steps=steps, order=order)
    loss, _ = rule.evaluate(after(rule, {"init": {"w": w}}, tasks(), steps), tasks(), None)
    (found,) = torch.autograd.grad(loss.sum(), [w])
    moved = after(point(proximal=pull), {"init": {"w": START}}, tasks(), steps).weights["w"].detach()
    through = (pull + (1 - A * (1 + pull)) ** steps) / (1 + pull) if order == 2 else 1.0
    assert torch.allclose(found, (through * (moved - TARGETS)).sum(0), rtol=1e-12)


def test_a_rate_of_its_own_for_each_tensor() -> None:
    rule = GradientDescent(init=Network(nn.Linear(1, 1)), lr=0.1)
    start = {"weight": torch.tensor([[1.0]]), "bias": torch.tensor([0.0])}
    one = Batch(
        torch.tensor([[[2.0]]]), torch.tensor([[[0.0]]])
    )  # prediction 2, slope 2 * 2 for bias, times x for weight
    moved = after(rule, {"init": start, "lr": {"weight": 0.1, "bias": 0.01}}, one, 1).weights
    assert moved["weight"].item() == pytest.approx(1 - 0.1 * 8)
    assert moved["bias"].item() == pytest.approx(-0.01 * 4)


# -- masks -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["numbers", "classes", "binary"])
def test_masked_samples_do_not_count(kind: str) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 5, 3)
    y = torch.randn(2, 5, 1) if kind == "numbers" else torch.randint(0, 2, (2, 5))
    module = nn.Linear(3, 2 if kind == "classes" else 1)
    rule = GradientDescent(init=Network(module), lr=0.2, steps=2)
    mask = torch.tensor([[True, True, True, False, False]]).expand(2, -1)
    noise = torch.where(mask.unsqueeze(-1), x, torch.full_like(x, 1e3))
    padded, short = Batch(noise, y, mask), Batch(x[:, :3], y[:, :3])
    start = {"init": rule.init.start()}
    found = [after(rule, start, batch, 2) for batch in (padded, short)]
    assert torch.allclose(found[0].weights["weight"], found[1].weights["weight"], rtol=1e-12)
    judged = [rule.evaluate(found[1], query, None) for query in (padded, short)]
    assert torch.allclose(judged[0][0], judged[1][0], rtol=1e-12)
    for name, value in judged[0][1].items():
        assert torch.allclose(value, judged[1][1][name], rtol=1e-12)


# -- losses and metrics ------------------------------------------------------------------------------------------------


def test_one_logit_is_a_binary_classifier() -> None:
    rule = GradientDescent(init=Network(nn.Linear(1, 1, bias=False)), lr=0.1)
    start = {"weight": torch.tensor([[2.0]])}
    query = Batch(torch.tensor([[[1.0], [-1.0], [0.5]]]), torch.tensor([[1, 0, 0]]))
    loss, metrics = rule.evaluate(after(rule, {"init": start}, query, 0), query, None)
    logits, labels = torch.tensor([2.0, -2.0, 1.0]), torch.tensor([1.0, 0.0, 0.0])
    assert loss.item() == pytest.approx(float(nn.functional.binary_cross_entropy_with_logits(logits, labels)))
    assert float(metrics["accuracy"]) == pytest.approx(2 / 3)


# -- normalisation -----------------------------------------------------------------------------------------------------


def shifted() -> tuple[GradientDescent, Adapted, Tensor]:
    """conv4 after two steps, and queries that are distributed otherwise than the support."""
    torch.manual_seed(1)
    episode = reference.classes(2, 3, (1, 12, 12))
    rule = GradientDescent(init=Network(conv4(3, (1, 12, 12), hidden=4)), lr=0.4, normalization="support")
    return rule, after(rule, {"init": rule.init.start()}, episode.support, 2), 3 * episode.query.x + 1


def test_under_support_statistics_one_query_at_a_time_is_all_at_once() -> None:
    rule, adapted, x = shifted()
    together = rule.predict(adapted, x)
    alone = torch.cat([rule.predict(adapted, x[:, i : i + 1]) for i in range(x.shape[1])], 1)
    assert torch.allclose(together, alone, rtol=1e-10, atol=1e-12)


def test_under_batch_statistics_queries_depend_on_each_other() -> None:
    rule, adapted, x = shifted()
    transductive = dataclasses.replace(rule, normalization="batch")
    together, part = transductive.predict(adapted, x), transductive.predict(adapted, x[:, :3])
    assert not torch.allclose(together[:, :3], part, rtol=1e-3)
    assert not torch.allclose(together, rule.predict(adapted, x), rtol=1e-3)


def test_the_module_of_a_task_predicts_as_the_rule_under_support_statistics() -> None:
    rule, adapted, x = shifted()
    one = Adapted({n: w[:1] for n, w in adapted.weights.items()}, Batch(adapted.support.x[:1], adapted.support.y[:1]))
    for policy in ("support", "batch"):  # the module serves one's own task, and there it is the support that is known
        module = dataclasses.replace(rule, normalization=policy).module(one)
        assert not module.training
        with torch.no_grad():
            assert torch.allclose(module(x[0]), rule.predict(adapted, x)[0].detach(), rtol=1e-10, atol=1e-12)


# -- dropout -----------------------------------------------------------------------------------------------------------


def test_dropout_is_decided_by_the_keys_and_off_without() -> None:
    torch.manual_seed(0)
    rule = GradientDescent(init=Network(nn.Sequential(nn.Linear(3, 16), nn.Dropout(0.5), nn.Linear(16, 1))), lr=0.1)
    support = reference.numbers(2, 3, 1).support
    meta = {"init": rule.init.start()}

    def moved(keys: list[Key] | None) -> Tensor:
        return next(islice(rule.adapt(meta, support, keys), 1, None)).weights["0.weight"]

    some, others = ([Key((seed, task)) for task in range(2)] for seed in (1, 2))
    assert torch.equal(moved(some), moved(some))
    assert not torch.equal(moved(some), moved(others))
    assert torch.equal(moved(None), moved(None))


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"lr": -0.1}, "lr is -0.1; a step size is a positive number"),
        ({"lr": float("nan")}, "lr is nan"),
        ({"steps": 0}, "steps is 0; adapting takes at least 1"),
        ({"proximal": -1.0}, "proximal is -1.0; it takes 0 or more"),
    ],
)
def test_what_cannot_adapt_is_refused(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(BadInput, match=f"GradientDescent: {match}"):
        point(**changes)
