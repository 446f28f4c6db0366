"""Do a user's own arrays and data sets become the tasks that she means?"""

import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from bilevel.episodes import Key, Split
from bilevel.errors import BadInput, MissingData
from bilevel.tasks import Episodes

SPLITS: tuple[Split, ...] = ("train", "valid", "test")
Y = np.arange(200) % 10
X = np.stack([Y * 1.0, np.arange(200) * 1.0], axis=1)  # a sample says its class and its row


class Pairs(Dataset):
    """A map-style data set without `targets`."""

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return torch.from_numpy(X[row]), int(Y[row])

    def __len__(self) -> int:
        return len(X)


class Dicts(Dataset):
    """Items that are all the same thing."""

    def __init__(self, entry: object) -> None:
        self.entry = entry

    def __getitem__(self, row: int) -> object:
        return self.entry

    def __len__(self) -> int:
        return 4


class Shaped(Pairs):
    """Items of another shape than pairs."""

    def __init__(self, make: Callable[[torch.Tensor, int], object]) -> None:
        self.make = make

    def __getitem__(self, row: int) -> object:
        return self.make(*super().__getitem__(row))


class Targets(Pairs):
    def __init__(self) -> None:
        self.targets = Y.tolist()
        self.read = 0

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        self.read += 1
        return super().__getitem__(row)


def classes(tasks: Episodes, split: Split) -> set[int]:
    episodes = [tasks.episode(split, Key((i,))) for i in range(60)]
    return {int(name) for episode in episodes for name in episode.support.x[:, 0]}


def test_labels_follow_the_classes_and_no_row_is_drawn_twice() -> None:
    tasks = Episodes(X, Y, ways=2, shots=3, queries=4)
    for i in range(30):
        episode = tasks.episode("train", Key((i,)))
        of = {int(y): int(x) for x, y in zip(episode.support.x[:, 0], episode.support.y, strict=True)}
        assert len(set(of.values())) == 2
        assert [of[int(y)] for y in episode.query.y] == episode.query.x[:, 0].tolist()
        rows = torch.cat([episode.support.x[:, 1], episode.query.x[:, 1]]).tolist()
        assert len(set(rows)) == 14


def test_by_default_classes_are_divided_6_2_2_by_the_seed() -> None:
    tasks = Episodes(X, Y, ways=2)
    parts = [classes(tasks, split) for split in SPLITS]
    assert [len(part) for part in parts] == [6, 2, 2]
    assert set().union(*parts) == set(range(10))
    assert classes(Episodes(X, Y, ways=2, seed=1), "train") != parts[0]


def test_classes_can_be_named_for_each_split_and_left_out() -> None:
    tasks = Episodes(X, Y, ways=2, splits={"train": (0, 1), "valid": [2, 3], "test": (4, 5, 6)})
    assert [classes(tasks, split) for split in SPLITS] == [{0, 1}, {2, 3}, {4, 5, 6}]


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (torch.from_numpy(X), torch.from_numpy(Y)),
        (X.tolist(), Y.tolist()),
        (X, [f"class {name}" for name in Y]),
        (X, list(Y)),
        (X, np.array([f"class {name}" for name in Y])),
        (X, np.eye(10)[Y]),
        (X, torch.eye(10, dtype=torch.int64)[torch.from_numpy(Y)]),
        (X, Y[:, None]),
        (pd.DataFrame(X), pd.Series([f"class {name}" for name in Y], dtype="category")),
        (Shaped(lambda x, y: (x, y, "file.png")), None),
        (Shaped(lambda x, y: {"image": x, "label": y}), None),
        (Shaped(lambda x, y: {"pixel_values": x.numpy(), "labels": f"class {y}"}), None),
        (Shaped(lambda x, y: (x, torch.eye(10)[y])), None),
        (list(X), Y),
        (Pairs(), None),
        (Targets(), None),
        (TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), None),
    ],
    ids=[
        *("tensors", "lists", "words", "numpy numbers", "array of words", "one-hot", "one-hot tensor", "column"),
        *("pandas", "triples", "dicts", "dicts of words", "one-hot items", "list of arrays"),
        *("data set", "targets", "tensor data set"),
    ],
)
def test_the_kind_of_the_users_data_does_not_matter(x: object, y: object) -> None:
    expected, got = (tasks.episode("test", Key((0,))) for tasks in (Episodes(X, Y, ways=2), Episodes(x, y, ways=2)))
    assert torch.equal(got.query.x, expected.query.x)
    assert torch.equal(got.query.y, expected.query.y)
    assert got.query.x.dtype == torch.float32


def test_labels_are_taken_from_targets_without_reading_every_item() -> None:
    data = Targets()
    Episodes(data, ways=2).check()
    assert data.read <= 10, "one of each class, to see whether they are of one size"


def test_data_that_cannot_be_written_to_is_as_good() -> None:
    """What a worker is given is read-only memory."""
    frozen = X.copy()
    frozen.flags.writeable = False
    assert Episodes(frozen, Y, ways=2).episode("test", Key((0,))).query.x.shape == (10, 2)


def test_a_class_with_too_few_samples_is_left_out_of_its_split() -> None:
    y = Y.copy()
    y[np.flatnonzero(Y == 4)[5:]] = 5  # class 4 keeps 5 samples
    splits = {"train": (0, 1), "valid": (2, 3), "test": (4, 5, 6)}
    assert classes(Episodes(X, y, ways=2, shots=1, queries=4, splits=splits), "test") >= {4}
    few = Episodes(X, y, ways=3, shots=1, queries=5, splits=splits | {"train": (0, 1, 7), "valid": (2, 3, 8)})
    with (
        pytest.warns(UserWarning, match=r"1 classes have fewer than shots \+ queries = 6 samples and are left out: 4"),
        pytest.raises(BadInput, match=r"ways=3, but the test split has 2 classes \(1 have fewer than .* = 6 samples"),
    ):
        few.check()


def test_shuffled_labels_say_nothing_about_the_samples() -> None:
    agree = []
    for i in range(300):
        episode = Episodes(X, Y, ways=2, shots=5, queries=10, shuffled=True).episode("test", Key((i,)))
        for batch in (episode.support, episode.query):
            assert torch.bincount(batch.y).tolist() == [len(batch.y) // 2] * 2
        same = episode.query.x[:, 0] == episode.query.x[0, 0]
        agree.append((episode.query.y[same] == 0).float().mean())
    mean = torch.stack(agree).mean()  # its standard deviation is 0.0066
    assert abs(mean - 0.5) < 0.03


def test_what_does_not_fit_is_named() -> None:
    splits = {"train": (0, 1), "valid": (2, 3), "test": (4, 5)}
    for tasks, message in [
        (Episodes(X, Y[:-1]), "200 samples but 199 labels; give one label a sample"),
        (Episodes(X), "samples without labels; give y"),
        (Episodes(X, [[1, 2]] * 200), r"label 0 is \[1, 2\], which is not one-hot"),
        (Episodes(X, [["a", "b"]] * 200), r"y must be \[n\], one class a sample, or one-hot"),
        (Episodes(X, np.eye(10)[Y] + np.eye(10)[(Y + 1) % 10]), "not one-hot; a sample has one class here"),
        (Episodes(X, [None, *Y[1:].tolist()]), r"sample 0 has no label \(None\); leave such samples out"),
        (Episodes(X, np.where(Y == 3, np.nan, Y)), r"sample 3 has no label \(nan\)"),
        (
            Episodes(X, Y % 2, ways=2),
            "ways=2 takes 2 classes in each of train, valid and test.*: 6 in all, and there are 2;",
        ),
        (Episodes(X.astype(str), Y, ways=2), "sample 0 holds <U32 and no numbers; turn samples into arrays"),
        (Episodes(Dicts({"a": 0, "b": 1})), r"an item has the keys 'a', 'b'; .* item=\('image', 'label'\)"),
        (Episodes(Dicts({"a": 0, "b": 1}), item=("a", "c")), "item=.*but an item has the keys 'a', 'b'"),
        (Episodes(Dicts(X[0])), "an item is a ndarray; it takes \\(sample, label, ...\\) or a dict"),
        (
            Episodes(X, Y, ways=2, splits=splits | {"test": (4, 0)}),
            "class 0 is in train and test; splits share no class",
        ),
        (
            Episodes(X, Y, ways=2, splits=splits | {"test": (4, "z")}),
            "class 'z' of test is not among the labels; there",
        ),
        (
            Episodes(X, Y, ways=2, splits={"train": (0, 1)}),
            r"splits has \['train'\]; give the classes of 'train', 'valid'",
        ),
    ]:
        with pytest.raises(BadInput, match=message):
            tasks.check()


def test_an_item_says_where_its_sample_and_label_are() -> None:
    expected = Episodes(X, Y, ways=2).episode("test", Key((0,)))
    other = Shaped(lambda x, y: {"a": x, "b": y, "label": 0})
    for tasks in (
        Episodes(other, ways=2, item=("a", "b")),
        Episodes(Shaped(lambda x, y: ("name", x, y)), ways=2, item=(1, 2)),
    ):
        assert torch.equal(tasks.episode("test", Key((0,))).query.x, expected.query.x)


def test_few_classes_are_divided_so_that_each_split_has_enough() -> None:
    """60, 20 and 20 % of 7 classes are 4, 2 and 1."""
    tasks = Episodes(X[Y < 7], Y[Y < 7], ways=2)
    tasks.check()
    parts = [classes(tasks, split) for split in SPLITS]
    assert [len(part) for part in parts] == [3, 2, 2]
    assert set().union(*parts) == set(range(7))


def test_small_classes_do_not_empty_a_split() -> None:
    keep = np.flatnonzero((Y < 6) | (np.arange(200) < 40))  # classes 6 to 9 have four samples each
    tasks = Episodes(X[keep], Y[keep], ways=2, shots=2, queries=5)
    with pytest.warns(UserWarning, match="4 classes have fewer than .* = 7 samples and are left out: 6, 7, 8, 9"):
        tasks.check()
    assert [len(classes(tasks, split)) for split in SPLITS] == [2, 2, 2]


@pytest.mark.parametrize("as_list", [True, False], ids=["list", "data set"])
def test_samples_of_unequal_size_are_one_clear_line(as_list: bool) -> None:
    images = [np.zeros((3, 8 + label, 8), dtype=np.uint8) for label in Y]
    x = images if as_list else Shaped(lambda x, y: (images[int(x[1])], y))
    with pytest.raises(BadInput, match=r"samples differ in size: \[3, 8, 8\] \(sample 0\) and .*Resize"):
        Episodes(x, Y, ways=2).check()


def test_a_memory_map_travels_as_its_path(tmp_path: Path) -> None:
    big = np.random.default_rng(0).normal(size=(200, 2_000)).astype(np.float32)
    np.save(tmp_path / "x.npy", big)
    mapped = np.load(tmp_path / "x.npy", mmap_mode="r")
    for x, plain in ((mapped, big), (mapped[20:], big[20:])):
        tasks, y = Episodes(x, Y[: len(x)], ways=2), Y[: len(x)]
        sent = pickle.dumps(tasks)
        assert len(sent) < 20_000
        again = pickle.loads(pickle.dumps(pickle.loads(sent)))
        expected = Episodes(plain, y, ways=2).episode("train", Key((1,)))
        for one in (tasks, again):
            assert torch.equal(one.episode("train", Key((1,))).support.x, expected.support.x)
        assert again.digest() == tasks.digest()
    (tmp_path / "x.npy").unlink()
    with pytest.raises(MissingData, match=r"x\.npy is mapped into memory and is not on this machine"):
        pickle.loads(sent)


def test_one_changed_value_or_label_changes_the_digest() -> None:
    first = Episodes(X, Y, ways=2).digest()
    assert Episodes(X.copy(), Y.tolist(), ways=2, shots=2).digest() == first
    x, y = X.copy(), Y.copy()
    x[199, 1] += 1e-9
    y[3] = 4
    assert len({first, Episodes(x, Y).digest(), Episodes(X, y).digest()}) == 3
    assert Episodes(Pairs()).digest() == Episodes(Pairs()).digest()


SAME: dict[Split, list[str]] = {"train": ["a", "b"], "valid": ["c", "d"], "test": ["e", "f"]}


def test_a_list_of_dicts_is_a_data_set() -> None:
    rows = [{"image": torch.full((2,), float(index)), "label": "abcdef"[index % 6]} for index in range(40)]
    tasks = Episodes(rows, item=("image", "label"), ways=2, shots=1, queries=1, splits=SAME)
    assert tasks.episode("train", Key((0,))).support.x.shape == (2, 2)
