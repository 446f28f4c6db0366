"""Which handwritten character is this, of an alphabet's 20 drawers (Lake et al. 2015; split of Vinyals et al. 2016)?"""

from __future__ import annotations

import functools
import hashlib
import io
import re
import zipfile
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bilevel.episodes import Episode, Key, Split
from bilevel.errors import BadInput, MissingData
from bilevel.tasks.data import VARIABLE, find, kept, read_array
from bilevel.tasks.fewshot import Ints, check_counts, check_ways, draw_classes, draw_samples, labelled

CHARACTERS, DRAWERS, SIZE = 1623, 20, 28
PACKED = SIZE * SIZE // 8  # bytes of an image, one bit a pixel
NPZ = "omniglot_28.npz"
ZIPS = ("images_background.zip", "images_evaluation.zip")
_MEMBER = re.compile(r"images_(?:background|evaluation)/([^/]+)/(character\d\d)/(\d{4})_(\d\d)\.png")
_LETTER: dict[Split, str] = {"train": "t", "valid": "v", "test": "e"}

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Omniglot:
    """Few-shot reading of handwritten characters, as in the published results (split of Vinyals et al. 2016).

    1028 characters train, 172 validate, 423 test; with their quarter turns as classes of their own, in every split,
    4112, 688 and 1692. Each class has 20 samples, 28 x 28 (nearest pixel of the original 105 x 105).

    Shapes: `x` [ways * shots, 1, 28, 28] float32, 1 where there is ink and 0 elsewhere; `y` [ways * shots] int64; the
    query likewise. Both are grouped by class; which character has which label is random.
    """

    ways: int = 5
    """Classes in an episode."""
    shots: int = 1
    """Samples of each class to learn from."""
    queries: int = 5
    """Samples of each class to be judged on; `shots + queries` of at most 20."""
    rotations: int = 4
    """Quarter turns that count as classes of their own (1: none)."""
    path: str | None = None
    """`omniglot_28.npz`, or the folder with it or with the two official zip files; None: `omniglot` in BILEVEL_DATA."""

    def check(self) -> None:
        """Raises BadInput for impossible counts or a damaged file, MissingData where there is none."""
        check_counts(self, ways=self.ways, shots=self.shots, queries=self.queries, rotations=self.rotations)
        if self.rotations > 4:
            raise BadInput(f"Omniglot: rotations={self.rotations}, but there are 4 quarter turns; give 1 to 4")
        if self.shots + self.queries > DRAWERS:
            raise BadInput(
                f"Omniglot: shots={self.shots} and queries={self.queries}, but a class has {DRAWERS} samples; "
                f"give {DRAWERS} together at most"
            )
        check_ways(self, self.ways, {split: len(chars) * self.rotations for split, chars in split_characters().items()})
        _images(self.path)

    def episode(self, split: Split, key: Key) -> Episode:
        """One task of `ways` characters."""
        rng, characters = key.child(split).numpy(), split_characters()[split]
        classes = draw_classes(rng, len(characters) * self.rotations, self.ways)
        character, turn = np.divmod(classes, self.rotations)
        drawers = draw_samples(rng, np.full(self.ways, DRAWERS), self.shots + self.queries)
        packed = _images(self.path)[characters[character][:, None], drawers]  # [ways, each, bytes]
        upright = np.unpackbits(packed, axis=-1).reshape(*drawers.shape, SIZE, SIZE)
        turned = np.stack([np.rot90(images, k, axes=(1, 2)) for images, k in zip(upright, turn.tolist(), strict=True)])
        return labelled(torch.from_numpy(turned).float().unsqueeze(2), self.shots)


@functools.cache
def split_characters() -> dict[Split, Ints]:
    """The characters of each split: their 4-digit numbers in the original file names, less one."""
    of = "".join(row.split()[1] for row in _split_rows())
    return {split: np.flatnonzero(np.array(list(of)) == letter) for split, letter in _LETTER.items()}


def _split_rows() -> list[str]:
    text = resources.files("bilevel.tasks").joinpath("vinyals_split.txt").read_text(encoding="utf-8")
    return [row for row in text.splitlines() if not row.startswith("#")]


@functools.cache
def _images(path: str | None) -> Bytes:
    """All images, one bit a pixel: [1623, 20, 98] uint8."""
    place = find(path or "omniglot")
    if place is not None and place.is_file():
        return read_npz(place)
    if place is not None and (place / NPZ).is_file():
        return read_npz(place / NPZ)
    if place is not None and all((place / name).is_file() for name in ZIPS):
        files = tuple(place / name for name in ZIPS)
        return kept(f"omniglot-28-nearest-1-{_fingerprint(files)}", lambda: read_zips(files))
    looked = path or f"{VARIABLE}/omniglot"
    raise MissingData(
        f"Omniglot is not in {looked}: neither {NPZ} nor {' and '.join(ZIPS)}; download the two zip files (9.1 and "
        "6.2 MB, MIT licence) from github.com/brendenlake/omniglot, folder python, into a folder omniglot below the "
        f"one that {VARIABLE} names, or name their own folder with --set tasks.path=FOLDER"
    )


def read_npz(file: Path) -> Bytes:
    """The images of `omniglot_28.npz` (array `images_nearest_packed`): [1623, 20, 98] uint8.

    Raises:
        BadInput: the file is not such an archive.
    """
    shape = (CHARACTERS, DRAWERS, PACKED)
    try:
        images = read_array(file, "images_nearest_packed")
    except (OSError, ValueError) as error:
        raise BadInput(
            f"Omniglot: {file} cannot be read ({error}); it must hold an array images_nearest_packed {shape}, uint8: "
            "fetch it again, or use the two official zip files"
        ) from error
    if images.shape != shape or images.dtype != np.uint8:
        raise BadInput(
            f"Omniglot: images_nearest_packed in {file} is {images.shape} {images.dtype}, not {shape} uint8; "
            "fetch it again, or use the two official zip files"
        )
    return images


def read_zips(files: tuple[Path, ...], characters: int = CHARACTERS) -> Bytes:
    """The images of the official zip files: [characters, 20, 98] uint8.

    The original PNG images are 105 x 105 with one bit a pixel, 0 for ink; the nearest pixel is taken, as in the
    published results. A character's place is its 4-digit number less one.

    Raises:
        BadInput: a file is damaged, or an image is missing, or they are not in the order that the split counts on.
    """
    images, seen = np.zeros((characters, DRAWERS, PACKED), np.uint8), np.zeros((characters, DRAWERS), bool)
    names = [f"{row.split()[0]}/character{n:02d}" for row in _split_rows() for n in range(1, len(row.split()[1]) + 1)]
    for file in files:
        try:
            with zipfile.ZipFile(file) as archive:
                for member in filter(None, map(_MEMBER.fullmatch, archive.namelist())):
                    alphabet, name, number, drawer = member.groups()
                    place = int(number) - 1, int(drawer) - 1
                    if place[0] >= characters or names[place[0]] != f"{alphabet}/{name}" or place[1] >= DRAWERS:
                        raise BadInput(f"Omniglot: {member[0]} in {file} is not of the official data; fetch it again")
                    images[place], seen[place] = _nearest(archive.read(member[0])), True
        except (OSError, zipfile.BadZipFile) as error:
            raise BadInput(f"Omniglot: {file} cannot be read ({error}); fetch it again") from error
    if not seen.all():
        raise BadInput(
            f"Omniglot: {' and '.join(file.name for file in files)} hold {seen.sum()} images of {seen.size}; "
            "fetch them again from github.com/brendenlake/omniglot"
        )
    return images


def _nearest(png: bytes) -> Bytes:
    from PIL import Image  # other tasks do without it

    with Image.open(io.BytesIO(png)) as image:
        paper = np.asarray(image.convert("1").resize((SIZE, SIZE), Image.Resampling.NEAREST))
    return np.packbits(~paper)


def _fingerprint(files: tuple[Path, ...]) -> str:
    """What decides the images of zip files: their members' names and checksums."""
    sha = hashlib.sha256()
    for file in files:
        try:
            with zipfile.ZipFile(file) as archive:
                for member in archive.infolist():
                    sha.update(f"{member.filename}\0{member.CRC}\0".encode())
        except (OSError, zipfile.BadZipFile) as error:
            raise BadInput(f"Omniglot: {file} cannot be read ({error}); fetch it again") from error
    return sha.hexdigest()[:16]
