"""How does a search, or one of its trials, read as text?"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from rich.console import Console, ConsoleOptions, Group, RenderResult
from rich.table import Table
from rich.text import Text

from bilevel.figures import Search, summary
from bilevel.figures.chart import distinct, number, short, shown
from bilevel.figures.importance import Importance, importance
from bilevel.figures.objectives import each
from bilevel.figures.scales import unit_of
from bilevel.figures.search import Array
from bilevel.figures.values import ordered
from bilevel.figures.views import incumbents
from bilevel.space.dimensions import Parameter
from bilevel.study import telling
from bilevel.study.history import Trial
from bilevel.view.paper import plain
from bilevel.view.raised import shortened

LEADERS = 10  # rows of the table of the best
BARS = 8  # parameters whose importance is shown
REASONS = 5  # kinds of failures shown
LETTERS = 16  # of a column's name
SPARK = 48  # characters of a curve
TAIL = 40  # lines of a trial's output
LEVELS = "▁▂▃▄▅▆▇█"


class _Fitted:
    """A renderable that is made for the width that there is."""

    def __init__(self, make: Callable[[int], Group]) -> None:
        self._make = make

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield self._make(options.max_width)


# -- a search ----------------------------------------------------------------------------------------------------------


def search(found: Search) -> Group:
    """Counts, the best trials or the Pareto front, the course, what matters, and why trials failed."""
    views = each(found)
    matters = [importance(view) for view in views]
    parameters = ordered(found, matters[0])
    parts: list[Any] = [_counted(found), *(course for view in views if (course := _course(view)) is not None)]
    if len(found.history.objectives) > 1:
        rows = summary.front(found, parameters, 2 * LEADERS)
        count = len(found.history.pareto())
        trials = "trial" if count == 1 else "trials"
        title = f"the Pareto front, {count} {trials}" + (f", {len(rows)} of them here" if len(rows) < count else "")
    else:
        rows, title = summary.leaders(found, parameters, LEADERS), "the best trials"
        title += f", {found.history.rule}" if found.history.rule else ""
    if rows:
        parts += [
            plain(),
            plain(title, style="italic"),
            _Fitted(lambda width: _leaders(found, rows, parameters, width)),
        ]
    passed = telling.passed(found.history)
    parts += [plain(passed, style="yellow")] if passed else []
    for view, known in zip(views, matters, strict=True):
        if known is not None:
            parts += [plain(), *_matters(known, f" for {view.metric}" if len(views) > 1 else "")]
    failures = summary.failures(found)
    if failures:
        parts += [plain(), plain("failures", style="italic"), _failed(failures)]
    return Group(*parts)


def _counted(found: Search) -> Text:
    counts = [f"{n} {state}" for state, n in summary.counts(found).items() if n]
    said = telling.tried(found.history)
    line = f"{len(found.history.trials)} trials{f' ({said})' if said else ''}: {', '.join(counts) or 'none begun'}"
    line += f"; {summary.duration(found.seconds)} at work"
    if len(found.sessions) > 1:
        line += f" in {len(found.sessions)} sessions"
    faults = sum(found.faults.values())
    return plain(line + (f", {faults} fault{'s' * (faults > 1)} survived" if faults else ""))


def _course(found: Search) -> Text | None:
    ended = found.valued()
    best = incumbents(found, ended) if len(ended) > 1 else np.empty(0)
    known = best[np.isfinite(best)]
    if not known.size:
        return None
    line = plain(f"best {found.metric} so far  ")
    line.append(f"{number(known[0])} ", style="dim")
    line.append(spark(best), style="cyan")
    return line.append(f" {number(known[-1])}")


def _leaders(found: Search, rows: Sequence[summary.Row], parameters: Sequence[Parameter], width: int) -> Group:
    metrics = list(found.history.objectives) if len(found.history.objectives) > 1 else [found.metric]
    fixed = ["trial", *distinct(metrics, LETTERS), "state", "step"]
    names = [*fixed, *distinct([parameter.name for parameter in parameters], LETTERS)]
    lines = [[short(cell, 28) for cell in _cells(row, best=found.history.value == "best")] for row in rows]
    widths = [2 + max(map(len, column)) for column in zip(names, *lines, strict=True)]
    fit = [i for i in range(len(names)) if i < len(fixed) or sum(widths[: i + 1]) <= width]
    table = Table(box=None, header_style="bold", padding=(0, 1))
    for index in fit:
        table.add_column(plain(names[index]), justify="left" if names[index] == "state" else "right")
    for index, line in enumerate(lines):
        table.add_row(*(plain(line[i]) for i in fit), style="bold" if index == 0 else "")
    left = [name for index, name in enumerate(names) if index not in fit]
    if not left:
        return Group(table)
    named = ", ".join(left[:BARS]) + (f" and {len(left) - BARS} more" if len(left) > BARS else "")
    where = "in a wider window, in the report, and of one trial by --trial N"
    return Group(table, plain(f" not shown: {named} ({where})", style="dim"))


def _cells(row: summary.Row, *, best: bool) -> list[str]:
    return [str(row.trial.number), *row.objectives, row.state, _step(row.counted, best=best), *row.values]


def _step(trial: Trial, *, best: bool) -> str:
    """How far it came; before that, where its value is from, if it was on the way."""
    return (
        f"{trial.best_step} of {trial.step}" if best and trial.best_step not in (None, trial.step) else str(trial.step)
    )


def _matters(found: Importance, what: str) -> list[Any]:
    table = Table(box=None, show_header=False, padding=(0, 1))
    widest = max((share.high for share in found.shares), default=1.0) or 1.0
    for share in found.shares[:BARS]:
        bar = "█" * round(24 * share.value / widest)
        interval = f"{share.value:.0%} ({share.low:.0%} to {share.high:.0%})"
        table.add_row(plain(short(share.parameter.name, 30)), plain(bar, style="cyan"), plain(interval))
    if len(found.shares) > BARS:
        table.add_row(plain(f"and {len(found.shares) - BARS} with less", style="dim"))
    told = f"of {found.trials} trials" + ("" if found.step is None else f" at step {found.step}")
    how = f"share of the variation, 80 % interval; permutation in a forest, {told}"
    title = f"what matters{what}" + ("" if found.telling else ": these trials do not tell")
    return [plain(title, style="italic"), table, plain(how, style="dim")]


def _failed(failures: Sequence[summary.Failure]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1))
    for failure in failures[:REASONS]:
        reason = short(failure.reason, 160)
        trials = plain(f"  trials {summary.numbers(failure.trials)}", style="dim")
        table.add_row(plain(str(len(failure.trials))), plain(reason).append_text(trials))
    if len(failures) > REASONS:
        table.add_row("", plain(f"and {len(failures) - REASONS} more reasons", style="dim"))
    return table


# -- a trial -----------------------------------------------------------------------------------------------------------


def trial(found: Search, number_: int, output: str = "", places: Sequence[str] = (), raised: str = "") -> Group:
    """Its state, configuration, attempts, metrics and curve, what it left (at `places`), printed and raised."""
    one, track = found.history.trials[number_], found.tracks[number_]
    head = f"trial {number_}: {one.state}, step {one.step}, seed {one.seed}"
    parts: list[Any] = [plain(head, style="bold")]
    if one.reason:
        parts.append(plain(one.reason, style="red" if one.state == "failed" else "yellow"))
    if one.of is not None:
        parts.append(plain(f"{'confirms' if one.confirms else 'repeats'} trial {one.of} with another seed"))
    if one.objective is not None:
        values = one.values or (one.objective,)
        names = list(found.history.objectives) or [found.metric]
        parts.append(plain(", ".join(f"{name} {value:.6g}" for name, value in zip(names, values, strict=False))))
    if one.violation:
        parts.append(plain(f"breaks the study's limits by {number(one.violation)}", style="yellow"))
    parts += [plain(), plain("configuration", style="italic"), _pairs({p: shown(v) for p, v in one.config.items()})]
    if track.attempts:
        parts += [plain(), plain("attempts", style="italic"), _attempts(found, number_)]
    for move in track.moves:
        parts.append(plain(f"step {move.step}: went on from trial {move.donor} with {brief(move.point)}"))
    if one.metrics:
        last = {name: f"{value:.6g}" for name, value in one.metrics.items()}
        parts += [plain(), plain("metrics, as last reported", style="italic"), _pairs(last)]
    curve = track.curve[np.isfinite(track.curve[:, 1])]
    if len(curve) > 1:
        line = plain(f"{found.metric} by step  ").append(f"{number(curve[0, 1])} ", style="dim")
        parts.append(line.append(spark(curve[:, 1]), style="cyan").append(f" {number(curve[-1, 1])}"))
    if one.tags:
        parts += [plain(), plain("tags", style="italic"), _pairs({n: _cut(word) for n, word in one.tags.items()})]
    if places:
        parts += [plain(), plain("kept", style="italic"), *map(plain, places)]
    if output.strip():
        lines = output.rstrip().splitlines()
        title = "output" if len(lines) <= TAIL else f"output, the last {TAIL} of {len(lines)} lines"
        parts += [plain(), plain(title, style="italic"), Text.from_ansi("\n".join(lines[-TAIL:]))]
    if raised.strip():
        parts += [plain(), plain("raised", style="italic"), plain(shortened(raised))]
    return Group(*parts)


def _attempts(found: Search, number_: int) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1))
    for index, attempt in enumerate(found.tracks[number_].attempts):
        end = found.seconds if attempt.ended is None else found.clock(attempt.ended)
        stay = summary.duration(max(0.0, end - found.clock(attempt.began)))
        cells = (str(index + 1), attempt.worker or "this process", f"from step {attempt.step}", attempt.fate, stay)
        table.add_row(*(plain(cell) for cell in cells))
    return table


def _cut(text: str, most: int = 400) -> str:
    return text if len(text) <= most else f"{text[:most]}… ({len(text)} characters)"


def _pairs(values: Mapping[str, str]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 1))
    for name, value in values.items():
        table.add_row(plain(name), plain(value))
    return table


# -- in few characters -------------------------------------------------------------------------------------------------


def brief(point: Mapping[str, Any], most: int = 72) -> str:
    """A point on a line: `lr=0.014 width=397 act=gelu`, names by their ends where these differ."""
    tails = [name.rpartition(".")[2] for name in point]
    names = tails if len(set(tails)) == len(tails) else list(point)
    text = " ".join(f"{short(n, 18)}={short(shown(v), 18)}" for n, v in zip(names, point.values(), strict=True))
    return text if len(text) <= most else text[: most - 1].rsplit(" ", 1)[0] + " …"


def spark(values: Array, width: int = SPARK) -> str:
    """A curve as a line of blocks, with gaps; on a log scale where positive values span more than a decade."""
    finite = values[np.isfinite(values)]
    if not finite.size:
        return ""
    if finite.min() > 0 and finite.max() / 10 > finite.min():
        values, finite = np.log(np.where(values > 0, values, np.nan)), np.log(finite)
    unit = unit_of(finite)
    values, finite = values / unit, finite / unit
    low, high = float(finite.min()), float(finite.max())
    places = np.linspace(0, len(values) - 1, min(width, len(values))).round().astype(int)
    span = high - low or 1.0
    return "".join(
        " " if not np.isfinite(v) else LEVELS[min(int((v - low) / span * len(LEVELS)), len(LEVELS) - 1)]
        for v in values[places].tolist()
    )
