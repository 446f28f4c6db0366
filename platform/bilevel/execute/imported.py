"""Where does a process import a study's modules from, if it has no copy of their files, or no name for them?

From their texts, under their own names. Standard library only: a copy of this file lies beside the stubs that the
children of such a process find on their path, whatever else they can import.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

Text = Sequence[Any]
"""The file that a module was, its text, and whether it is a package: as JSON has it."""

SOURCES = "bilevel_sources"
"""The name of this file's copy, and of the texts beside it."""

STUB = f"import {SOURCES}\n{SOURCES}.arrive(__name__, __file__)\n"


argv: list[str] | None = None
"""What a study's file finds in `sys.argv` when it is imported, here and on the workers; None: what there is."""


class Sources(importlib.abc.MetaPathFinder, importlib.abc.ExecutionLoader):
    """Finds and loads modules whose texts are at hand; they have the names and the files that they had elsewhere."""

    def __init__(self, modules: Mapping[str, Text]) -> None:
        self.modules = dict(modules)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> importlib.machinery.ModuleSpec | None:
        """Its own modules; of all others it says that it does not know them."""
        if fullname not in self.modules:
            return None
        file, text, package = self.modules[fullname]
        below = [os.path.dirname(file)] if package else None  # noqa: PTH120
        # Where the file is as it was, Python's own loader knows more, such as what lies beside it.
        loader: Any = None if _reads(file) == text else self
        return importlib.util.spec_from_file_location(fullname, file, loader=loader, submodule_search_locations=below)

    def get_source(self, fullname: str) -> str:
        """Its text, for tracebacks and `inspect` too."""
        return str(self.modules[fullname][1])

    def get_filename(self, fullname: str) -> str:
        """The file that it was."""
        return str(self.modules[fullname][0])

    def get_code(self, fullname: str) -> CodeType:
        """Compiled from the text; nothing is written beside a file."""
        return compile(self.get_source(fullname), self.get_filename(fullname), "exec", dont_inherit=True)

    def is_package(self, fullname: str) -> bool:
        """Whether other modules are below it."""
        return bool(self.modules[fullname][2])


def _reads(file: str) -> str | None:
    try:
        return Path(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def install(modules: Mapping[str, Text]) -> None:
    """Have this process import these modules from their texts, before all others of their names."""
    finders: list[Any] = [finder for finder in sys.meta_path if not isinstance(finder, Sources)]
    known = [finder for finder in sys.meta_path if isinstance(finder, Sources)]
    merged = {name: text for finder in reversed(known) for name, text in finder.modules.items()}
    sys.meta_path[:] = [Sources({**merged, **modules}), *finders]


def write(folder: Path, modules: Mapping[str, Text]) -> None:
    """Put stubs of these modules into an empty folder: whoever has it on the path can import them.

    None is called like a module of the standard library, which it would hide.
    """
    (folder / f"{SOURCES}.json").write_text(json.dumps({n: list(text) for n, text in modules.items()}))
    shutil.copyfile(__file__, folder / f"{SOURCES}.py")
    for name in {name.partition(".")[0] for name in modules} - sys.stdlib_module_names:
        (folder / f"{name}.py").write_text(STUB)


def arrive(name: str, stub: str) -> None:
    """What a stub does: put the module that it stands for into its own place."""
    install(json.loads((Path(stub).parent / f"{SOURCES}.json").read_text()))
    finder = next(finder for finder in sys.meta_path if isinstance(finder, Sources))
    spec = finder.find_spec(name)
    if spec is None or spec.loader is None:
        raise ModuleNotFoundError(f"{stub} stands for {name}, which is not in {SOURCES}.json beside it")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)


_published: dict[int, tuple[Path, dict[str, Text]]] = {}


def publish(modules: Mapping[str, Text]) -> None:
    """Let children of this process, which are handed its path, import these modules: multiprocessing's "spawn"."""
    if os.getpid() not in _published:
        folder = Path(tempfile.mkdtemp(prefix="bilevel-study-"))
        _published[os.getpid()] = folder, {}
        atexit.register(_withdraw, os.getpid(), folder)
    folder, known = _published[os.getpid()]
    known.update(modules)
    write(folder, known)
    if str(folder) not in sys.path:
        sys.path.append(str(folder))


def _withdraw(pid: int, folder: Path) -> None:
    if os.getpid() == pid:  # a child that was forked leaves it to its parent
        with contextlib.suppress(OSError):
            shutil.rmtree(folder)
