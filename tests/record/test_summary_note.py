"""Does the page of a study say what came out?"""

from __future__ import annotations

from typing import Any

import journals
from bilevel.record.projection import LONGEST_TAG
from bilevel.record.summary_note import COLUMNS, FRONT, LEADERS, note
from bilevel.study.events import Asked, Ended, Event, Reported, Started
from bilevel.study.history import replay


def written(events: list[Event], result: dict[str, Any] | None = None) -> str:
    return note(journals.RUN, result or {"study": "s", "status": "completed", "trials": {}}, replay(events))


def searched(values: dict[int, float], **asked: Any) -> list[Event]:
    events: list[Event] = [Started("s", journals.RUN, "loss", True, 7)]
    for n, value in values.items():
        point = {"lr": 0.1 * n, "opt[Adam].beta": 0.9, "act": "a|b"}
        config = {"lr": 0.1 * n, "opt.beta": 0.9, "act": "a|b", "epochs": 3}
        events += [
            Asked(n, config, n, point, **asked),
            Reported(n, 1, {"loss": value}),
            Ended(n, "completed", 1, value),
        ]
    return events


def test_a_study_with_one_trial_shows_its_result_and_its_tests() -> None:
    events = [*journals.beginning(), *journals.trial(0, 1), *journals.end(1)]
    result: Any = events[-1]
    text = note(journals.RUN, result.result, replay(events))
    assert text.startswith("**tiny**: completed; trials: 1 completed\nBest: trial 0, objective (valid/loss) 0.25\n")
    assert "| test/accuracy@1 | 0.9 | ± 0.01 |" in text
    assert "| trial |" not in text


def test_a_search_shows_its_leaders_with_their_searched_values() -> None:
    lines = written(searched({n: float(n * 7 % 31) for n in range(31)})).splitlines()
    table = lines[lines.index("| trial | loss (smallest first) | lr | opt.beta | act |") :]
    assert table[2:4] == ["| 0 | 0 | 0 | 0.9 | a\\|b |", "| 9 | 1 | 0.9 | 0.9 | a\\|b |"]
    assert len(table) == 2 + LEADERS


def test_repeats_are_one_row_with_mean_and_interval() -> None:
    events = searched({0: 1.0, 1: 2.0})
    for n, value in ((2, 3.0), (3, 2.0)):
        events += [Asked(n, {"lr": 0.0}, n, {"lr": 0.0}, of=0), Reported(n, 1, {"loss": value})]
        events.append(Ended(n, "completed", 1, value))
    best = {"trial": 0, "objective": 2.0, "runs": 3, "ci95": 2.484, "config": {}}
    text = written(events, {"study": "s", "status": "completed", "best": best})
    assert (
        "Best: trial 0, objective (loss) 2 ± 2.484 over 3 seeds\nThe other metrics of this page are of trial 0 alone."
        in text
    )
    assert "(2 configurations in 4 trials)" in text
    assert "| trial | loss (smallest first) | runs | lr |" in text
    assert "| 0 | 2 ± 2.484 | 3 | 0 |" in text


def test_several_objectives_show_their_pareto_set() -> None:
    ways = {"loss": "minimize", "accuracy": "maximize"}
    events: list[Event] = [Started("s", journals.RUN, "loss", True, 7, objectives=ways)]
    for n in range(60):
        values = (float(n), float(n if n < 40 else 0))
        events += [Asked(n, {"lr": n}, n, {"lr": n}), Ended(n, "completed", 1, values[0], values=values)]
    lines = written(events).splitlines()
    assert f"Pareto set: 40 trials, {FRONT} of them here" in lines
    table = lines[lines.index("| trial | loss (min) | accuracy (max) | lr |") :]
    assert table[2] == "| 0 | 0 | 0 | 0 |"
    assert len(table) == 2 + FRONT


def test_a_long_page_loses_whole_rows_and_columns() -> None:
    events: list[Event] = [Started("s", journals.RUN, "loss", True, 7)]
    config = {f"{'x' * 200}{i}": "y" * 200 for i in range(30)}
    for n in range(30):
        events += [Asked(n, config, n, config), Ended(n, "completed", 1, float(n))]
    result = {"study": "s", "status": "completed", "metrics": {f"test/{'m' * 200}@{n}": 1.0 for n in range(100)}}
    text = written(events, result)
    assert len(text) <= LONGEST_TAG
    assert all(line.endswith("|") for line in text.splitlines()[3:] if line)
    assert max(line.count(" | ") for line in text.splitlines()) == COLUMNS + 1
