"""Do a user's own arrays and data sets become the tasks that she means?"""

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from bilevel.episodes import Key, Split
from bilevel.errors import BadInput
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
        (Pairs(), None),
        (Targets(), None),
        (TensorDataset(torch.from_numpy(X), torch.from_numpy(Y)), None),
    ],
    ids=["tensors", "lists", "words", "numpy numbers", "data set", "targets", "tensor data set"],
)
def test_the_kind_of_the_users_data_does_not_matter(x: object, y: object) -> None:
    expected, got = (tasks.episode("test", Key((0,))) for tasks in (Episodes(X, Y, ways=2), Episodes(x, y, ways=2)))
    assert torch.equal(got.query.x, expected.query.x)
    assert torch.equal(got.query.y, expected.query.y)
    assert got.query.x.dtype == torch.float32


def test_labels_are_taken_from_targets_without_reading_every_item() -> None:
    data = Targets()
    Episodes(data, ways=2).check()
    assert data.read == 0


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
    with pytest.raises(BadInput, match="ways=3, but the test split has 2 classes"):
        Episodes(X, y, ways=3, shots=1, queries=5, splits=splits | {"train": (0, 1, 7), "valid": (2, 3, 8)}).check()


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
        (Episodes(X, np.eye(200)), r"y must be \[n\], one class a sample"),
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
