"""Which random generators of its own does a module draw from, and how are they keyed?"""

from __future__ import annotations

import dis
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType, FunctionType
from typing import Any

import numpy as np
import torch
from torch import nn

from bilevel.episodes import Key

UNKEYED = frozenset(
    ("urandom", "getrandom", "SystemRandom", "secrets", "token_bytes", "randbits", "uuid4", "uuid1", "time", "time_ns",
     "perf_counter", "monotonic", "getpid", "default_rng", "Generator", "RandomState")
)  # fmt: skip
"""Names of what gives other numbers each time, or makes a generator; looked for where a module's passes differ."""
BY_PROCESS = frozenset(("getpid", "gethostname"))
"""Names of what gives one number in a process and another in the next, which no pass can show."""


@dataclass(frozen=True)
class Held:
    """A generator by the name under which the module has it."""

    name: str
    state: Callable[[], Any]
    restore: Callable[[Any], Any]
    seed: Callable[[int], Any]

    def key(self, key: Key) -> None:
        """Let it give what the key decides."""
        self.seed(key.child("generator", self.name).integer())


def held(module: nn.Module) -> list[Held]:
    """Generators of torch, numpy and Python among the attributes of the user's parts, and the globals and closures that
    their methods name.
    """
    found: dict[int, Held] = {}
    for prefix, part in module.named_modules():
        if is_library(type(part)):
            continue
        for name, value in _reached(part):
            generator = _generator(f"{prefix}.{name}" if prefix else name, value)
            if generator is not None:
                found.setdefault(id(value), generator)
    return list(found.values())


def suspects(module: nn.Module) -> list[str]:
    """Names in the code of the user's parts that stand for numbers which no key decides."""
    return _found(module, lambda function: UNKEYED.intersection(_names(function.__code__)), but=("__init__",))


def by_process(module: nn.Module) -> list[str]:
    """Names in the code of the user's parts that stand for what is the same in one process, and not in the next."""
    return _found(module, _by_process, but=("__hash__", "__eq__"))


def _found(module: nn.Module, look: Callable[[FunctionType], Iterable[str]], *, but: tuple[str, ...]) -> list[str]:
    found: dict[str, None] = {}
    for part in module.modules():
        if not is_library(type(part)):
            for function in _methods(type(part)):
                if function.__name__ not in but:
                    found |= {f"{type(part).__name__} names {name}": None for name in sorted(look(function))}
    return list(found)


def _by_process(function: FunctionType) -> set[str]:
    """Of a method: Python's own `hash`, not one of the user's, and names of the process and of its machine."""
    loads = (i for code in _codes(function.__code__) for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL")
    own = {"hash"} if any(i.argval == "hash" for i in loads) and "hash" not in function.__globals__ else set()
    return own | BY_PROCESS.intersection(_names(function.__code__))


def is_library(kind: type) -> bool:
    """Whether a class of modules is torch's or ours: their forwards are known to keep to what they should."""
    return kind.__module__.startswith(("torch.nn.", "torch.ao.", "bilevel."))


def _generator(name: str, value: Any) -> Held | None:
    if isinstance(value, torch.Generator):
        return Held(name, value.get_state, value.set_state, value.manual_seed)
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return Held(name, value.getstate, value.setstate, value.seed)
    if isinstance(value, np.random.RandomState):
        return Held(name, value.get_state, value.set_state, lambda seed: value.seed(seed % 2**32))
    if isinstance(value, np.random.Generator):
        bits: Any = value.bit_generator
        return Held(name, lambda: bits.state, lambda s: setattr(bits, "state", s), lambda n: _reseed(bits, n))
    return None


def _reseed(bits: Any, number: int) -> None:
    bits.state = type(bits)(number).state


def _reached(part: nn.Module) -> Iterator[tuple[str, Any]]:
    """Attributes, what is directly inside of containers and plain objects there, and what methods name."""
    for name, value in part.__dict__.items():
        yield name, value
        if isinstance(value, Mapping) and name not in ("_modules", "_parameters", "_buffers"):
            yield from ((f"{name}.{key}", item) for key, item in value.items())
        elif isinstance(value, list | tuple):
            yield from ((f"{name}.{index}", item) for index, item in enumerate(value))
        elif hasattr(value, "__dict__") and not isinstance(value, type):
            yield from ((f"{name}.{key}", item) for key, item in vars(value).items())
        if isinstance(value, FunctionType):
            yield from _named(value)
    for function in _methods(type(part)):
        yield from _named(function)


def _methods(kind: type) -> Iterator[FunctionType]:
    for base in kind.__mro__:
        if base is not object and not is_library(base):
            yield from (value for value in vars(base).values() if isinstance(value, FunctionType))


def _named(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """What a function's code names among its globals, and its closure."""
    for name in _names(function.__code__):
        if name in function.__globals__:
            yield f"global {name}", function.__globals__[name]
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            yield f"closure {name}", cell.cell_contents
        except ValueError:  # not filled yet
            continue


def _names(code: CodeType) -> Iterator[str]:
    for one in _codes(code):
        yield from one.co_names


def _codes(code: CodeType) -> Iterator[CodeType]:
    """A function's code, and that of what is defined within."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)
