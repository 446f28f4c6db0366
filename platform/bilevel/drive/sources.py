"""Where does a study come from: which file, which neighbours, unchanged since the run began?"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from bilevel.drive import neighbours, places
from bilevel.drive.places import Place
from bilevel.errors import BadInput, StudyChanged, described
from bilevel.execute import imported
from bilevel.study.study import Study

_imported: list[str] = []  # modules that came with the study that was imported last


@dataclass(frozen=True)
class Source:
    """A study's code as it was imported: the file, the name in it, and the text of the file and its neighbours."""

    file: Path | None
    name: str
    texts: Mapping[str, str]
    """Path relative to the file's folder -> text."""
    folders: tuple[Path, ...] = ()
    """Where its modules come from: the file's folder, and what else of its package's or the current one is used."""
    arguments: tuple[str, ...] = ()
    """What it finds in `sys.argv` behind its own name."""

    @property
    def sha256(self) -> str:
        """Of all the texts, by name."""
        sha = hashlib.sha256()
        for path, text in sorted(self.texts.items()):
            sha.update(f"{path}\0{text}\0".encode())
        return sha.hexdigest()


def load(
    spec: str, *, module: bool = False, arguments: Sequence[str] = (), folders: Sequence[str] | None = None
) -> tuple[Study, Source]:
    """The study that `FILE[:NAME]` names (NAME is `study` unless given), and its source.

    Args:
        spec: a file, or a module's dotted name.
        module: it is the latter.
        arguments: what the file finds in `sys.argv`.
        folders: of a run that is taken up again, where its modules came from; by default the current folder, too.

    Raises:
        BadInput: no such file, no such study in it, or a file that raises when imported (its own line is named).
    """
    path, _, name = spec.partition(":") if module or not Path(spec).exists() else (spec, "", "")
    file = (places.of_module(path) if module else Path(path)).resolve()
    if not file.is_file():
        raise BadInput(f"{path}: no such file; give the path of a study, such as search_spaces/sinusoid_maml.py")
    place = places.of_file(file, folders)
    loaded, beside = _run(place, arguments)
    study = getattr(loaded, name or "study", None)
    if not isinstance(study, Study):
        others = [n for n, value in vars(loaded).items() if isinstance(value, Study)]
        hint = (
            f"it has {', '.join(others)}: run {path}:{others[0]}" if others else "it must end in `study = Study(...)`"
        )
        raise BadInput(f"{path}: no study named {name or 'study'!r}; {hint}")
    texts = _texts(file, beside)
    return study, Source(file, name or "study", texts, _used(place, beside), tuple(arguments))


def check_unchanged(recorded: Mapping[str, str], now: Mapping[str, str], folder: Path | None = None) -> None:
    """Compare the sources that a run began with and those of today.

    A recorded neighbour that was not imported this time, or only before, is looked up in the study's folder.

    Raises:
        StudyChanged: they differ; the message shows the changed lines.
    """
    if folder is not None:
        aside = {path: folder / path for path in recorded if path not in now}
        now = {**now, **{path: f.read_text(encoding="utf-8") for path, f in aside.items() if f.is_file()}}
    if dict(recorded) == dict(now):
        return
    lines: list[str] = []
    for path in sorted({*recorded, *now}):
        before, after = recorded.get(path, "").splitlines(), now.get(path, "").splitlines()
        lines += difflib.unified_diff(before, after, f"{path} (recorded)", f"{path} (now)", n=0, lineterm="")
    raise StudyChanged(
        "the study's source changed since the run began; put it back, or take the new one with --new-code:\n"
        + "\n".join(lines[:40])
    )


def _run(place: Place, arguments: Sequence[str]) -> tuple[ModuleType, list[ModuleType]]:
    """The study's module, and those below its folders that belong to its source."""
    for name in _imported:  # another study's neighbours, or this one's before they were edited
        sys.modules.pop(name, None)
    file, name = place.file, place.name
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise BadInput(f"{file}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    before, argv = set(sys.modules), sys.argv
    imported.argv = sys.argv = [str(file), *arguments]  # what it parses is meant for it
    try:
        with places.importing(place):
            if place.packaged:
                importlib.import_module(name.rpartition(".")[0])
            sys.modules[name] = module  # so that its classes can be found, and pickled by value for the workers
            spec.loader.exec_module(module)
    except BadInput as error:
        raise type(error)(f"{_line(file, error)}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever the user's code raises: one message with her own line
        raise BadInput(f"{_line(file, error)}: {described(error)}") from error
    finally:
        sys.argv = argv
        new = [n for n in sys.modules if n not in before]
        _imported[:] = [n for n in new if n == name or neighbours.below(sys.modules[n], place.folders)]
    if not place.packaged:
        imported.publish({name: (str(file), file.read_text(encoding="utf-8"), False)})
    return module, list(neighbours.of(module, new, place.folders).values())


def _line(file: Path, error: BaseException) -> str:
    """`file:line` of the study's own last line in the traceback."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    own = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == file]
    return f"{file}:{own[-1]}" if own else str(file)


def _texts(file: Path, modules: list[ModuleType]) -> dict[str, str]:
    files = {Path(str(module.__file__)) for module in modules}
    return {os.path.relpath(f, file.parent): f.read_text(encoding="utf-8") for f in sorted(files) if f.suffix == ".py"}


def _used(place: Place, modules: list[ModuleType]) -> tuple[Path, ...]:
    """Of a study's folders the first one, and of the others those in which one of its modules lies."""
    left = [Path(str(module.__file__)) for module in modules]
    used: list[Path] = []
    for folder in place.folders:
        if not used or any(file.is_relative_to(folder) for file in left):
            used.append(folder)
            left = [file for file in left if not file.is_relative_to(folder)]
    return tuple(used)
