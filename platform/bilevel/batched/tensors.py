"""How does a module compute for many tasks at once while it sees the shapes of a single one?"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from bilevel.batched.state import State
from bilevel.episodes import Key
from bilevel.errors import BadInput


class Unsupported(BadInput):
    """What cannot be computed for many tasks at once: `verify` makes it a verdict, `batched=False` goes without."""


@dataclass
class Statistics:
    """Mean and biased variance, [tasks, channels] each, of what every batch-normalization layer saw; differentiable.

    An empty one is filled by `Network(..., record=)` and read by `Network(..., use=)`. A layer that is passed several
    times in one forward pass has the statistics of all its passes together.

    `frozen` names layers that used their running statistics, which are left alone; `unseen` those whose own forward
    took statistics that could not be seen.
    """

    mean: dict[str, Tensor] = field(default_factory=dict)
    var: dict[str, Tensor] = field(default_factory=dict)
    frozen: set[str] = field(default_factory=set)
    unseen: set[str] = field(default_factory=set)

    def task(self, index: int) -> Statistics:
        """The statistics of one task, [channels] each, without the graph."""
        return Statistics(
            {name: value[index].detach() for name, value in self.mean.items()},
            {name: value[index].detach() for name, value in self.var.items()},
            set(self.frozen),
            set(self.unseen),
        )


@dataclass
class Call:
    """What one forward pass needs to know besides weights and inputs."""

    tasks: int
    training: bool
    keys: Sequence[Key] | None
    record: Statistics | None
    use: Statistics | None
    state: State | None = None
    dropouts: int = 0
    passes: dict[str, int] = field(default_factory=dict)
    inside: list[Any] = field(default_factory=list)
    """The batch normalizations (`modes.Part`) whose own forward is at work."""

    def mask(self, shape: Sequence[int], p: float, like: Tensor) -> Tensor:
        """The next dropout mask, [tasks, *shape], scaled by 1 / (1 - p): decided by each task's key and the call's
        place in the forward pass alone, so that it does not matter which tasks are computed side by side.
        """
        if self.keys is None:
            raise BadInput(
                f"this network has dropout (p={p}) and trains, but was given no keys; pass keys=, one a task"
            )
        self.dropouts += 1
        if p >= 1:
            return like.new_zeros(self.tasks, *shape)
        drawn = [
            torch.rand(
                tuple(shape), generator=key.child("dropout", self.dropouts).torch(), dtype=torch.float32, device="cpu"
            )
            for key in self.keys
        ]
        return torch.stack(drawn).ge_(p).to(device=like.device, dtype=like.dtype).div_(1 - p)

    def note(self, name: str, mean: Tensor, var: Tensor) -> None:
        """Write the statistics of one pass of a layer into `record`, together with its earlier passes."""
        if self.record is None:
            return
        n = self.passes.get(name, 0)
        self.passes[name] = n + 1
        if n:
            old, spread = self.record.mean[name], self.record.var[name]
            both = old + (mean - old) / (n + 1)
            var = spread + (var - spread) / (n + 1) + (mean - old) ** 2 * (n / (n + 1) ** 2)
            mean = both
        self.record.mean[name], self.record.var[name] = mean, var


current: ContextVar[Call] = ContextVar("current")

Rule = Callable[..., Any]
RULES: dict[str, Rule] = {}
"""By a function's name (`torch.relu`, `Tensor.relu` and `F.relu` are one): what computes it for many tasks."""


def rule(names: str) -> Callable[[Rule], Rule]:
    """Enter a rule under the names (parted by blanks) of the functions that it computes.

    It is called with the function and its arguments, of which at least one is `PerTask`.
    """

    def enter(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names.split(), function))
        return function

    return enter


_METADATA = """size dim ndimension numel nelement stride is_floating_point is_complex is_signed element_size __len__
    get_device is_contiguous storage_offset __hash__ __repr__"""
_FORBIDDEN = """__bool__ item tolist numpy __int__ __float__ __index__ __contains__ __array__ is_nonzero allclose equal
    nonzero masked_select unique backward requires_grad_"""
_UNKEYED = """bernoulli bernoulli_ rand_like randn_like randint_like normal_ uniform_ multinomial poisson rrelu
    alpha_dropout feature_alpha_dropout"""
METADATA, FORBIDDEN, UNKEYED = (frozenset(names.split()) for names in (_METADATA, _FORBIDDEN, _UNKEYED))


class PerTask(torch.Tensor):
    """A tensor [tasks, *shape] that shows `shape`; every function of it goes through a rule, or through vmap."""

    held: Tensor | None
    pending: Callable[[bool], Tensor] | None

    @staticmethod
    def __new__(cls, inner: Tensor, pending: Callable[[bool], Tensor] | None = None) -> PerTask:
        """Wrap `inner`, [tasks, *shape]; or, with `pending`, a value of its shape that is not computed yet.

        `pending(True)` is that value with ReLU behind it, which normalization does in the same breath.
        """
        self: PerTask = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape[1:], dtype=inner.dtype, device=inner.device
        )
        self.held = None if pending else inner
        self.pending = pending
        return self

    @property
    def each(self) -> Tensor:
        """[tasks, *shape]."""
        if self.held is None:
            self.held = self.pending(False)  # type: ignore[misc]
        return self.held

    @classmethod
    def __torch_function__(
        cls, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """The rule of `func`'s name; metadata as they show; in-place functions as new values; else vmap."""
        kwargs = dict(kwargs or {})
        name = getattr(func, "__name__", "")
        if name == "__get__":
            name = func.__self__.__name__  # type: ignore[attr-defined]
            if name not in ("T", "mT", "H", "mH", "data", "real", "imag", "grad"):
                with torch._C.DisableTorchFunctionSubclass():
                    return func(*args, **kwargs)
        if name in METADATA:
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if name in FORBIDDEN:
            raise Unsupported(f"'{name}' of a value that differs from task to task (data-dependent control flow)")
        if name in UNKEYED:
            raise Unsupported(f"'{name}' draws random numbers that no key decides")
        inplace = bool(kwargs.pop("inplace", False))
        if name.startswith("__i") and name in INPLACE:
            name, inplace = INPLACE[name], True
        elif name.endswith("_") and not name.endswith("__"):
            name, inplace = name[:-1], True
        if inplace:
            if not isinstance(args[0], PerTask):
                raise Unsupported(f"'{name}' in place writes values of many tasks into a tensor of one")
            func = getattr(torch.Tensor, name, None) or getattr(torch.nn.functional, name, None) or func
        found = RULES.get(name)
        result = found(func, *args, **kwargs) if found is not None else by_vmap(func, args, kwargs)
        if inplace:
            return _overwrite(args[0], result, name)
        return result

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Nothing may slip past the rules."""
        raise Unsupported(f"'{func}' went around the rules")

    def __repr__(self, *, tensor_contents: Any = None) -> str:  # type: ignore[override]
        return f"PerTask({tuple(self.shape)}, tasks={self.each.shape[0]})"


INPLACE = {
    "__iadd__": "add", "__isub__": "sub", "__imul__": "mul", "__itruediv__": "div", "__ipow__": "pow",
}  # fmt: skip


def _overwrite(target: PerTask, result: Any, name: str) -> PerTask:
    """Give `target` the value of an in-place function; the graph sees a new value, as it should."""
    if not isinstance(result, PerTask) or result.shape != target.shape or result.dtype != target.dtype:
        raise Unsupported(f"'{name}' in place changes shape or type")
    target.held, target.pending = result.each, None
    return target


def by_vmap(func: Callable[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """One function vectorized by torch: right for most of what has no rule here; `verify` guards it."""
    leaves, spec = pytree.tree_flatten((tuple(args), dict(kwargs)))
    where = [i for i, leaf in enumerate(leaves) if isinstance(leaf, PerTask)]

    def single(*values: Tensor) -> Any:
        filled = list(leaves)
        for i, value in zip(where, values, strict=True):
            filled[i] = value
        positional, named = pytree.tree_unflatten(filled, spec)
        return func(*positional, **named)

    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)  # slow, yet right
            result = torch.func.vmap(single)(*(leaves[i].each for i in where))
    except (RuntimeError, ValueError, TypeError, NotImplementedError) as error:
        name = getattr(func, "__name__", str(func))
        raise Unsupported(f"'{name}' has no rule and vmap refuses it: {str(error).splitlines()[0]}") from error
    return pytree.tree_map(lambda value: PerTask(value) if isinstance(value, Tensor) else value, result)


def raw(value: Any, tasks: int) -> Tensor:
    """[tasks, *shape] of a wrapped tensor; of a plain one, the same for all tasks."""
    if isinstance(value, PerTask):
        return value.each
    tensor: Tensor = value
    return tensor.expand(tasks, *tensor.shape)


def tasks_of(*values: Any) -> int:
    """How many tasks are side by side."""
    return next(int(value.each.shape[0]) for value in values if isinstance(value, PerTask))


def align(values: Sequence[Any], rank: int = 0) -> list[Any]:
    """Unwrapped, with axes of size 1 behind the tasks' axis so that usual broadcasting lines the tasks up."""
    rank = max([rank] + [value.dim() for value in values if isinstance(value, Tensor)])
    lined = []
    for value in values:
        if isinstance(value, PerTask):
            inner, missing = value.each, rank - value.dim()
            lined.append(inner if not missing else inner[(slice(None),) + (None,) * missing])
        else:
            lined.append(value)
    return lined
