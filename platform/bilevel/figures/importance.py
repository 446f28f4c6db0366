"""Which searched values matter? How much worse the objective is foretold when a value is taken from another trial.

Forests of extremely randomized trees (Geurts et al. 2006) are fitted to the ranks of the objective over the unit cube,
each to a bootstrap sample of the trials; in the trials that it has not seen each value is permuted (Breiman 2001). Half
of the error that this adds, in units of the variance, estimates the value's total effect: the share of the variation
that goes with it, alone or with others. Values whose condition does not hold are permuted among the trials that have
them. On four test functions of six variables with noise, 15 to 100 random trials, this ranks the values more like
the truth than fANOVA (rank correlation .64 to .91 beside .45 to .90), and far more so than PED-ANOVA (.19 to .63).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from bilevel.figures.search import Array, Search
from bilevel.space.dimensions import Parameter
from bilevel.study.history import Trial

FEWEST = 10  # trials; with fewer nothing is said
MOST = 1000  # trials that are looked at: the last ones
SAMPLES = 40  # bootstrap samples of the trials
TREES = 10  # for each
ABSENT = -1.0  # the place of a value that a trial does not have, left of the unit interval
TELLING = 0.1  # share of the variation in unseen trials; below it nothing can be told
SPREAD = (10, 90)  # percentiles over the samples: an 80 % interval


@dataclass(frozen=True)
class Share:
    """Of one parameter: the share of the variation that goes with it, alone or with others, and its 80 % interval."""

    parameter: Parameter
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Importance:
    """Shares, the largest first. They may add up to more than 1, as joint effects count for each that takes part.

    Args:
        shares: of the parameters that varied.
        explained: share of the variation that the model explains in trials that it has not seen; below 0.1 the
            shares mean nothing.
        trials: how many were looked at.
        step: at which step they were compared, if not at their ends.
    """

    shares: tuple[Share, ...]
    explained: float
    trials: int
    step: int | None = None

    @property
    def telling(self) -> bool:
        """Whether the shares mean anything."""
        return self.explained >= TELLING


def importance(search: Search) -> Importance | None:
    """What matters for the (first) objective; None with fewer than ten comparable trials or nothing that varied."""
    trials, values, step = comparable(search)
    trials, values = trials[-MOST:], values[-MOST:]
    varied = [p for p in search.parameters if _varied(p, trials)]
    if len(trials) < FEWEST or not varied or values.min() == values.max():
        return None
    response = _ranks(values)
    places = np.array([[_place(p, trial.point) for p in varied] for trial in trials])
    rng = np.random.default_rng(0)
    losses, errors = [], []
    for sample in range(SAMPLES):
        chosen = rng.integers(len(places), size=len(places))
        unseen = np.setdiff1d(np.arange(len(places)), chosen)
        if not unseen.size:  # of ten trials one sample in some thousand has all
            continue
        predict = _forest(_features(varied, places[chosen]), response[chosen], sample)
        tried = np.stack([places[unseen], *(_permuted(places[unseen], i, rng) for i in range(len(varied)))])
        foretold = predict(_features(varied, tried.reshape(-1, len(varied)))).reshape(len(tried), -1)
        error = np.mean((foretold - response[unseen]) ** 2, axis=1)
        errors.append(error[0])
        losses.append((error[1:] - error[0]) / (2.0 * np.var(response)))
    low, high = np.percentile(losses, SPREAD, axis=0).clip(0.0, 1.0)
    mean = np.mean(losses, axis=0).clip(0.0, 1.0)
    shares = [Share(p, float(m), float(a), float(b)) for p, m, a, b in zip(varied, mean, low, high, strict=True)]
    shares.sort(key=lambda share: -share.value)
    return Importance(tuple(shares), 1.0 - float(np.mean(errors)) / float(np.var(response)), len(trials), step)


def comparable(search: Search) -> tuple[list[Trial], Array, int | None]:
    """Trials whose objectives can be compared, these, and the step at which if some were stopped before their end.

    Where at least ten trials, and half of those that ended, are complete, they are taken at their ends. Else the last
    step is taken that a third of all trials reached, and at least half or twenty.
    """
    valued = search.valued()
    complete = [trial for trial in valued if trial.state == "completed"]
    if len(complete) >= FEWEST and 2 * len(complete) >= len(valued):
        return complete, np.array([float(t.objective or 0.0) for t in complete]), None
    curves = {t.number: search.tracks[t.number].curve for t in valued}
    reached: dict[int, int] = {}
    for curve in curves.values():
        for step in np.unique(curve[np.isfinite(curve[:, 1]), 0]):
            reached[int(step)] = reached.get(int(step), 0) + 1
    enough = [
        step
        for step, count in reached.items()
        if count >= max(FEWEST, min(2 * FEWEST, len(valued) / 2), len(valued) / 3)
    ]
    if not enough:
        return complete, np.array([float(t.objective or 0.0) for t in complete]), None
    step = max(enough)
    found: list[tuple[Trial, float]] = []
    for trial in valued:
        at = curves[trial.number]
        rows = at[(at[:, 0] == step) & np.isfinite(at[:, 1])]
        if len(rows):
            found.append((trial, float(rows[-1, 1])))
    return [trial for trial, _ in found], np.array([value for _, value in found]), step


# -- the model ---------------------------------------------------------------------------------------------------------


def _features(parameters: Sequence[Parameter], places: Array) -> Array:
    """Places in the unit cube as a forest takes them: unordered choices as one column for each option."""
    columns = []
    for index, parameter in enumerate(parameters):
        column, size = places[:, index], parameter.dimension.size
        if parameter.dimension.ordered or size is None or size < 3:
            columns.append(column[:, None])
        else:
            option = np.where(column == ABSENT, -1, np.minimum((column * size).astype(int), size - 1))
            columns.append((option[:, None] == np.arange(size)).astype(float))
    return np.concatenate(columns, axis=1)


def _permuted(places: Array, index: int, rng: np.random.Generator) -> Array:
    """Places with one value taken from others of them that have it."""
    result = places.copy()
    present = np.flatnonzero(places[:, index] != ABSENT)
    result[present, index] = places[rng.permutation(present), index]
    return result


def _forest(features: Array, response: Array, seed: int) -> Any:
    from sklearn.ensemble import ExtraTreesRegressor  # dear to import, and only needed at a search's end

    return ExtraTreesRegressor(n_estimators=TREES, random_state=seed, n_jobs=1).fit(features, response).predict


def _ranks(values: Array) -> Array:
    """In (0, 1], ties in the middle; outliers do not count for more than that."""
    from scipy.stats import rankdata

    ranks: Array = rankdata(values) / len(values)
    return ranks


def _place(parameter: Parameter, point: Mapping[str, Any]) -> float:
    value = point.get(parameter.name)
    if parameter.name not in point or not parameter.dimension.contains(value):
        return ABSENT
    return parameter.dimension.encode(value)


def _varied(parameter: Parameter, trials: Sequence[Trial]) -> bool:
    return len({_place(parameter, trial.point) for trial in trials}) > 1
