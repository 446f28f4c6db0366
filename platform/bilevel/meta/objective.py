"""How is a model trained to adapt? Episodes in, adapted by the inner rule, moved by the outer loop: `meta_train`."""

from __future__ import annotations

import dataclasses
import math
import warnings
from collections.abc import Generator, Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bilevel import trees
from bilevel.batched import Network
from bilevel.episodes import Key, Tasks, TaskTraits
from bilevel.errors import TrialFailed
from bilevel.inner.rule import RuleTraits
from bilevel.meta import overflow
from bilevel.meta.comparison import PooledUnit, SupportUnit, classified, pooled_applies, pooled_columns, support_columns
from bilevel.meta.configuration import MetaTraining
from bilevel.meta.learned import Plan, Values
from bilevel.meta.plan import check, plan
from bilevel.meta.units import ExhibitUnit, JudgeUnit, TrainUnit, draw, shards
from bilevel.study.events import Report, Tree, Units
from bilevel.study.given import Run

EXHIBITED = 3  # test tasks whose predictions are kept for the figures
COMPARED = 8  # test tasks at least in a unit of what is fitted to a support alone: small fits cost by the call


def meta_train(config: MetaTraining, run: Run) -> Generator[Report | Units, list[Tree], None]:
    """Move what is learned, one outer step after another; validate now and then; test at the end with the best.

    The best weights are those of the best validation by the study's metric; they are kept, tested and used, and what
    they had is the trial's objective (unless `Study(value="last")`).

    Reports `train/loss` (and metrics) at every step, `valid/...` at validations, `test/...@k` at the last step; with a
    budget of them also `adaptations`, the inner steps so far. Episodes whose loss or gradient is not finite are left
    out and counted (`train/left_out`). At the last step `normalization/batch` (`support`, `frozen`) counts the layers
    that take their statistics from the query batch (the support set, training data).

    Raises:
        TrialFailed: too many episodes overflow, or it never came to a result; the best so far is tested before.
    """
    ready: Plan = run.kept.pop(("plan", run.trial), None) or plan(config, run)
    if run.state:
        ready = ready.standing_on(run.state["learned"])
    unit = config.unit or ready.unit(config.episodes)
    train = TrainUnit(ready, config.tasks, run.key.child("trial", run.trial, "train"))
    state: Tree = run.state or {"step": 0, "learned": ready.start, "movers": {name: {} for name in ready.start}}
    cost, used = config.episodes * int(ready.rule.steps), int(state.get("adaptations", 0))
    step, moving = state["step"], ready.moving(state["learned"])
    while step < config.steps and used < (config.adaptations or math.inf):
        step, done = step + 1, config.done(step, used)
        used += cost
        last = step == config.steps or used >= (config.adaptations or math.inf)
        results = yield Units(train, {"learned": moving}, shards(step, config.episodes, unit))
        results, left = overflow.parted(results)
        state = overflow.noted(state, left, step)
        failure = overflow.too_many(state, left, config.episodes, step)
        gradient, means = _reduce(results, max(1, config.episodes - len(left)))
        if failure := failure or overflow.summed(means["train/loss"], gradient, step):
            yield from _failed(config, ready, run.key, state, unit, step, failure)
        metrics = _in_units_of(config.tasks, means)
        if "left_out" in state:
            metrics["train/left_out"] = state["left_out"]
        if config.adaptations is not None:
            metrics["adaptations"] = used
        moving, movers = _move(ready, moving, state["movers"], gradient, done)
        state = {**state, "step": step, "adaptations": used, "learned": ready.whole(moving), "movers": movers}
        if step % config.validated_every == 0 or last:
            state, judged = yield from _validated(config, ready, run, state, unit, step, last)
            metrics |= judged
        if last:
            best = state["best"]["learned"]
            metrics |= yield from _test(config, ready, run.key, best, unit)
            metrics |= _normalizations(ready.rule)
            state = yield from _shown(config, ready, run.key, state)
            metrics |= yield from _compare(config, ready, run.key, best, unit, step)
        yield Report(step, metrics, state)


meta_train.learns = ("rule",)  # type: ignore[attr-defined]
meta_train.keeps = "valid/"  # type: ignore[attr-defined]  # metrics by whose best it keeps its weights
meta_train.check = check  # type: ignore[attr-defined]


def _validated(
    config: MetaTraining, ready: Plan, run: Run, state: Tree, unit: int, step: int, last: bool
) -> Generator[Report | Units, list[Tree], tuple[Tree, dict[str, float]]]:
    """The state with the best weights so far, and the metrics of the validation tasks."""
    key = run.key
    valid = JudgeUnit(ready, config.tasks, "valid", key.child("valid"), (int(ready.rule.steps),))
    spread = shards(None, config.validate_episodes, unit)
    moving = ready.moving(state["learned"])
    results = yield Units(valid, {"learned": moving}, spread)
    columns, lost = overflow.kept(_join(results), "valid")
    judged = {f"valid/{name}": float(v.double().mean()) for name, v in columns.items() if name != "cluster"}
    metrics = _in_units_of(config.tasks, judged) | ({"valid/left_out": lost} if lost else {})
    loss = judged["valid/loss"]
    if not math.isfinite(loss):
        yield from _failed(config, ready, key, state, unit, step, f"step {step}: valid/loss is {loss}; {overflow.CURE}")
    if loss > overflow.HUGE:
        results = yield Units(dataclasses.replace(valid, steps=(0,)), {"learned": ready.start}, spread)
        untrained = float(overflow.kept(_join(results), "valid")[0]["loss"].double().mean())
        if overflow.diverged(loss, untrained):
            failure = f"step {step}: diverged: valid/loss is {loss:.2g}, {untrained:.2g} before any training"
            if last:
                yield from _failed(config, ready, key, state, unit, step, f"{failure}; {overflow.CURE}")
            warnings.warn(f"{failure}; these weights are no candidates for the test", stacklevel=2)
            return state, metrics
    return _keep_best(state, judged, moving, step, run), metrics


def _failed(
    config: MetaTraining, ready: Plan, key: Key, state: Tree, unit: int, step: int, failure: str
) -> Generator[Report | Units, list[Tree], None]:
    """Test what was best so far, if anything was, and fail."""
    if "best" not in state:
        raise TrialFailed(failure)
    metrics = yield from _test(config, ready, key, state["best"]["learned"], unit)
    state = yield from _shown(config, ready, key, state)
    yield Report(step, metrics, {**state, "step": step})
    raise TrialFailed(f"{failure} (tested are the best weights so far, those of step {state['best']['step']})")


def _shown(config: MetaTraining, ready: Plan, key: Key, state: Tree) -> Generator[Report | Units, list[Tree], Tree]:
    """The state with the best weights as those that were learned, and some test tasks with their predictions."""
    best = state["best"]["learned"]
    exhibit = ExhibitUnit(ready, config.tasks, key.child("test", "tasks"), config.judged_steps)
    shown = yield Units(exhibit, {"learned": best}, shards(None, EXHIBITED, EXHIBITED))
    last = ready.moving(state["learned"])
    return {**state, "last": last, "learned": ready.whole(best), "exhibit": _complete(shown)[0]}


def _reduce(results: list[Tree], episodes: int) -> tuple[Values, dict[str, float]]:
    """Means over the outer step's episodes, added up in the order of the shards."""
    total = results[0]
    for result in results[1:]:
        total = trees.add(total, result)
    mean = trees.map_tensors(lambda tensor: tensor / episodes, total)
    metrics = {f"train/{name}": float(value) for name, value in {"loss": mean["loss"], **mean["metrics"]}.items()}
    return mean["gradient"], metrics


def _move(ready: Plan, moving: Values, states: Tree, gradient: Values, done: float) -> tuple[Values, Tree]:
    values: Values = {}
    movers: Tree = {}
    for name, mover in ready.movers.items():
        values[name], movers[name] = mover.move(moving[name], gradient[name], states[name], done=done)
    return values, movers


def _keep_best(state: Tree, judged: Mapping[str, float], moving: Values, step: int, run: Run) -> Tree:
    """By what the study looks for; where that is no validation, by accuracy, else by loss. Of equals, the first.

    A training that an earlier version began goes on as it did: its `best` does not say by what.
    """
    usual = "valid/accuracy" if "valid/accuracy" in judged else "valid/loss"
    by = run.metric if run.metric in judged else usual
    if "best" in state:
        by = state["best"].get("by", usual)
    low = run.minimize if by == run.metric else by == "valid/loss"
    score = -judged[by] if low else judged[by]
    if not math.isfinite(score):
        raise TrialFailed(f"step {step}: {by} is {judged[by]}; try a smaller rule.lr or outer rate")
    if "best" in state and score <= state["best"]["score"]:
        return state
    return {**state, "best": {"score": score, "step": step, "by": by, "learned": moving}}


def _test(
    config: MetaTraining, ready: Plan, key: Key, values: Values, unit: int
) -> Generator[Report | Units, list[Tree], dict[str, float]]:
    metrics: dict[str, float] = {}
    steps = tuple(range(config.judged_steps + 1))
    other = "batch" if RuleTraits(ready.rule).normalization == "support" else "support"
    for name, tasks in {"": config.tasks, **config.test_tasks}.items():
        judge = JudgeUnit(ready, tasks, "test", key.child("test", name or "tasks"), steps, both=True)
        results = yield Units(judge, {"learned": values}, shards(None, config.test_episodes, unit))
        at = "test" + (f"/{name}" if name else "")
        columns, lost = overflow.kept(_join(_complete(results)), at)
        clusters = columns.pop("cluster", None)
        found: dict[str, float] = {f"{at}/left_out": lost} if lost else {}
        for metric, column in columns.items():
            kind, _, rest = metric.rpartition("/")
            prefix = {"": "test", "baseline": "test", "other": f"test-{other}"}[kind] + (f"/{name}" if name else "")
            for k in range(column.shape[1]):
                mean, half = interval(column[:, k], clusters)
                at = "" if kind == "baseline" else f"@{k}"
                found[f"{prefix}/{rest}{at}"] = mean
                found[f"{prefix}/{rest}_ci95{at}"] = half
        metrics |= _in_units_of(tasks, found)
    return metrics


def _normalizations(rule: Any) -> dict[str, float]:
    """How many normalisations take which statistics at test: `normalization/batch`, `/support`, `/frozen`."""
    networks = [value for value in vars(rule).values() if isinstance(value, Network)]
    policy = RuleTraits(rule).normalization or "batch"
    counts = {policy: sum(len(n.by_batch) for n in networks), "frozen": sum(len(n.frozen) for n in networks)}
    return {f"normalization/{name}": float(count) for name, count in counts.items() if count}


def _compare(
    config: MetaTraining, ready: Plan, key: Key, values: Values, unit: int, step: int
) -> Generator[Report | Units, list[Tree], dict[str, float]]:
    """What else there is to say of the same test tasks, behind all other units: earlier records have none of these."""
    metrics: dict[str, float] = {}
    for name, tasks in {"": config.tasks, **config.test_tasks}.items():
        at = key.child("test", name or "tasks")
        prefix = "test" + (f"/{name}" if name else "")
        found: dict[str, float] = {}
        example = draw(tasks, "test", [at.child(0)], ready.dtype, torch.device("cpu"))
        if classified(example):
            judge = SupportUnit(ready, tasks, at, config.judged_steps)
            columns = yield from support_columns(judge, values, config.test_episodes, max(unit, COMPARED))
            found |= _intervals(prefix, columns, f"@{config.judged_steps}")
        if not name and pooled_applies(example, tasks):
            pool = PooledUnit(tasks, at, step * config.episodes)
            columns = yield from pooled_columns(pool, values, config.test_episodes)
            found |= _intervals(prefix, columns, "")
        metrics |= _in_units_of(tasks, found)
    return metrics


def _intervals(prefix: str, columns: Mapping[str, Tensor], at: str) -> dict[str, float]:
    """Means and half-widths over the episodes where a metric exists; ours, called as the metric alone, end in `at`."""
    found: dict[str, float] = {}
    clusters = columns.get("cluster")
    for name, column in columns.items():
        there = torch.isfinite(column)
        if name == "cluster" or not bool(there.any()):
            continue
        mean, half = interval(column[there], None if clusters is None else clusters[there])
        end = at if name in ("balanced_accuracy", "auc") else ""
        found |= {f"{prefix}/{name}{end}": mean, f"{prefix}/{name}_ci95{end}": half}
    return found


def interval(values: Tensor, clusters: Tensor | None = None) -> tuple[float, float]:
    """Mean over episodes [episodes] and the half-width of its 95 % interval (Student's t).

    Episodes of one cluster (a patient drawn again) are not independent: each cluster counts as one observation of its
    mean then, weighted alike.
    """
    from scipy.special import stdtrit  # 13 MB that a worker, who imports this module too, never needs

    sample = values.double().numpy()
    if clusters is not None:
        groups = clusters.numpy()
        sample = np.array([sample[groups == group].mean() for group in np.unique(groups)])
    if len(sample) < 2:
        return float(sample.mean()), math.inf
    error = float(sample.std(ddof=1)) / math.sqrt(len(sample))
    return float(sample.mean()), float(stdtrit(len(sample) - 1, 0.975)) * error


def _complete(results: list[Tree]) -> list[Tree]:
    """The results without the word on what is missing in them, which is said once."""
    missing = next((str(result["missing"]) for result in results if "missing" in result), None)
    if missing is not None:
        warnings.warn(f"left out of the test: {missing}", stacklevel=2)
    return [{name: part for name, part in result.items() if name != "missing"} for result in results]


def _join(results: Iterable[Tree]) -> dict[str, Tensor]:
    """What all of them have, over all episodes."""
    parts = list(results)
    names = [name for name in parts[0] if all(name in part for part in parts)]
    return {name: torch.cat([part[name] for part in parts]) for name in names}


def _in_units_of(tasks: Tasks, metrics: Mapping[str, float]) -> dict[str, float]:
    """Absolute errors in the user's units where the tasks scale their labels."""
    scaling = TaskTraits(tasks).scaling
    scale = 1.0 if scaling is None else scaling.y_std
    return {name: value * scale if _is_mae(name) else value for name, value in metrics.items()}


def _is_mae(name: str) -> bool:
    last = name.rpartition("/")[2].partition("@")[0].removesuffix("_ci95")
    return last == "mae" or last.endswith("_mae")
