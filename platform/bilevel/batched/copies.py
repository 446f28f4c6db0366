"""How is a module copied, and how does it travel, whatever it keeps?"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeVar

from torch import Tensor, nn
from torch.nn.utils import parametrize

from bilevel.errors import BadInput

M = TypeVar("M", bound=nn.Module)


def duplicate(module: M) -> M:
    """A deep copy. Values that a forward pass left behind (`self.last = h`, an old weight norm's weight) lose their
    graph: torch copies no tensor that stems from others.

    Raises:
        BadInput: the module holds something that cannot be copied.
    """
    memo: dict[int, Any] = {}
    for part in module.modules():
        for tensor in _tensors(part.__dict__.values()):
            if not tensor.is_leaf:
                memo[id(tensor)] = tensor.detach().clone()
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:  # whatever a user's attribute raises
        reason = (str(error).splitlines() or [""])[0]
        raise BadInput(
            f"the network {type(module).__name__} cannot be copied: {type(error).__name__}: {reason}; make what cannot "
            "be copied inside of forward"
        ) from error


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among the values and in containers of them; submodules are not entered."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, Mapping):
            yield from _tensors(v for v in value.values() if not isinstance(v, nn.Module))
        elif isinstance(value, list | tuple | set):
            yield from _tensors(value)


def let_travel(module: nn.Module) -> None:
    """Let every parametrized part of the module be pickled, by any pickler.

    torch refuses to pickle them, because each has a class of its own, made when it was parametrized (which is why
    changing that class concerns no other module). What travels is the class from before and the attributes; over
    there the class is made again.
    """
    for part in module.modules():
        if parametrize.is_parametrized(part):
            setattr(type(part), "__reduce_ex__", _reduce)  # noqa: B010  it is torch's own making


def _reduce(part: nn.Module, _protocol: Any) -> tuple[Any, ...]:
    kind: Any = parametrize.type_before_parametrizations(part)
    return _unparametrized, (kind,), kind.__getstate__(part), None, None, _restore


def _unparametrized(kind: type[nn.Module]) -> nn.Module:
    return kind.__new__(kind)


def _restore(part: nn.Module, attributes: dict[str, Any]) -> None:
    kind: Any = type(part)
    part.__dict__.update(attributes)
    parametrize._inject_new_class(part)
    for name in attributes["_modules"]["parametrizations"]:
        parametrize._inject_property(part, name)
    kind.__setstate__(part, attributes)
    let_travel(part)
