"""Is data found where it should be, and can a cache only ever save time?"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from bilevel.tasks.data import find, kept


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "bilevel"


def counting() -> tuple[list[int], Callable[[], np.ndarray]]:
    built: list[int] = []

    def build() -> np.ndarray:
        built.append(1)
        return np.arange(5, dtype=np.uint8)

    return built, build


def test_a_name_is_looked_for_as_it_stands_and_then_below_the_data_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BILEVEL_DATA", str(tmp_path / "data"))
    assert find("set/table.csv") is None
    there = tmp_path / "data" / "set" / "table.csv"
    there.parent.mkdir(parents=True)
    there.touch()
    assert find("set/table.csv") == there
    here = tmp_path / "set" / "table.csv"
    here.parent.mkdir()
    here.touch()
    assert find("set/table.csv") == Path("set/table.csv")
    monkeypatch.delenv("BILEVEL_DATA")
    assert find("elsewhere.csv") is None


def test_an_array_is_built_once_and_then_read(cache: Path) -> None:
    built, build = counting()
    for _ in range(3):
        assert kept("five", build).tolist() == [0, 1, 2, 3, 4]
    assert len(built) == 1
    assert [file.name for file in cache.iterdir()] == ["five.npz"], "nothing half-written is left"


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "other"])
def test_a_damaged_file_is_built_again(cache: Path, damage: str) -> None:
    built, build = counting()
    kept("five", build)
    file = cache / "five.npz"
    whole = bytearray(file.read_bytes())
    if damage == "flip":
        whole[whole.find(b"\x93NUMPY") if b"\x93NUMPY" in whole else 60] ^= 1
    file.write_bytes({"cut": whole[: len(whole) // 2], "flip": whole, "empty": b"", "other": b"no archive"}[damage])
    assert kept("five", build).tolist() == [0, 1, 2, 3, 4]
    assert len(built) == 2
    kept("five", build)
    assert len(built) == 2, "and the file is whole again"


def test_a_cache_that_cannot_be_written_costs_only_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blocked = tmp_path / "a file, no folder"
    blocked.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    built, build = counting()
    assert kept("five", build).tolist() == [0, 1, 2, 3, 4]
    assert kept("five", build).tolist() == [0, 1, 2, 3, 4]
    assert len(built) == 2


def test_a_build_that_fails_is_not_hidden(cache: Path) -> None:
    def build() -> np.ndarray:
        raise ValueError("no data")

    with pytest.raises(ValueError, match="no data"):
        kept("none", build)
