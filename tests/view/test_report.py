"""Is a search's page whole, harmless and free of the network?"""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
from plotly.offline import get_plotlyjs

import pages
from bilevel.errors import StoreFailed
from bilevel.figures import Search
from bilevel.view import report
from support import searches

VOID = {"meta", "br", "wbr", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """The tags, texts and addresses of a page; it fails where they do not nest."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.handlers: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "action", "data")]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1] if self.open else "", data.strip()))

    def said(self) -> str:
        """All that can be read."""
        return " ".join(text for tag, text in self.texts if tag not in ("script", "style"))


def written(found: Search, path: Path, **options: str) -> tuple[str, Page]:
    text = report.write(found, path / "report.html", **options).read_text(encoding="utf-8")
    return text, Page(text)


@pytest.mark.parametrize("name", list(searches.odd()))
def test_the_page_of_every_search_nests_and_asks_for_nothing(name: str, tmp_path: Path) -> None:
    text, page = written(searches.odd()[name], tmp_path, title='<img src=x onerror="alert(1)">')
    assert page.addresses == []
    assert page.handlers == []
    assert "img" not in page.tags
    assert "link" not in page.tags
    assert "iframe" not in page.tags
    assert page.tags.count("script") == 3  # the data, plotly.js, and what draws the one with the other
    assert not re.findall(r"https?://", text)  # those of plotly.js are packed
    assert "default-src 'none'" in text


def test_the_data_is_json_with_a_panel_for_each_place(tmp_path: Path) -> None:
    text, _ = written(searches.search(searches.study(40)), tmp_path)
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, flags=re.DOTALL)
    assert found is not None
    data = json.loads(found[1])
    for name, panels in data.items():
        assert text.count(f'data-chart="{name}"') == len(panels)
        for panel in panels:
            assert panel["layout"]["xaxis"]["title"]["text"] or name == "parallel_coordinates"


def test_the_page_says_what_is_best_and_how_it_went(tmp_path: Path) -> None:
    found = searches.search(searches.study(40, lost=(5,), broken_at=20, rungs=(3, 9)))
    _, page = written(found, tmp_path, title="My search")
    said = page.said()
    (leader,) = found.history.leaders(1)
    assert "My search" in said
    assert f"lowest loss: {leader.mean:.5g} , trial {leader.trial.number}" in said
    assert f"{len(found.trials)} trials" in said
    assert f"{found.history.ended['stopped']} stopped" in said
    assert "step 2: loss is nan" in said
    assert "seed 7" in said
    assert "c" * 64 in said
    assert "2.13.0" in said
    assert "b" * 40 in said
    for chart in ("Best so far", "What matters", "Objective against each value", "Parallel coordinates"):
        assert chart in said
    for chart in ("Learning curves of all trials", "Who computed what when", "Failures", "How to reproduce it"):
        assert chart in said


def test_several_objectives_show_their_front(tmp_path: Path) -> None:
    ways = {"loss": "minimize", "cost": "minimize"}
    found = searches.search(searches.study(40, objectives=ways, rungs=()))
    _, page = written(found, tmp_path)
    assert f"{len(found.history.pareto())} trials on the Pareto front of loss, cost" in page.said()


def test_a_best_that_breaks_a_limit_is_not_praised(tmp_path: Path) -> None:
    _, page = written(searches.search(searches.study(12, limit=0.0, rungs=())), tmp_path)
    assert "No trial keeps the limits" in page.said()


def test_facts_of_the_caller_are_shown(tmp_path: Path) -> None:
    found = searches.search(searches.study(3))
    text = report.page(found, facts={"study file": "search_spaces/<mlp>.py"})
    assert "search_spaces/&lt;mlp&gt;.py" in text


def test_a_page_of_forty_trials_takes_two_megabytes(tmp_path: Path) -> None:
    text, page = written(searches.search(searches.study(40)), tmp_path)
    assert len(text.encode()) < 2_200_000
    (packed,) = [words for tag, words in page.texts if tag == "script" and words.startswith("H4sI")]
    assert gzip.decompress(base64.b64decode(packed)).decode() == get_plotlyjs()


def test_the_head_of_a_table_breaks_between_words(tmp_path: Path) -> None:
    text, _ = written(searches.search(searches.study(40)), tmp_path)
    assert "<th>opt[Sgd].<wbr>momentum</th>" in text
    assert "<th>width</th>" in text
    assert re.search(r"\.cards th\{[^}]*overflow-wrap:normal", text)


@pytest.mark.slow
def test_ten_thousand_trials_fit_into_three_and_a_half_megabytes(tmp_path: Path) -> None:
    text, _ = written(searches.large(), tmp_path)
    assert len(text.encode()) < 3_500_000


def test_a_page_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    with pytest.raises(StoreFailed, match="report cannot be written"):
        report.write(searches.odd()["two"], tmp_path / "missing" / "report.html")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium")
@pytest.mark.parametrize("width", pages.WIDTHS)
def test_in_a_browser_nothing_is_cut_off_and_each_chart_is_drawn(width: int, tmp_path: Path) -> None:
    found = searches.search(searches.study(40, lost=(5,), broken_at=20))
    page = report.write(found, tmp_path / "report.html")
    said, _ = pages.measured("chromium", page, width)
    size = re.fullmatch(r"width (\d+) of (\d+), height \d+, (\d+) plots, cut off: nothing", said)
    assert size is not None, said
    assert size[1] == size[2] == str(width)
    assert int(size[3]) == page.read_text(encoding="utf-8").count('class="panel"') > 5
