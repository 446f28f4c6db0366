"""What does a meta-training learn: which tensors, from which start, seen how by the inner rule?"""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bilevel import trees
from bilevel.batched import Network, Statistics, Verdict, duplicate, initialized, verify
from bilevel.episodes import Batch, Episode, Key, keyed
from bilevel.errors import BadInput, NotPromised
from bilevel.inner.fits import works
from bilevel.inner.labels import NUMBERS, Labels, labels_of, settled
from bilevel.inner.rule import RuleTraits, Scoring
from bilevel.meta import earlier
from bilevel.space import Learned, learned

Values = dict[str, dict[str, Tensor]]
"""Learned tensors: by the field of the rule ("init", "lr"), then by the tensor's name ("value" for one number)."""

UNIT_FLOPS = 5e7, 1e9  # forward FLOPs of a unit: worth its dispatch (about 1 ms); still at home in the caches
UNITS = 8  # of an outer step, between these bounds


@dataclass(frozen=True)
class Plan:
    """A rule made ready: its networks built and verified, and the start of all that it learns.

    `positive` names the fields moved in log-space; `flops` are those of an episode's forward pass; `dtype` is the
    networks' type, in which episodes are given to them; `labels` say what the tasks' labels are; `fixed` is what the
    networks stand on and no step moves (`Network.constants`), by field. It is part of what is learned.
    """

    rule: Any
    start: Values
    movers: Mapping[str, Any]
    positive: frozenset[str]
    flops: float
    dtype: torch.dtype = torch.float32
    labels: Labels = NUMBERS
    fixed: Values = dataclasses.field(default_factory=dict)

    def whole(self, moving: Values) -> Values:
        """All that is learned: what moves, and what the networks stand on."""
        return {name: {**tensors, **self.fixed.get(name, {})} for name, tensors in moving.items()}

    def moving(self, learned: Values) -> Values:
        """Of what is learned, what the outer loop moves."""
        return {name: {n: learned[name][n] for n in tensors} for name, tensors in self.start.items()}

    def unrecorded(self, learned: Values) -> list[str]:
        """What the networks stand on and a record from before does not have."""
        return [n for name, tensors in self.fixed.items() for n in tensors if n not in learned.get(name, {})]

    def standing_on(self, learned: Values) -> Plan:
        """The plan with networks that stand on what was learned (before, by a donor) instead of on what was built.

        What a record from before does not have stays as it was built.

        Raises:
            BadInput: a tensor that the networks do not know.
        """
        built: dict[str, Network] = {}
        for name, network in vars(self.rule).items():
            if isinstance(network, Network):
                found = {n: t for n, t in learned.get(name, {}).items() if n not in self.start[name]}
                if found:
                    built[name] = network.holding(found)
        fixed = {**self.fixed, **{name: network.constants() for name, network in built.items()}}
        return dataclasses.replace(self, rule=dataclasses.replace(self.rule, **built), fixed=fixed)

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


def prepare(rule: Any, example: Episode, key: Key, labels: Labels | None = None) -> Plan:
    """Build what the rule learns, under a generator keyed by `key`, and verify its networks on an example episode.

    Of a rule that scores (`inner.rule.Scoring`) outputs, loss and labels must go together, too. Without `labels` they
    are those of the example.

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
    example = settled(example, torch.get_default_dtype())
    labels = labels or labels_of(None, [example])
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
            network = _network(f"rule.{name}", field, example, labels, key.child(name), rule)
            start[name] = network.start()
            if field.start is not None:
                path = f"rule.{name}"
                network = earlier.standing(path, field.start, network, partial(_built, path, field, example, labels))
            built[name] = network
            names += start[name]
        if field.start is not None:
            start[name] = earlier.weights(f"rule.{name}", field.start, start[name])
    ready = dataclasses.replace(rule, **built)
    movers = {name: field.by for name, field in fields.items()}
    dtype = next((_dtype(network) for network in built.values() if isinstance(network, Network)), None)
    fixed = {n: network.constants() for n, network in built.items() if isinstance(network, Network)}
    fixed = {name: tensors for name, tensors in fixed.items() if tensors}
    flops = _flops(built.values(), example)
    plan = Plan(ready, start, movers, positive, flops, dtype or torch.float32, labels, fixed)
    return dataclasses.replace(plan, rule=_fitted(plan, settled(example, plan.dtype), labels))


def check_fits(plan: Plan, example: Episode, labels: Labels) -> None:
    """Whether the networks of a plan, with the outputs that they have, also fit another distribution's episodes.

    Raises:
        BadInput: one does not; the message says how.
    """
    example = settled(example, plan.dtype)
    if not isinstance(example.support, Batch):
        return
    for name, network in vars(plan.rule).items():
        if isinstance(network, Network):
            try:
                works(network, example.support.x)
            except BadInput as error:
                raise BadInput(f"rule.{name}: {error}") from error
    _fitted(plan, example, labels)


def _fitted(plan: Plan, example: Episode, labels: Labels) -> Any:
    """The rule as it judges such tasks, where it is one that scores."""
    if not isinstance(plan.rule, Scoring):
        return plan.rule
    try:
        return plan.rule.fitted(example, labels)
    except BadInput as error:
        named = (
            str(error)
            if str(error).startswith("rule.")
            else f"rule.{next(iter(_networks(plan.rule)), 'init')}: {error}"
        )
        raise BadInput(named) from error


def _networks(rule: Any) -> list[str]:
    return [name for name, value in vars(rule).items() if isinstance(value, Network)]


def _dtype(network: Network) -> torch.dtype:
    """The type of a network's weights."""
    return next((p.dtype for p in network.module.parameters() if p.is_floating_point()), torch.get_default_dtype())


def _numbers(path: str, field: Learned, names: list[str], positive: bool) -> dict[str, Tensor]:
    if positive and not field.value > 0:
        raise BadInput(f"{path}: starts from {field.value}; it is positive and learned in log-space")
    if field.per == "tensor" and not names:
        raise BadInput(f"{path}: per='tensor' needs a learned network in the same rule")
    value = torch.tensor(math.log(field.value) if positive else float(field.value))
    return {name: value.clone() for name in (names if field.per == "tensor" else ["value"])}


def _built(path: str, field: Learned, example: Episode, labels: Labels, key: Key) -> nn.Module:
    """What the factory makes under a key, which decides the random numbers that it draws."""
    support = example.support
    given: dict[str, Any] = {}
    if isinstance(support, Batch):
        shape = trees.map_tensors(lambda tensor: tuple(tensor.shape[1:]), support.x)
        given = {"shape": shape, "ways": labels.outputs, "outputs": labels.outputs}
    with keyed(key):
        module = field.build(given)
        if isinstance(module, nn.Module) and isinstance(support, Batch):
            module = initialized(module, support.x)
    if not isinstance(module, nn.Module):
        raise BadInput(f"{path}: the factory gives a {type(module).__name__}; it takes one that gives an nn.Module")
    return module


def _network(path: str, field: Learned, example: Episode, labels: Labels, key: Key, rule: Any) -> Network:
    support = example.support
    module = _built(path, field, example, labels, key)
    if not isinstance(support, Batch):
        return Network(module, batched=False)
    settled_support = settled(example, _dtype(Network(module))).support
    verdict = _verified(module, settled_support, path, RuleTraits(rule).order)
    if not verdict.exact:
        warnings.warn(
            f"{path}: {type(module).__name__} cannot be batched exactly ({verdict.reason}); it goes through the "
            "loop, one task after another: right, but slower",
            stacklevel=2,
        )
    for note in verdict.notes:
        kind = NotPromised if note == verdict.unkeyed else UserWarning
        warnings.warn(f"{path}: {type(module).__name__}: {note}", kind, stacklevel=2)
    network = Network(module, batched=verdict.exact)
    _observe(network, settled_support)
    if network.unseen and RuleTraits(rule).normalization == "support":
        raise BadInput(
            f"{path}: the layer {network.unseen[0]!r} takes its statistics out of sight, in a forward of its own; use "
            'normalization="batch", or call F.batch_norm there'
        )
    if network.normalizes and (support.mask is not None or example.query.mask is not None):
        raise BadInput(
            f"{path}: batch normalisation would take padded samples into its statistics; use LayerNorm or none"
        )
    return network


def _observe(network: Network, support: Batch) -> None:
    """Let a network see, on an example, which normalizations are at work."""
    seen = Statistics()
    weights = {name: weight.unsqueeze(0) for name, weight in network.start().items()}
    with torch.no_grad():
        network(weights, trees.map_tensors(lambda tensor: tensor.unsqueeze(0), support.x), training=False, record=seen)
    network.observe(seen)


def _verified(module: nn.Module, support: Batch, path: str, order: int) -> Verdict:
    """Whether a module can be computed for many tasks at once."""
    if not isinstance(support.x, Tensor):
        try:
            works(Network(module, batched=False), support.x)
        except BadInput as error:
            raise BadInput(f"{path}: {error}") from error
        return Verdict(False, math.inf, f"inputs are a {type(support.x).__name__}")
    plain = support.y.is_floating_point() or (support.y.numel() > 0 and int(support.y.min()) >= 0)
    return verify(module, support.x, support.y if plain else None, order=order)


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

    for network in (part for part in built if isinstance(part, Network)):
        module = duplicate(network.module).eval()
        for part in module.modules():
            part.register_forward_hook(count)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            for x in (example.support.x, example.query.x):
                inputs = settled(Episode(Batch(x, torch.zeros(0)), None), _dtype(network)).support.x
                module(trees.map_tensors(torch.clone, inputs))
    return max(1.0, total)
