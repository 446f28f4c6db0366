"""Is a study found in its file, with its neighbours, and are mistakes in it shown at their own line?"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bilevel.drive import sources
from bilevel.errors import BadInput, StudyChanged

STUDY = """
from dataclasses import dataclass
from bilevel import Report, Space, Study

@dataclass(frozen=True)
class Config:
    n: int = 2

def train(config, run):
    yield Report(1, {"loss": float(config.n)})

study = Study(name="mine", objective=train, minimize="loss", space=Space(Config, n=3))
"""


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Studies put their folder on the path and their modules among the loaded ones."""
    path, modules = list(sys.path), dict(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - set(modules):
        if name.startswith("bilevel_study_") or name in ("helper_a", "helper_b", "pkg_c", "pkg_c.inner"):
            del sys.modules[name]


def written(folder: Path, text: str = STUDY, name: str = "mine.py") -> Path:
    folder.mkdir(exist_ok=True, parents=True)
    (folder / name).write_text(text)
    return folder / name


def test_the_study_of_a_file_and_its_source(tmp_path: Path) -> None:
    file = written(tmp_path)
    study, source = sources.load(str(file))
    assert study.name == "mine"
    assert (source.file, source.name, dict(source.texts)) == (file, "study", {"mine.py": STUDY})
    assert len(source.sha256) == 64


def test_another_name_in_the_file(tmp_path: Path) -> None:
    file = written(tmp_path, STUDY + "\nimport dataclasses\nother = dataclasses.replace(study, name='other')\n")
    assert sources.load(f"{file}:other")[0].name == "other"
    assert sources.load(f"{file}:other")[1].name == "other"
    with pytest.raises(BadInput, match=r"no study named 'third'; it has study, other: run .*mine.py:study"):
        sources.load(f"{file}:third")


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"gone.py: no such file; give the path of a study"):
        sources.load(str(tmp_path / "gone.py"))
    file = written(tmp_path, "x = 1\n")
    with pytest.raises(BadInput, match=r"no study named 'study'; it must end in `study = Study\(...\)`"):
        sources.load(str(file))
    with pytest.raises(BadInput, match="no such file"):
        sources.load(str(tmp_path))


def test_neighbours_are_imported_and_belong_to_the_source(tmp_path: Path) -> None:
    written(tmp_path, "from pkg_c.inner import N\n", "helper_a.py")
    written(tmp_path / "pkg_c", "", "__init__.py")
    written(tmp_path / "pkg_c", "N = 7\n", "inner.py")
    written(tmp_path, "never imported", "stranger.py")
    file = written(tmp_path, STUDY.replace("n=3", "n=N").replace("\nfrom", "\nfrom helper_a import N\nfrom", 1))
    study, source = sources.load(str(file))
    assert study.config()["n"] == 7
    assert set(source.texts) == {"mine.py", "helper_a.py", "pkg_c/__init__.py", "pkg_c/inner.py"}


def test_a_neighbour_that_was_imported_before_is_one_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by a notebook's `from mine import study`, or another study beside this one."""
    written(tmp_path, "from pkg_c.inner import N\n", "helper_a.py")
    written(tmp_path / "pkg_c", "from . import inner\n", "__init__.py")
    written(tmp_path / "pkg_c", "def later():\n    import helper_b\nN = 7\n", "inner.py")
    written(tmp_path, "only used in a function", "helper_b.py")
    file = written(tmp_path, STUDY.replace("n=3", "n=N").replace("\nfrom", "\nfrom helper_a import N\nfrom", 1))
    fresh = sources.load(str(file))[1].texts
    for name in list(sys.modules):
        if name.partition(".")[0] in ("helper_a", "pkg_c"):
            del sys.modules[name]
    monkeypatch.setattr(sources, "_imported", [])
    monkeypatch.syspath_prepend(str(tmp_path))
    import helper_a  # type: ignore[import-not-found]

    source = sources.load(str(file))[1]
    assert dict(source.texts) == dict(fresh)
    assert set(fresh) == {"mine.py", "helper_a.py", "pkg_c/__init__.py", "pkg_c/inner.py"}
    assert sys.modules["helper_a"] is helper_a, "the notebook's module is the one that there is"


def test_a_neighbour_broken_since_it_was_imported_shows_in_its_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written(tmp_path, "N = 7\n", "helper_b.py")
    monkeypatch.syspath_prepend(str(tmp_path))
    import helper_b  # type: ignore[import-not-found]  # noqa: F401

    file = written(tmp_path, STUDY.replace("\nfrom", "\nimport helper_b\nfrom", 1))
    before = sources.load(str(file))[1].texts
    written(tmp_path, "N = (\n", "helper_b.py")
    with pytest.raises(StudyChanged, match=r"\+N = \("):
        sources.check_unchanged(before, sources.load(str(file))[1].texts, tmp_path)


def test_a_recorded_neighbour_that_was_not_imported_this_time_is_looked_up(tmp_path: Path) -> None:
    written(tmp_path, "M = 1\n", "late.py")
    sources.check_unchanged({"a.py": "x", "late.py": "M = 1\n"}, {"a.py": "x"}, tmp_path)
    with pytest.raises(StudyChanged, match=r"late.py \(now\)"):
        sources.check_unchanged({"a.py": "x", "late.py": "M = 0\n"}, {"a.py": "x"}, tmp_path)
    with pytest.raises(StudyChanged, match=r"gone.py \(recorded\)"):
        sources.check_unchanged({"a.py": "x", "gone.py": "M = 0\n"}, {"a.py": "x"}, tmp_path)


def test_an_edited_neighbour_is_imported_again(tmp_path: Path) -> None:
    written(tmp_path, "N = 1\n", "helper_b.py")
    file = written(tmp_path, STUDY.replace("n=3", "n=helper_b.N").replace("\nfrom", "\nimport helper_b\nfrom", 1))
    first, before = sources.load(str(file))
    written(tmp_path, "N = 12345\n", "helper_b.py")
    second, after = sources.load(str(file))
    assert (first.config()["n"], second.config()["n"]) == (1, 12345)
    assert before.sha256 != after.sha256
    with pytest.raises(StudyChanged) as caught:
        sources.check_unchanged(before.texts, after.texts)
    assert "-N = 1\n+N = 12345" in str(caught.value)
    assert "--new-code" in str(caught.value)
    sources.check_unchanged(after.texts, dict(after.texts))


def test_a_new_or_lost_neighbour_is_a_change() -> None:
    with pytest.raises(StudyChanged, match=r"b.py \(now\)"):
        sources.check_unchanged({"a.py": "x"}, {"a.py": "x", "b.py": "y"})
    with pytest.raises(StudyChanged, match=r"b.py \(recorded\)"):
        sources.check_unchanged({"a.py": "x", "b.py": "y"}, {"a.py": "x"})


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("x = 1\ny = 1 / 0\n", r"mine.py:2: ZeroDivisionError: division by zero"),
        ("def f(:\n", r"mine.py:1: SyntaxError"),
        ("import not_there_at_all\n", r"mine.py:1: ModuleNotFoundError: No module named 'not_there_at_all'"),
        ("\n\nimport json\njson.loads('{')\n", r"mine.py:4: JSONDecodeError"),
        (STUDY.replace("n=3", "m=3"), r"mine.py:12: Space for Config: no field 'm'; it has n"),
        ("raise SystemExit(3)\n", r"mine.py:1: SystemExit: 3"),
    ],
    ids=["raises", "syntax", "import", "in a library", "bad space", "exit"],
)
def test_a_file_that_raises_is_bad_input_with_its_own_line(text: str, match: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=match):
        sources.load(str(written(tmp_path, text)))


@pytest.mark.parametrize("name", ["ray.py", "numpy.py", "torch.py", "study.py", "my-study.v2.py", "json.py"])
def test_a_study_may_be_called_like_a_library(name: str, tmp_path: Path) -> None:
    study, source = sources.load(str(written(tmp_path, name=name)))
    assert study.name == "mine"
    assert set(source.texts) == {name}
    assert study.objective.__module__.startswith("bilevel_study_")
    assert sys.modules[study.objective.__module__].__file__ == str(tmp_path / name)


def test_a_study_called_like_a_library_does_not_take_its_place(tmp_path: Path) -> None:
    """The library is imported after the study here, as Ray is by the pool."""
    sources.load(str(written(tmp_path, name="colorsys.py")))
    sys.modules.pop("colorsys", None)
    import colorsys

    assert hasattr(colorsys, "rgb_to_hsv")
