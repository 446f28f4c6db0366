"""Does a meta-training that starts from an earlier one take all that was learned, with what it stands on?"""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from bilevel import PBT, Adam, Grid, Learned, Log, OneOf, Result, Run, Space, Study, load, trees
from bilevel.episodes import Key
from bilevel.errors import BadInput
from bilevel.inner import GradientDescent
from bilevel.meta.learned import Plan, prepare
from bilevel.meta.plan import plan
from bilevel.record import checkpoints, model
from bilevel.record.folder import RunFolder
from bilevel.study.events import Ended
from bilevel.tasks import Sinusoid
from support.tiny import finished, maml

TASKS = Sinusoid(shots=4, queries=4)
EXAMPLE = TASKS.episode("train", Key((0,)))


class Fourier(nn.Module):
    """Random features, a frozen random trunk, a head that is learned."""

    def __init__(self, gain: float = 1.0) -> None:
        super().__init__()
        self.register_buffer("f", gain * torch.randn(1, 8))
        self.trunk = nn.Linear(8, 8).requires_grad_(False)
        self.head = nn.Linear(8, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(torch.sin(self.trunk(x @ self.f)))
        return out


def study(rates: Any = None, **more: Any) -> Study:
    rule = Space(GradientDescent, init=Learned(Fourier, by=Adam(1e-2)), lr=0.05)
    plain = maml(rule=rule)
    return dataclasses.replace(plain if rates is None else plain.set("rule.init.by.lr", rates), **more)


def searched() -> Study:
    """The second trial is the best."""
    return study(OneOf(1e-9, 1e-2), search=Grid())


def fixed(values: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: values[name] for name in ("f", "trunk.weight", "trunk.bias")}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def older(result: Result) -> None:
    """The run as a version before recorded it: without buffers and frozen weights."""
    values, document, scaling = model.read(result.folder / "model")
    kept = {field: {n: t for n, t in tensors.items() if "head" in n} for field, tensors in values.items()}
    model.write(result.folder / "model", kept, document, scaling)


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """A search whose best trial is the second."""
    result = finished(tmp_path_factory.mktemp("second"), searched())
    assert result.best is not None
    assert result.best["trial"] == 1
    return result


def planned(start: str, seed: int = 9) -> Plan:
    return prepare(GradientDescent(init=Learned(Fourier, by=Adam(), start=start)), EXAMPLE, Key((seed,)))


# -- what is recorded --------------------------------------------------------------------------------------------------


def test_buffers_and_frozen_weights_are_part_of_what_is_learned(second: Result) -> None:
    values, document, _ = model.read(second.folder / "model")
    assert document["trial"] == 1
    state = checkpoints.load(checkpoints.folder(second.folder, 1, 4))
    assert fixed(values["init"]).keys() <= state["learned"]["init"].keys()
    assert same(values["init"], state["learned"]["init"])
    assert state["last"]["init"].keys() == state["best"]["learned"]["init"].keys() == {"head.weight", "head.bias"}


def test_a_loaded_model_is_the_one_that_was_tested(second: Result) -> None:
    learner = load(second.run_id, store=second.folder.parent, study=searched())
    losses = []
    for index in range(4):
        episode = TASKS.episode("test", searched().key.child("test", "tasks").child(index))
        module = learner.adapt(episode.support.x, episode.support.y)
        losses.append(nn.functional.mse_loss(module(episode.query.x), episode.query.y).item())
        Fourier().load_state_dict(module.state_dict())
    assert sum(losses) / 4 == pytest.approx(second.metrics["test/loss@1"], rel=1e-4)


def test_what_a_network_stands_on_is_in_the_fingerprint(second: Result) -> None:
    ended = [event for event in RunFolder(second.folder).events() if isinstance(event, Ended)]
    for number, event in enumerate(ended):
        learned = checkpoints.load(checkpoints.folder(second.folder, number, 4))["learned"]
        assert event.learned == trees.digest(learned)
        assert len(learned["init"]) == 5


# -- where it begins ---------------------------------------------------------------------------------------------------


def test_a_start_takes_what_the_earlier_network_stood_on(second: Result) -> None:
    values, _, _ = model.read(second.folder / "model")
    plan = planned(str(second.folder))
    assert same(fixed(values["init"]), plan.fixed["init"])
    assert same(fixed(values["init"]), plan.rule.init.constants())
    assert torch.equal(plan.start["init"]["head.weight"], values["init"]["head.weight"])


def test_a_run_recorded_without_them_is_built_again_from_its_seed_and_trial(second: Result, tmp_path: Path) -> None:
    values, _, _ = model.read(second.folder / "model")
    older(second)
    try:
        with pytest.warns(UserWarning, match=r"recorded without f, .*; built again from that run's seed 7 and trial 1"):
            plan = planned(str(second.folder))
        assert same(fixed(values["init"]), plan.fixed["init"])
        with pytest.warns(UserWarning, match=r"recorded without f, .*; built again from the study's seed and trial 1"):
            learner = load(second.run_id, store=second.folder.parent, study=searched())
        assert same(fixed(values["init"]), learner.plan.rule.init.constants())
        described = (second.folder / "model" / "model.json").read_text()
        (second.folder / "model" / "model.json").write_text("{}")
        with pytest.raises(BadInput, match=r"rule.init.start: .* which seed and trial they came from cannot be read"):
            planned(str(second.folder))
        (second.folder / "model" / "model.json").write_text(described)
    finally:
        model.write(second.folder / "model", values, json.loads(described) | {}, None)


def test_a_file_of_weights_gives_buffers_and_running_statistics_too(tmp_path: Path) -> None:
    file = tmp_path / "weights.safetensors"
    torch.manual_seed(5)
    module = Fourier()
    safetensors.torch.save_file(module.state_dict(), file)
    assert same(fixed(dict(module.state_dict())), planned(str(file)).fixed["init"])
    part = {n: t for n, t in module.state_dict().items() if n != "f"}
    safetensors.torch.save_file(part, file)
    with pytest.warns(UserWarning, match=r"has no f; this stays as the factory makes it here"):
        plan = planned(str(file))
    assert torch.equal(plan.fixed["init"]["trunk.weight"], module.trunk.weight)
    safetensors.torch.save_file({**module.state_dict(), "f": torch.zeros(1, 9)}, file)
    with pytest.raises(BadInput, match=r"rule.init.start: .*'f' is \[1, 8\]; it cannot take \[1, 9\]"):
        planned(str(file))


def test_the_key_decides_what_a_factory_draws_with_numpy_and_python() -> None:
    def factory() -> nn.Module:
        net = nn.Linear(1, 1)
        net.register_buffer("drawn", torch.tensor([np.random.rand(), random.random()]))
        return net

    def drawn(key: int) -> Tensor:
        plan = prepare(GradientDescent(init=Learned(factory, by=Adam())), EXAMPLE, Key((key,)))
        found: Tensor = plan.fixed["init"]["drawn"]
        return found

    before = random.getstate(), np.random.get_state()[1].tolist()  # type: ignore[index]
    first = drawn(1)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == before  # type: ignore[index]
    np.random.rand()
    assert torch.equal(first, drawn(1))
    assert not torch.equal(first, drawn(2))


# -- members of a population -------------------------------------------------------------------------------------------


def test_a_member_that_moves_stands_on_what_the_donor_stood_on(tmp_path: Path) -> None:
    result = finished(tmp_path, study(Log(1e-9, 1e-1), search=PBT(members=2, every=2), seed=3), slots=2)
    ended = sorted(result.folder.glob("checkpoints/*/step-*4"))
    zero, one = (checkpoints.load(path)["learned"]["init"] for path in ended)
    assert same(fixed(zero), fixed(one))
    built = [plan(study().build({}), Run(0, trial, Key((3,)))).fixed["init"] for trial in (0, 1)]
    assert sum(same(fixed(zero), tensors) for tensors in built) == 1
