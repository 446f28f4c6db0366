"""Does a person see where a search stands?"""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from bilevel.drive.progress import Progress, Standing
from bilevel.study.events import Opened
from bilevel.study.history import History
from bilevel.view import terminal
from support import searches


class Clock:
    """Time that passes when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(terminal, "time", made)
    return made


def seen(terminal_: bool, width: int = 100) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal_, width=width, color_system=None, highlight=False)


def text(console: Console) -> str:
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def history(until: int, **options: Any) -> History:
    """The first events of a search."""
    made = History()
    for _, event in searches.study(40, **options)[:until]:
        made.take(event)
    return made


def progress(found: History, **options: Any) -> Progress:
    best = next(iter(found.leaders(1)), None)
    standing = Standing(trials=40, last=27, search="TPE, ASHA(first=1, factor=3)", best=best, **options)
    return Progress(found, {}, 4, 1, 60.0, standing)


def test_lines_say_how_a_search_stands_every_ten_seconds(clock: Clock) -> None:
    console = seen(False, 300)
    with terminal.Screen(console) as screen:
        for _ in range(20):
            screen.progress(progress(history(400)))
            clock.now += 1.0
    lines = text(console).splitlines()
    assert len(lines) == 2
    found = history(400)
    ended = sum(found.ended.values())
    assert lines[0].startswith(f"{ended}/40 trials · best loss ")
    assert f"{len(found.running)} running, {found.ended['completed']} completed" in lines[0]
    assert "0 failed" in lines[0]
    assert "4 workers · 1 faults survived" in lines[0]


def test_with_several_seeds_configurations_are_counted_as_they_were_written(clock: Clock) -> None:
    console, found = seen(False, 300), history(2000)
    ended = sum(found.ended.values())
    terminal.Screen(console).progress(progress(found, repeats=2, confirming=3))
    said = text(console)
    counts = f"{(ended - 3) // 2}/20 configurations, {ended - 3}/40 trials, 3 that confirm the leaders · "
    assert " ".join(said.split()).startswith(counts)


def test_pace_and_time_left_follow_the_trials(clock: Clock) -> None:
    console = seen(False, 300)
    screen = terminal.Screen(console)
    made = History()
    events = searches.study(40, rungs=(), fails=lambda point: False)
    for at, event in events:
        if made.ended["completed"] >= 20:
            break
        clock.now = at
        made.take(event)
        screen.progress(progress(made))
    last = text(console).splitlines()[-1]
    pace = float(last.partition(" trials/s")[0].rpartition(" ")[2])
    assert pace == pytest.approx(4 / (27 * 0.25), rel=0.25)  # four workers, 27 steps of a quarter second
    left = last.partition(" s left")[0].rpartition(" ")[2]
    assert float(left) == pytest.approx(20 / pace, rel=0.4)


def test_a_time_limit_counts_where_it_comes_first(clock: Clock) -> None:
    console = seen(False, 300)
    terminal.Screen(console).progress(progress(history(400), limit=75.0))
    assert "15 s until the time limit" in text(console)


def test_the_panel_lists_what_runs(clock: Clock) -> None:
    console, found = seen(True), history(400)
    with terminal.Screen(console) as screen:
        screen.progress(progress(found))
    shown = text(console)
    number = next(iter(found.running))
    assert f"trial {number}" in shown
    assert f"step {found.trials[number].step}/27" in shown
    assert "lr=" in shown
    assert "TPE, ASHA(first=1, factor=3)" in shown
    assert max(len(line) for line in shown.splitlines()) < 400  # escapes included


def test_many_running_trials_are_counted(clock: Clock) -> None:
    console, found = seen(True), history(2000, running=20)
    with terminal.Screen(console) as screen:
        screen.progress(progress(found))
    assert f"and {len(found.running) - terminal.TRIALS} more" in text(console)


def test_nothing_has_ended_yet(clock: Clock) -> None:
    console = seen(False, 300)
    empty = History(metric="loss")
    terminal.Screen(console).progress(Progress(empty, {}, 0, 0, 0.0, Standing()))
    assert text(console).strip() == "0 trials · 0 failed · starting"


def test_it_says_who_computes(clock: Clock) -> None:
    """In this process alone if it is so: workers may be starting, in a resumed search too, or have all died."""
    for workers, alive, said in (
        (0, (0, 0), ["in this process"] * 2),
        (2, (0, 1, 2, 0, 2), ["starting", "1 workers", "2 workers", "0 workers", "2 workers"]),
        (None, (0, 3), ["starting", "3 workers"]),
    ):
        console, found = seen(False, 300), history(400)
        found.take(Opened(workers, "", {}, ""))
        screen = terminal.Screen(console)
        for count in alive:
            screen.progress(Progress(found, {}, count, 0, 60.0, Standing(trials=40)))
            clock.now += terminal.LINE_EVERY
        assert [line.split(" · ")[-1] for line in text(console).splitlines()] == said


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("trial 3 failed: ValueError: no", "trial 3 failed: ValueError: no"),
        ("trial 3 failed: ValueError: no\n  at a\n  at b", "trial 3 failed: ValueError: no …"),
        ("trial 3 failed: ValueError: " + 1000 * "x", "trial 3 failed: ValueError: " + 212 * "x" + " …"),
        ("trial 3: ValueError: no\n  at a; trying again", "trial 3: ValueError: no …; trying again"),
        ("trial 3: ValueError: no; trying again", "trial 3: ValueError: no; trying again"),
        ("/store/x: full\nThe run can be resumed: ...", "/store/x: full\nThe run can be resumed: ..."),
    ],
)
def test_what_a_trial_raised_is_one_line_however_long_it_is(said: str, shown: str) -> None:
    console = seen(False, 80)
    terminal.Screen(Console(file=console.file, soft_wrap=True)).say(said)
    assert text(console) == shown + "\n"


def test_the_end_names_interval_and_front() -> None:
    console = seen(False, 300)
    document = {
        "study": "mlp",
        "status": "completed",
        "seconds": 200.0,
        "trials": {"completed": 3, "stopped": 0, "failed": 1},
        "episodes_per_second": 0.0,
        "best": {"trial": 2, "objective": 0.25, "runs": 3, "ci95": 0.012, "config": {}},
        "pareto": [{}, {}],
        "metrics": {},
    }
    console.print(terminal.results(document, {"lr": 0.1, "act": "relu"}))
    line = text(console)
    assert "3 completed, 1 failed" in line
    assert "in 3 min 20 s" in line
    assert "lr=0.1 act=relu" in line
    assert "objective 0.25 ± 0.012 over 3 seeds (the leading objective); 2 trials on the Pareto front" in line


def test_the_end_names_the_metric_and_whose_the_others_are() -> None:
    console = seen(False, 300)
    best = {"trial": 2, "objective": 0.25, "runs": 3, "ci95": 0.012, "config": {}}
    document = {
        "study": "mlp",
        "status": "completed",
        "seconds": 2.0,
        "trials": {"completed": 3},
        "episodes_per_second": 0.0,
        "best": best,
        "metrics": {"accuracy": 0.98},
    }
    console.print(terminal.results(document, {}, "loss"))
    assert "best trial 2, loss 0.25 ± 0.012 over 3 seeds" in text(console)
    assert "metric of trial 2 alone" in text(console)
    alone = seen(False, 300)
    alone.print(terminal.results({**document, "best": {"trial": 2, "objective": 0.25, "config": {}}}))
    assert "alone" not in text(alone)


def test_the_end_compares_with_what_is_simpler() -> None:
    console = seen(False, 300)
    ours = {"accuracy@0": 0.5, "accuracy@1": 0.914, "accuracy_ci95@1": 0.01, "balanced_accuracy@1": 0.6, "auc@1": 0.75}
    theirs = {"majority_accuracy": 0.933, "majority_balanced_accuracy": 0.5, "majority_auc": 0.5}
    document = {
        "study": "rare",
        "status": "completed",
        "seconds": 2.0,
        "trials": {"completed": 1},
        "episodes_per_second": 0.0,
        "best": None,
        "metrics": {f"test/{name}": value for name, value in (ours | theirs).items()},
    }
    console.print(terminal.results(document))
    lines = [" ".join(line.split()) for line in text(console).splitlines()]
    assert "after accuracy (± 95 %) auc (± 95 %) balanced accuracy (± 95 %)" in lines
    assert "no adaptation 50.0 %" in lines
    assert "1 step 91.4 ± 1.0 % 0.75 60.0 %" in lines
    assert "majority 93.3 % 0.5 50.0 %" in lines
    assert lines[-1].startswith("the majority of the support is better than what was learned")


def test_without_an_interval_none_is_promised() -> None:
    """As with one test group."""
    console = seen(False, 300)
    metrics = {"test/mae@0": 1.5, "test/mae_ci95@0": None, "test/ridge_mae": 2.0, "test/ridge_mae_ci95": None}
    document = {
        "study": "one",
        "status": "completed",
        "seconds": 2.0,
        "trials": {"completed": 1},
        "episodes_per_second": 0.0,
        "best": None,
        "metrics": metrics,
    }
    console.print(terminal.results(document))
    assert "±" not in text(console)


def test_the_end_says_whose_statistics_normalisations_took() -> None:
    document = {
        "study": "maml",
        "status": "completed",
        "seconds": 2.0,
        "trials": {"completed": 1},
        "episodes_per_second": 0.0,
        "best": None,
        "metrics": {"test/loss@0": 1.0, "normalization/batch": 4.0, "normalization/frozen": 20.0},
    }
    console = seen(False, 300)
    console.print(terminal.results(document, {}))
    assert "normalisation layers: 4 by the query batch, 20 by training data, frozen in eval mode" in text(console)
