"""Does a search read right as text?"""

from __future__ import annotations

import io
import math

import numpy as np
import pytest
from rich.console import Console, RenderableType

from bilevel.view import tables
from support import searches


def text(renderable: RenderableType, width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None, highlight=False)
    console.print(renderable)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_a_search_shows_its_counts_leaders_and_failures() -> None:
    found = searches.search(searches.study(40, lost=(5,), broken_at=20, rungs=(9,)))
    said = text(tables.search(found))
    ended = found.history.ended
    counts = f"{ended['completed']} completed, {ended['stopped']} stopped, {ended['failed']} failed"
    assert f"40 trials: {counts}; " in said
    assert "in 2 sessions, 1 fault survived" in said
    leaders = found.history.leaders(10)
    rows = [line.split() for line in said.splitlines()]
    start = next(i for i, row in enumerate(rows) if row[:2] == ["trial", "loss"]) + 1
    assert [int(row[0]) for row in rows[start : start + 10]] == [leader.trial.number for leader in leaders]
    assert [row[1] for row in rows[start : start + 10]] == [f"{leader.mean:.5g}" for leader in leaders]
    assert "step 2: loss is nan" in said
    assert "permutation in a forest" in said


def test_the_front_replaces_the_leaders() -> None:
    found = searches.search(searches.study(40, objectives={"loss": "minimize", "cost": "minimize"}, rungs=()))
    said = text(tables.search(found))
    assert f"the Pareto front, {len(found.history.pareto())} trials" in said
    assert "cost" in said


@pytest.mark.parametrize("name", list(searches.odd()))
@pytest.mark.parametrize("width", [40, 80, 200])
def test_every_search_can_be_read_at_any_width(name: str, width: int) -> None:
    found = searches.odd()[name]
    said = text(tables.search(found), width)
    assert max(map(len, said.splitlines())) <= width
    for number in found.history.trials:
        text(tables.trial(found, number), width)


def test_a_table_has_as_many_values_as_there_is_room_for() -> None:
    found = searches.odd()["forty"]
    wide, narrow = (text(tables.search(found), width) for width in (200, 80))
    heads = [next(line for line in said.splitlines() if "state" in line) for said in (wide, narrow)]
    assert heads[0].count("layer") > heads[1].count("layer") >= 1
    assert "…" not in next(line for line in narrow.splitlines() if "completed" in line and "27" in line)
    left = [" ".join(said.partition("not shown: ")[2].split()) for said in (wide, narrow)]
    rest = [int(line.partition(" and ")[2].split()[0]) + line.partition(" and ")[0].count(",") + 1 for line in left]
    assert rest[1] - rest[0] == len(heads[0].split()) - len(heads[1].split()) > 0


def test_a_trial_shows_what_was_tried_and_what_came_of_it() -> None:
    found = searches.search(searches.study(40, lost=(5,)))
    trial = found.history.trials[5]
    output = "".join(f"line {n}\n" for n in range(100)) + "\x1b[31m[bold]end[/bold]\x1b[0m\n"
    said = text(tables.trial(found, 5, output))
    assert f"trial 5: {trial.state}, step {trial.step}, seed 1005" in said
    assert f"loss {trial.objective:.6g}" in said
    assert "opt.beta2" in said
    assert [attempt.fate for attempt in found.tracks[5].attempts] == ["lost", trial.state]
    for attempt in found.tracks[5].attempts:
        assert f"{attempt.worker}  from step 0  {attempt.fate}" in said
    assert "output, the last 40 of 101 lines" in said
    assert "line 99" in said
    assert "line 60" not in said
    assert "[bold]end[/bold]" in said
    assert "\x1b" not in said


def test_a_failed_trial_says_why() -> None:
    found = searches.odd()["failed"]
    assert "step 2: loss is nan" in text(tables.trial(found, 0))


def test_a_member_of_a_population_says_from_whom_it_went_on() -> None:
    found = searches.search(searches.population(), None)
    number, track = next((n, track) for n, track in found.tracks.items() if track.moves)
    move = track.moves[0]
    assert f"step {move.step}: went on from trial {move.donor} with lr=" in text(tables.trial(found, number))


def test_a_point_in_brief() -> None:
    assert tables.brief({"opt.lr": 0.0123456, "opt[Adam].beta": 0.9, "act": "relu"}) == "lr=0.01235 beta=0.9 act=relu"
    assert tables.brief({"a.lr": 1.0, "b.lr": 2.0}) == "a.lr=1 b.lr=2"
    assert tables.brief({f"value{n}": n for n in range(30)}, 30) == "value0=0 value1=1 value2=2 …"


def test_a_curve_as_blocks() -> None:
    assert tables.spark(np.array([0.0, 1.0, 2.0, 3.0])) == "▁▃▆█"
    assert tables.spark(np.array([1.0, 10.0, 100.0, 1000.0])) == "▁▃▆█"
    assert tables.spark(np.array([1.0, math.nan, 1.0])) == "▁ ▁"
    assert tables.spark(np.array([math.nan])) == ""
    assert len(tables.spark(np.arange(1000.0))) == tables.SPARK
