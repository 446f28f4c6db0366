"""Which parts of a module follow a policy of ours, and in which mode and with which buffers is each for one call?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from bilevel.batched.tensors import Call, PerTask

_BATCH, _INSTANCE = nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm
_FORWARDS: dict[type[nn.Module], Callable[..., Any]] = {
    base: base.forward for base in (_BATCH, _INSTANCE)
}  # as torch has them
_OF_EVERY_CLASS = {"__init__", "__doc__", "__module__", "__annotations__", "__static_attributes__", "__firstlineno__"}
_HARMLESS = _OF_EVERY_CLASS | {"__constants__", "_version", "extra_repr", "reset_parameters", "_check_input_dim"}


@dataclass(frozen=True)
class Part:
    """A part of a module by name.

    `batch` and `instance`: it normalizes over the batch, or over each sample, by the statistics at hand. `still`: the
    user keeps it in eval mode, where a normalization that has running statistics uses them (and is neither of the
    two). `own`: it normalizes by a forward that is not torch's.
    """

    name: str
    module: nn.Module
    batch: bool
    instance: bool
    still: bool
    own: bool


def parts_of(module: nn.Module) -> list[Part]:
    """All parts of a module, with the modes in which its user has put them.

    In eval mode is what was built so, and what an overridden `train()` leaves so.
    """
    named = list(module.named_modules())
    still = {name for name, part in named if not part.training} | _kept_by_train(module, named)
    return [_part(name, part, name in still) for name, part in named]


def _part(name: str, module: nn.Module, still: bool) -> Part:
    frozen = still and getattr(module, "running_mean", None) is not None
    batch, instance = isinstance(module, _BATCH) and not frozen, isinstance(module, _INSTANCE) and not frozen
    own = (batch and not _is_plain(module, _BATCH)) or (instance and not _is_plain(module, _INSTANCE))
    return Part(name, module, batch, instance, still, own)


def _kept_by_train(module: nn.Module, named: Sequence[tuple[str, nn.Module]]) -> set[str]:
    """What stays in eval mode when the module is put in training mode, as before every usual training."""
    if all(type(part).train is nn.Module.train and "train" not in vars(part) for _, part in named):
        return set()
    before = [part.training for _, part in named]
    try:
        module.train()
        return {name for name, part in named if not part.training}
    finally:
        for (_, part), mode in zip(named, before, strict=True):
            part.training = mode


def _is_plain(part: nn.Module, base: type[nn.Module]) -> bool:
    """Whether torch's own forward of `base` is what a part computes: neither a subclass nor its user has changed it."""
    line = type(part).__mro__
    methods = {name for kind in line[line.index(base) : line.index(nn.Module)] for name in vars(kind)} - _HARMLESS
    changed = {name for kind in line[: line.index(base)] for name in vars(kind)} | vars(part).keys()
    return base.forward is _FORWARDS[base] and not methods & changed


@contextmanager
def changed(
    parts: Sequence[Part], call: Call, forward: Callable[[Part], Callable[..., Any] | None], *, batched: bool
) -> Iterator[None]:
    """Within, each part of a module is in the mode of a call and has the forward that `forward` gives, if any.

    Normalizations by the statistics at hand are in training mode throughout, so that one which the user's forward puts
    in eval mode is known. With `call.use` those whose statistics are given have them for running ones, in eval mode.
    What layers write into their buffers is gone afterwards.
    """
    before: list[tuple[Part, bool, dict[str, Any], dict[str, Tensor | None]]] = []
    try:
        for part in parts:
            own = part.module.__dict__
            kept = {name: own[name] for name in _TEMPORARY if name in own}
            before.append((part, part.module.training, kept, dict(part.module._buffers)))
            _set_mode(part.module, not part.still and (call.training or part.batch or part.instance))
            replaced = forward(part)
            if replaced is not None:
                own["forward"] = replaced
            if part.batch or part.instance:
                _lend_buffers(part, call, batched)
            elif isinstance(part.module, nn.RNNBase):
                own["flatten_parameters"] = _nothing
        yield
    finally:
        for part, mode, kept, buffers in reversed(before):
            for name in _TEMPORARY:
                part.module.__dict__.pop(name, None)
            part.module.__dict__.update(kept)
            _set_mode(part.module, mode)
            if part.batch or part.instance:
                part.module._buffers.clear()
                part.module._buffers.update(buffers)


def _set_mode(module: nn.Module, training: bool) -> None:
    if "training" in module.__dict__:
        module.__dict__["training"] = training  # several times as fast as by setattr
    else:
        module.training = training  # of a scripted module, elsewhere


def _lend_buffers(part: Part, call: Call, batched: bool) -> None:
    """Buffers that a layer's forward may write; or, for running ones, the statistics that it is given."""
    own, buffers = part.module.__dict__, part.module._buffers
    if part.own:
        buffers.update({name: _copy(value, call.tasks if batched else None) for name, value in buffers.items()})
    elif "num_batches_tracked" in buffers:
        buffers["num_batches_tracked"] = None
    if call.use is not None and part.batch and part.name in call.use.mean:
        given = call.use.mean[part.name], call.use.var[part.name]
        buffers["running_mean"], buffers["running_var"] = (PerTask(v) if batched else v[0] for v in given)
        own["training"], own["track_running_stats"] = False, True


_TEMPORARY = ("training", "forward", "track_running_stats", "flatten_parameters", "_flat_weights", "_flat_weight_refs")


def _copy(value: Tensor | None, tasks: int | None) -> Tensor | None:
    if value is None or tasks is None or not value.is_floating_point():
        return None if value is None else value.clone()
    return PerTask(value.repeat(tasks, *[1] * value.dim()))


def _nothing() -> None:
    """Weights that belong to one call are not laid out anew for a GPU's kernels."""
