"""Do tasks of every kind of labels, inputs and losses go the whole way: trained, tested, shown, adapted?"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bilevel import SGD, Adam, Inline, Learned, MetaTraining, Result, Run, Space, Study, figures, load, run
from bilevel.drive.learner import predictions
from bilevel.episodes import Batch, Episode, Key, Split
from bilevel.errors import BadInput
from bilevel.inner import GradientDescent
from bilevel.meta.plan import plan
from bilevel.nets import mlp
from bilevel.record.folder import RunFolder
from bilevel.study.history import replay
from support.tiny import finished, maml

Make = Callable[[torch.Generator], tuple[Any, Tensor]]


@dataclass(frozen=True)
class Made:
    """Six samples of a task, drawn by a function; three are the support."""

    make: Make = field(repr=False)

    def episode(self, split: Split, key: Key) -> Episode:
        x, y = self.make(key.child(split).torch())
        if isinstance(x, dict):
            parts: list[Any] = [{name: part[at] for name, part in x.items()} for at in (slice(3), slice(3, 6))]
        else:
            parts = [x[:3], x[3:]]
        return Episode(Batch(parts[0], y[:3]), Batch(parts[1], y[3:]))


@dataclass(frozen=True)
class Declared(Made):
    classes: int | None = None
    outputs: int | None = None


def plain(y: Callable[[Tensor], Tensor], x: Callable[[Tensor], Tensor] = lambda x: x) -> Make:
    """Two features; the label is a function of them."""

    def make(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        drawn = torch.randn(6, 2, generator=generator)
        drawn[:, 0] = drawn[:, 0].abs() * torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0, -1.0])
        return x(drawn), y(drawn)

    return make


def positive(x: Tensor) -> Tensor:
    return (x[:, 0] > 0).long()


def total(x: Tensor) -> Tensor:
    return x.sum(1, keepdim=True)


def study(tasks: Any, init: Any = None, **rule: Any) -> Study:
    init = init or Space(mlp, hidden=(6,))
    return maml(tasks=tasks, steps=2, rule=Space(GradientDescent, init=Learned(init, by=Adam(1e-2)), lr=0.1, **rule))


def trained(store: Path, study: Study) -> Result:
    """The whole way, figures of single tasks too (a figure that fails would be an error here)."""
    result = run(study, on=Inline(), store=store, track="none")
    assert result.status == "completed", result
    return result


class Words(nn.Module):
    """Takes whole numbers, as networks for text do; a normalisation that forward does not come by is in it."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.table = nn.Embedding(4, 3)
        self.aux = nn.BatchNorm1d(3)
        self.linear = nn.Linear(6, outputs)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.linear(self.table(x.long()).flatten(1))
        return out


# -- types -------------------------------------------------------------------------------------------------------------

WHOLE = (torch.int32, torch.uint8, torch.bool)


@pytest.mark.parametrize("dtype", WHOLE)
def test_classes_of_any_type_are_those_of_int64(dtype: torch.dtype, tmp_path: Path) -> None:
    """They were a regression without a word."""
    found = finished(tmp_path, study(Made(plain(lambda x: positive(x).to(dtype)))))
    wanted = finished(tmp_path, study(Made(plain(positive))))
    assert "test/accuracy@1" in wanted.metrics
    assert found.metrics == wanted.metrics
    assert found.fingerprint == wanted.fingerprint


@pytest.mark.parametrize(
    ("dtype", "where"),
    [
        (torch.float64, "x"),
        (torch.float64, "y"),
        (torch.float64, "both"),
        (torch.bfloat16, "both"),
        (torch.float16, "y"),
    ],
)
def test_floats_of_any_type_go_the_whole_way(dtype: torch.dtype, where: str, tmp_path: Path) -> None:
    def to(x: Tensor) -> Tensor:
        return x.to(dtype)

    x, y = (to if where in (part, "both") else (lambda x: x) for part in ("x", "y"))
    made = study(Made(plain(lambda drawn: y(total(drawn)), x)))
    result = finished(tmp_path, made)
    assert result.status == "completed"
    assert {"test/mae@1", "test/ridge_mae"} <= result.metrics.keys()
    assert load(result.run_id, store=tmp_path, study=made).adapt([[0.0, 1.0]], [1.0])


@pytest.mark.parametrize("dtype", [torch.bfloat16])
def test_a_network_of_another_type_has_episodes_of_its_own(dtype: torch.dtype, tmp_path: Path) -> None:
    def factory(outputs: int) -> nn.Module:
        return nn.Linear(2, outputs).to(dtype)

    with mock.patch.object(figures, "draw", wraps=figures.draw) as drawn:
        result = trained(tmp_path, study(Made(plain(total)), factory))
    assert drawn.called
    assert "test/ridge_mae" in result.metrics


@pytest.mark.parametrize("dtype", [torch.int64, torch.uint8, torch.bool])
def test_whole_inputs_go_the_whole_way_and_are_adapted_to(dtype: torch.dtype, tmp_path: Path) -> None:
    def make(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x = torch.randint(0, 2, (6, 2), generator=generator)
        return x.to(dtype), x.sum(1, keepdim=True).float()

    words = study(Made(make), Words)
    result = finished(tmp_path, words)
    assert result.status == "completed"
    loaded = load(result.run_id, store=tmp_path, study=words)
    module = loaded.adapt([[0, 1], [1, 1]], [1.0, 2.0])
    assert module(torch.tensor([[1, 0]]).to(dtype)).shape == (1, 1)
    module.load_state_dict(module.state_dict())
    assert len(predictions(module, np.array([[0.0, 1.0], [1.0, 1.0], [0.0, 0.0]]), loaded)) == 4  # as a CSV is read
    with pytest.raises(BadInput, match=r"query: x holds 0.5; the model takes whole numbers"):
        predictions(module, np.array([[0.5, 1.0]]), loaded)
    if dtype == torch.int64:
        with pytest.raises(BadInput, match=r"support: the network does not work on these samples: .*out of range"):
            loaded.adapt([[0, 9]], [1.0])
        with pytest.raises(BadInput, match=r"query: the network does not work on these samples: .*out of range"):
            predictions(module, np.array([[0, 9]]), loaded)


# -- classes and outputs -----------------------------------------------------------------------------------------------


def rare(generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Of five classes an episode shows two, as it happens."""
    x = torch.randn(6, 2, generator=generator)
    shown = torch.randint(0, 5, (2,), generator=generator)
    return x, shown[torch.tensor([0, 1, 0, 1, 0, 1])]


def test_classes_that_an_episode_does_not_show_are_declared(tmp_path: Path) -> None:
    result = finished(tmp_path, study(Declared(rare, classes=5)))
    assert result.status == "completed"
    loaded = load(result.run_id, store=tmp_path, study=study(Declared(rare, classes=5)))
    assert loaded.outputs == 5
    assert loaded.adapt([[0.0, 1.0]], [4])(torch.zeros(1, 2)).shape == (1, 5)


def test_undeclared_classes_are_counted_over_some_episodes_of_each_split() -> None:
    config: MetaTraining = study(Made(rare)).build({})
    ready = plan(config, Run(0, 0, Key((0,))))
    assert ready.labels.classes == 5, "the example shows two"
    assert ready.start["init"]["2.bias"].shape == (5,)


def test_a_label_beyond_the_outputs_says_so(tmp_path: Path) -> None:
    def later(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        x, y = plain(positive)(generator)
        return x, y + 5 * int(torch.rand((), generator=generator) < 0.5)

    tasks = Declared(later, classes=2)
    result = finished(tmp_path, study(tasks))
    (trial,) = replay(RunFolder(result.folder).events()).trials.values()
    assert trial.reason is not None
    assert re.search(
        r"BadInput: labels \d to 6, but the network tells classes 0 to 1 apart; say how many", trial.reason
    )


def test_a_head_of_ten_outputs_serves_tasks_of_three_classes(tmp_path: Path) -> None:
    def make(generator: torch.Generator) -> tuple[Tensor, Tensor]:
        return torch.randn(6, 2, generator=generator), torch.tensor([0, 1, 2, 0, 1, 2])

    result = finished(tmp_path, study(Made(make), Space(mlp, outputs=10, hidden=(6,))))
    assert result.status == "completed"
    assert result.metrics["test/nearest_neighbour_accuracy"] >= 0


def gauss(p: Tensor, y: Tensor) -> Tensor:
    return F.gaussian_nll_loss(p[..., :1], y, p[..., 1:].exp())


def pinball(p: Tensor, y: Tensor) -> Tensor:
    level = torch.tensor([0.1, 0.5, 0.9])
    return torch.maximum(level * (y - p), (level - 1) * (y - p))


LOSSES: dict[str, tuple[Any, Any, set[str]]] = {
    "gauss": (Declared(plain(total), outputs=2), gauss, {"test/loss@1", "test/ridge_mae"}),
    "quantiles": (Declared(plain(lambda x: total(x)[:, 0]), outputs=3), pinball, {"test/loss@1", "test/ridge_mae"}),
    "marks": (
        Made(plain(lambda x: x > 0)), F.binary_cross_entropy_with_logits, {"test/loss@1", "test/accuracy@1"},
    ),
    "counts": (Declared(plain(lambda x: 2 + positive(x)), outputs=1), F.poisson_nll_loss, {"test/mae@1"}),
    "left out": (
        Declared(plain(lambda x: positive(x).masked_fill(x[:, 1] > 1, -100)), classes=2),
        nn.CrossEntropyLoss(), {"test/accuracy@1"},
    ),
    "huber": (Made(plain(lambda x: total(x)[:, 0])), nn.HuberLoss(), {"test/mae@1"}),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:.*left out")
@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_decides_what_fits(name: str, tmp_path: Path) -> None:
    tasks, loss, metrics = LOSSES[name]
    result = (trained if name in ("gauss", "marks") else finished)(tmp_path, study(tasks, loss=loss))
    assert result.status == "completed"
    assert metrics <= result.metrics.keys()
    assert all(isinstance(value, float) for value in result.metrics.values())


def test_counts_are_adapted_to_as_numbers(tmp_path: Path) -> None:
    """Whole labels are classes, unless the loss takes them for numbers."""
    counts = study(Declared(plain(lambda x: 2 + positive(x)), outputs=1), loss=F.poisson_nll_loss)
    loaded = load(finished(tmp_path, counts).run_id, store=tmp_path, study=counts)
    module = loaded.adapt([[0.0, 1.0], [1.0, 1.0]], [7, 2])
    header, *rows = predictions(module, np.array([[0.5, 1.0]]), loaded)
    assert header == ["y"]
    assert len(rows) == 1


def test_a_loss_that_breaks_its_promise_is_refused_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"rule.loss: for predictions \[6, 1\] .*raises TypeError: .*'var'"):
        finished(tmp_path / "store", study(Made(plain(total)), loss=nn.GaussianNLLLoss()))
    assert not (tmp_path / "store").exists()


def test_a_mean_of_torch_learns_as_ours(tmp_path: Path) -> None:
    """The default losses are torch's, task by task."""
    for labels, loss in ((positive, F.cross_entropy), (total, F.mse_loss)):
        ours, torchs = (finished(tmp_path, study(Made(plain(labels)), **more)) for more in ({}, {"loss": loss}))
        assert torchs.metrics.keys() == ours.metrics.keys()
        for name, value in ours.metrics.items():
            assert torchs.metrics[name] == pytest.approx(value, rel=1e-4), name


# -- inputs ------------------------------------------------------------------------------------------------------------


class _Series(nn.Module):
    """Mean over the steps that a sample has: sequences of unequal length, padded, with their lengths beside them."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(3, outputs)

    def forward(self, x: dict[str, Tensor]) -> Tensor:
        kept = torch.arange(x["steps"].shape[1]) < x["length"].unsqueeze(-1)
        mean = (x["steps"] * kept.unsqueeze(-1)).sum(1) / x["length"].unsqueeze(-1)
        out: Tensor = self.linear(mean)
        return out


def series(generator: torch.Generator) -> tuple[dict[str, Tensor], Tensor]:
    steps = torch.randn(6, 4, 3, generator=generator, dtype=torch.float64)
    return {"steps": steps, "length": torch.tensor([1, 2, 3, 4, 2, 3])}, steps[:, 0, :1]


def test_inputs_may_be_a_dict_of_tensors(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="_Series cannot be batched exactly .inputs are a dict"):
        result = finished(tmp_path, study(Made(series), _Series))
    assert result.status == "completed"
    with pytest.warns(UserWarning, match="inputs are a dict"):
        loaded = load(result.run_id, store=tmp_path, study=study(Made(series), _Series))
    x = {"steps": torch.zeros(2, 4, 3).numpy(), "length": [1, 2]}
    module = loaded.adapt(x, [1.0, 2.0])
    assert module(loaded.samples(x, "query")).shape == (2, 1)
    with pytest.raises(
        BadInput, match=r"support: x is a list; the model takes a dict of tensors \('steps', 'length'\)"
    ):
        loaded.adapt([[0.0, 1.0]], [1.0])


def test_what_pads_reaches_no_gradient(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Padded(Made):
        fill: float

        def episode(self, split: Split, key: Key) -> Episode:
            whole = super().episode(split, key)
            mask = torch.tensor([True, True, False])
            parts = [
                Batch(b.x.masked_fill(~mask[:, None], self.fill), b.y.masked_fill(~mask[:, None], self.fill), mask)
                for b in (whole.support, whole.query)
            ]
            return Episode(*parts)

    nan, nought = (finished(tmp_path, study(Padded(plain(total), fill))) for fill in (float("nan"), 0.0))
    assert nan.status == "completed"
    assert nan.metrics == nought.metrics


# -- rules of one's own ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Prototypes:
    """The nearest class mean in a learned embedding (Snell et al. 2017)."""

    embed: Any
    steps: int = 1

    def adapt(self, meta: Any, support: Batch, keys: Any) -> Iterator[Any]:
        weights = self.embed.spread(meta["embed"], len(support.x))
        features = self.embed(weights, support.x, training=keys is not None, keys=keys)
        mine = F.one_hot(support.y, 2).to(features).transpose(1, 2)
        means = mine @ features / mine.sum(2, keepdim=True)
        while True:
            yield weights, means

    def evaluate(self, adapted: Any, query: Batch, keys: Any) -> tuple[Tensor, dict[str, Tensor]]:
        weights, means = adapted
        features = self.embed(weights, query.x, training=keys is not None, keys=keys)
        scores = -torch.cdist(features, means)
        loss = F.cross_entropy(scores.transpose(1, 2), query.y, reduction="none").mean(1)
        return loss, {"accuracy": (scores.argmax(2) == query.y).float().mean(1)}


def test_a_rule_whose_network_embeds_is_not_asked_for_scores(tmp_path: Path) -> None:
    """384 numbers of two classes were refused as not fitting the classes, although no rule took them for scores."""

    def own(again: Any) -> Study:
        rule = Space(Prototypes, embed=Learned(Space(mlp, outputs=384, hidden=()), by=SGD(0.1)))
        return maml(tasks=Made(plain(positive)), rule=rule, test_tasks={"again": again})

    result = finished(tmp_path, own(Made(plain(positive))))
    assert result.status == "completed"
    assert "test/accuracy@1" in result.metrics
    bad = Made(lambda generator: (torch.zeros(6, 5), torch.tensor([0, 1] * 3)))
    with pytest.raises(BadInput, match=r"test_tasks.again: rule.embed: the network does not work on inputs \(3, 5\)"):
        finished(tmp_path, own(bad))
