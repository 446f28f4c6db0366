"""How does the engine train on a device, and where does a unit wait for the card?"""

from __future__ import annotations

import dataclasses
import tempfile
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import torch
from cases import CASES, episodes, weights
from ours import ENDLESS, Fixed, Given, _episodes

from bilevel import trees
from bilevel.episodes import Key
from bilevel.execute import Inline, opening
from bilevel.execute.settings import Settings, usable
from bilevel.inner import GradientDescent
from bilevel.meta import MetaTraining, meta_train
from bilevel.meta.learned import prepare
from bilevel.meta.movers import Adam
from bilevel.meta.units import Shard, TrainUnit, shards
from bilevel.space import Learned
from bilevel.study.events import Done, Units
from bilevel.study.given import Run


def config_of(name: str, tasks: int, unit: int) -> MetaTraining:
    """A meta-training on the episodes of a case of `tests/benchmarks`."""
    case = dataclasses.replace(CASES[name], tasks=tasks)
    given = Given(case, tuple(torch.from_numpy(weight).float() for weight in weights(case)))
    rule = GradientDescent(init=Learned(given, by=Adam(1e-3)), lr=case.lr, steps=case.steps)
    drawn = Fixed(_episodes(episodes(case), torch.float32))
    return MetaTraining(
        tasks=drawn, rule=rule, steps=ENDLESS, episodes=tasks, unit=unit, validate_every=2, validate_episodes=unit
    )


def learned(config: MetaTraining, device: str, steps: int) -> tuple[dict[str, Any], float]:
    """What is learned after some outer steps (with validations between), on the CPU, and the last validation's loss."""
    executor = opening.executor(Inline(device), threads=1)
    training = meta_train(config, Run(seed=0, trial=0, key=Key((0,))))
    said = next(training)
    try:
        while True:
            if isinstance(said, Units):
                executor.submit(0, said)
                (done,) = executor.poll(600.0)
                if not isinstance(done, Done):
                    raise RuntimeError(f"the executor says {done}")
                said = training.send(done.results)
            elif said.step == steps:
                return said.state["learned"], float(said.metrics["valid/loss"])
            else:
                said = next(training)
    finally:
        executor.close()


def units_of(name: str, tasks: int, unit: int, device: str) -> tuple[TrainUnit, Any, tuple[Shard, ...]]:
    """The units of an outer step, with what they share on the device; this process is set up for them."""
    config, place = config_of(name, tasks, unit), usable(device)
    Settings.here(1).on(place).apply()
    plan = prepare(config.rule, config.tasks.episode("train", Key((0,))), Key((0,)))
    work = TrainUnit(plan, config.tasks, Key((0,)))
    tree = trees.to_device(trees.unpack(trees.pack({"learned": plan.start})), place)
    return work, tree, shards(1, tasks, unit)


def waits(name: str, tasks: int, device: str) -> Counter[str]:
    """The lines at which a unit makes this process wait for the card; how often each."""
    work, tree, items = units_of(name, tasks, tasks, device)
    work(tree, items[0])
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work(tree, items[0])
        finally:
            torch.cuda.set_sync_debug_mode("default")
    waited = [one for one in said if "called a synchronizing" in str(one.message)]
    return Counter(f"{Path(one.filename).name}:{one.lineno}" for one in waited)


def whole(device: str, steps: int) -> tuple[str, str]:
    """A recorded study, run twice: both fingerprints. Needs what `bilevel.run` needs beside torch, but no tracker."""
    from bilevel import MetaTraining, Space, Study, run
    from bilevel.nets import mlp
    from bilevel.tasks import Sinusoid

    rule = Space(GradientDescent, init=Learned(mlp, by=Adam(1e-3)), lr=0.01, steps=2)
    training = Space(MetaTraining, tasks=Sinusoid(), rule=rule, steps=steps, episodes=16, test_episodes=24)
    study = Study(name="card", objective=meta_train, minimize="valid/loss", seed=0, space=training)
    with tempfile.TemporaryDirectory() as store:
        first, second = (run(study, on=Inline(device), store=store, track="none") for _ in range(2))
        return first.fingerprint, second.fingerprint
