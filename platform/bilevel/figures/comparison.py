"""Is something simpler better on the same test tasks: which, by how much, and what is there to try?"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

CALLED = {
    "majority": "the majority of the support",
    "nearest_neighbour": "nearest neighbour",
    "prototypes": "nearest class means of the features as they come (prototypes)",
    "logistic_regression": "logistic regression on the support",
    "mean_of_support": "the mean of the support",
    "ridge": "ridge regression on the support",
    "pooled_ridge": "one ridge regression over all tasks",
    "pooled_ridge_with_support": "one ridge regression over all tasks, with the support's statistics as features",
    "boosted_trees": "boosted trees over all tasks, with the support's statistics as features",
}
TELLING = 5e-4  # of ours: a difference that is no difference in the digits shown
ADVICE = {
    "majority": "classes are out of balance: look at balanced accuracy, weigh the loss, or give more support",
    "nearest_neighbour": "the features serve as they come: learn only a small head on them, or take them as they are",
    "prototypes": "the features serve as they come: learn only a small head on them, or take them as they are",
    "logistic_regression": "the features serve as they come: learn only a small head on them, or take them as they are",
    "mean_of_support": "adapting harms here: try a smaller rule.lr, fewer inner steps, or fewer features",
    "ridge": "a line through the support is enough, or training was too short: try more outer steps, or fewer features",
    "pooled_ridge": "tasks hardly differ: one model of all rows serves, or other features in which tasks do differ",
    "pooled_ridge_with_support": "tasks differ by little more than their level: take this model, or more outer steps",
    "boosted_trees": "take this model, or train longer with a larger network",
}


def verdict(metrics: Mapping[str, Any]) -> str | None:
    """One sentence where a baseline is better than what was learned, after its last step of adaptation; else None."""
    for kind, better in (("accuracy", 1), ("mae", -1)):
        steps = [int(m[1]) for name in metrics if (m := re.fullmatch(rf"test/{kind}@(\d+)", name))]
        if not steps:
            continue
        ours, half = _value(metrics, f"test/{kind}", f"@{max(steps)}")
        found = [
            (name.removeprefix("test/").removesuffix(f"_{kind}"), *_value(metrics, name, ""))
            for name in metrics
            if re.fullmatch(rf"test/\w+_{kind}", name) and name.removeprefix("test/").removesuffix(f"_{kind}") in CALLED
        ]
        known = [entry for entry in found if math.isfinite(entry[1])]
        if not known or not math.isfinite(ours):
            return None
        name, value, width = max(known, key=lambda entry: better * entry[1])
        if better * (value - ours) <= TELLING * abs(ours):
            return None
        apart = math.hypot(half, width)
        sure = "" if abs(value - ours) > apart else " (it may be chance: the intervals are wider)"
        if not math.isfinite(apart):
            sure = " (without an interval this may be chance)"
        return f"{CALLED[name]} is better than what was learned: {_gap(kind, value, ours)}{sure}; {ADVICE[name]}"
    return None


def _value(metrics: Mapping[str, Any], name: str, at: str) -> tuple[float, float]:
    """A metric and its half-width; NaN where it is not finite."""
    value, half = metrics.get(f"{name}{at}"), metrics.get(f"{name}_ci95{at}")
    return (math.nan if value is None else float(value)), (math.inf if half is None else float(half))


def _gap(kind: str, theirs: float, ours: float) -> str:
    if kind == "accuracy":
        return f"{100 * theirs:.1f} % against {100 * ours:.1f} % right ({100 * (theirs - ours):.1f} points more)"
    less = f" ({100 * (1 - theirs / ours):.0f} % less)" if ours > 0 else ""
    return f"an absolute error of {theirs:.4g} against {ours:.4g}{less}"
