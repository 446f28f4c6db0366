"""Under which name is a study's file imported, and from which folders do its modules come?"""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bilevel.errors import BadInput, described


@dataclass(frozen=True)
class Place:
    """Where a study's file stands.

    `name` imports it: of a package as `python -m` would, else by a name of ours. `first` is the folder that comes
    before all libraries while it is imported: the file's, or that of its package. The `others` come behind them, so
    that what lies there by chance hides no library: the file's own folder, and the current one.
    """

    file: Path
    name: str
    first: Path
    others: tuple[Path, ...]

    @property
    def packaged(self) -> bool:
        """Whether it is a module of a package."""
        return "." in self.name

    @property
    def folders(self) -> tuple[Path, ...]:
        """All of them, the first one first."""
        return tuple(dict.fromkeys((self.first, *self.others)))


def of_file(file: Path, recorded: Sequence[str] | None = None) -> Place:
    """The place of a file; a run that is taken up again has `recorded` its folders, wherever it is gone on with."""
    root, parts = file.parent, [file.stem]
    while (root / "__init__.py").is_file() and root.name.isidentifier():
        parts, root = [root.name, *parts], root.parent
    if len(parts) == 1 or not file.stem.isidentifier():
        name = "bilevel_study_" + re.sub(r"\W", "_", file.stem)  # one that imports: on workers, and in children
        root = file.parent
    else:
        name = ".".join(parts)
    here = _current() if recorded is None else [Path(folder) for folder in recorded]
    return Place(file, name, root, (file.parent, *here))


def of_module(name: str) -> Path:
    """The file of a module, found as `python -m` finds it.

    Raises:
        BadInput: there is none.
    """
    _append(_current())
    try:
        spec = importlib.util.find_spec(name)
    except Exception as error:  # the package above it may raise anything
        raise BadInput(f"-m {name}: {described(error)}") from error
    if spec is None or spec.origin is None or not spec.origin.endswith(".py"):
        raise BadInput(f"-m {name}: no such module here or among the installed ones; or give the path of a file")
    return Path(spec.origin)


@contextmanager
def importing(place: Place) -> Iterator[None]:
    """Within, a study's own folder, or its package's, comes before the libraries; afterwards it is behind them.

    A study in `ray.py` must not pass for Ray.
    """
    own = [str(folder) for folder in dict.fromkeys((place.first, place.file.parent))]
    sys.path.insert(0, own[0])
    _append(place.folders)
    try:
        yield
    finally:
        sys.path[:] = [*(entry for entry in sys.path if entry not in own), *own]


def _append(folders: Sequence[Path]) -> None:
    """Search these folders, too, after the libraries."""
    sys.path.extend(str(folder) for folder in folders if str(folder) not in sys.path)


def _current() -> list[Path]:
    try:
        return [Path.cwd()]
    except FileNotFoundError:  # deleted meanwhile
        return []
