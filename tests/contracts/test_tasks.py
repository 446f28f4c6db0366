"""What does every distribution over tasks keep to?"""

import base64
import pickle
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from bilevel import trees
from bilevel.episodes import Batch, Episode, Key, Split, Tasks, stack
from bilevel.errors import BadInput
from bilevel.tasks import Alphabets, Episodes, Grouped, Omniglot, Sinusoid

SPLITS: tuple[Split, ...] = ("train", "valid", "test")


@dataclass(frozen=True)
class Lines:
    """A user's own distribution: it has the one method and nothing else."""

    points: int = 4

    def episode(self, split: Split, key: Key) -> Episode:
        draw = torch.randn(2 * self.points + 1, generator=key.child(split).torch())
        x = draw[1:].unsqueeze(-1)
        half = Batch(x[: self.points], x[: self.points] * draw[0])
        return Episode(half, Batch(x[self.points :], x[self.points :] * draw[0]))


@dataclass(frozen=True)
class Case:
    """One distribution, the shapes that it promises, and fields that it must refuse."""

    tasks: Tasks
    support: tuple[tuple[int, ...], tuple[int, ...]]
    query: tuple[tuple[int, ...], tuple[int, ...]]
    classes: bool
    refused: tuple[dict[str, object], ...] = ()


def samples(rows: int = 120, classes: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.random((rows, 3)), np.arange(rows) % classes


def readings() -> pd.DataFrame:
    rng = np.random.default_rng(0)
    person = np.repeat(np.arange(10), [4, 5, 6, 7, 8, 9, 9, 9, 9, 9])
    x = rng.normal(size=(len(person), 2))
    return pd.DataFrame({"person": person, "a": x[:, 0], "b": x[:, 1], "score": x.sum(axis=1) + person})


COUNTS: tuple[dict[str, object], ...] = ({"shots": 0}, {"queries": 0}, {"shots": 1.5}, {"queries": True})
WAYS: tuple[dict[str, object], ...] = ({"ways": 1}, {"ways": 0}, {"ways": 100_000})


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    bits = np.random.default_rng(0).integers(0, 256, (1623, 20, 98), dtype=np.uint8)
    omniglot = tmp_path_factory.mktemp("omniglot") / "omniglot_28.npz"
    np.savez(omniglot, images_nearest_packed=bits)
    x, y = samples()
    image = (1, 28, 28)
    return {
        "sinusoid": Case(Sinusoid(shots=3, queries=4), ((3, 1), (3, 1)), ((4, 1), (4, 1)), False, COUNTS),
        "alphabets": Case(
            Alphabets(ways=3, shots=2, queries=1),
            ((6, *image), (6,)),
            ((3, *image), (3,)),
            True,
            (*COUNTS, *WAYS, {"rotations": 5}, {"rotations": 0}),
        ),
        "omniglot": Case(
            Omniglot(ways=3, shots=2, queries=1, path=str(omniglot)),
            ((6, *image), (6,)),
            ((3, *image), (3,)),
            True,
            (*COUNTS, *WAYS, {"rotations": 5}, {"shots": 10, "queries": 11}),
        ),
        "episodes": Case(
            Episodes(x, y, ways=2, shots=2, queries=3), ((4, 3), (4,)), ((6, 3), (6,)), True, (*COUNTS, *WAYS)
        ),
        "grouped": Case(
            Grouped(readings(), task="person", y="score", support=3),
            ((3, 2), (3, 1)),
            ((6, 2), (6, 1)),
            False,
            ({"support": 0}, {"queries": 0}, {"folds": 2}, {"fold": 5}, {"support": 9}, {"choose": "last"}),
        ),
        "a user's own": Case(Lines(), ((4, 1), (4, 1)), ((4, 1), (4, 1)), False),
    }


NAMES = ["sinusoid", "alphabets", "omniglot", "episodes", "grouped", "a user's own"]


@pytest.fixture(params=NAMES)
def case(request: pytest.FixtureRequest, cases: dict[str, Case]) -> Case:
    return cases[request.param]


def digest(episode: Episode) -> str:
    return trees.digest(
        {
            f"{part}.{name}": value
            for part, batch in (("support", episode.support), ("query", episode.query))
            for name, value in vars(batch).items()
            if value is not None
        }
    )


def test_shapes_and_types_are_as_documented(case: Case) -> None:
    for split in SPLITS:
        episode = case.tasks.episode(split, Key((1,)))
        for batch, (x, y) in ((episode.support, case.support), (episode.query, case.query)):
            assert tuple(batch.x.shape) == x
            assert tuple(batch.y.shape) == y
            assert batch.x.dtype == torch.float32
            assert batch.y.dtype == (torch.int64 if case.classes else torch.float32)
            assert batch.mask is None or (batch.mask.dtype == torch.bool and len(batch.mask) == len(batch.x))
            assert torch.isfinite(batch.x).all()


def test_each_class_is_shown_equally_often(case: Case) -> None:
    if not case.classes:
        return
    episode = case.tasks.episode("test", Key((1,)))
    for batch in (episode.support, episode.query):
        counts = torch.bincount(batch.y)
        assert (counts == counts[0]).all()
        assert len(counts) == case.tasks.ways


def test_the_key_decides_an_episode(case: Case) -> None:
    first, again = (digest(case.tasks.episode("train", Key((3, 1)))) for _ in range(2))
    assert first == again
    # Some of many other keys may draw the same group; all of them may not.
    others = {digest(case.tasks.episode("train", Key((3, other)))) for other in range(2, 22)}
    assert others - {first}


def test_splits_draw_other_tasks_under_the_same_key(case: Case) -> None:
    assert len({digest(case.tasks.episode(split, Key((5,)))) for split in SPLITS}) == 3


def test_an_episode_cannot_be_changed_through_an_earlier_one(case: Case) -> None:
    before = case.tasks.episode("train", Key((3,)))
    expected = digest(before)
    for batch in (before.support, before.query):
        batch.x.zero_()
        batch.y.zero_()
    assert digest(case.tasks.episode("train", Key((3,)))) == expected


def test_episodes_of_one_batch_stack(case: Case) -> None:
    many = stack([case.tasks.episode("train", Key((7, i))) for i in range(5)])
    assert tuple(many.query.x.shape) == (5, *case.query[0])


def test_a_pickled_copy_gives_the_same_and_carries_no_data_that_it_can_load(case: Case) -> None:
    expected = digest(case.tasks.episode("valid", Key((2,))))
    pickled = pickle.dumps(case.tasks)
    assert digest(pickle.loads(pickled).episode("valid", Key((2,)))) == expected
    assert len(pickled) < 10_000


def test_the_global_generators_are_neither_read_nor_moved(case: Case) -> None:
    torch.manual_seed(1)
    before = digest(case.tasks.episode("train", Key((4,))))
    state = torch.get_rng_state()
    torch.manual_seed(2)
    assert digest(case.tasks.episode("train", Key((4,)))) == before
    torch.manual_seed(1)
    assert torch.equal(torch.get_rng_state(), state)


def test_impossible_fields_are_refused_by_name_and_value(case: Case) -> None:
    check = getattr(case.tasks, "check", None)
    if check is None:
        return
    check()
    for changed in case.refused:
        with pytest.raises(BadInput) as caught:
            replace(case.tasks, **changed).check()
        message = str(caught.value)
        assert any(f"{name}={value!r}" in message for name, value in changed.items()), message
        assert ";" in message, "cause; cure"


def test_another_process_draws_the_same_bits(cases: dict[str, Case]) -> None:
    ours = {name: case for name, case in cases.items() if name != "a user's own"}  # that class lives in this file
    code = (
        "import base64, pickle, sys\n"
        "from bilevel import trees\nfrom bilevel.episodes import Key\n"
        "for tasks in pickle.loads(base64.b64decode(sys.stdin.read())):\n"
        "    e = tasks.episode('test', Key((8,)))\n"
        "    print(trees.digest({'sx': e.support.x, 'sy': e.support.y, 'qx': e.query.x, 'qy': e.query.y}))\n"
    )
    sent = base64.b64encode(pickle.dumps([case.tasks for case in ours.values()]))
    done = subprocess.run([sys.executable, "-c", code], input=sent, capture_output=True, check=True, env=environment())
    episodes = [case.tasks.episode("test", Key((8,))) for case in ours.values()]
    expected = [
        trees.digest({"sx": e.support.x, "sy": e.support.y, "qx": e.query.x, "qy": e.query.y}) for e in episodes
    ]
    assert done.stdout.decode().split() == expected


def environment() -> dict[str, str]:
    import os

    root = Path(sys.modules["bilevel"].__path__[0]).parent
    return os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
