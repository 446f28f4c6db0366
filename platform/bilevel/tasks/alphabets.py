"""Which letter is this, of an alphabet never seen in training? Letters drawn from the fonts that matplotlib ships."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from bilevel.episodes import Episode, Key, Split
from bilevel.errors import BadInput, MissingData
from bilevel.tasks.fewshot import check_counts, check_ways, draw_classes, draw_samples, labelled

if TYPE_CHECKING:
    from PIL import ImageFont  # at run time only where letters are drawn: other tasks do without it

SIZE = 28  # pixels, width and height of an image
BOX = 20  # pixels, the longer side of a letter before the warp
POINT = 64  # the size at which a letter is drawn before it is fitted into its box

# A class is a letter that stands in all 12 faces. Left out are letters that are built from another by an accent; those
# that look like one kept before (Greek Α, Cyrillic А beside Latin A), so that no split sees a letter of another; and
# lower case that is its capital, only smaller (c, Cyrillic в), for the warp scales.
LETTERS: dict[Split, str] = {
    "train": (
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghijklmnpqrtuyÆÐØÞßæðþđĦħĸŁłŊŒœŦŧƀƁƂƃƄƅƆƇƈƊƋƌƍƎƏƐƑƒƓƔƕƖƗƘƙƚƛƜƝƞƟƢƣƤƥƦƧƩƪƫƬƭƮƱƲƳƴƵƷƸ"
        "ƺƻƼƾƿǝǶȜȡȤȥȴȵȶȷȸȹȺȻȽȾȿɀɁɃɄɅɌɍɐɑɒɓɕɖɗɘɚɜɝɞɟɠɡɤɥɦɧɨɩɫɬɭɮɯɰɱɲɳɷɸɹɺɻɼɽɾɿʁʂʃʄʅʆʇʈʉʌʍʎʐʑʓʔʕʖʗʘʚʛʝʞʠʡʢʣʤʥʦ"
        "ʧʨʩʪʫʬʭʮʯ"  # Latin
        "ΓΔΞΠΦΨΩαβγδεζθικλμνξοπρςστυφχω"  # Greek
    ),
    "valid": "ЂЄЉЊЋЏДЖЗИЛУФЦЧШЩЪЫЬЭЮЯбђћ",  # Cyrillic
    "test": (
        "ԱԲԳԴԵԶԷԸԹԺԻԽԾԿՀՁՂՃՄՅՆՇՈՉՊՋՌՎՏՐՑՒՔՖբդեզէըթիլխծկձղճմյնշչջռվտրւփքֆ"  # Armenian
        "აბგდევზთიკლმნოპჟრსტუფქღყშჩცძწჭხჯჰჱჲჳჴჵჶჷჸჹჺ"  # Georgian
    ),
}
FACES = tuple(
    f"DejaVu{family}{style}.ttf"
    for family, styles in {
        "Sans": ("", "-Bold", "-Oblique", "-BoldOblique"),
        "SansMono": ("", "-Bold", "-Oblique", "-BoldOblique"),
        "Serif": ("", "-Bold", "-Italic", "-BoldItalic"),
    }.items()
    for style in styles
)

# The random warp of each sample; each number is the largest departure, drawn uniformly on both sides of none.
ROTATION = 0.35  # radians
SHEAR = 0.3
SCALE = 0.25  # of the logarithm, each axis on its own
SHIFT = 3.0  # pixels, each axis on its own


@dataclass(frozen=True, kw_only=True)
class Alphabets:
    """Few-shot reading: Latin and Greek train, Cyrillic validates, Armenian and Georgian test.

    A class is a letter (252, 26 and 106 of them); a sample is one of 12 faces (DejaVu Sans, Sans Mono and Serif, each
    regular, bold, slanted and both) under a random affine warp. Samples of a class in an episode have different faces
    while no more than 12 are asked for. Nothing is downloaded; the letters are drawn once in each process (in under a
    second).

    Shapes: `x` [ways * shots, 1, 28, 28] float32 in 0–1, ink 1; `y` [ways * shots] int64; the query likewise. Both are
    grouped by class; which letter has which label is random.
    """

    ways: int = 5
    """Classes in an episode."""
    shots: int = 1
    """Samples of each class to learn from."""
    queries: int = 5
    """Samples of each class to be judged on."""
    rotations: int = 1
    """Quarter turns that count as classes of their own in the train split (1: none), the other splits stay upright.
    Within minutes of training one reads better without, for what is asked is upright; 4 give more to learn from."""

    def check(self) -> None:
        """Raises BadInput for impossible counts, MissingData where matplotlib came without its fonts."""
        check_counts(self, ways=self.ways, shots=self.shots, queries=self.queries, rotations=self.rotations)
        if self.rotations > 4:
            raise BadInput(f"Alphabets: rotations={self.rotations}, but there are 4 quarter turns; give 1 to 4")
        check_ways(self, self.ways, {split: len(text) * self._turns(split) for split, text in LETTERS.items()})
        _drawn("valid")

    def episode(self, split: Split, key: Key) -> Episode:
        """One task of `ways` letters."""
        rng, letters = key.child(split).numpy(), _drawn(split)
        classes = draw_classes(rng, len(letters) * self._turns(split), self.ways)
        letter, turn = np.divmod(classes, self._turns(split))
        faces = draw_samples(rng, np.full(self.ways, len(FACES)), self.shots + self.queries)
        images = letters[torch.from_numpy(letter)[:, None], torch.from_numpy(faces)]  # [ways, each, 28, 28]
        warp = _warps(rng.uniform(-1, 1, (faces.size, 6)), turn.repeat(faces.shape[1]))
        return labelled(_warped(images.flatten(0, 1), warp).view(*faces.shape, 1, SIZE, SIZE), self.shots)

    def _turns(self, split: Split) -> int:
        return self.rotations if split == "train" else 1


def _warps(unit: NDArray[np.float64], turn: NDArray[np.int64]) -> Tensor:
    """Affine maps [n, 2, 3] from a place in the image to a place in the letter, both in -1..1, float32.

    `unit` [n, 6] in -1..1 decides rotation, shear, two scales and two shifts; `turn` [n] adds quarter turns.
    """
    angle = unit[:, 0] * ROTATION + turn * (math.pi / 2)
    cos, sin, shear = np.cos(angle), np.sin(angle), unit[:, 1] * SHEAR
    wide, high = np.exp(unit[:, 2] * SCALE), np.exp(unit[:, 3] * SCALE)
    shift = unit[:, 4:] * (SHIFT * 2 / SIZE)
    matrix = np.stack([wide * cos, wide * (shear * cos - sin), high * sin, high * (shear * sin + cos)], axis=1)
    return torch.from_numpy(np.concatenate([matrix.reshape(-1, 2, 2), shift[:, :, None]], axis=2).astype(np.float32))


def _warped(images: Tensor, warps: Tensor) -> Tensor:
    """Images [n, 28, 28] uint8 under the maps `warps` [n, 2, 3]: [n, 1, 28, 28] float32 in 0–1, bilinear."""
    source = images.unsqueeze(1).float().div_(255)
    # One flat product: `affine_grid` makes the same grid through a batched one, ten times as slowly.
    grid = (warps.view(-1, 3) @ _places()).view(-1, 2, SIZE, SIZE).permute(0, 2, 3, 1)
    return functional.grid_sample(source, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


@functools.cache
def _places() -> Tensor:
    """The middle of each pixel, (across, down, 1) with the image's edges at -1 and 1: [3, 28 * 28] float32."""
    middle = (torch.arange(SIZE) * 2 + 1) / SIZE - 1
    down, across = torch.meshgrid(middle, middle, indexing="ij")
    return torch.stack([across.flatten(), down.flatten(), torch.ones(SIZE * SIZE)])


@functools.cache
def _drawn(split: Split) -> Tensor:
    """All letters of a split in all faces: [letters, 12, 28, 28] uint8, ink 255."""
    fonts = _fonts()
    letters = [np.stack([_draw(letter, font) for font in fonts]) for letter in LETTERS[split]]
    return torch.from_numpy(np.stack(letters))


@functools.cache
def _fonts() -> tuple[ImageFont.FreeTypeFont, ...]:
    import matplotlib  # dear to import
    from PIL import ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    missing = [face for face in FACES if not (folder / face).is_file()]
    if missing:
        raise MissingData(
            f"Alphabets draws with the DejaVu fonts that matplotlib ships, but {folder} lacks {missing[0]}; "
            "install matplotlib from PyPI (some distributions take its fonts out)"
        )
    # The basic layout draws one glyph the same with or without the optional shaping library.
    return tuple(ImageFont.truetype(str(folder / face), POINT, layout_engine=ImageFont.Layout.BASIC) for face in FACES)


def _draw(letter: str, font: ImageFont.FreeTypeFont) -> NDArray[np.uint8]:
    """The letter in the middle of [28, 28], its longer side `BOX` pixels."""
    from PIL import Image, ImageDraw

    left, top, right, bottom = (round(edge) for edge in font.getbbox(letter))
    drawn = Image.new("L", (right - left, bottom - top))
    ImageDraw.Draw(drawn).text((-left, -top), letter, fill=255, font=font)
    drawn = drawn.crop(drawn.getbbox())
    scale = BOX / max(drawn.size)
    width, height = (max(1, round(side * scale)) for side in drawn.size)
    image = Image.new("L", (SIZE, SIZE))
    image.paste(drawn.resize((width, height), Image.Resampling.LANCZOS), ((SIZE - width) // 2, (SIZE - height) // 2))
    return np.asarray(image, dtype=np.uint8)
