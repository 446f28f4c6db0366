"""Is a journal that grows, is torn, shrinks, is replaced or goes away read as it is?"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import journals
from bilevel.errors import RunLocked
from bilevel.record import journal
from bilevel.record.folder import RunFolder
from bilevel.record.tail import Tail
from bilevel.study.events import Ended, Reported

EVENTS = [*journals.beginning(), *journals.trial(0, 4), *journals.trial(1, 4)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    folder = journals.folder(tmp_path)
    journals.write(folder, EVENTS[:5])
    return folder / "journal.jsonl"


def test_no_entry_is_read_twice(path: Path) -> None:
    tail = Tail(path)
    assert [event for _, event in tail.news().entries] == EVENTS[:5]
    assert tail.news() == tail.news()
    assert tail.news().entries == ()
    journals.write(path.parent, EVENTS[5:])
    news = tail.news()
    assert [event for _, event in news.entries] == EVENTS[5:]
    assert not news.anew
    assert not news.problem


def test_a_line_half_written_is_read_when_it_is_whole(path: Path) -> None:
    tail = Tail(path)
    tail.news()
    journals.write(path.parent, EVENTS[5:6])
    whole = path.read_bytes()
    for cut in (len(whole) - 1, len(whole) - 40):
        path.write_bytes(whole[:cut])
        news = tail.news()
        assert (news.entries, news.anew, news.problem) == ((), False, "")
    path.write_bytes(whole)
    assert [event for _, event in tail.news().entries] == EVENTS[5:6]


def test_a_line_that_grows_while_it_is_read_is_no_damage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The driver writes on between two looks at the end of the file."""
    journals.write(path.parent, EVENTS[5:7])
    whole = path.read_bytes()
    path.write_bytes(whole[:-30])
    parse = journal._parse

    def grows(line: bytes, end: int) -> journal.Entry | None:
        found = parse(line, end)
        if found is None:
            path.write_bytes(whole)
        return found

    monkeypatch.setattr(journal, "_parse", grows)
    assert [entry.n for entry in journal.read(path)] == list(range(6))


def test_a_shorter_journal_is_read_anew(path: Path) -> None:
    tail = Tail(path)
    journals.write(path.parent, EVENTS[5:])
    tail.news()
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:4]))
    path.with_suffix(".seal").unlink()
    news = tail.news()
    assert news.anew
    assert [event for _, event in news.entries] == EVENTS[:4]


def test_another_journal_in_its_place_is_read_anew(path: Path, tmp_path: Path) -> None:
    tail = Tail(path)
    tail.news()
    other = journals.folder(tmp_path / "other")
    events = [*journals.beginning(study="other"), *journals.trial(0, 9)]
    journals.write(other, events)
    (other / "journal.jsonl").replace(path)
    (other / "journal.seal").replace(path.with_suffix(".seal"))
    news = tail.news()
    assert news.anew
    assert [event for _, event in news.entries] == events


def test_damage_is_said_once_it_is_read_and_again(path: Path) -> None:
    tail = Tail(path)
    tail.news()
    journals.write(path.parent, EVENTS[5:])
    lines = path.read_bytes().splitlines(keepends=True)
    lines[7] = lines[7].replace(b'"n":7', b'"n":9', 1)
    path.write_bytes(b"".join(lines))
    news = tail.news()
    assert [event for _, event in news.entries] == EVENTS[5:7]
    assert "a line in the middle of the journal is damaged" in news.problem
    assert tail.news().problem == news.problem


def test_a_journal_that_goes_away_is_said_and_may_come_back(path: Path) -> None:
    tail = Tail(path)
    tail.news()
    aside = path.with_name("aside")
    path.rename(aside)
    assert "the journal is gone" in tail.news().problem
    aside.rename(path)
    assert tail.news().problem == ""
    journals.write(path.parent, EVENTS[5:])
    assert [event for _, event in tail.news().entries] == EVENTS[5:]


def test_a_look_at_the_lock_keeps_no_driver_out(path: Path) -> None:
    folder, ends = RunFolder(path.parent), threading.Event()
    with folder.locked():
        pass

    def look() -> None:
        while not ends.is_set():
            assert folder.driven in (True, False)

    looker = threading.Thread(target=look)
    looker.start()
    try:
        for _ in range(200):
            with folder.locked():
                pass
    finally:
        ends.set()
        looker.join()
    with folder.locked(), pytest.raises(RunLocked), RunFolder(path.parent).locked():
        pass


def test_what_is_followed_are_events(path: Path) -> None:
    kinds = {type(event) for _, event in Tail(path).news().entries}
    assert Reported in kinds
    assert Ended not in kinds
