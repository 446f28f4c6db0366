"""Is what comes from a user's file read as it is there, and all else refused with its place?"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bilevel.drive.samples import read_samples
from bilevel.errors import BadInput


def npz(path: Path, **arrays: object) -> Path:
    np.savez(path, **arrays)  # type: ignore[arg-type]
    return path


def shorter(path: Path) -> None:
    """The header of `x` says fewer numbers than there are: numpy then compares no checksum."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    raw = path.read_bytes()
    at = raw.index(b"(4, 2)")
    path.write_bytes(raw[:at] + b"(1, 2)" + raw[at + 6 :])
    assert files


HARMS: dict[str, Callable[[Path], object]] = {
    "a flipped bit": lambda path: path.write_bytes(path.read_bytes().replace(b"\x59\x40", b"\x59\x41", 1)),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:200]),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a shorter header": shorter,
    "text": lambda path: path.write_text("x"),
    "nothing": lambda path: path.write_bytes(b""),
}


@pytest.mark.parametrize("name", HARMS)
def test_a_damaged_npz_is_refused(tmp_path: Path, name: str) -> None:
    path = npz(tmp_path / "s.npz", x=np.full((4, 2), 100.0), y=np.arange(4))
    before = path.read_bytes()
    HARMS[name](path)
    assert path.read_bytes() != before
    with pytest.raises(BadInput, match=r"s\.npz: "):
        read_samples(path, labelled=True)


def test_an_npz_whose_header_claims_too_much_is_refused(tmp_path: Path) -> None:
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": (1 << 60, 1 << 60)})
    with zipfile.ZipFile(tmp_path / "s.npz", "w") as archive:
        archive.writestr("x.npy", head.getvalue())
    with pytest.raises(BadInput, match=r"no \.npz that can be read"):
        read_samples(tmp_path / "s.npz", labelled=False)


TEXTS = {
    "a huge cell": ("1,2,0\n" + "9" * 200_000 + ",2,1\n", "field larger than field limit"),
    "a huge number": ("a,b,y\n1,2,0\n1,3," + "9" * 100_000 + "\n", None),
    "a short row": ("a,b,y\n1,2,0\n1,0\n", "row 3 has 2 cells, and the first has 3"),
    "a long row": ("1,2,0\n1,2,3,0\n", "row 2 has 4 cells, and the first has 3"),
    "a word": ("a,b,y\n1,2,0\n1,zwei,0\n", "row 3: 'zwei' is no number"),
    "a first number that is broken": ("1.5x,2,0\n1,2,1\n", "row 1: '1.5x' is no number"),
    "an empty cell": ("1,2,0\n1,,1\n", "row 2: '' is no number"),
    "NUL": ("1,2,0\n1,\0,1\n", "s.csv: "),
    "an open quote": ('1,2,0\n"1,2,1\n', "s.csv: "),
    "no x": ("y\n1\n", "one column, which is y"),
    "what Python alone reads": ("1_0,2,0\n", "row 1: '1_0' is no number"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_csv_that_is_no_table_of_numbers_is_refused_with_its_row(tmp_path: Path, name: str) -> None:
    text, why = TEXTS[name]
    (tmp_path / "s.csv").write_text(text)
    if why is None:
        _, y = read_samples(tmp_path / "s.csv", labelled=True)
        assert y is not None
        assert y.dtype == np.float64  # infinite, which the model's own checks refuse
        return
    with pytest.raises(BadInput, match=why):
        read_samples(tmp_path / "s.csv", labelled=True)


def test_a_mark_of_the_byte_order_takes_no_row_away(tmp_path: Path) -> None:
    (tmp_path / "s.csv").write_text("\ufeff1,2,0\n3,4,1\n", encoding="utf-8")
    x, _ = read_samples(tmp_path / "s.csv", labelled=True)
    assert x.tolist() == [[1, 2], [3, 4]]
