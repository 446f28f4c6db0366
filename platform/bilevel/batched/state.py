"""What may a forward pass change in a module, and how is it as before when the pass is over?"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bilevel.batched.generators import Held, held, is_library
from bilevel.episodes import Key, ambient
from bilevel.errors import BadInput

_CONTAINERS = (list, dict, set, deque, bytearray)
_OF_EVERY_MODULE = frozenset(nn.Module().__dict__)
_SMALL = 65536  # numbers in a tensor up to which its values are compared after every pass
_FIRST = 4  # passes after which those of larger ones are compared too
_GONE = object()


@dataclass
class _Table:
    """Attributes, or buffers, of a part by name."""

    prefix: str
    entries: dict[str, Any]
    notes: bool
    """Whether a change is worth a word: running statistics of a normalization follow a policy of ours."""


class State:
    """What a module holds besides weights, as every forward pass finds it: a pass is a function of its arguments.

    A pass may write buffers and attributes, count its calls, draw from a generator that the module holds. Afterwards
    all is as before: else a result would depend on the passes that this process happened to do earlier.
    """

    def __init__(self, module: nn.Module) -> None:
        self.seen: dict[str, Any] = {}
        """What passes have changed: by name, what it became."""
        self.drawn: set[str] = set()
        """Names of the generators that passes have drawn from."""
        self.restores = True
        self._passes = 0
        self._generators: list[Held] = held(module)
        self._tables: list[_Table] = []
        self._frozen: list[tuple[str, Tensor]] = []
        self._clones: dict[int, tuple[Tensor, Tensor]] = {}  # by id: the tensor, and its values
        for prefix, part in module.named_modules():
            dot = f"{prefix}." if prefix else ""
            if not is_library(type(part)) or part._forward_pre_hooks or part._forward_hooks:
                self._tables.append(_Table(dot, part.__dict__, True))
            if part._buffers:
                notes = not isinstance(part, nn.modules.batchnorm._NormBase)
                self._tables.append(_Table(dot, part._buffers, notes))
            frozen = (item for item in part._parameters.items() if item[1] is not None and not item[1].requires_grad)
            self._frozen += [(dot + name, parameter) for name, parameter in frozen if parameter is not None]
        for table in self._tables:
            for value in table.entries.values():
                self._clone(value)

    @contextmanager
    def kept(self, key: Key | None) -> Iterator[None]:
        """Around one forward pass; generators that the module holds give what `key` decides, or the unit of work."""
        before = [(table, dict(table.entries), _contents(table)) for table in self._tables]
        versions = [(t, _version(t)) for _, entries, _ in before for t in entries.values() if self._clone(t)]
        if len(self._clones) > len(versions):  # of tensors that are no longer there
            self._clones = {id(tensor): self._clones[id(tensor)] for tensor, _ in versions}
        frozen = [_version(parameter) for _, parameter in self._frozen]
        states = [generator.state() for generator in self._generators]
        key = ambient() if key is None and self._generators else key
        if key is not None:
            for generator in self._generators:
                generator.key(key)
        begun = [generator.state() for generator in self._generators] if self._passes < _FIRST else []
        try:
            yield
        finally:
            for generator, start in zip(self._generators, begun, strict=False):
                if not _same(generator.state(), start):
                    self.drawn.add(generator.name)
            for generator, state in zip(self._generators, states, strict=True):
                generator.restore(state)
            changed = {id(tensor) for tensor, version in versions if self._changed(tensor, version)}
            fresh: dict[int, Tensor] = {}
            for table, entries, contents in before:
                self._restore(table, entries, contents, changed, fresh)
            self._passes += 1
        for (name, parameter), version in zip(self._frozen, frozen, strict=True):
            if _version(parameter) != version:
                raise BadInput(
                    f"the network writes into its frozen weight {name!r} in forward; its steps must not depend on "
                    "passes before: make it a buffer, or compute the value anew"
                )

    def _restore(
        self,
        table: _Table,
        entries: dict[str, Any],
        contents: dict[str, Any],
        changed: set[int],
        fresh: dict[int, Tensor],
    ) -> None:
        now = table.entries
        moved = {n: now.get(n, _GONE) for n, value in entries.items() if now.get(n, _GONE) is not value}
        moved |= {n: value for n, value in now.items() if n not in entries}
        moved |= {n: value for n, value in entries.items() if id(value) in changed}
        for name, kept in contents.items():
            value = entries[name]
            if not _alike(value, kept):
                moved[name] = value
                if self.restores:
                    _refill(value, kept)
        moved.pop("training", None)
        if not moved:
            return
        if table.notes:
            self.seen |= {table.prefix + name: value for name, value in moved.items()}
        if not self.restores:
            return
        for name, value in entries.items():
            if id(value) in changed:  # a new tensor: the graph of this pass may hold the one that was written
                entries[name] = fresh.setdefault(id(value), self._clones[id(value)][1].clone())
                self._clone(entries[name])
        now.clear()
        now.update(entries)

    def _clone(self, value: Any) -> bool:
        """Keep the values of a tensor that is held beside the weights; whether it is one."""
        if not isinstance(value, Tensor) or not value.is_leaf or value.is_inference() or value.is_meta:
            return False
        if id(value) not in self._clones or self._clones[id(value)][0] is not value:
            self._clones[id(value)] = value, value.detach().clone()
        return True

    def _changed(self, tensor: Tensor, version: int) -> bool:
        if tensor._version != version:
            return True
        if (tensor.numel() > _SMALL and self._passes >= _FIRST) or tensor.layout != torch.strided:
            return False
        return not _equal(tensor.detach(), self._clones[id(tensor)][1])  # `.data` leaves the version as it is


def _contents(table: _Table) -> dict[str, Any]:
    """Copies, one level deep, of the containers among a part's own attributes."""
    own = ((n, v) for n, v in table.entries.items() if n not in _OF_EVERY_MODULE and isinstance(v, _CONTAINERS))
    return {name: value.copy() for name, value in own}


def _alike(one: Any, other: Any) -> bool:
    """Whether two containers hold the very same objects."""
    if len(one) != len(other):
        return False
    if isinstance(one, dict):
        return all(other.get(key, _GONE) is value for key, value in one.items())
    if isinstance(one, set | bytearray):
        return bool(one == other)
    return all(a is b for a, b in zip(one, other, strict=True))


def _refill(container: Any, kept: Any) -> None:
    container.clear()
    if isinstance(container, dict | set):
        container.update(kept)
    else:
        container.extend(kept)


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _equal(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one, other) or bool(((one == other) | ((one != one) & (other != other))).all())


def _same(one: Any, other: Any) -> bool:
    """Whether two states of a generator are one."""
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return all(_same(value, other[name]) for name, value in one.items())
    if isinstance(one, tuple):
        return all(_same(a, b) for a, b in zip(one, other, strict=True))
    return bool((one == other).all()) if hasattr(one, "all") else bool(one == other)
