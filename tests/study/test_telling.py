"""Is said what the numbers of a result do not say?"""

from __future__ import annotations

import io

from rich.console import Console

import journals
from bilevel.figures import search_history
from bilevel.record.summary_note import note
from bilevel.study import telling
from bilevel.study.events import Asked, Ended, Event, Opened, Reported, Started
from bilevel.study.history import replay
from bilevel.view import report, tables


def events(value: str = "last") -> list[Event]:
    """Two configurations with two seeds each, the first one confirmed twice; then a stopped one that had less loss."""
    found: list[Event] = [Started("s", journals.RUN, "loss", True, 7, value=value), Opened(0, "", {}, "")]
    for n, (of, confirms) in enumerate([(None, False), (0, False), (None, False), (2, False), (0, True), (0, True)]):
        found += [Asked(n, {"lr": 0.1}, n, {"lr": 0.1}, of, confirms), Reported(n, 9, {"loss": 1.0 + n / 10})]
        found.append(Ended(n, "completed", 9, 1.0 + n / 10))
    return found


def stopped() -> list[Event]:
    found = [event for event in events() if getattr(event, "trial", 0) == 0]
    return [*found, Asked(1, {"lr": 0.2}, 1, {"lr": 0.2}), Reported(1, 3, {"loss": 0.5}), Ended(1, "stopped", 3, 0.5)]


def shown(told: list[Event]) -> tuple[str, str, str]:
    """In the terminal, on the report's page, in MLflow."""
    search = search_history((float(n), event) for n, event in enumerate(told))
    console = Console(file=io.StringIO(), width=1000, color_system=None)
    console.print(tables.search(search))
    file = console.file
    assert isinstance(file, io.StringIO)
    leader = search.history.leaders(1)[0]
    best = {"trial": leader.trial.number, "objective": leader.mean, "config": {}}
    best |= {} if leader.runs < 2 else {"runs": leader.runs, "ci95": leader.half}
    result = {"study": "s", "status": "completed", "trials": search.history.ended, "best": best}
    return file.getvalue(), report.page(search), note(journals.RUN, result, search.history)


def test_configurations_are_told_from_trials() -> None:
    said = "2 configurations in 4 trials, and 2 trials that confirm the leaders"
    assert telling.tried(replay(events())) == said
    terminal, page, mlflow = shown(events())
    assert f"6 trials ({said}): 6 completed" in terminal
    assert "<b>2</b><span>configurations</span>" in page
    assert "<b>6</b><span>trials</span>" in page
    assert said in mlflow
    assert telling.tried(replay(stopped())) == ""


def test_a_single_trials_metrics_are_told_from_the_mean() -> None:
    _, page, mlflow = shown(events())
    assert "metrics of trial 0 alone, as last reported (2 seeds make the value above)" in page
    assert "The other metrics of this page are of trial 0 alone." in mlflow


def test_a_stopped_trial_that_had_more_is_named_wherever_the_best_is() -> None:
    said = "trial 1, stopped at step 3, had loss 0.5; the best is trial 0 with 1, as completed trials come first"
    assert telling.passed(replay(stopped())).startswith(said)
    for place in shown(stopped()):
        assert said in place
    assert telling.passed(replay(events())) == ""
