"""What does a meta-training learn: which tensors, from which start, seen how by the inner rule?"""

from __future__ import annotations

import copy
import dataclasses
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from bilevel.batched import Network, Statistics, initialized, verify
from bilevel.episodes import Batch, Episode, Key
from bilevel.errors import BadInput, MissingData
from bilevel.inner.rule import RuleTraits
from bilevel.space import Learned, learned

Values = dict[str, dict[str, Tensor]]
"""Learned tensors: by the field of the rule ("init", "lr"), then by the tensor's name ("value" for one number)."""

UNIT_FLOPS = 5e7, 1e9  # forward FLOPs of a unit: worth its dispatch (about 1 ms); still at home in the caches
UNITS = 8  # of an outer step, between these bounds


@dataclass(frozen=True)
class Plan:
    """A rule made ready: its networks built and verified, and the start of all that it learns.

    `positive` names the fields moved in log-space; `flops` are those of an episode's forward pass.
    """

    rule: Any
    start: Values
    movers: Mapping[str, Any]
    positive: frozenset[str]
    flops: float

    def unit(self, episodes: int) -> int:
        """Episodes per unit of work: a function of the study alone, so that bits do not depend on the workers."""
        least, most = (math.ceil(flops / self.flops) for flops in UNIT_FLOPS)
        return min(max(math.ceil(episodes / UNITS), least), max(most, 1), episodes)

    def meta(self, values: Values) -> dict[str, Any]:
        """What the rule sees: by field, {name: tensor} or one tensor; rates exponentiated."""
        seen: dict[str, Any] = {}
        for name, tensors in values.items():
            shown = {n: t.exp() for n, t in tensors.items()} if name in self.positive else dict(tensors)
            seen[name] = shown["value"] if shown.keys() == {"value"} else shown
        return seen


def prepare(rule: Any, example: Episode, key: Key) -> Plan:
    """Build what the rule learns, under a generator keyed by `key`, and verify its networks on an example episode.

    Raises:
        BadInput: nothing is learned, a network that does not fit the tasks, a start that does not fit the network.
    """
    fields = {name: value for name, value in learned(rule) if "." not in name}
    deeper = [name for name, _ in learned(rule) if "." in name]
    if deeper:
        raise BadInput(
            f"rule.{deeper[0]}: only the rule's own fields can be learned; Learned is not for what is inside them"
        )
    if not fields:
        raise BadInput("rule: nothing is learned; give a field such as init=Learned(conv4, by=Adam(1e-3))")
    positive = frozenset(f.name for f in dataclasses.fields(rule) if f.metadata.get("positive") and f.name in fields)
    built: dict[str, Any] = {}
    start: Values = {}
    names: list[str] = []
    for name, field in sorted(
        fields.items(), key=lambda item: isinstance(item[1].value, int | float)
    ):  # networks first
        if isinstance(field.value, int | float):
            built[name] = float(field.value)
            start[name] = _numbers(f"rule.{name}", field, names, name in positive)
        else:
            network = _network(f"rule.{name}", field, example, key.child(name), RuleTraits(rule).order)
            built[name], start[name] = network, network.start()
            names += start[name]
        if field.start is not None:
            start[name] = _earlier(f"rule.{name}", field.start, start[name])
    ready = dataclasses.replace(rule, **built)
    movers = {name: field.by for name, field in fields.items()}
    return Plan(ready, start, movers, positive, _flops(built.values(), example))


def check_fits(plan: Plan, example: Episode) -> None:
    """Whether the networks of a plan, with the outputs that they have, also fit another distribution's episodes.

    Raises:
        BadInput: one does not; the message says how.
    """
    if not isinstance(example.support, Batch):
        return
    for name, network in vars(plan.rule).items():
        if isinstance(network, Network):
            try:
                _check_outputs(f"rule.{name}", network, example, _outputs(example))
            except RuntimeError as error:
                shape = tuple(example.support.x.shape)
                raise BadInput(f"rule.{name}: the network does not work on inputs {shape}: {error}") from error


def _numbers(path: str, field: Learned, names: list[str], positive: bool) -> dict[str, Tensor]:
    if positive and not field.value > 0:
        raise BadInput(f"{path}: starts from {field.value}; it is positive and learned in log-space")
    if field.per == "tensor" and not names:
        raise BadInput(f"{path}: per='tensor' needs a learned network in the same rule")
    value = torch.tensor(math.log(field.value) if positive else float(field.value))
    return {name: value.clone() for name in (names if field.per == "tensor" else ["value"])}


def _network(path: str, field: Learned, example: Episode, key: Key, order: int) -> Network:
    support = example.support
    given: dict[str, Any] = {}
    if isinstance(support, Batch):
        ways = _outputs(example)
        given = {"shape": tuple(support.x.shape[1:]), "ways": ways, "outputs": ways}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(key.integer())
        module = field.build(given)
        if isinstance(module, nn.Module) and isinstance(support, Batch):
            module = initialized(module, support.x)
    if not isinstance(module, nn.Module):
        raise BadInput(f"{path}: the factory gives a {type(module).__name__}; it takes one that gives an nn.Module")
    if not isinstance(support, Batch):
        return Network(module, batched=False)
    verdict = verify(module, support.x, support.y, order=order)
    if not verdict.exact:
        warnings.warn(
            f"{path}: {type(module).__name__} cannot be batched exactly ({verdict.reason}); it goes through the "
            "loop, one task after another: right, but slower",
            stacklevel=2,
        )
    network = Network(module, batched=verdict.exact)
    _check_outputs(path, network, example, given["ways"])
    return network


def _outputs(example: Episode) -> int:
    """Classes of the episode, or numbers per label."""
    y = example.support.y
    if y.dtype == torch.int64:
        return int(max(y.max(), example.query.y.max())) + 1
    return int(y[0].numel())


def _check_outputs(path: str, network: Network, example: Episode, wanted: int) -> None:
    support, seen = example.support, Statistics()
    weights = {name: weight.unsqueeze(0) for name, weight in network.start().items()}
    with torch.no_grad():
        shape = tuple(network(weights, support.x.unsqueeze(0), training=False, record=seen).shape[1:])
    network.observe(seen)
    if network.normalizes and (support.mask is not None or example.query.mask is not None):
        raise BadInput(
            f"{path}: batch normalisation would take padded samples into its statistics; use LayerNorm or none"
        )
    binary = support.y.dtype == torch.int64 and wanted == 2 and shape[1:] == (1,)
    if len(shape) != 2 or shape[0] != len(support.x) or (shape[1] != wanted and not binary):
        kind = "classes" if support.y.dtype == torch.int64 else "numbers per label"
        raise BadInput(
            f"{path}: the network gives {list(shape)} for {len(support.x)} samples, the tasks have {wanted} {kind}; "
            f"it must give [{len(support.x)}, {wanted}] (a factory with a parameter `ways` or `outputs` is handed it)"
        )


def _earlier(path: str, start: str, values: dict[str, Tensor]) -> dict[str, Tensor]:
    """The values of an earlier run's folder or of a safetensors file, where they fit."""
    file = Path(start) if start.endswith(".safetensors") else Path(start) / "model" / "learned.safetensors"
    if not file.is_file():
        raise MissingData(f"{path}.start: no file {file}; give the folder of a finished run or a .safetensors file")
    try:
        found = safetensors.torch.load_file(file)
    except (OSError, safetensors.SafetensorError) as error:
        raise BadInput(f"{path}.start: {file} cannot be read: {error}") from error
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


def _flops(built: Iterable[Any], example: Episode) -> float:
    """Of one forward pass of an episode's support and query through the networks' matrix products."""
    if not isinstance(example.support, Batch):
        return UNIT_FLOPS[1]  # not ours to know: one episode a unit
    total = 0.0

    def count(part: nn.Module, _: Any, output: Any) -> None:
        nonlocal total
        weight = getattr(part, "weight", None)
        if isinstance(weight, Tensor) and weight.dim() > 1 and isinstance(output, Tensor):
            total += 2.0 * output.numel() * weight[0].numel()

    x = torch.cat([example.support.x, example.query.x])
    for network in (part for part in built if isinstance(part, Network)):
        module = copy.deepcopy(network.module)
        for part in module.modules():
            part.register_forward_hook(count)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            module(x)
    return max(1.0, total)
