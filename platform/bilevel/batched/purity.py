"""Is a module a function of its weights, its inputs and a key? What it changes and draws besides, by name."""

from __future__ import annotations

import contextlib
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bilevel.batched.copies import duplicate
from bilevel.batched.generators import by_process, suspects
from bilevel.batched.network import Network
from bilevel.episodes import Key, guarded, keyed

_REPEATS = 3
_KEY = Key((11,))


@dataclass(frozen=True)
class Purity:
    """What a look at a module found.

    `notes` are to be said before anything runs; `unkeyed` is the one among them for which the same bits cannot be
    promised, or empty; `draws` names random numbers that forward draws for itself, or is empty: they are keyed task by
    task in the loop, and cannot be where all tasks are computed at once.
    """

    notes: tuple[str, ...] = ()
    unkeyed: str = ""
    draws: str = ""


def look(module: nn.Module, x: Tensor) -> Purity:
    """Run the module several times on inputs [samples, *shape]: under one key, and without putting anything back.

    The module is copied, and runs in its own types. One that does not work on `x` at all has nothing to show here.
    """
    like = next((p for p in module.parameters() if p.is_floating_point()), None)
    x = x.to(like.dtype) if like is not None and x.is_floating_point() else x
    with guarded():
        pure = Network(duplicate(module), batched=False)
        passes = [_pass(pure, x, training=training) for training in (True, False) for _ in range(_REPEATS)]
        if None in passes:
            return Purity()
        state = pure.state
        trained, judged = passes[:_REPEATS], passes[_REPEATS:]
        differ = not (_all_equal(trained) and _all_equal(judged))
        unkeyed = _why(module) if differ else _elsewhere(module)
        notes = _changes(state.seen, differ or _remembers(module, x))
        return Purity((*notes, *([unkeyed] if unkeyed else [])), unkeyed, _draws(module, x))


def _pass(network: Network, x: Tensor, *, training: bool) -> Tensor | None:
    """The output of one task, or None where there is none."""
    weights = {name: value.unsqueeze(0) for name, value in network.start().items()}
    try:
        with keyed(_KEY), torch.no_grad():
            return network(weights, x.unsqueeze(0), training=training, keys=[_KEY] if training else None)
    except Exception:  # noqa: BLE001  what it is that does not work, `verify` says
        return None


def _all_equal(passes: list[Tensor | None]) -> bool:
    first = passes[0]
    return first is not None and all(
        one is not None and one.shape == first.shape and torch.equal(_bits(one), _bits(first)) for one in passes
    )


def _bits(tensor: Tensor) -> Tensor:
    """Equal where the numbers are, and where both are none."""
    return torch.nan_to_num(tensor, nan=0.5)


def _remembers(module: nn.Module, x: Tensor) -> bool:
    """Whether a second pass differs when nothing is put back after the first."""
    network = Network(duplicate(module), batched=False)
    network.state.restores = False
    return any(
        not _all_equal([_pass(network, x, training=training) for _ in range(_REPEATS)]) for training in (True, False)
    )


def _changes(seen: dict[str, Any], remembers: bool) -> list[str]:
    """What forward changes, as far as it may matter: an activation that is kept, and never read, does not."""
    counted = [
        name
        for name, value in seen.items()
        if remembers or isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)
    ]
    if not counted:
        return []
    return [
        f"forward changes {', '.join(counted)}: every pass begins from the values at the start, as if it were the first"
    ]


def _why(module: nn.Module) -> str:
    named = suspects(module)
    by = f" ({'; '.join(named)})" if named else ""
    return (
        f"two passes on the same inputs under the same key differ{by}: the same bits cannot be promised, nor can an "
        "audit compare; draw from torch, numpy.random, random or a generator that the module holds, and keep no state"
    )


def _elsewhere(module: nn.Module) -> str:
    """What may differ from process to process, though it is the same within one."""
    named = by_process(module)
    if not named:
        return ""
    return (
        f"its code may give other numbers in each process ({'; '.join(named)}): the same bits cannot be promised, nor "
        "can an audit compare; Python's hash of a text, for one, differs by process, zlib.crc32 of its bytes does not"
    )


def _draws(module: nn.Module, x: Tensor) -> str:
    """Which random numbers forward draws where all tasks are computed at once."""
    network = Network(duplicate(module))
    weights = {name: value.unsqueeze(0) for name, value in network.start().items()}
    with keyed(_KEY), torch.no_grad():
        before = _states()
        with contextlib.suppress(Exception):  # what cannot be computed for many tasks at once, `verify` says
            network(weights, x.unsqueeze(0), keys=[_KEY])
        drawn = [name for name, state in _states().items() if state != before[name]]
    drawn += sorted(network.state.drawn)
    return f"forward draws random numbers of its own, from {', '.join(drawn)}" if drawn else ""


def _states() -> dict[str, Any]:
    """How the process's own generators stand."""
    numpy: Any = np.random.get_state(legacy=False)["state"]
    return {
        "torch": torch.get_rng_state().tolist(),
        "numpy.random": (numpy["key"].tolist(), numpy["pos"]),
        "random": random.getstate(),
    }
