"""On what does a module stand that no step moves: buffers, frozen weights, tensors among its attributes?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from bilevel import trees
from bilevel.errors import BadInput


def constants(module: nn.Module, *, new: bool = False) -> dict[str, Tensor]:
    """Copies by name. Running statistics as a new normalization layer has them say nothing: only with `new`."""
    return {
        name: tensor.detach().clone()
        for name, (part, tensor) in _found(module).items()
        if new or not (isinstance(part, nn.modules.batchnorm._NormBase) and _new(name, tensor))
    }


def hold(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Give the module's constants other values, in place.

    Raises:
        BadInput: the module has no such constant, or one of another shape.
    """
    found = _found(module)
    for name, value in values.items():
        if name not in found:
            known = ", ".join(found) or "none"
            raise BadInput(f"the network has no buffer or frozen weight {name!r}; it has {known}")
        tensor = found[name][1]
        if tensor.shape != value.shape:
            raise BadInput(f"the network's {name!r} is {list(tensor.shape)}; it cannot take {list(value.shape)}")
        if tensor.device.type == "meta" or not torch.equal(tensor, value.to(tensor)):
            with torch.no_grad():
                tensor.copy_(value)


def persistent(module: nn.Module) -> set[str]:
    """Names of the constants that `state_dict` has."""
    return set(_found(module)) & set(module.state_dict())


def _found(module: nn.Module) -> dict[str, tuple[nn.Module, Tensor]]:
    """Each constant with the part that it belongs to; what is in several places counts once."""
    found: dict[str, tuple[nn.Module, Tensor]] = {}
    seen: set[int] = set()
    for prefix, part in module.named_modules():
        for local, tensor in _own(part):
            if id(tensor) not in seen:
                seen.add(id(tensor))
                found[f"{prefix}.{local}" if prefix else local] = part, tensor
    return found


def _own(part: nn.Module) -> Iterator[tuple[str, Tensor]]:
    computed = {h.name for h in part._forward_pre_hooks.values() if isinstance(h, WeightNorm | SpectralNorm)}
    frozen = {n: p for n, p in part._parameters.items() if p is not None and not p.requires_grad}
    attributes = {n: v for n, v in part.__dict__.items() if isinstance(v, Tensor) and n not in computed}
    for name, tensor in {**frozen, **part._buffers, **attributes}.items():
        if tensor is not None and not is_lazy(tensor) and tensor.is_leaf and _recorded(tensor):
            yield name, tensor


def _recorded(tensor: Tensor) -> bool:
    """Whether a checkpoint can hold it."""
    return tensor.layout == torch.strided and not tensor.is_quantized and tensor.dtype in trees.KEPT


def _new(name: str, tensor: Tensor) -> bool:
    """Whether it is a running statistic before anything was averaged: means of 0, variances of 1, no batches."""
    last = name.rpartition(".")[2]
    if last not in ("running_mean", "running_var", "num_batches_tracked"):
        return False
    return bool((tensor == (1 if last == "running_var" else 0)).all())
