"""What does an earlier run, or a file of weights, give to begin with?"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from pathlib import Path

from torch import Tensor, nn

from bilevel import manifest
from bilevel.batched import Network
from bilevel.batched.standing import persistent
from bilevel.episodes import Key
from bilevel.errors import BadInput, MissingData, RecordDamaged


def weights(path: str, start: str, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """What moves, `values` by name, as an earlier run's folder or a safetensors file has it.

    Raises:
        BadInput, MissingData: it cannot be read, or does not fit.
    """
    file, found = _read(path, start)
    loaded: dict[str, Tensor] = {}
    field = path.removeprefix("rule.")
    for name, value in values.items():
        tensor = found.get(f"{field}/{name}", found.get(name))
        if tensor is None:
            raise BadInput(f"{path}.start: {file} has no tensor {name!r}; it has {', '.join(sorted(found)[:6])}")
        if tensor.shape != value.shape:
            raise BadInput(f"{path}.start: {name!r} is {list(tensor.shape)} in {file}, here {list(value.shape)}")
        loaded[name] = tensor.to(value.dtype).clone()
    return loaded


def standing(path: str, start: str, network: Network, build: Callable[[Key], nn.Module]) -> Network:
    """The network on the buffers and frozen weights of an earlier run, or of a safetensors file.

    A run that was recorded without them is built again: its seed and its trial decided them.

    Args:
        path: of the field, such as `rule.init`.
        start: a run's folder, or a file.
        network: as it is built here.
        build: what the factory makes under a key.
    """
    file, found = _read(path, start)
    field = path.removeprefix("rule.")
    own, wanted = network.constants(), network.constants(new=True)
    named = {name: found.get(f"{field}/{name}", found.get(name)) for name in wanted}
    loaded = {name: tensor for name, tensor in named.items() if tensor is not None}
    missing = [name for name in own if name not in loaded]
    if missing and not loaded and not start.endswith(".safetensors"):
        trial, seed = _origin(path, Path(start))
        key = Key((seed,)).child("trial", trial, "learned").child(field)
        loaded = Network(build(key)).constants()
        warnings.warn(
            f"{path}.start: {file} was recorded without {', '.join(missing)}; built again from that run's seed {seed} "
            f"and trial {trial}, which is right as long as the factory is the same",
            stacklevel=2,
        )
    elif missing := [name for name in missing if name in persistent(network.module)]:
        warnings.warn(
            f"{path}.start: {file} has no {', '.join(missing)}; this stays as the factory makes it here", stacklevel=2
        )
    try:
        return network.holding(loaded)
    except BadInput as error:
        raise BadInput(f"{path}.start: {file}: {error}") from error


def _read(path: str, start: str) -> tuple[Path, dict[str, Tensor]]:
    import safetensors.torch  # only this needs it: a unit is computed with torch alone

    file = Path(start) if start.endswith(".safetensors") else Path(start) / "model" / "learned.safetensors"
    if not file.is_file():
        raise MissingData(f"{path}.start: no file {file}; give the folder of a finished run or a .safetensors file")
    try:
        return file, safetensors.torch.load(manifest.read(file))
    except (OSError, RecordDamaged, safetensors.SafetensorError) as error:
        raise BadInput(f"{path}.start: {file} cannot be read: {error}") from error


def _origin(path: str, folder: Path) -> tuple[int, int]:
    """The trial whose model a run's folder has, and the study's seed."""
    try:
        trial = json.loads((folder / "model" / "model.json").read_text(encoding="utf-8"))["trial"]
        seed = json.loads((folder / "study.json").read_text(encoding="utf-8"))["settings"]["seed"]
        return int(trial), int(seed)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(
            f"{path}.start: {folder} was recorded without buffers and frozen weights, and which seed and trial they "
            f"came from cannot be read: {type(error).__name__}: {error}; give a run of this version"
        ) from error
