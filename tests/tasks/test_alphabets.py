"""Are the letters of `Alphabets` what it says, and neither the same nor too easy to tell apart?"""

import itertools
import unicodedata

import numpy as np
import pytest
import torch
from matplotlib.ft2font import FT2Font

from bilevel.episodes import Key
from bilevel.errors import MissingData
from bilevel.tasks import Alphabets, alphabets

SCRIPTS = {"train": {"LATIN", "GREEK"}, "valid": {"CYRILLIC"}, "test": {"ARMENIAN", "GEORGIAN"}}


def test_each_split_has_letters_of_its_own_scripts_once_each() -> None:
    for split, letters in alphabets.LETTERS.items():
        assert {unicodedata.name(letter).split()[0] for letter in letters} == SCRIPTS[split]
        assert len(set(letters)) == len(letters)
    assert {split: len(letters) for split, letters in alphabets.LETTERS.items()} == {
        "train": 252,
        "valid": 26,
        "test": 106,
    }


def test_every_face_has_every_letter() -> None:
    """A font draws a box for a letter that it lacks, and boxes would be one class under many names."""
    letters = set("".join(alphabets.LETTERS.values()))
    assert len(alphabets.FACES) == 12
    for font in alphabets._fonts():
        assert letters <= {chr(code) for code in FT2Font(font.path).get_charmap()}


def test_no_letter_looks_like_one_of_another_split() -> None:
    drawn = {split: alphabets._drawn(split).flatten(2).float() for split in alphabets.LETTERS}
    unit = {split: pixels / pixels.norm(dim=-1, keepdim=True) for split, pixels in drawn.items()}
    for one, other in itertools.combinations(unit, 2):
        likeness = torch.einsum("afp,bfp->ab", unit[one], unit[other]) / 12  # cosine, averaged over the faces
        assert likeness.max() < 0.955


def test_letters_are_upright_centred_and_fill_their_box() -> None:
    drawn = alphabets._drawn("test")
    ink = drawn > 64
    rows, columns = ink.any(dim=3).sum(dim=2), ink.any(dim=2).sum(dim=2)
    assert drawn.shape == (106, 12, 28, 28)
    assert (torch.maximum(rows, columns) >= 17).all()
    assert not drawn[:, :, [0, 1, 2, 25, 26, 27]].any(), "a margin is left for the warp"


def test_samples_of_a_class_have_different_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the warp switched off, a sample is one of the twelve drawings of its letter."""
    for strength in ("ROTATION", "SHEAR", "SCALE", "SHIFT"):
        monkeypatch.setattr(alphabets, strength, 0.0)
    episode = Alphabets(ways=4, shots=5, queries=7).episode("test", Key((0,)))
    known = alphabets._drawn("test").flatten(0, 1).flatten(1).float() / 255
    for label in range(4):
        samples = torch.cat([batch.x[batch.y == label] for batch in (episode.support, episode.query)]).flatten(1)
        distance, nearest = torch.cdist(samples, known).min(dim=1)
        assert distance.max() < 1e-2
        assert len(set((nearest // 12).tolist())) == 1
        assert sorted((nearest % 12).tolist()) == list(range(12))


def test_a_quarter_turn_is_a_class_of_the_train_split_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for strength in ("ROTATION", "SHEAR", "SCALE", "SHIFT"):
        monkeypatch.setattr(alphabets, strength, 0.0)
    letters = alphabets._drawn("train")[:1, 0]
    turned = alphabets._warped(letters.expand(4, -1, -1), alphabets._warps(np.zeros((4, 6)), np.arange(4)))
    for turn in range(4):
        expected = torch.rot90(letters[0].float() / 255, turn)
        assert torch.allclose(turned[turn, 0], expected, atol=1e-4)
    everyone = Alphabets(ways=1008, queries=1, rotations=4).episode("train", Key((0,)))
    assert len(everyone.support.x) == 4 * 252


def test_the_warp_is_the_identity_in_its_middle_and_moderate_at_its_ends() -> None:
    matrix = alphabets._warps(np.zeros((1, 6)), np.zeros(1, np.int64))[0]
    assert torch.allclose(matrix, torch.tensor([[1.0, 0, 0], [0, 1, 0]]))
    extremes = np.array(list(itertools.product((-1.0, 1.0), repeat=6)))
    area = torch.linalg.det(alphabets._warps(extremes, np.zeros(64, np.int64))[:, :, :2].double())
    assert area.min() > 0.5, "no mirror image, no vanishing letter"
    assert area.max() < 2


def test_pixels_alone_do_not_tell_letters_apart() -> None:
    """The nearest support image is right in about a third of cases (chance: a fifth)."""
    tasks, right = Alphabets(), []
    for i in range(200):
        episode = tasks.episode("test", Key((i,)))
        nearest = torch.cdist(episode.query.x.flatten(1), episode.support.x.flatten(1)).argmin(dim=1)
        right.append((episode.support.y[nearest] == episode.query.y).float().mean())
    assert 0.29 < torch.stack(right).mean() < 0.38


def test_a_matplotlib_without_fonts_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.setattr("matplotlib.get_data_path", lambda: str(tmp_path))
    alphabets._fonts.cache_clear()
    try:
        with pytest.raises(MissingData, match=r"lacks DejaVuSans\.ttf; install matplotlib"):
            alphabets._fonts()
    finally:
        alphabets._fonts.cache_clear()
