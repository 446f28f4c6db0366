"""Where does a study come from: which file, which neighbours, unchanged since the run began?"""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import re
import sys
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from bilevel.drive import neighbours
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

    @property
    def sha256(self) -> str:
        """Of all the texts, by name."""
        sha = hashlib.sha256()
        for path, text in sorted(self.texts.items()):
            sha.update(f"{path}\0{text}\0".encode())
        return sha.hexdigest()


def load(spec: str) -> tuple[Study, Source]:
    """The study that `FILE[:NAME]` names (NAME is `study` unless given), and its source.

    Raises:
        BadInput: no such file, no such study in it, or a file that raises when imported (its own line is named).
    """
    path, _, name = spec.partition(":") if not Path(spec).exists() else (spec, "", "")
    file = Path(path).resolve()
    if not file.is_file():
        raise BadInput(f"{path}: no such file; give the path of a study, such as search_spaces/sinusoid_maml.py")
    module, beside = _run(file)
    study = getattr(module, name or "study", None)
    if not isinstance(study, Study):
        others = [n for n, value in vars(module).items() if isinstance(value, Study)]
        hint = (
            f"it has {', '.join(others)}: run {path}:{others[0]}" if others else "it must end in `study = Study(...)`"
        )
        raise BadInput(f"{path}: no study named {name or 'study'!r}; {hint}")
    return study, Source(file, name or "study", _texts(file, beside))


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


def _run(file: Path) -> tuple[ModuleType, list[ModuleType]]:
    """The study's module, and those beside it that belong to its source."""
    for name in _imported:  # another study's neighbours, or this one's before they were edited
        sys.modules.pop(name, None)
    name = "bilevel_study_" + re.sub(r"\W", "_", file.stem)  # one that imports: on workers, and in children
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise BadInput(f"{file}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    before = set(sys.modules)
    sys.modules[name] = module  # so that its classes can be found, and pickled by value for the workers
    folder = str(file.parent)
    sys.path.insert(0, folder)  # a study may import its neighbours
    try:
        spec.loader.exec_module(module)
    except BadInput as error:
        raise type(error)(f"{_line(file, error)}: {error}") from error
    except (Exception, SystemExit) as error:  # whatever the user's code raises: one message with her own line
        raise BadInput(f"{_line(file, error)}: {described(error)}") from error
    finally:
        # For later imports, but behind the libraries: a study in `ray.py` must not pass for Ray.
        sys.path[:] = [*(entry for entry in sys.path if entry != folder), folder]
        new = [n for n in sys.modules if n not in before]
        _imported[:] = [n for n in new if n == name or neighbours.below(sys.modules[n], file.parent)]
    imported.publish({name: (str(file), file.read_text(encoding="utf-8"), False)})
    return module, list(neighbours.of(module, new, file.parent).values())


def _line(file: Path, error: BaseException) -> str:
    """`file:line` of the study's own last line in the traceback."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{error.filename}:{error.lineno}"
    own = [f.lineno for f in traceback.extract_tb(error.__traceback__) if Path(f.filename) == file]
    return f"{file}:{own[-1]}" if own else str(file)


def _texts(file: Path, modules: list[ModuleType]) -> dict[str, str]:
    files = {Path(str(module.__file__)) for module in modules}
    return {str(f.relative_to(file.parent)): f.read_text(encoding="utf-8") for f in sorted(files) if f.suffix == ".py"}
