"""Which modules does a worker need of a study, and how do they come to be there once, under their own names?

What is pickled for a worker names functions and classes by module, as pickle does. The worker imports these modules
from their texts, in the order of the driver: also where no disk is shared, and whatever happens to the files meanwhile.
Data in them (numbers, words, arrays, weights) is then made what it is in the driver: a table that was drawn without a
seed, or a setting that was changed, is the same in all processes.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import hashlib
import importlib
import logging
import os
import pickle
import sys
import sysconfig
import tempfile
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from bilevel.errors import BadInput, described
from bilevel.execute import imported

log = logging.getLogger(__name__)

LARGE = 64 << 20
"""Bytes of an array from which on it is not sent, but compared."""
DEEP = 8
"""Levels of lists and dicts in which data is looked for."""


@dataclass(frozen=True)
class Luggage:
    """What a worker is told of the study's modules."""

    folders: tuple[str, ...] = ()
    """Where they come from; on the worker's machine these may exist, too."""
    modules: Mapping[str, imported.Text] = field(default_factory=dict)
    loaded: tuple[str, ...] = ()
    """Those that the driver has imported, in its order."""
    lost: tuple[str, ...] = ()
    """Those that nobody can import any more, for their files are gone: they travel by value."""
    data: Mapping[str, Mapping[str, bytes]] = field(default_factory=dict)
    """Module -> name in it -> its value, pickled."""
    argv: tuple[str, ...] = ()
    """The arguments that they may look at when they are imported."""
    mark: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True)
class _Digest:
    """In place of an array that is too large to travel."""

    sha256: str


@dataclass(frozen=True)
class _Weights:
    """In place of a torch module: its parameters and buffers."""

    tensors: Mapping[str, torch.Tensor]


# -- in the driver -----------------------------------------------------------------------------------------------------


def pack(code: Sequence[str]) -> Luggage:
    """All modules of the user's own below the directories `code`: those that are loaded, and those that they import."""
    roots = [Path(directory).resolve() for directory in code]
    modules: dict[str, imported.Text] = {}
    loaded = []
    lost = []
    for name, module in list(sys.modules.items()) if roots else []:
        file = _file(module)
        if file is None or not any(file.is_relative_to(root) for root in roots):
            continue
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            lost.append(name)
            continue
        if all(part.isidentifier() for part in name.split(".")):
            modules[name] = (str(file), text, file.name == "__init__.py")
            loaded.append(name)
        else:
            lost.append(name)
    _add_later_ones(modules, roots)
    _add_parents(modules)
    data = {name: dict(_data(sys.modules[name])) for name in loaded}
    data = {name: values for name, values in data.items() if values}
    argv = tuple(sys.argv if imported.argv is None else imported.argv)
    return Luggage(tuple(map(str, code)), modules, tuple(loaded), tuple(lost), data, argv)


def identity(luggage: Luggage) -> str:
    """Of what is in it, whenever it was packed."""
    return hashlib.sha256(pickle.dumps(dataclasses.replace(luggage, mark=""))).hexdigest()


def _file(module: ModuleType) -> Path | None:
    """The source of a module that is the user's own: of no installed package, not of Python's, not ours."""
    file, name = vars(module).get("__file__"), vars(module).get("__name__")
    if not isinstance(file, str) or not isinstance(name, str) or not file.endswith(".py"):
        return None
    if name not in sys.modules or name.partition(".")[0] in {"bilevel", "__main__", "__mp_main__"}:
        return None
    installed = {"site-packages", "dist-packages"} & set(Path(file).parts)
    return None if installed else Path(file).resolve()


def _add_later_ones(modules: dict[str, imported.Text], roots: Sequence[Path]) -> None:
    """Neighbours that are imported within functions, and so not loaded yet."""
    new = list(modules)
    while new:
        name = new.pop()
        for wanted in _imports(name, modules[name]):
            if wanted in modules or wanted.partition(".")[0] in sys.stdlib_module_names or wanted in sys.modules:
                continue
            for root in roots:
                place = root.joinpath(*wanted.split("."))
                for file in (place.with_name(f"{place.name}.py"), place / "__init__.py"):
                    if wanted not in modules and file.is_file():
                        with contextlib.suppress(OSError, UnicodeDecodeError):
                            modules[wanted] = (str(file), file.read_text(encoding="utf-8"), file.name == "__init__.py")
                            new.append(wanted)


def _imports(name: str, text: imported.Text) -> Iterator[str]:
    """What the import statements of a module may mean."""
    try:
        tree = ast.parse(text[1])
    except (SyntaxError, ValueError):
        return
    package = name.split(".") if text[2] else name.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            whole = ".".join([*base, *([node.module] if node.module else [])])
            if whole:
                yield whole
                yield from (f"{whole}.{alias.name}" for alias in node.names if alias.name != "*")


def _add_parents(modules: dict[str, imported.Text]) -> None:
    """Folders without an `__init__.py`, in which a module that travels lies."""
    for name in list(modules):
        file = Path(modules[name][0])
        folder = file.parent.parent if modules[name][2] else file.parent
        while "." in name:
            name = name.rpartition(".")[0]
            modules.setdefault(name, (str(folder / "__init__.py"), "", True))
            folder = folder.parent


def _data(module: ModuleType) -> Iterator[tuple[str, bytes]]:
    """The data in a module: what is made of numbers, words, arrays and weights, by name."""
    for name, value in list(vars(module).items()):
        if name.startswith("__"):
            continue
        if isinstance(value, torch.nn.Module):
            value = _Weights({n: t.detach() for n, t in value.state_dict().items() if isinstance(t, torch.Tensor)})
            if not all(map(_is_data, value.tensors.values())):
                continue
        elif not _is_data(value):
            continue
        if isinstance(value, torch.Tensor | np.ndarray) and value.nbytes > LARGE:
            value = _Digest(_sha256(value))
        yield name, pickle.dumps(value, pickle.HIGHEST_PROTOCOL)


def _is_data(value: Any, level: int = 0) -> bool:
    if value is None or type(value) in (bool, int, float, complex, str, bytes):
        return True
    if isinstance(value, np.ndarray):
        return type(value) is np.ndarray and not value.dtype.hasobject
    if type(value) in (torch.Tensor, torch.nn.Parameter):
        return (
            value.layout == torch.strided and value.device.type == "cpu" and (value.is_leaf or not value.requires_grad)
        )
    if level < DEEP and type(value) in (tuple, list, set, frozenset):
        return all(_is_data(part, level + 1) for part in value)
    if level < DEEP and type(value) is dict:
        return all(_is_data(part, level + 1) for pair in value.items() for part in pair)
    return False


def _sha256(value: torch.Tensor | np.ndarray) -> str:
    array = value.detach().contiguous().view(torch.uint8).numpy() if isinstance(value, torch.Tensor) else value
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


# -- in a worker -------------------------------------------------------------------------------------------------------


def unpack(luggage: Luggage, place: Path | None = None) -> None:
    """Make the modules those of this process, and let its children import them, too.

    Args:
        luggage: what the driver has packed.
        place: a folder that goes with the cluster, for the stubs that children find; None: one of its own.
    """
    sys.path.extend(directory for directory in luggage.folders if Path(directory).is_dir())
    if not luggage.modules:
        return
    for name in luggage.modules:  # of the same name, but another one
        present = sys.modules.get(name)
        if present is not None and vars(present).get("__file__") != luggage.modules[name][0]:
            del sys.modules[name]
    sys.argv = list(luggage.argv)
    imported.install(luggage.modules)
    sys.path.append(str(_stubs(luggage, place)))
    for name in luggage.loaded:
        try:
            importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001 the user's code; raised again where the module is needed
            log.warning("%s cannot be imported on this worker: %s", luggage.modules[name][0], described(error))
    settle(luggage)


def settle(luggage: Luggage) -> None:
    """Make the data in the modules what it is in the driver."""
    for name, values in luggage.data.items():
        if name in sys.modules:
            _settle(sys.modules[name], values)


def forget(before: Collection[str]) -> None:
    """Unload modules of the user's own that trials have imported since: a later run finds them as they are then."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for name in sys.modules.keys() - set(before):
        file = _file(sys.modules[name])
        if file is not None and not file.is_relative_to(library):
            del sys.modules[name]
    importlib.invalidate_caches()


def _stubs(luggage: Luggage, place: Path | None) -> Path:
    """The folder with the stubs; the workers of a machine share it."""
    if place is None:
        mine = Path(tempfile.mkdtemp(prefix="bilevel-study-"))
        imported.write(mine, luggage.modules)
        return mine
    shared = place / f"bilevel-study-{luggage.mark}"
    if not shared.exists():
        mine = Path(tempfile.mkdtemp(prefix="bilevel-study-", dir=place))
        imported.write(mine, luggage.modules)
        with contextlib.suppress(OSError):  # another worker was first
            mine.rename(shared)
            return shared
        for left in mine.iterdir():
            left.unlink()
        mine.rmdir()
    if shared.stat().st_uid != os.getuid():
        raise BadInput(f"{shared} belongs to another user; modules are not imported from there")
    return shared


def _settle(module: ModuleType, values: Mapping[str, bytes]) -> None:
    """Make the data in a module what it is in the driver; objects stay the same ones where they can be changed."""
    for name, pickled in values.items():
        theirs, mine = pickle.loads(pickled), vars(module).get(name)  # from our own driver, over Ray
        if isinstance(theirs, _Digest):
            if not isinstance(mine, torch.Tensor | np.ndarray) or _sha256(mine) != theirs.sha256:
                raise BadInput(
                    f"{module.__file__}: {name} is not on this worker what it is in the driver, and too large to be"
                    " sent; make it with a seed, or within the objective (run.cache keeps it)"
                )
        elif isinstance(theirs, _Weights):
            if isinstance(mine, torch.nn.Module):
                own = mine.state_dict()
                for key, tensor in theirs.tensors.items():
                    if key in own:
                        _agreed(own[key], tensor)
        else:
            setattr(module, name, _agreed(mine, theirs))


def _agreed(mine: Any, theirs: Any) -> Any:
    """Theirs, in the object that is mine if that can be."""
    if type(mine) is not type(theirs):
        return theirs
    if isinstance(mine, torch.Tensor):
        same = mine.shape == theirs.shape and mine.dtype == theirs.dtype and not mine.is_inference()
        if same and not torch.equal(mine, theirs):
            with torch.no_grad():
                mine.copy_(theirs)
        return mine if same else theirs
    if isinstance(mine, np.ndarray):
        if mine.shape != theirs.shape or mine.dtype != theirs.dtype or not mine.flags.writeable:
            return theirs
        mine[...] = theirs
    elif isinstance(mine, list):
        mine[:] = map(_agreed, mine, theirs) if len(mine) == len(theirs) else theirs
    elif isinstance(mine, dict):
        new = {key: _agreed(mine.get(key), value) for key, value in theirs.items()}
        mine.clear()
        mine.update(new)
    elif isinstance(mine, set):
        mine.clear()
        mine.update(theirs)
    else:
        return mine if mine is theirs else theirs
    return mine
