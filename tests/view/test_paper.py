"""Is what a user wrote shown as it is, wherever it stands?"""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console, RenderableType
from rich.table import Table

import bilevel
from bilevel import Inline, Run, Space, Study, cli, figures, run
from bilevel.drive.progress import Progress, Standing
from bilevel.figures import History, learning_curve, web
from bilevel.figures.chart import Axis, Layer, Panel
from bilevel.figures.search import Array
from bilevel.study.history import History as Told
from bilevel.view import tables, terminal
from bilevel.view.paper import Paper, plain
from support import odd

NAMES = ("acc[train]", "acc[test]", "[/b]", "[bold red]", "a :warning: b", "$\\frac{x$")


def shown(renderable: RenderableType, console: type[Console] = Console) -> str:
    made = console(file=io.StringIO(), width=400, color_system=None, highlight=False)
    made.print(renderable)
    assert isinstance(made.file, io.StringIO)
    return made.file.getvalue()


def test_strings_are_plain_on_our_console_in_tables_too() -> None:
    table = Table(title="[/b] title")
    table.add_column("[/b] column")
    table.add_row("[red]row[/red] :warning:")
    said = shown(table, Paper)
    for words in ("[/b] title", "[/b] column", "[red]row[/red] :warning:"):
        assert words in said
    assert shown("[/b]\x1b[31m", Paper) == "[/b]␛[31m\n"


def test_the_end_of_a_run_shows_all_names() -> None:
    document: dict[str, Any] = {"study": "s", "status": "completed", "seconds": 1.0, "trials": {"completed": 1}}
    document |= {"episodes_per_second": 0.0, "best": {"trial": 0, "objective": 0.1}}
    plainly = dict.fromkeys(NAMES, 0.5)
    tests = {f"test/[/b] x/loss@{k}": 0.5 for k in (0, 1)} | {"test/[/b] x/ri[b]dge_loss": 0.4}
    for metrics in (plainly, tests):
        said = shown(terminal.results({**document, "metrics": metrics}, {"act[/b]": "[/b]relu"}))
        assert "act[/b]=[/b]relu" in said
        for name in NAMES if metrics is plainly else ("[/b] x", "ri[b]dge"):
            assert name in said


def test_a_search_and_its_trials_show_all_names() -> None:
    of = odd.Tried([[1.0, 0.5], [2.0, 0.7], []], metric="acc[/b]", points=[{"lr[/b]": "[/b]"}] * 3, parameters=None)
    found = odd.search(of)
    assert "acc[/b]" in shown(tables.search(found))
    said = shown(tables.trial(found, 0, "[/b] printed\n"))
    for words in ("acc[/b]", "lr[/b]", "[/b] printed"):
        assert words in said


@pytest.mark.parametrize("live", [True, False])
def test_a_study_at_work_shows_all_names(live: bool) -> None:
    of = odd.Tried([[1.0], [2.0]], metric="acc[/b]", points=[{"lr[/b]": "[/b]"}] * 2, parameters=None)
    history = Told()
    for _, event in list(of.events())[:7]:
        history.take(event)
    best = history.leaders(1)[0]
    console = Console(file=io.StringIO(), force_terminal=live, width=300, color_system=None)
    with terminal.Screen(console) as screen:
        screen.progress(Progress(history, {}, 1, 0, 1.0, Standing(trials=2, search="[/b]TPE", best=best)))
        screen.say("trial 1 failed: KeyError: '[/b]'")
        if screen._live is not None:
            screen._live.refresh()
    assert isinstance(console.file, io.StringIO)
    assert "lr[/b]=[/b]" in console.file.getvalue()
    assert "KeyError: '[/b]'" in console.file.getvalue()


def named(config: dict[str, Any], run: Run) -> dict[str, float]:
    return dict.fromkeys(NAMES, 1.0)


def test_run_show_and_list_end_well_with_such_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures, "draw", lambda *_: {})
    store = tmp_path / "store[/b]"
    study = Study(name="named", objective=named, minimize="[/b]", space=Space(dict, **{"lr[/b]": "[/b]"}))
    run(study, on=Inline(), store=store, track="none")
    for command in (["show", "last"], ["list"], ["show", "last", "--trial", "0"]):
        assert cli.main([*command, "--store", str(store)]) == 0
    said = capsys.readouterr().out
    for name in NAMES:
        assert name in said
    assert "store[/b]" in said


def test_infinite_options_have_a_name_in_json(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(figures, "draw", lambda *_: {})
    study = Study(name="inf", objective=named, minimize="[/b]", space=Space(dict, clip=math.inf))
    run(study, on=Inline(), store=tmp_path, track="none")
    assert cli.main(["show", "last", "--json", "--store", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out)["best"]["config"] == {"clip": "inf"}


def test_nothing_reaches_the_terminal_by_another_way() -> None:
    """A Text or Console of one's own would be a second way."""
    for room in ("view", "cli"):
        for file in (Path(bilevel.__file__).parent / room).glob("*.py"):
            if file.name != "paper.py":
                assert not re.findall(r"(?<![\w.])(?:Text|Console)\(|markup=", file.read_text()), file


def test_names_are_no_formulas_and_no_templates() -> None:
    figure = learning_curve(
        History({0: [(1, {"$\\frac{x$": 1.0, "_a": 2.0}), (2, {"$\\frac{x$": 2.0})]}, "$\\frac{x$", step="$x")
    )
    assert figure is not None
    figure.draw_without_rendering()
    places: Array = odd.search(odd.tried()["one"]).tracks[0].curve[:, 0]
    layer = Layer("points", places, places, trials=places)
    trace = web._trace(layer, (web._said("%{x} & <b>"), ""))
    assert "<br>%&#123;x} &amp; &lt;b&gt;: %{x}" in trace["hovertemplate"]
    assert web._panel(Panel(Axis("%{y}"), Axis(""), (layer,)))["layout"]["xaxis"]["title"]["text"] == "%&#123;y}"


def test_plain_has_a_style() -> None:
    assert plain("[b]", "bold").style == "bold"
