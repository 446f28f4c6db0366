"""How does a module become a pure function of weights and inputs over a batch of tasks?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bilevel import trees
from bilevel.batched import attention, functions, layers, loop, standing
from bilevel.batched.constants import Constants
from bilevel.batched.copies import duplicate, let_travel
from bilevel.batched.modes import Part, changed, parts_of
from bilevel.batched.state import State
from bilevel.batched.tensors import Call, PerTask, Statistics, Unsupported, current
from bilevel.episodes import Key
from bilevel.errors import BadInput

_RULEBOOKS = (functions, attention, layers)  # entered when imported


class Network:
    """A module as a pure function of weights and inputs over a batch of tasks, each task with weights of its own.

    Values, first and second derivatives are those of the module run on one task after another; `verify` shows whether
    that holds for a given module. Buffers and parameters with `requires_grad=False` are constants, used on the device
    of the inputs wherever the module lies. Batch normalization uses the statistics of the batch at hand (or those given
    by `use`). Running ones, which are never updated, are used by what the user keeps in eval mode: built so, left so by
    a `train()` of her own, or put so in forward.

    Args:
        module: the structure; the values of its trainable parameters are only used by `start`.
        batched: False computes one task after another with torch's own layers (the loop).
    """

    module: nn.Module
    batched: bool
    state: State
    """What the module holds besides weights: every pass finds it as it was built."""
    by_batch: tuple[str, ...]
    """Names of the normalizations over the batch, so that a sample's output depends on the other samples."""
    frozen: tuple[str, ...]
    """Names of those that their user keeps in eval mode, with running statistics."""
    unseen: tuple[str, ...] = ()
    """Of `by_batch` those whose own forward takes statistics out of sight, so that they cannot be given any."""

    def __init__(self, module: nn.Module, *, batched: bool = True) -> None:
        self.module = module
        self.batched = batched
        self.state = State(module)
        self._parts = parts_of(module)
        self._places: list[tuple[str, nn.Module, str]] = []
        names: dict[int, str] = {}
        for prefix, part in module.named_modules():
            for local, parameter in part._parameters.items():
                if parameter is not None and parameter.requires_grad:
                    name = names.setdefault(id(parameter), f"{prefix}.{local}" if prefix else local)
                    self._places.append((name, part, local))
        self.by_batch = tuple(part.name for part in self._parts if part.batch)
        norms = (part for part in self._parts if isinstance(part.module, nn.modules.batchnorm._NormBase))
        self.frozen = tuple(part.name for part in norms if not (part.batch or part.instance))
        self._constants = Constants(list(module.modules()))

    @property
    def normalizes(self) -> bool:
        """Whether a sample's output depends on the other samples of the batch (batch normalization)."""
        return bool(self.by_batch)

    def observe(self, seen: Statistics) -> None:
        """Take from a pass with `record=seen` which normalizations are at work, and by which statistics."""
        self.by_batch, self.unseen = (*seen.mean, *sorted(seen.unseen)), tuple(sorted(seen.unseen))
        self.frozen = tuple(sorted({*self.frozen, *seen.frozen}))

    def start(self) -> dict[str, Tensor]:
        """The module's trainable parameters by name, detached copies; tied ones once, under their first name."""
        return {name: p.detach().clone() for name, p in self.module.named_parameters() if p.requires_grad}

    def constants(self, *, new: bool = False) -> dict[str, Tensor]:
        """What no step moves, by name, copies: buffers, frozen parameters, tensors that are plain attributes.

        They decide what the network computes and belong to what is learned. Running statistics as a new layer has them
        are left out unless `new` asks for them.
        """
        return standing.constants(self.module, new=new)

    def holding(self, values: Mapping[str, Tensor]) -> Network:
        """The network with other constants; this one stays as it is.

        Raises:
            BadInput: a name that is none of its constants', or another shape.
        """
        module = duplicate(self.module)
        standing.hold(module, values)
        other = Network(module, batched=self.batched)
        other.by_batch, other.frozen, other.unseen = self.by_batch, self.frozen, self.unseen
        return other

    def __getstate__(self) -> dict[str, Any]:
        let_travel(self.module)
        return {name: value for name, value in self.__dict__.items() if name != "state"}

    def __setstate__(self, attributes: dict[str, Any]) -> None:
        self.__dict__.update(attributes)
        self.state = State(self.module)

    def spread(self, start: dict[str, Tensor], tasks: int) -> dict[str, Tensor]:
        """`start` {name: [*shape]} as the weights of every task, {name: [tasks, *shape]}; differentiable, no copies.

        Any expanded tensors serve; these lie in memory as the convolutions want them, which saves time.
        """
        kernels = {
            f"{name}.weight" if name else "weight"
            for name, part in self.module.named_modules()
            if isinstance(part, nn.Conv2d) and self.batched
        }
        return {
            name: (value.contiguous(memory_format=torch.channels_last) if name in kernels else value).expand(
                tasks, *value.shape
            )
            for name, value in start.items()
        }

    def __call__(
        self,
        weights: dict[str, Tensor],
        x: Any,
        *,
        training: bool = True,
        keys: Sequence[Key] | None = None,
        record: Statistics | None = None,
        use: Statistics | None = None,
    ) -> Tensor:
        """Outputs [tasks, samples, ...] for `x` [tasks, samples, ...] and `weights` {name: [tasks, *shape]}.

        Args:
            weights: as named by `start`.
            x: inputs of each task; a dict or tuple of tensors where the module takes one.
            training: False turns dropout off.
            keys: one a task; dropout masks are functions of them alone. Needed where dropout is at work.
            record: filled with the statistics that batch normalization used.
            use: statistics, recorded earlier, that batch normalization uses instead of the batch's own.

        Raises:
            BadInput: weights do not fit; dropout without keys; batch normalization over a single value.
        """
        tasks = len(_first(x))
        if keys is not None and len(keys) != tasks:
            raise BadInput(f"{len(keys)} keys for {tasks} tasks; give one key a task")
        self._check(weights, tasks)
        call = Call(tasks, training, keys, record, use, self.state)
        device = _first(x).device
        with self._constants.on(device), _made_on(device):
            if not self.batched:
                return loop.forward(self.module, self._parts, weights, x, call)
            return self._side_by_side(weights, x, call)

    def _side_by_side(self, weights: dict[str, Tensor], x: Any, call: Call) -> Tensor:
        token = current.set(call)
        try:
            ours = changed(self._parts, call, partial(_own_forward, call), batched=True)
            with self.state.kept(None), self._filled(weights), ours:
                out = self.module(trees.map_tensors(PerTask, x))
        finally:
            current.reset(token)
        if isinstance(out, PerTask):
            return out.each
        if not isinstance(out, Tensor):
            raise Unsupported(f"the network returns a {type(out).__name__}, not one tensor")
        return out.expand(call.tasks, *out.shape)

    def adapted(self, weights: dict[str, Tensor], statistics: Statistics | None = None) -> nn.Module:
        """Plain torch: a copy of the module with the weights of one task, in eval mode, on the weights' device.

        With `statistics` (of one task, see `Statistics.task`) batch normalization uses them, so that one query at a
        time gives the same answer as all at once; without, it uses the statistics of the batch at hand.

        Args:
            weights: {name: [*shape]}, no axis of tasks.
            statistics: {layer: [channels]}, or None.
        """
        module = duplicate(self.module)
        if weights:
            module.to(device=next(iter(weights.values())).device)
        parameters = dict(module.named_parameters())
        with torch.no_grad():
            for name, value in weights.items():
                parameters[name].copy_(value)
        module.eval()
        for name in (part.name for part in self._parts if part.batch or part.instance):
            part: Any = module.get_submodule(name)
            if statistics is not None and name in statistics.mean:
                part.track_running_stats = True
                part.running_mean = statistics.mean[name].detach().clone().flatten()
                part.running_var = statistics.var[name].detach().clone().flatten()
            elif isinstance(part, nn.modules.instancenorm._InstanceNorm):
                part.track_running_stats, part.momentum = False, 0.0  # each sample's own; running ones stay as they are
            elif statistics is None:
                part.track_running_stats = False
                part.running_mean = part.running_var = part.num_batches_tracked = None
            elif name in statistics.unseen:
                part.train()  # its own forward takes the statistics of the batch at hand in training mode alone
        return module

    def _check(self, weights: dict[str, Tensor], tasks: int) -> None:
        for name, part, local in self._places:
            value, shape = weights.get(name), part._parameters[local].shape  # type: ignore[union-attr]
            if value is None or value.shape != (tasks, *shape):
                given = "missing" if value is None else tuple(value.shape)
                raise BadInput(f"weight '{name}' is {given}; wanted {(tasks, *shape)}: [tasks, *shape] as in start()")

    @contextmanager
    def _filled(self, weights: dict[str, Tensor]) -> Iterator[None]:
        """Within, the trainable parameters, at all their places, are the given weights."""
        before = [(part._parameters, local, part._parameters[local]) for _, part, local in self._places]
        try:
            for name, part, local in self._places:
                part._parameters[local] = PerTask(weights[name])  # type: ignore[assignment]
            yield
        finally:
            for table, local, parameter in before:
                table[local] = parameter


def _first(x: Any) -> Tensor:
    """A tensor of these inputs."""
    while not isinstance(x, Tensor):
        x = next(iter(x.values() if isinstance(x, dict) else x))
    return x


def _made_on(device: torch.device) -> AbstractContextManager[Any]:
    """Within, tensors that a forward makes without naming a device lie there: zeros to start from, positions."""
    return nullcontext() if device.type == "cpu" else device


def _own_forward(call: Call, part: Part) -> Callable[..., Any] | None:
    """The rule of a layer over many tasks, if it has one; a subclass with a forward of its own computes itself."""
    if not part.batch:
        return None
    return layers.watched(part, call, part.module.forward) if part.own else layers.batch_normalization(part)
