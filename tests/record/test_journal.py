"""Is what the journal took in read again, and nothing else, whatever befell the file?"""

from __future__ import annotations

import errno
import json
import math
import os
import zlib
from pathlib import Path
from typing import Any

import pytest

from bilevel.errors import RecordDamaged, StoreFailed
from bilevel.record import journal
from bilevel.record.journal import Journal
from bilevel.study.events import Asked, Ended, Event, Fault, Finished, Interrupted, Kept, Opened, Reported, Started

EVENTS: list[Event] = [
    Started("s", "run-1", "loss", True, 3),
    Opened(2, "c" * 8, {"torch": "2"}, "cpu", {"commit": "abc", "dirty": False}),
    Asked(0, {"rule.lr": 0.4, "hidden": [8, 8], "name": "ünï\n"}, 1 << 62),
    Reported(0, 1, {"loss": 0.1 + 0.2, "tiny": 5e-324}, "0123abcd"),
    Fault("died", "worker 1"),
    Kept(0, 1, "m" * 64),
    Ended(0, "completed", 1, 0.5, None, "h"),
    Interrupted("SIGINT"),
    Finished("completed", {"best": {"trial": 0}, "list": [1, None, True]}),
]


def write(path: Path, events: list[Event]) -> None:
    writer = Journal(path)
    for event in events:
        writer.append(event)
    writer.close()


def events(path: Path) -> list[Event]:
    return [entry.typed() for entry in journal.read(path)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


def test_what_was_written_is_read_exactly(path: Path) -> None:
    write(path, EVENTS)
    assert events(path) == EVENTS
    lines = path.read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(EVENTS)
    assert [json.loads(line)["event"] for line in lines][:2] == ["started", "opened"]
    assert journal.started(path) == EVENTS[0]


def test_numbers_that_json_lacks_survive(path: Path) -> None:
    values = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": -0.0}
    write(path, [EVENTS[0], Reported(0, 1, values), Finished("failed", {"deep": [{"x": math.nan}], "float": 7.5})])
    write(
        path.with_name("named.jsonl"), [EVENTS[0], Finished("failed", {"config": {"float": "adam"}, "other": math.inf})]
    )
    (_, named) = [entry.typed() for entry in journal.read(path.with_name("named.jsonl"))]
    assert isinstance(named, Finished)
    assert named.result == {"config": {"float": "adam"}, "other": math.inf}
    _, reported, finished = events(path)
    assert isinstance(reported, Reported)
    assert math.isnan(reported.metrics["a"])
    assert (reported.metrics["b"], reported.metrics["c"]) == (math.inf, -math.inf)
    assert math.copysign(1, reported.metrics["d"]) == -1
    assert isinstance(finished, Finished)
    assert math.isnan(finished.result["deep"][0]["x"])
    for line in path.read_text().splitlines():  # strict JSON, for readers in any language
        json.loads(line, parse_constant=pytest.fail)


def test_a_journal_torn_at_any_byte_gives_the_whole_lines_before_it_and_can_be_gone_on_with(path: Path) -> None:
    write(path, EVENTS[:4])
    whole = path.read_bytes()
    ends = [entry.end for entry in journal.read(path)]
    edges = {end + by for end in ends for by in (-2, -1, 0, 1)}
    for cut in sorted({*range(0, len(whole), 5), *edges} & {*range(len(whole))}):
        path.write_bytes(whole[:cut])
        path.with_suffix(".seal").unlink(missing_ok=True)  # of a driver that died before its first commit
        left = sum(end <= cut for end in ends)
        assert events(path) == EVENTS[:left], cut
        write(path, EVENTS[left:4])
        assert events(path) == EVENTS[:4], cut


def test_a_tail_of_noise_is_a_torn_line(path: Path) -> None:
    write(path, EVENTS[:3])
    with path.open("ab") as file:
        file.write(b"\0" * 40)
    assert events(path) == EVENTS[:3]


@pytest.mark.parametrize("line", range(3))
def test_a_flipped_bit_before_the_last_line_is_damage(path: Path, line: int) -> None:
    write(path, EVENTS[:4])
    whole = path.read_bytes()
    begin, end = [0, *(entry.end for entry in journal.read(path))][line : line + 2]
    for at in range(begin, end - 1):  # without its end this line would be one with the last, and torn with it
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(RecordDamaged, match=f"journal.jsonl: byte {begin}: a line in the middle"):
            events(path)


def test_a_missing_line_is_damage(path: Path) -> None:
    write(path, EVENTS[:4])
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([lines[0], *lines[2:]]))
    with pytest.raises(RecordDamaged, match="entry 1 is missing"):
        events(path)


def test_opening_a_damaged_journal_for_writing_leaves_it_as_it_is(path: Path) -> None:
    write(path, EVENTS[:4])
    broken = bytearray(path.read_bytes())
    broken[10] ^= 1
    path.write_bytes(broken)
    with pytest.raises(RecordDamaged):
        Journal(path)
    assert path.read_bytes() == broken


def test_a_newer_format_is_refused(path: Path) -> None:
    write(path, [Started("s", "r", "loss", True, 0, format=2)])
    with pytest.raises(RecordDamaged, match="format 2, this version reads 1"):
        events(path)


def test_reading_goes_on_from_an_offset(path: Path) -> None:
    write(path, EVENTS[:3])
    last = list(journal.read(path))[-1]
    write(path, EVENTS[3:])
    later = list(journal.read(path, last.end))
    assert [entry.typed() for entry in later] == EVENTS[3:]
    assert [entry.n for entry in later] == list(range(3, len(EVENTS)))
    assert later[0].t >= last.t
    assert list(journal.read(path, later[-1].end)) == []


def test_events_close_in_time_share_one_fsync(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(fd), real(fd)))
    now = [0.0]
    monkeypatch.setattr(journal.time, "monotonic", lambda: now[0])
    writer = Journal(path)
    for event in EVENTS[:4]:
        writer.append(event)
    assert (len(synced), events(path), writer.due) == (0, [], False)
    now[0] += journal.COMMIT_EVERY
    assert writer.due
    writer.append(EVENTS[4])
    assert (len(synced), events(path), writer.due) == (1, EVENTS[:5], False)
    writer.append(EVENTS[5])
    writer.commit()
    writer.commit()  # nothing waits
    assert (len(synced), events(path)) == (2, EVENTS[:6])
    writer.append(EVENTS[6])
    writer.close()
    assert events(path) == EVENTS[:7]


def test_a_full_disk_stops_the_run_and_keeps_what_was_committed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = Journal(path)
    writer.append(EVENTS[0])
    writer.commit()
    writer.append(EVENTS[1])
    real = os.write
    answers = iter([lambda fd, data: real(fd, data[:7]), fail])
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: next(answers)(fd, data))
        with pytest.raises(StoreFailed, match="No space left on device; free space, then resume"):
            writer.commit()
    writer.close()
    assert events(path) == EVENTS[:1]
    write(path, EVENTS[1:3])
    assert events(path) == EVENTS[:3]


def fail(fd: int, data: Any) -> int:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_journal_that_cannot_be_opened_says_so(tmp_path: Path) -> None:
    with pytest.raises(StoreFailed, match="cannot be opened for writing: No such file"):
        Journal(tmp_path / "gone" / "journal.jsonl")


# -- damage that is no torn line ---------------------------------------------------------------------------------------


def test_a_journal_of_zeros_is_no_empty_one(path: Path) -> None:
    write(path, EVENTS[:4])
    for unsealed in (False, True):
        if unsealed:  # as with runs of earlier versions
            path.with_suffix(".seal").unlink()
        for zeros in (b"\0" * path.stat().st_size, b"\0" * 4096 + b"\n"):
            path.write_bytes(zeros)
            for look in (lambda: events(path), lambda: Journal(path)):
                with pytest.raises(RecordDamaged, match="no entry of it can be read; it is left as it is"):
                    look()
            assert path.read_bytes() == zeros


def test_a_journal_that_was_emptied_or_is_gone_is_damaged(path: Path) -> None:
    write(path, EVENTS[:4])
    path.write_bytes(b"")
    with pytest.raises(RecordDamaged, match="no entry of it can be read"):
        events(path)
    path.unlink()
    with pytest.raises(RecordDamaged, match="the journal is gone"):
        events(path)


@pytest.mark.parametrize("harm", ["a bit", "zeros", "noise behind", "no end"])
def test_what_is_lost_at_the_end_is_said_and_kept_aside_before_the_run_goes_on(path: Path, harm: str) -> None:
    write(path, EVENTS[:4])
    whole = path.read_bytes()
    start = [entry.end for entry in journal.read(path)][2]
    assert journal.lost(path) == ""
    broken = {
        "a bit": whole[:-30] + bytes([whole[-30] ^ 4]) + whole[-29:],
        "zeros": whole[:start] + b"\0" * (len(whole) - start),
        "noise behind": whole + b"\0" * 40,
        "no end": whole[:-1],
    }[harm]
    path.write_bytes(broken)
    left = 4 if harm == "noise behind" else 3
    assert events(path) == EVENTS[:left]
    assert "an older state of the run" in journal.lost(path)
    writer = Journal(path)
    assert "kept aside as journal.jsonl.damaged-1" in writer.lost
    writer.append(EVENTS[4])
    writer.close()
    assert path.with_name("journal.jsonl.damaged-1").read_bytes() == broken
    assert events(path) == [*EVENTS[:left], EVENTS[4]]
    assert journal.lost(path) == ""


def test_whole_lines_that_went_missing_at_the_end_are_said(path: Path) -> None:
    write(path, EVENTS[:5])
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    assert events(path) == EVENTS[:3]
    assert "shorter than it was (3 of at least 5 entries)" in journal.lost(path)
    assert "shorter than it was" in Journal(path).lost


def test_lines_whose_checksums_are_right_but_that_are_others_are_damage(path: Path) -> None:
    write(path, EVENTS[:3])
    *lines, last = path.read_bytes().splitlines(keepends=True)
    said = json.loads(last)
    del said["crc"]
    said["config"]["rule.lr"] = 0.5
    path.write_bytes(b"".join([*lines, line(said)]))
    with pytest.raises(RecordDamaged, match="its first 3 entries are not those written"):
        events(path)


def test_a_line_that_was_torn_by_a_kill_is_nothing_to_speak_of(path: Path) -> None:
    writer = Journal(path)
    for event in EVENTS[:3]:
        writer.append(event)
    writer.commit()
    with path.open("ab") as file:
        file.write(b'{"n":3,"t":17')
    assert journal.lost(path) == ""
    assert events(path) == EVENTS[:3]


def line(said: dict[str, Any]) -> bytes:
    text = json.dumps(said, separators=(",", ":"), ensure_ascii=True)
    return f'{text[:-1]},"crc":"{zlib.crc32(text.encode()):08x}"}}\n'.encode()


ODD = {
    "an event of a newer version": (
        {"event": "merged", "trial": 0},
        "event 'merged' is not known here; a newer bilevel",
    ),
    "a field of a newer version": (
        {"event": "kept", "trial": 0, "step": 1, "manifest": "m", "by": 1},
        "has 'by'.* newer",
    ),
    "a field less": ({"event": "kept", "trial": 0, "step": 1}, "kept lacks manifest"),
    "text for a number": ({"event": "reported", "trial": 0, "step": "2", "metrics": {}}, "reported: step is '2'"),
    "a number too large": ({"event": "reported", "trial": 0, "step": 1, "metrics": {"a": 10**400}}, "metrics is"),
    "a trial that was never asked": ({"event": "kept", "trial": 3, "step": 1, "manifest": "m"}, "never asked"),
    "another end": (
        {"event": "ended", "trial": 0, "state": "lost", "step": 1, "objective": 1.0},
        "ended 'lost'; it ends completed, stopped, failed",
    ),
    "a find that is none": (
        {"event": "reported", "trial": 0, "step": 1, "metrics": {}, "found": {"lr": None}},
        "found 'lr' as 'None'",
    ),
    "no name": ({"event": ["kept"]}, "is not known here"),
}


@pytest.mark.parametrize("name", ODD)
def test_a_line_whose_checksum_is_right_but_whose_event_is_odd_is_named(path: Path, name: str) -> None:
    said, why = ODD[name]
    writer = Journal(path)
    for event in EVENTS[:3]:
        writer.append(event)
    writer.commit()
    with path.open("ab") as file:
        file.write(line({"n": 3, "t": 1.0, **said}))
    with pytest.raises(RecordDamaged, match=f"journal.jsonl: entry 3: .*{why}.*`adapt` works without it"):
        list(journal.events(path))


def test_a_line_that_is_deeper_than_any_of_ours_is_damage(path: Path) -> None:
    write(path, EVENTS[:2])
    deep: Any = 0
    for _ in range(500):
        deep = [deep]
    with path.open("ab") as file:
        file.write(line({"n": 2, "t": 1.0, "event": "fault", "kind": "x", "detail": deep}))
    assert "its end is damaged" in journal.lost(path)
    assert events(path) == EVENTS[:2]
