"""What does a model make of a few test tasks, before and after it adapts? Pictures of single tasks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bilevel.figures import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CLASSES = 8  # columns of a picture of letters
ROWS = 3  # query rows of it
TASKS = 3  # panels of fitted curves


def exhibit(shown: Mapping[str, Any]) -> Figure:
    """The picture that fits the task: fitted curves, letters read, or predictions against the truth.

    Args:
        shown: as `History.exhibit`; tensors of any kind of task.
    """
    support, query = _arrays(shown["support"]), _arrays(shown["query"])
    predictions = np.asarray(shown["predictions"], dtype=float)  # [tasks, steps + 1, samples, outputs]
    y, x = query["y"], query["x"]
    one_logit = predictions.shape[-1] == 1 and bool(np.isin(y, (0, 1)).all())  # its labels may be floats
    classes = one_logit or not np.issubdtype(y.dtype, np.floating)
    if not classes and x[0, 0].size == 1:
        return fitted(support, query, predictions)
    if classes and x.ndim == 5 and x.shape[2] in (1, 3):
        return letters(support, query, predictions)
    return certainty(query, predictions) if classes else scatter(query, predictions)


def fitted(support: Mapping[str, NDArray[Any]], query: Mapping[str, NDArray[Any]], predictions: NDArray[Any]) -> Figure:
    """Functions of one variable: the truth, the support points, the fit before and after adaptation."""
    tasks, steps = min(TASKS, len(predictions)), predictions.shape[1] - 1
    figure, axes = style.sheet(tasks, width=4.2)
    for task, axis in enumerate(axes):
        keep, points = _kept(query, task), _kept(support, task)
        x, y = _flat(query["x"][task])[keep], _flat(query["y"][task])[keep]
        order = np.argsort(x)
        after = predictions[task, -1, :, 0][keep]
        axis.plot(x[order], y[order], color=style.INK, linewidth=1.2, label="truth")
        before = predictions[task, 0, :, 0][keep]
        axis.plot(x[order], before[order], color=style.ORANGE, linestyle=":", linewidth=1.8, label="before adaptation")
        if steps > 1:
            axis.plot(
                x[order],
                predictions[task, 1, :, 0][keep][order],
                color=style.SKY,
                linestyle="--",
                linewidth=1.6,
                label="after 1 step",
            )
        called = _after(steps)
        axis.plot(x[order], after[order], color=style.BLUE, linewidth=2, label=called)
        given = _flat(support["x"][task])[points], _flat(support["y"][task])[points]
        axis.plot(*given, "o", color=style.VERMILLION, markersize=6, label=f"the {points.sum()} support points")
        axis.set_xlabel("x")
        axis.set_ylabel("y")
        axis.set_title(f"mean squared error {np.mean((before - y) ** 2):.2g} → {np.mean((after - y) ** 2):.2g}")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False, fontsize=9)
    figure.suptitle(f"The first {tasks} test tasks, fitted from {_kept(support, 0).sum()} points each")
    return figure


def letters(
    support: Mapping[str, NDArray[Any]], query: Mapping[str, NDArray[Any]], predictions: NDArray[Any]
) -> Figure:
    """The first test task of images: what was given, and how each query is read before and after adaptation."""
    from matplotlib.figure import Figure

    keep = _kept(query, 0)
    images, truth = query["x"][0][keep], _flat(query["y"][0])[keep].astype(int)
    read = {0: _chosen(predictions[0, 0])[keep], predictions.shape[1] - 1: _chosen(predictions[0, -1])[keep]}
    classes = sorted(set(truth.tolist()))[:CLASSES]
    rows = min(ROWS, *(int((truth == c).sum()) for c in classes))
    examples, given = support["x"][0][_kept(support, 0)], _flat(support["y"][0])[_kept(support, 0)].astype(int)
    figure = Figure(figsize=(1.0 * len(classes) * len(read) + 1.2, 1.35 * (rows + 1) + 1.1), layout="constrained")
    parts = figure.subfigures(1, len(read), wspace=0.06, squeeze=False)[0]
    invert = float(np.mean(images)) < 0.5 * (float(images.min()) + float(images.max()))
    for part, (step, labels) in zip(parts, read.items(), strict=True):
        right = float(np.mean(labels == truth))
        name = _after(step)
        part.suptitle(f"{name}: {right:.0%} of {len(truth)} right", fontsize=11)
        axes = part.subplots(rows + 1, len(classes), squeeze=False)
        for column, c in enumerate(classes):
            _tile(axes[0][column], examples[given == c][0], invert, f"this is {_name(c)}", style.INK)
            for row, index in enumerate(np.flatnonzero(truth == c)[:rows]):
                correct = labels[index] == c
                sign, color = ("✓", style.GREEN) if correct else ("✗", style.VERMILLION)
                _tile(axes[row + 1][column], images[index], invert, f"{_name(int(labels[index]))} {sign}", color)
    shots = int((given == classes[0]).sum())
    shown = "" if shots == 1 else ", the first of them on top"
    figure.suptitle(
        f"The first test task: classes never seen, {shots} example{'s' if shots > 1 else ''} each{shown}; "
        f"below, what the model reads"
    )
    return figure


def certainty(query: Mapping[str, NDArray[Any]], predictions: NDArray[Any]) -> Figure:
    """The probability given to the true class of each query, before against after adaptation."""
    figure, (axis,) = style.sheet(1, width=5.2, height=4.8)
    for task in range(len(predictions)):
        keep = _kept(query, task)
        truth = _flat(query["y"][task])[keep].astype(int)
        before, after = (_probability(predictions[task, step], truth, keep) for step in (0, -1))
        color, marker = style.CYCLE[task % len(style.CYCLE)], style.MARKERS[task % len(style.MARKERS)]
        axis.plot(before, after, marker, color=color, alpha=0.7, markersize=5, label=f"test task {task}")
    axis.plot([0, 1], [0, 1], color=style.GREY, linestyle=":", label="no change")
    axis.set_xlim(-0.02, 1.02)
    axis.set_ylim(-0.02, 1.02)
    axis.set_xlabel("probability of the true class before adaptation")
    axis.set_ylabel(f"the same {_after(predictions.shape[1] - 1)}")
    axis.legend(frameon=False, fontsize=9)
    figure.suptitle("What adaptation does to each query (above the line: better)")
    return figure


def scatter(query: Mapping[str, NDArray[Any]], predictions: NDArray[Any]) -> Figure:
    """Predicted against true values, before and after adaptation."""
    steps = predictions.shape[1] - 1
    figure, axes = style.sheet(2, width=4.6, height=4.4)
    finite: list[float] = []
    for axis, step, name in zip(axes, (0, -1), (_after(0), _after(steps)), strict=True):
        errors = []
        for task in range(len(predictions)):
            keep = _kept(query, task)
            truth = query["y"][task].reshape(len(keep), -1)[:, 0][keep]
            guess = predictions[task, step, :, 0][keep]
            color, marker = style.CYCLE[task % len(style.CYCLE)], style.MARKERS[task % len(style.MARKERS)]
            axis.plot(truth, guess, marker, color=color, alpha=0.7, markersize=5, label=f"test task {task}")
            errors.append(np.abs(guess - truth))
            finite += [float(value) for value in (*truth, *guess) if math.isfinite(value)]
        axis.set_title(f"{name}: mean absolute error {np.mean(np.concatenate(errors)):.3g}", fontsize=11)
        axis.set_xlabel("true y")
        axis.set_ylabel("predicted y")
    for axis in axes:
        span = [min(finite), max(finite)]
        axis.plot(span, span, color=style.GREY, linestyle=":", label="exact")
    axes[0].legend(frameon=False, fontsize=9)
    figure.suptitle("Predictions on single test tasks against the truth")
    return figure


def _tile(axis: Any, image: NDArray[Any], invert: bool, title: str, color: str) -> None:
    low, high = float(image.min()), float(image.max())
    scaled = (image - low) / (high - low) if high > low else np.zeros_like(image)
    if len(image) == 3:
        axis.imshow(np.moveaxis(scaled, 0, -1))
    else:
        axis.imshow(scaled[0], cmap="gray_r" if invert else "gray", interpolation="nearest")
    axis.set_title(title, fontsize=9, color=color, pad=3)
    axis.set_xticks([])
    axis.set_yticks([])
    for spine in axis.spines.values():
        spine.set_color(color)
        spine.set_linewidth(1.0 if color == style.INK else 2.5)


def _arrays(batch: Mapping[str, Any]) -> dict[str, NDArray[Any]]:
    return {name: np.asarray(value) for name, value in batch.items()}


def _kept(batch: Mapping[str, NDArray[Any]], task: int) -> NDArray[Any]:
    """The samples of a task that exist (ragged tasks are padded and masked), as booleans."""
    if "mask" in batch:
        return np.asarray(batch["mask"][task], dtype=bool)
    return np.ones(len(batch["y"][task]), dtype=bool)


def _flat(values: NDArray[Any]) -> NDArray[Any]:
    return values.reshape(len(values))


def _chosen(outputs: NDArray[Any]) -> NDArray[Any]:
    """The class that outputs [samples, classes] (or one logit) speak for."""
    if outputs.shape[1] == 1:
        return (outputs[:, 0] > 0).astype(int)
    chosen: NDArray[Any] = outputs.argmax(axis=1)
    return chosen


def _probability(outputs: NDArray[Any], truth: NDArray[Any], keep: NDArray[Any]) -> NDArray[Any]:
    """Of the true class, from logits [samples, classes] or one logit."""
    logits = outputs[keep]
    if logits.shape[1] == 1:
        logits = np.concatenate([np.zeros_like(logits), logits], axis=1)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: NDArray[Any] = weights[np.arange(len(truth)), truth] / weights.sum(axis=1)
    return found


def _after(steps: int) -> str:
    return "before adaptation" if steps == 0 else f"after {steps} step{'s' if steps > 1 else ''}"


def _name(number: int) -> str:
    """Classes of an episode have no names of their own: A, B, C, ..."""
    return chr(ord("A") + number) if number < 26 else str(number + 1)
