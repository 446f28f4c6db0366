"""Does `Omniglot` give the published tasks, from either form of the data?"""

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bilevel.episodes import Key
from bilevel.errors import BadInput, MissingData
from bilevel.tasks import Omniglot, omniglot

FOLDER = Path(os.environ.get("BILEVEL_DATA", "nowhere")) / "omniglot"
needs_data = pytest.mark.skipif(
    not (FOLDER / "omniglot_28.npz").is_file() or not (FOLDER / "omniglot_105_packed.npz").is_file(),
    reason="needs the Omniglot data, see README",
)


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    omniglot._images.cache_clear()


def names() -> list[str]:
    """`Alphabet/characterNN` in the order of the 4-digit numbers."""
    rows = [row.split() for row in omniglot._split_rows()]
    return [f"{alphabet}/character{n:02d}" for alphabet, of in rows for n in range(1, len(of) + 1)]


def write_zips(folder: Path, images: np.ndarray, background: int) -> tuple[Path, ...]:
    """The official form of `images` [characters, drawers, 105, 105] bool, True for ink, `background` of them first."""
    files = tuple(folder / name for name in omniglot.ZIPS)
    known = names()
    for file, members in zip(files, (range(background), range(background, len(images))), strict=True):
        with zipfile.ZipFile(file, "w") as archive:
            for i in members:
                for j, ink in enumerate(images[i]):
                    png = io.BytesIO()
                    Image.fromarray(~ink).save(png, "PNG")
                    archive.writestr(f"{file.stem}/{known[i]}/{i + 1:04d}_{j + 1:02d}.png", png.getvalue())
    return files


def test_the_split_is_that_of_vinyals() -> None:
    split = omniglot.split_characters()
    assert {name: len(characters) for name, characters in split.items()} == {"train": 1028, "valid": 172, "test": 423}
    assert sorted(np.concatenate(list(split.values())).tolist()) == list(range(1623))
    # Whole alphabets validate; one alphabet is in train and in test both, as in the published lists.
    known = names()
    alphabets = {name: {known[i].split("/")[0] for i in characters} for name, characters in split.items()}
    assert len(known) == len(set(known)) == 1623
    assert not alphabets["valid"] & (alphabets["train"] | alphabets["test"])


def test_pixels_of_a_zip_are_the_nearest_of_the_original_ink_is_one(tmp_path: Path) -> None:
    images = np.random.default_rng(0).random((3, 20, 105, 105)) < 0.3
    packed = omniglot.read_zips(write_zips(tmp_path, images, background=2), characters=3)
    pixels = np.unpackbits(packed, axis=-1).reshape(3, 20, 28, 28)
    nearest = np.floor((np.arange(28) + 0.5) * 105 / 28).astype(int)
    assert np.array_equal(pixels, images[:, :, nearest][:, :, :, nearest])


def test_an_incomplete_or_damaged_zip_is_refused(tmp_path: Path) -> None:
    images = np.zeros((2, 20, 105, 105), bool)
    files = write_zips(tmp_path, images, background=1)
    with pytest.raises(BadInput, match="hold 40 images of 60; fetch them again"):
        omniglot.read_zips(files, characters=3)
    with pytest.raises(BadInput, match=r"0002_01\.png in .* is not of the official data; fetch it again"):
        omniglot.read_zips(files, characters=1)
    files[0].write_bytes(files[0].read_bytes()[:1000])
    with pytest.raises(BadInput, match=r"images_background\.zip cannot be read .*; fetch it again"):
        omniglot.read_zips(files, characters=2)


def test_another_npz_is_refused_with_what_it_should_hold(tmp_path: Path) -> None:
    file = tmp_path / "omniglot_28.npz"
    np.savez(file, images_nearest_packed=np.zeros((3, 20, 98), np.uint8))
    with pytest.raises(BadInput, match=r"is \(3, 20, 98\) uint8, not \(1623, 20, 98\) uint8; fetch it again"):
        Omniglot(path=str(file)).check()
    np.savez(file, pictures=np.zeros(3))
    with pytest.raises(BadInput, match="images_nearest_packed"):
        Omniglot(path=str(file)).check()
    file.write_bytes(b"nothing")
    with pytest.raises(BadInput, match="cannot be read"):
        Omniglot(path=str(file)).check()


def test_missing_data_says_where_to_get_it_and_what_to_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    omniglot._images.cache_clear()
    monkeypatch.setenv("BILEVEL_DATA", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingData) as caught:
        Omniglot().check()
    for part in (
        "github.com/brendenlake/omniglot",
        "9.1",
        "6.2 MB",
        "MIT licence",
        "BILEVEL_DATA",
        "--set tasks.path=",
    ):
        assert part in str(caught.value)


def test_four_turns_are_four_classes(tmp_path: Path) -> None:
    """Each image is a mark in one corner: the corner says the turn, the digits beside it the character."""
    pixels = np.zeros((1623, 20, 28, 28), np.uint8)
    pixels[:, :, 0, 0] = 1
    pixels[:, :, 10, 8:19] = (np.arange(1623)[:, None, None] >> np.arange(11)) & 1
    file = tmp_path / "omniglot_28.npz"
    np.savez(file, images_nearest_packed=np.packbits(pixels.reshape(1623, 20, -1), axis=-1))
    tasks = Omniglot(ways=1692, queries=1, path=str(file))
    x = tasks.episode("test", Key((0,))).support.x[:, 0]
    corners = torch.stack([x[:, 0, 0], x[:, -1, 0], x[:, -1, -1], x[:, 0, -1]], dim=1)
    assert (corners.sum(dim=1) == 1).all()
    turn = corners.argmax(dim=1)
    upright = torch.stack([torch.rot90(image, -int(k)) for image, k in zip(x, turn, strict=True)])
    character = (upright[:, 10, 8:19].long() << torch.arange(11)).sum(dim=1)
    seen = set(zip(character.tolist(), turn.tolist(), strict=True))
    assert seen == {(i, k) for i in omniglot.split_characters()["test"].tolist() for k in range(4)}


@needs_data
@pytest.mark.usefixtures("no_cache")
def test_both_forms_of_the_real_data_give_the_same_tensors(tmp_path: Path) -> None:
    """Forty characters in the official form, read back, against the archive."""
    with np.load(FOLDER / "omniglot_105_packed.npz") as archive:
        bits = np.unpackbits(archive["images_packed"][:40], axis=-1)[..., : 105 * 105]
    images = bits.reshape(40, 20, 105, 105).astype(bool)
    from_zips = omniglot.read_zips(write_zips(tmp_path, images, background=30), characters=40)
    assert np.array_equal(from_zips, omniglot.read_npz(FOLDER / "omniglot_28.npz")[:40])


@needs_data
def test_the_split_and_the_order_are_those_of_the_data() -> None:
    with np.load(FOLDER / "omniglot_28.npz") as archive:
        of, alphabet, character = archive["vinyals_split"], archive["alphabet"], archive["character"]
    assert [f"{a}/{c}" for a, c in zip(alphabet, character, strict=True)] == names()
    for place, split in enumerate(("train", "valid", "test")):
        assert np.array_equal(np.flatnonzero(of == place), omniglot.split_characters()[split])


def test_zips_are_found_and_kept_decoded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_cache: None) -> None:
    write_zips(tmp_path, np.zeros((2, 20, 105, 105), bool), background=1)
    decoded: list[int] = []

    def read(files: tuple[Path, ...]) -> np.ndarray:
        decoded.append(1)
        return np.zeros((1623, 20, 98), np.uint8)

    monkeypatch.setattr(omniglot, "read_zips", read)
    for _ in range(2):  # the second time stands for another process
        omniglot._images.cache_clear()
        Omniglot(path=str(tmp_path)).check()
    assert len(decoded) == 1
    omniglot._images.cache_clear()
