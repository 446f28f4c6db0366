"""How did a search go? Best so far, learning curves, the Pareto front, and who computed what when."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Sequence

import numpy as np

from bilevel.figures import style
from bilevel.figures.chart import Axis, Chart, Layer, Marker, Panel, present, short, thin
from bilevel.figures.scales import hours, logarithmic, spread
from bilevel.figures.search import Array, Attempt, Search
from bilevel.study.history import Trial, mean

POINTS = 800  # drawn in a panel; of more trials the best and an even choice of the others
BEST = 100  # of these
CURVES = 150  # learning curves drawn
STEPS = 60  # points of each
LANES = 32  # workers with a line of their own in the timeline; more share lines
NARROW = 0.005  # of the timeline: shorter stays are drawn as long as this, and touching ones as one

STATE = {
    "completed": ("completed", style.BLUE),
    "stopped": ("stopped early", style.SKY),
    "failed": ("failed", style.VERMILLION),
    "running": ("running", style.GREEN),
    "lost": ("lost with its worker", style.ORANGE),
    "interrupted": ("interrupted", style.GREY),
}


def best_so_far(search: Search) -> Chart | None:
    """Every trial's objective and the best so far, by trials ended and by time; several objectives by trials alone."""
    ended = search.valued()
    if not ended:
        return None
    panels = []
    names = list(search.history.objectives) or [search.metric]
    if len(names) == 1:
        values = np.array([float(trial.objective or 0.0) for trial in ended])
        best = incumbents(search, ended)
        seconds = np.array([search.clock(search.tracks[t.number].ended or 0.0) for t in ended])
        unit, called = hours(search.seconds)
        count = np.arange(1.0, len(ended) + 1)
        time = Axis(f"time at work [{called}]", span=(0.0, 1.02 * search.seconds / unit or 1.0))
        for x, axis in ((count, _counting(len(ended))), (seconds / unit, time)):
            panels.append(_best_panel(ended, x, axis, values, best, names[0], search.history.minimize))
        what = "the line falls" if search.history.minimize else "the line rises"
    else:
        count = np.arange(1.0, len(ended) + 1)
        for index, (name, minimize) in enumerate(search.history.objectives.items()):
            values = np.array([trial.values[index] if len(trial.values) > index else np.nan for trial in ended])
            sign = 1.0 if minimize else -1.0
            feasible = np.array([not trial.violation for trial in ended])
            best = sign * np.minimum.accumulate(np.where(feasible & np.isfinite(values), sign * values, np.inf))
            panels.append(_best_panel(ended, count, _counting(len(ended)), values, best, name, minimize))
        what = "each line improves"
    caption = f"As long as {what}, more trials pay; where it is flat, they no longer do."
    return Chart("best_so_far", "Best so far", caption, tuple(panels))


def incumbents(search: Search, ended: Sequence[Trial]) -> Array:
    """The best configuration's value after each trial, by the rules of `History.leaders`.

    It counts by the mean of its seeds, or of its confirmations; trials that break a limit never, and stopped ones only
    where no trial is complete or values compare; nor a configuration of which a seed failed where there are others.
    """
    flawed = search.history.flawed()
    flawed = flawed if any(trial.group not in flawed for trial in ended) else {}
    whole = not search.history.equal and any(trial.state == "completed" for trial in ended)
    groups = {number: index for index, number in enumerate(dict.fromkeys(trial.group for trial in ended))}
    seen: list[list[float]] = [[] for _ in groups]
    again: list[list[float]] = [[] for _ in groups]
    trials = search.history.trials.values()  # of each configuration so many can count, and they count together
    wanted = Counter((trial.group, trial.confirms) for trial in trials if trial.objective is not None)
    wanted += Counter((trial.group, trial.confirms) for trial in trials if trial.state == "running")
    standing = np.full(len(groups), np.inf)  # minimized means; infinite: does not count
    out, confirmed = np.zeros(len(groups), dtype=bool), np.zeros(len(groups), dtype=bool)
    result, leader = np.full(len(ended), np.nan), np.inf
    for place, trial in enumerate(ended):
        group = groups[trial.group]
        mine = (again if trial.confirms else seen)[group]
        mine.append(float(trial.objective or 0.0))
        if len(mine) < wanted[trial.group, trial.confirms]:
            result[place] = search.sign * leader if np.isfinite(leader) else np.nan
            continue  # the mean of some of its seeds is not what it will count by
        if trial.confirms and not confirmed[group]:  # from now on it counts by its confirmations alone
            confirmed[group], out[group] = True, False
        out[group] |= trial.violation > 0 or (whole and trial.state == "stopped") or trial.group in flawed
        values = again[group] or seen[group]
        standing[group] = np.inf if out[group] else search.sign * mean(values)
        sure = float(np.where(confirmed, standing, np.inf).min())
        leader = sure if np.isfinite(sure) else float(standing.min())
        result[place] = search.sign * leader if np.isfinite(leader) else np.nan
    return result


def _best_panel(
    ended: Sequence[Trial], x: Array, x_axis: Axis, values: Array, best: Array, metric: str, minimize: bool
) -> Panel:
    axis, drawn = spread(metric, values, minimize=minimize)
    numbers = np.array([trial.number for trial in ended], dtype=float)
    sign = 1.0 if minimize else -1.0
    chosen = thin(len(ended), POINTS, np.argsort(np.where(np.isfinite(values), sign * values, np.inf))[:BEST].tolist())
    layers = []
    for state in ("completed", "stopped"):
        kept = [i for i in chosen if ended[i].state == state and not ended[i].violation]
        name, color = STATE[state]
        layers.append(Layer("points", x[kept], drawn[kept], color, name, 6, 0.6, trials=numbers[kept]))
    kept = [i for i in chosen if ended[i].violation]
    name = "breaks a limit"
    layers.append(Layer("points", x[kept], drawn[kept], style.GREY, name, 6, 0.8, "hollow", trials=numbers[kept]))
    known = np.flatnonzero(np.isfinite(best))
    at = [i for i in known if i in (known[0], len(best) - 1) or best[i] != best[i - 1]]
    line_x = np.repeat(x[at], 2)[1:]
    line_y = axis.places(np.repeat(best[at], 2)[:-1])
    layers.append(Layer("line", line_x, line_y, style.INK, "best so far", 2.2))
    return Panel(x_axis, axis, present(layers))


def _counting(trials: int) -> Axis:
    return Axis("trials with a result", span=(0.0, 1.02 * trials), whole=True)


def learning_curves(search: Search) -> Chart | None:
    """The objective by step of all trials, stopped ones lighter, the best one on top; None if none reports twice."""
    shown = [t for t in search.trials if np.isfinite(search.tracks[t.number].curve[:, 1]).sum() > 1]
    if not shown:
        return None
    best = search.history.best()
    ranked = sorted(range(len(shown)), key=lambda i: _last(search, shown[i]))
    chosen = [shown[i] for i in thin(len(shown), CURVES, ranked[: CURVES // 5])]
    if best is not None and best in shown and best not in chosen:
        chosen.append(best)
    curves = [search.tracks[t.number].curve for t in shown]
    everything = np.concatenate(curves)
    y = _reach(search, curves)
    layers = []
    for state, opacity in (("stopped", 0.6), ("failed", 0.6), ("completed", 0.7), ("running", 0.9)):
        of_state = [t for t in chosen if t.state == state and t is not best]
        layers.append(_strokes(search, of_state, *STATE[state][::-1], opacity, y))
    if best is not None and best in chosen:
        layers.append(_strokes(search, [best], style.INK, f"the best, trial {best.number}", 1.0, y, 2.8))
    steps = everything[np.isfinite(everything[:, 0]), 0]
    ends = [search.tracks[t.number].curve[-1, 0] for t in shown if t.state == "stopped"]
    early = bool(ends) and float(np.median(ends)) < steps.max() / 5 and steps.min() > 0
    first, last = float(steps.min()), float(steps.max())
    apart = (first, last) if last > first else (first - 0.5, last + 0.5)  # tried again, and not beyond its first step
    x = logarithmic("step", first, last) if early else Axis("step", whole=True, span=apart)
    many = f" ({len(chosen)} of {len(shown)} trials: the best and an even choice)" if len(chosen) < len(shown) else ""
    caption = f"Good trials part early from bad ones where stopping early is safe; crossing curves say it is not{many}."
    title = "Learning curves of all trials"
    if len(search.history.objectives) > 1:
        title = f"{short(search.metric, 40)}: learning curves of all trials"
    if len(shown) == 1:
        title, caption = "Learning curve", "Where it is flat, more steps no longer help."
    return Chart("learning_curves", title, caption, (Panel(x, y, present(layers)),), wide=True)


def _reach(search: Search, curves: Sequence[Array]) -> Axis:
    """From where curves begin to where they end, if that takes a log scale; else what most of them show."""
    finite = [curve[np.isfinite(curve[:, 1]), 1] for curve in curves]
    ends = np.array([end for values in finite for end in (values.min(), values.max())])
    axis, _ = spread(search.metric, ends, minimize=search.history.minimize)
    if axis.log or axis.powers:
        return axis
    reported = np.concatenate([values[thin(len(values), STEPS, [0, len(values) - 1])] for values in finite])
    return spread(search.metric, reported, minimize=search.history.minimize)[0]


def _strokes(
    search: Search,
    trials: Sequence[Trial],
    color: str,
    name: str,
    opacity: float,
    axis: Axis,
    width: float = 1.4,
) -> Layer:
    parts, numbers = [np.empty((0, 2))], [np.empty(0)]
    for trial in trials:
        curve = search.tracks[trial.number].curve
        curve = curve[thin(len(curve), STEPS, [0, len(curve) - 1])]
        parts += [curve, np.full((1, 2), np.nan)]
        numbers.append(np.full(len(curve) + 1, float(trial.number)))
    line = np.concatenate(parts)
    return Layer(
        "line", line[:, 0], axis.places(line[:, 1]), color, name, width, opacity, trials=np.concatenate(numbers)
    )


def _last(search: Search, trial: Trial) -> float:
    curve = search.tracks[trial.number].curve
    values = curve[np.isfinite(curve[:, 1]), 1]
    return search.sign * float(values[-1]) if len(values) else np.inf


def pareto_front(search: Search) -> Chart | None:
    """Trials by two objectives, those on the front marked; of more objectives each pair. None for one objective."""
    objectives = search.history.objectives
    trials = [t for t in search.valued() if len(t.values) == len(objectives)]
    if len(objectives) < 2 or not trials:
        return None
    front = {trial.number for trial in search.history.pareto()}
    on = [i for i, t in enumerate(trials) if t.number in front]
    values = np.array([trial.values for trial in trials])
    numbers = np.array([trial.number for trial in trials], dtype=float)
    chosen = thin(len(trials), POINTS, on)
    pairs = list(itertools.combinations(range(len(objectives)), 2))
    panels = []
    names, ways = list(objectives), list(objectives.values())
    for a, b in pairs:
        (x_axis, x), (y_axis, y) = (spread(names[i], values[:, i], minimize=ways[i]) for i in (a, b))
        rest = [i for i in chosen if i not in on]
        kinds: list[tuple[str, list[int], str, Marker]] = [
            ("dominated", [i for i in rest if not trials[i].violation], style.SKY, "full"),
            ("breaks a limit", [i for i in rest if trials[i].violation], style.GREY, "hollow"),
        ]
        layers = [
            Layer("points", x[at], y[at], color, name, 6, 0.7, marker, trials=numbers[at])
            for name, at, color, marker in kinds
        ]
        order = sorted((i for i in on if i in set(chosen.tolist())), key=lambda i: values[i, a])
        if len(objectives) == 2:
            layers.append(Layer("line", x[order], y[order], style.INK, "", 1.2, dashed=True))
        layers.append(Layer("points", x[order], y[order], style.VERMILLION, "Pareto front", 8, trials=numbers[order]))
        panels.append(Panel(x_axis, y_axis, present(layers)))
    low = " and ".join(f"{short(name, 24)} {'low' if way else 'high'}" for name, way in objectives.items())
    caption = f"Wanted is {low}: on the front no trial is better in one without being worse in another."
    return Chart("pareto_front", "Pareto front", caption, tuple(panels))


# -- who computed what when --------------------------------------------------------------------------------------------


def timeline(search: Search) -> Chart | None:
    """Each worker's trials as bars over time at work, colored by what became of them."""
    stays = [(trial, attempt) for trial, track in search.tracks.items() for attempt in track.attempts]
    if not stays or search.seconds <= 0:
        return None
    unit, called = hours(search.seconds)
    total = search.seconds / unit
    starts = np.array([search.clock(attempt.began) for _, attempt in stays]) / unit
    ends = np.array([total if a.ended is None else search.clock(a.ended) / unit for _, a in stays])
    lanes, names = _lanes([attempt for _, attempt in stays], starts, ends)
    size = float(np.clip(200 / (len(names) + 1), 3, 14))
    layers = []
    for fate in STATE:
        at = [i for i, (_, attempt) in enumerate(stays) if _fate(attempt) == fate]
        layers.append(_bars([stays[i][0] for i in at], starts[at], ends[at], lanes[at], total, *STATE[fate], size))
    breaks = [search.clock(start) / unit for start, _ in search.sessions[1:]]
    if breaks:
        x = np.array([v for b in breaks for v in (b, b, np.nan)])
        y = np.tile([-0.6, len(names) - 0.4, np.nan], len(breaks))
        layers.append(Layer("line", x, y, style.INK, "another driver went on", 1.0, dashed=True))
    ticks = tuple((float(i), short(name, 20)) for i, name in enumerate(names))
    every = -(-len(ticks) // LANES)
    y_axis = Axis("worker", span=(len(names) - 0.4, -0.6), ticks=ticks[::every])
    height = float(np.clip(0.3 + len(names) / 14, 0.45, 2))
    x_axis = Axis(f"time at work [{called}]", span=(-0.01 * total, 1.01 * total))
    panel = Panel(x_axis, y_axis, present(layers), height=height)
    caption = "Gaps are workers without work: with many of them, more slots or larger trials would use them better."
    return Chart("timeline", "Who computed what when", caption, (panel,), wide=True)


def _fate(attempt: Attempt) -> str:
    return {"paused": "completed", "moved": "completed"}.get(attempt.fate, attempt.fate)


def _lanes(attempts: Sequence[Attempt], starts: Array, ends: Array) -> tuple[Array, list[str]]:
    """A lane for each stay: its worker's, further ones where its stays overlap; of many workers, any that is free."""
    workers = sorted({attempt.worker for attempt in attempts}, key=_natural)
    shared = len(workers) > LANES
    free: dict[str, list[tuple[float, int]]] = {}
    place: list[tuple[str, int]] = [("", 0)] * len(attempts)
    for index in np.lexsort((ends, starts)):
        worker = "" if shared else attempts[index].worker
        own = free.setdefault(worker, [])
        lane = next((i for i, (end, _) in enumerate(own) if end <= starts[index] + 1e-9), len(own))
        own[lane : lane + 1] = [(float(ends[index]), lane)]
        place[index] = (worker, lane)
    order = [""] if shared else workers
    rows = [(worker, lane) for worker in order for lane in range(len(free.get(worker, [])))]
    names = [_lane_name(worker, lane, shared) for worker, lane in rows]
    row = {key: index for index, key in enumerate(rows)}
    return np.array([row[key] for key in place], dtype=float), names


def _lane_name(worker: str, lane: int, shared: bool) -> str:
    if shared:
        return f"place {lane + 1}"
    return (worker or "this process") if lane == 0 else ""


def _natural(text: str) -> list[tuple[int, int, str]]:
    """`worker 10` after `worker 9`."""
    parts = "".join(c if c.isdigit() else f" {c} " if c.isspace() else c for c in text).split()
    return [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]


def _bars(
    trials: Sequence[int], starts: Array, ends: Array, lanes: Array, total: float, name: str, color: str, size: float
) -> Layer:
    """Stays as thick lines; those of a lane that touch and are too narrow to be told apart as one."""
    least = NARROW * total
    drawn: list[tuple[float, float, float, int, bool]] = []
    for index in np.lexsort((starts, lanes)):
        start, end, lane = float(starts[index]), float(ends[index]), float(lanes[index])
        narrow = end - start < least
        if drawn and narrow and drawn[-1][2] == lane and drawn[-1][4] and start - drawn[-1][1] < least / 3:
            drawn[-1] = (*drawn[-1][:1], max(drawn[-1][1], end), *drawn[-1][2:])
        else:
            drawn.append((start, max(end, start + least), lane, trials[index], narrow))
    x = np.array([v for start, end, *_ in drawn for v in (start, max(end - least / 3, start + least / 2), np.nan)])
    y = np.array([v for _, _, lane, *_ in drawn for v in (lane, lane, np.nan)])
    who = np.array([float(trial) for *_, trial, _ in drawn for _ in range(3)])
    return Layer("line", x, y, color, name, size, trials=who)
