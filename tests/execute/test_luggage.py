"""Are the modules of a study on a worker once, under their own names, with what was in them in the driver?"""

from __future__ import annotations

import functools
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import ray
import torch

from bilevel import Ray, Tune
from bilevel.drive import sources
from bilevel.execute import imported, luggage, opening
from bilevel.execute.pickling import dumps
from bilevel.execute.trial_runner import Script
from bilevel.study.events import Completed, Order, Said, Stage

HELPERS = """
import random
from dataclasses import dataclass

import torch

SCALE = 1
DRAWN = torch.rand(3)
WORDS = [random.random() for _ in range(3)]
SEEN = []
TRUNK = torch.nn.Linear(2, 2)
ASIDE = [DRAWN]
count = 0


@dataclass
class Scaler:
    by: float = 2.0


def counted():
    global count
    count += 1
    return count


def register(word):
    SEEN.append(word)
    return word
"""

LATER = "def answer():\n    return 42\n"

STUDY = """
import functools, io, multiprocessing, pickle, sys
import torch
import helpers_b3
from helpers_b3 import Scaler
from bilevel import Log, Space, Study

helpers_b3.register("study")


class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)

    def forward(self, x):
        return self.layer(x)


class Task:
    @functools.cached_property
    def table(self):
        return helpers_b3.SCALE


def square(x):
    return x * x * Scaler().by


def saved(thing):
    file = io.BytesIO()
    torch.save(thing, file)
    file.seek(0)
    return type(torch.load(file, weights_only=False)) is type(thing)


counts = lambda: helpers_b3.counted()
made = (lambda make: lambda: make())(Scaler)


def train(config, run):
    import helpers_b3 as again
    import later_b3
    found = {
        "saved": saved(Net()),
        "pickled": isinstance(pickle.loads(pickle.dumps(Scaler())), again.Scaler),
        "isinstance": isinstance(config["scaler"], again.Scaler) and isinstance(made(), again.Scaler),
        "named": isinstance(config["net"], sys.modules[__name__].Net) and sys.modules[__name__].square is square,
        "task": config["task"].table == 3,
        "later": later_b3.answer() == 42,
        "seen": again.SEEN == ["study"],
        "one state": (counts(), again.counted(), again.count) == (1, 2, 2),
        "aside": again.ASIDE[0] is again.DRAWN,
    }
    for way in ("fork", "spawn"):
        with multiprocessing.get_context(way).Pool(1) as pool:
            found[way] = pool.map(square, [3]) == [18.0] and pool.map(pickle.dumps, [Scaler()]) != []
    found["drawn"] = again.DRAWN.sum()
    found["words"] = sum(again.WORDS)
    found["trunk"] = again.TRUNK.weight.detach().sum()
    found["loss"] = 0.0
    return {name: float(value) for name, value in found.items()}


study = Study(name="b3", objective=train, minimize="loss", trials=1, space=Space(
    dict, lr=Log(0.1, 1.0), scaler=Scaler(), net=Net(), task=Task()))
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A study and its neighbours."""
    path, modules = list(sys.path), set(sys.modules)
    for name, text in (("helpers_b3", HELPERS), ("later_b3", LATER), ("my-study", STUDY)):
        (tmp_path / f"{name}.py").write_text(text)
    yield tmp_path
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("bilevel_study_") or name.endswith("_b3"):
            del sys.modules[name]


def ended(stage: Stage) -> Said:
    """What the one trial said at its end, with its last report."""
    stage.begin(Order(0, 1, 1, {"lr": 0.5}))
    reports: list[Any] = []
    stop = time.monotonic() + 90
    while time.monotonic() < stop:
        for said in stage.poll(0.5):
            if isinstance(said, Said):
                reports += said.reports
                if said.end is not None:
                    return Said(0, 1, tuple(reports), end=said.end)
                stage.answer(0, None)
    raise AssertionError("not ended")


@pytest.mark.slow
@pytest.mark.parametrize("place", [Ray(workers=1), Tune(workers=1)], ids=["ray", "tune"])
def test_modules_are_there_once_under_their_names_without_their_files(
    place: Ray | Tune, folder: Path, cluster: None
) -> None:
    study, _ = sources.load(str(folder / "my-study.py"))
    helpers: Any = sys.modules["helpers_b3"]
    helpers.SCALE = 3  # after it was imported
    script = Script(study.objective, study.space, study.key, "loss", minimize=True)
    stage = opening.stage(place, script, (str(folder),))
    for file in folder.glob("*.py"):
        file.unlink()
    try:
        said = ended(stage)
    finally:
        stage.close()
    assert said.end == Completed(), said.end
    found = dict(said.reports[-1].metrics)
    drawn = [found.pop(name) for name in ("drawn", "words", "trunk")]
    assert drawn == [float(helpers.DRAWN.sum()), sum(helpers.WORDS), float(helpers.TRUNK.weight.detach().sum())]
    assert found == {**dict.fromkeys(found, 1.0), "loss": 0.0}


@pytest.mark.slow
def test_a_studys_file_has_a_name_that_imports_in_children_that_are_spawned(folder: Path) -> None:
    study, _ = sources.load(str(folder / "my-study.py"))
    assert study.objective.__module__ == "bilevel_study_my_study"
    read = "import sys, pickle; sys.path[:] = {!r}; print(pickle.loads({!r}).__name__)"
    text = read.format(sys.path, pickle.dumps(study.objective))
    done = subprocess.run(
        [sys.executable, "-c", text], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert done.stdout == "train\n", done.stderr


def test_data_is_made_the_drivers_in_the_same_objects() -> None:
    module: Any = ModuleType("settled")
    module.tensor, module.array = torch.zeros(2), np.zeros(2)
    module.words, module.table, module.number = ["a"], {"a": 1, "b": torch.zeros(1)}, 1
    module.net, module.other = torch.nn.Linear(1, 1), object()
    before = dict(vars(module))
    theirs: Any = ModuleType("settled")
    theirs.tensor, theirs.array = torch.ones(2), np.ones(2)
    theirs.words, theirs.table, theirs.number = ["b", "c"], {"b": torch.ones(1)}, 2
    theirs.net, theirs.other, theirs.new = torch.nn.Linear(1, 1), object(), (1, "x")
    inner = module.table["b"]
    luggage._settle(module, dict(luggage._data(theirs)))
    for name in ("tensor", "array", "words", "table", "net", "other"):
        assert getattr(module, name) is before[name]
    assert module.tensor.tolist() == module.array.tolist() == [1.0, 1.0]
    assert (module.words, module.number, module.new) == (["b", "c"], 2, (1, "x"))
    assert module.table == {"b": torch.ones(1)}
    assert module.table["b"] is inner
    assert torch.equal(module.net.weight, theirs.net.weight)


def test_an_array_too_large_to_travel_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(luggage, "LARGE", 8)
    mine: Any = ModuleType("large")
    mine.__file__, mine.data = "large.py", torch.zeros(3)
    sent = dict(luggage._data(mine))
    luggage._settle(mine, sent)
    mine.data = torch.ones(3)
    with pytest.raises(Exception, match=r"large.py: data is not on this worker what it is in the driver.*run.cache"):
        luggage._settle(mine, sent)


class Cached:
    """What a notebook's cell may hold."""

    @functools.cached_property
    def table(self) -> int:
        return 3


def test_a_class_with_a_cached_property_travels_by_value() -> None:
    Cached.__module__ = "__main__"
    made = pickle.loads(dumps(Cached(), luggage.Luggage()))
    assert type(made) is not object
    assert made.table == made.__dict__["table"] == 3


def test_a_stub_hides_no_module_of_python(tmp_path: Path) -> None:
    imported.write(tmp_path, {"random": ("random.py", "", False), "mine.sub": ("mine/sub.py", "", False)})
    assert {file.stem for file in tmp_path.glob("*.py")} == {"mine", imported.SOURCES}
