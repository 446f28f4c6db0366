"""How is what goes to a worker pickled: what is imported there by name, what runs in a notebook's cells by value?"""

from __future__ import annotations

import functools
import importlib
import io
import pickle
import sys
import types
from collections.abc import Container
from typing import Any

from torch import nn

from bilevel.batched.copies import let_travel
from bilevel.execute import cluster  # noqa: F401 the variables that it sets for Ray
from bilevel.execute.luggage import Luggage

import ray  # isort: skip


def dumps(thing: Any, luggage: Luggage) -> bytes:
    """Pickled for a worker that has the luggage; what no module has by its name goes along by value.

    A function that goes by value, such as a lambda in a study's file, works there on the globals of its module: a
    module is there once.
    """
    for name in luggage.lost:
        if name in sys.modules:
            ray.cloudpickle.register_pickle_by_value(sys.modules[name])
    with io.BytesIO() as file:
        _Pickler(file, luggage.modules).dump(thing)
        return file.getvalue()


class _Pickler(ray.cloudpickle.Pickler):  # type: ignore[misc]
    def __init__(self, file: io.BytesIO, modules: Container[str]) -> None:
        super().__init__(file, protocol=pickle.HIGHEST_PROTOCOL)
        self._modules = modules

    def reducer_override(self, thing: Any) -> Any:
        if type(thing) is functools.cached_property:  # Python 3.11 has a lock in it, which cannot be pickled
            return _cached_property, (thing.func, thing.attrname)
        if isinstance(thing, nn.Module):  # torch refuses those that are parametrized
            let_travel(thing)
        return super().reducer_override(thing)

    def _dynamic_function_reduce(self, function: types.FunctionType) -> Any:
        reduced = super()._dynamic_function_reduce(function)
        name = function.__globals__.get("__name__")
        module = sys.modules.get(name) if isinstance(name, str) else None
        if module is None or name not in self._modules or vars(module) is not function.__globals__:
            return reduced
        _, (code, *_, closure), (state, slots), *rest = reduced
        return _function, (name, code, closure), (state, {**slots, "__globals__": {}}), *rest


def _cached_property(function: Any, name: str | None) -> Any:
    made: functools.cached_property[Any] = functools.cached_property(function)
    made.attrname = name
    return made


def _function(module: str, code: types.CodeType, closure: Any) -> types.FunctionType:
    return types.FunctionType(code, vars(importlib.import_module(module)), None, None, closure)
