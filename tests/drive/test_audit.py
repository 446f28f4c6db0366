"""Are recorded units found again bit by bit, and planted changes found out?"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
from torch import Tensor, nn

from bilevel import Adam, Learned, Space, Study, trees
from bilevel.drive import keeping
from bilevel.drive.audit import Audited, audit, replay
from bilevel.errors import BadInput, NotPromised
from bilevel.inner import GradientDescent
from bilevel.record import checkpoints, journal
from bilevel.record.folder import RunFolder
from bilevel.study.events import Moved, Reported
from support.tiny import finished, maml, walking
from support.trying import hill, population


def kept(store: Path, study: Study, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A finished run with a checkpoint of every step."""
    monkeypatch.setattr(keeping, "KEEP_EVERY", 0.0)
    return RunFolder(finished(store, study).folder)


def audited(folder: RunFolder, study: Study | None, sample: float = 1.0) -> Audited:
    return audit(folder, study, sample=sample, seed=0, say=lambda text: None)


def units(folder: RunFolder) -> dict[int, list[str]]:
    events = [event for event in folder.events() if isinstance(event, Reported)]
    return {event.step: [event.units[i : i + 8] for i in range(0, len(event.units), 8)] for event in events}


def test_every_unit_is_replayed_to_the_bits_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = kept(tmp_path, maml(), monkeypatch)
    recorded = units(folder)
    assert [len(found) for found in recorded.values()] == [
        2,
        4,
        2,
        8,
    ]  # validation; tests, exhibit and what it is compared with
    for step, unit in ((1, 0), (2, 3), (3, 1), (4, 6), (4, 7)):
        again = replay(folder, maml(), step=step, unit=unit)
        assert again.digest == again.recorded == recorded[step][unit]
        assert trees.digest(again.result)[:8] == again.digest
    assert replay(folder, maml(), step=3, unit=1).name == "step 3, episodes 1 to 2"


def test_a_record_made_before_there_were_comparisons_agrees(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = kept(tmp_path, maml(), monkeypatch)
    events = list(folder.events())
    older = [replace(e, units=e.units[:-8]) if isinstance(e, Reported) and e.step == 4 else e for e in events]
    monkeypatch.setattr(RunFolder, "events", lambda _: iter(older))
    assert audited(folder, maml()).faults == ()


def test_a_unit_is_replayed_without_any_checkpoint(tmp_path: Path) -> None:
    folder = RunFolder(finished(tmp_path, walking()).folder)
    again = replay(folder, walking(), step=4, unit=2)
    assert again.digest == again.recorded


@pytest.mark.parametrize(
    ("where", "match"),
    [
        ({"step": 9}, "trial 0 has no step 9; it has 1 to 5"),
        ({"step": 1, "unit": 3}, "step 1 has units 0 to 2, not 3"),
        ({"step": 1, "unit": -1}, "not -1"),
        ({"step": 1, "trial": 4}, "no trial 4; the run has 0"),
    ],
)
def test_what_was_never_computed_cannot_be_replayed(where: dict[str, Any], match: str, tmp_path: Path) -> None:
    folder = RunFolder(finished(tmp_path, walking()).folder)
    with pytest.raises(BadInput, match=match):
        replay(folder, walking(), **where)


def test_an_audit_of_a_sound_run_finds_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = kept(tmp_path, maml(), monkeypatch)
    found = audited(folder, maml())
    assert found.faults == ()
    assert found.checkpoints == 4
    assert found.units > 0
    few = audited(folder, maml(), sample=0.01)
    assert (few.units, few.faults) == (1, ())


def test_a_planted_change_in_a_checkpoint_is_found_even_with_a_renewed_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = kept(tmp_path, walking(), monkeypatch)
    path = checkpoints.folder(folder.path, 0, 3)
    tensors = safetensors.torch.load((path / "state.safetensors").read_bytes())
    tensors["learned/w"][0] += 1e-6
    data = safetensors.torch.save(tensors)
    (path / "state.safetensors").write_bytes(data)
    (fault,) = audited(folder, walking(), sample=0.01).faults
    assert "state.safetensors is not what was written" in fault
    manifest = json.loads((path / "MANIFEST.json").read_text())
    manifest["files"]["state.safetensors"]["sha256"] = hashlib.sha256(data).hexdigest()
    (path / "MANIFEST.json").write_text(json.dumps(manifest, indent=1))
    (fault,) = audited(folder, walking(), sample=0.01).faults
    assert "MANIFEST.json is not the one that the journal names" in fault


def test_a_planted_result_in_the_journal_is_found(tmp_path: Path) -> None:
    folder = RunFolder(finished(tmp_path, walking()).folder)
    events = list(folder.events())
    folder.journal.unlink()
    folder.journal.with_suffix(".seal").unlink()
    writer = journal.Journal(folder.journal)
    for event in events:
        if isinstance(event, Reported) and event.step == 4:
            event = Reported(event.trial, event.step, event.metrics, "0" * 8 + event.units[8:])
        writer.append(event)
    writer.close()
    found = audited(folder, walking())
    assert found.faults == ("trial 0, step 4, unit 0 (0): not what was recorded",)


def test_an_ordinary_search_has_all_its_checkpoints_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = kept(tmp_path, hill(trials=3), monkeypatch)
    assert audited(folder, None) == audited(folder, hill(trials=3)) == Audited(0, 9, ())
    shutil.rmtree(checkpoints.folder(folder.path, 1, 2))  # pruned is not damaged
    path = checkpoints.folder(folder.path, 2, 1) / "state.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(bytes(data))
    found = audited(folder, None)
    assert found.checkpoints == 8
    (fault,) = found.faults
    assert fault.startswith(f"{path.parent}: state.safetensors is not what was written")


def test_members_that_moved_have_their_checkpoints_counted(tmp_path: Path) -> None:
    folder = RunFolder(finished(tmp_path, population()).folder)
    assert any(isinstance(event, Moved) for event in folder.events())
    there = len(list((folder.path / "checkpoints").glob("*/step-*")))
    assert audited(folder, None).checkpoints == there > 0


def test_trials_without_units_are_not_replayed(tmp_path: Path) -> None:
    folder = RunFolder(finished(tmp_path, hill(trials=1)).folder)
    with pytest.raises(BadInput, match="step 1 of trial 0 was not computed in units; only those are replayed"):
        replay(folder, hill(trials=1), step=1)


def test_before_anything_is_recorded_there_is_nothing_to_audit(tmp_path: Path) -> None:
    folder = RunFolder(finished(tmp_path, walking(), seconds=-1.0).folder)
    with pytest.raises(BadInput, match="nothing is recorded yet; there is nothing to audit"):
        audited(folder, walking())


class _System(nn.Module):
    """Noise that no key decides."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(1, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * (1 + int.from_bytes(os.urandom(1)))  # type: ignore[no-any-return]


def test_an_audit_says_why_bits_could_not_be_the_same(tmp_path: Path) -> None:
    study = maml(rule=Space(GradientDescent, init=Learned(_System, by=Adam(1e-3)), lr=1e-4))
    with (
        pytest.warns(NotPromised, match=r"rule.init: _System: .* differ \(_System names urandom\)"),
        pytest.warns(UserWarning, match="it goes through the loop"),
    ):
        folder = RunFolder(finished(tmp_path, study).folder)
    lines: list[str] = []
    found = audit(folder, study, sample=1.0, seed=0, say=lines.append)
    assert any("_System names urandom" in line for line in lines)
    assert len(found.faults) == 1
    assert "not what was recorded; rule.init: _System: two passes" in found.faults[0]
