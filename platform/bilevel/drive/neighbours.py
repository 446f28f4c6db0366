"""Which modules beside a study's file does it use, whether they were imported for it or before?"""

from __future__ import annotations

import ast
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

_LIBRARIES = tuple(Path(sysconfig.get_path(kind)) for kind in ("stdlib", "platstdlib", "purelib", "platlib"))


def of(module: ModuleType, new: list[str], folders: Sequence[Path]) -> dict[str, ModuleType]:
    """The module and its neighbours by name: those of `new`, and those that one of them imports when it is loaded.

    A neighbour that was imported before the study (by a notebook, or by another study) is not new and belongs to the
    source all the same.
    """
    found = {name: sys.modules[name] for name in new if below(sys.modules[name], folders)}
    found[module.__name__] = module
    left = list(found.values())
    while left:
        for name in imported(left.pop()):
            other = sys.modules.get(name)
            if other is not None and name not in found and below(other, folders):
                found[name] = other
                left.append(other)
    return found


def below(module: ModuleType, folders: Sequence[Path]) -> bool:
    """Whether a module is a neighbour: a file below one of the folders, and neither of a library nor ours."""
    file = _file(module)
    if file is None or module.__name__.partition(".")[0] in ("bilevel", "__main__"):
        return False
    own = any(file.is_relative_to(folder) for folder in folders)
    return own and not any(file.is_relative_to(library) for library in _LIBRARIES)


def imported(module: ModuleType) -> Iterator[str]:
    """Names of what a module's text may import when it is loaded, the packages above them too.

    What a function imports when it is called is not among them: it is imported in one process and not in another.
    """
    file = _file(module)
    if file is None or file.suffix != ".py" or not file.is_file():
        return
    package = vars(module).get("__package__") or ""
    try:
        tree = ast.parse(file.read_bytes())
    except SyntaxError:  # edited since it was imported, which shows in its text
        return
    for node in _loaded(tree):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.level == 0 or package):
            base = importlib.util.resolve_name("." * node.level + (node.module or ""), package)
            names = [base, *(f"{base}.{alias.name}" for alias in node.names)]
        for name in names:
            parts = name.split(".")
            yield from (".".join(parts[: end + 1]) for end in range(len(parts)))


def _loaded(tree: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when a module is loaded: neither the bodies of functions nor what is for type checkers."""
    for node in ast.iter_child_nodes(tree):
        yield node
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            for other in node.orelse:
                yield other
                yield from _loaded(other)
        elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield from _loaded(node)


def _file(module: ModuleType) -> Path | None:
    spec = module.__spec__
    file = vars(module).get("__file__") or (spec.origin if spec is not None else None)
    return Path(file) if isinstance(file, str) else None
