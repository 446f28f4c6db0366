"""Are run folders made whole, found by part of their name, and written by one driver alone?"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bilevel.errors import BadInput, RecordDamaged, RunLocked
from bilevel.record import folder as folders
from bilevel.record.folder import RunFolder

HOLD = """
import sys, time
from pathlib import Path
from bilevel.record.folder import RunFolder
with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    sys.stdin.read()
"""
TRY = """
import sys
from pathlib import Path
from bilevel.errors import RunLocked
from bilevel.record.folder import RunFolder
try:
    with RunFolder(Path(sys.argv[1])).locked():
        print("mine")
except RunLocked as error:
    print(error)
"""


def made(store: Path, *names: str) -> list[RunFolder]:
    for name in names:
        (store / name).mkdir(parents=True)
        (store / name / "study.json").write_text("{}")
    return [RunFolder(store / name) for name in names]


def test_a_new_folder_is_complete_and_holds_its_document(tmp_path: Path) -> None:
    folder = folders.create(tmp_path / "deep" / "store", "walk", {"name": "walk", "seed": 3})
    assert folder.document() == {"name": "walk", "seed": 3}
    assert list(folder.events()) == []
    assert "-walk-" in folder.run_id
    assert [p.name for p in (tmp_path / "deep" / "store").iterdir()] == [folder.run_id]


def test_a_folder_that_cannot_be_made_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(BadInput, match="the store cannot be written: Permission denied; name another with --store"):
        folders.create(tmp_path, "walk", {})
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="the store cannot be written"):
        folders.create(tmp_path / "file", "walk", {})


def test_runs_are_found_by_id_beginning_end_path_and_last(tmp_path: Path) -> None:
    first, second = made(tmp_path, "20260101-000000-a-1111", "20260102-000000-b-2222")
    assert folders.find(tmp_path, first.run_id) == first
    assert folders.find(tmp_path, "20260102") == second
    assert folders.find(tmp_path, "1111") == first
    assert folders.find(tmp_path, "last") == second
    assert folders.find(Path("elsewhere"), str(first.path)) == first
    assert folders.runs(tmp_path) == [first, second]


def test_a_name_that_is_the_beginning_of_another_is_found(tmp_path: Path) -> None:
    short, _ = made(tmp_path, "run", "run-2")
    assert folders.find(tmp_path, "run") == short


def test_a_studys_name_is_its_newest_run(tmp_path: Path) -> None:
    made(tmp_path, "1-mine-1111", "2-mine-2222", "3-other-3333")
    for name in ("1-mine-1111", "2-mine-2222"):
        (tmp_path / name / "study.json").write_text('{"name": "mine"}')
    (tmp_path / "3-other-3333" / "study.json").write_text("damaged")
    assert folders.find(tmp_path, "mine").run_id == "2-mine-2222"
    assert folders.find(tmp_path, "3").run_id == "3-other-3333"


def test_what_is_not_found_or_not_clear_says_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no runs there; name the store with --store"):
        folders.find(tmp_path, "last")
    made(tmp_path, "20260101-a-1111", "20260101-b-2222")
    with pytest.raises(BadInput, match=r"2 runs are called so in .*; it has 20260101-a-1111, 20260101-b-2222"):
        folders.find(tmp_path, "20260101")
    with pytest.raises(BadInput, match="nothing: no such run in"):
        folders.find(tmp_path, "nothing")
    with pytest.raises(BadInput, match="no such run"):
        folders.find(tmp_path, "")


def test_half_made_folders_are_no_runs(tmp_path: Path) -> None:
    made(tmp_path, ".20260101-a-1111.part")
    (tmp_path / "mlruns").mkdir()
    assert folders.runs(tmp_path) == []


def test_a_document_that_is_gone_or_damaged_is_said(tmp_path: Path) -> None:
    (folder,) = made(tmp_path, "run")
    (folder.path / "study.json").write_text('{"name": ')
    with pytest.raises(RecordDamaged, match=r"study.json"):
        folder.document()


def test_a_second_driver_is_refused_until_the_first_lets_go(tmp_path: Path) -> None:
    (folder,) = made(tmp_path, "run")
    with folder.locked():
        said = subprocess.run([sys.executable, "-c", TRY, str(folder.path)], capture_output=True, text=True, check=True)
        assert (
            said.stdout.strip()
            == f"run: another driver (process {os.getpid()}) is at work on it; `bilevel steer` reaches it"
        )
        with pytest.raises(RunLocked), folder.locked():
            pass
    with folder.locked():
        pass


def test_a_killed_driver_lets_go(tmp_path: Path) -> None:
    (folder,) = made(tmp_path, "run")
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunLocked, match=f"process {holder.pid}"), folder.locked():
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with folder.locked():
        pass


def test_a_look_at_the_lock_takes_and_writes_nothing(tmp_path: Path) -> None:
    (folder,) = made(tmp_path, "run")
    assert not folder.driven
    assert not (folder.path / "lock").exists()
    with folder.locked():
        said = subprocess.run([sys.executable, "-c", TRY, str(folder.path)], capture_output=True, text=True, check=True)
        assert folder.driven
        assert f"process {os.getpid()}" in said.stdout
    before = (folder.path / "lock").read_bytes()
    assert not folder.driven
    assert (folder.path / "lock").read_bytes() == before


def test_the_run_begun_last_is_the_last_however_they_are_called(tmp_path: Path) -> None:
    made = [folders.create(tmp_path, name, {}).run_id for name in "zywxab" * 5]
    assert [folder.run_id for folder in folders.runs(tmp_path)] == made
    assert len({run_id.rpartition("-")[0].rpartition("-")[0] for run_id in made}) == len(made)


DOCUMENT = {
    "format": 1, "name": "walk", "file": None, "object": "study", "changes": {}, "sha256": "0", "source": {},
    "settings": {"seed": 0, "trials": 1, "config": {}}, "execution": {"on": "inline"}, "warm": [], "track": "none",
}  # fmt: skip
DAMAGE = {
    "a bit": (lambda text: text.replace("walk", "wclk"), "not what was written: its checksum is another one"),
    "a high bit": (lambda text: text.replace("walk", "w\xe1lk"), "damaged: 'utf-8' codec"),
    "deep nesting": (lambda text: "[" * 100_000, "damaged: maximum recursion"),
    "no object": (lambda text: "[]", "a list, not an object"),
    "a newer format": (lambda text: json.dumps({**DOCUMENT, "format": 2}), "format 2, this version reads 1; a newer"),
    "a wrong value": (lambda text: json.dumps({**DOCUMENT, "changes": []}), r"changes is '\[\]', which it cannot be"),
    "no path": (lambda text: json.dumps({**DOCUMENT, "file": "a\0"}), "file is 'a.*, which it cannot be"),
    "no text": (lambda text: json.dumps({**DOCUMENT, "file": "\ud800"}), "file is '.*, which it cannot be"),
    "cut": (lambda text: text[:50], "damaged: "),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_of_a_document_is_named_with_what_still_works(tmp_path: Path, name: str) -> None:
    harm, why = DAMAGE[name]
    folder = folders.create(tmp_path, "walk", DOCUMENT)
    assert folder.document() == DOCUMENT
    file = folder.path / "study.json"
    file.write_bytes(harm(file.read_text()).encode("latin-1"))
    with pytest.raises(RecordDamaged, match=rf"study.json: .*{why}.*`show` and `report` work without it"):
        folder.document()
    assert folders.runs(tmp_path) == [folder]


def test_a_key_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = folders.create(tmp_path, "walk", {"name": "walk", "settings": {"seed": 1}})
    for look in (lambda: folder.document()["track"], lambda: folder.document()["settings"]["config"]):
        with pytest.raises(RecordDamaged, match=r"study.json: (track|config) is missing"):
            look()


def test_documents_of_earlier_versions_have_no_checksum(tmp_path: Path) -> None:
    folder = folders.create(tmp_path, "walk", {})
    (folder.path / "study.json").write_text(json.dumps(DOCUMENT))
    assert folder.document() == DOCUMENT
