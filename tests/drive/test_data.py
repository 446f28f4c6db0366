"""Is it said when a run goes on, is audited or is used with other data than it began with?"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bilevel import Int, Space, load
from bilevel.drive import data, runs
from bilevel.episodes import Episode, Key, Split
from bilevel.errors import MissingData, RecordDamaged
from bilevel.record.folder import RunFolder
from bilevel.study.study import Study
from bilevel.tasks import Grouped, Sinusoid
from support.tiny import finished, maml, walking


def grouped(sign: float = 1.0) -> Study:
    """A table whose feature has a sign that another process may choose otherwise."""
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({"user": np.repeat(np.arange(12), 8), "x": rng.normal(size=96)})
    frame["y"] = rng.normal(size=12)[frame["user"]] * frame["x"]
    frame["x"] *= sign
    return maml(tasks=Grouped(frame, task="user", y="y", support=3))


@dataclass(frozen=True)
class Signed(Sinusoid):
    """Tasks of a user's own, which say nothing of what they are made of."""

    _sign = 1.0

    def episode(self, split: Split, key: Key) -> Episode:
        drawn = super().episode(split, key)
        return Episode(dataclasses.replace(drawn.support, y=self._sign * drawn.support.y), drawn.query)


def test_a_table_built_differently_is_said_by_whatever_reads_the_run(tmp_path: Path) -> None:
    done = finished(tmp_path, grouped())
    with pytest.warns(UserWarning, match="data are not those that the run began with: tasks hold other rows"):
        runs.reload(RunFolder(done.folder), grouped(-1.0))  # as resume, replay and audit do
    with pytest.warns(UserWarning, match="data are not those"):
        load(done.run_id, store=tmp_path, study=grouped(-1.0))
    load(done.run_id, store=tmp_path, study=grouped())  # the same table, built again: nothing is said


def test_tasks_of_ones_own_are_known_by_their_episodes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = maml(tasks=Signed(shots=4, queries=4))
    folder = RunFolder(finished(tmp_path, study, seconds=-1.0).folder)
    runs.reload(folder, study)
    monkeypatch.setattr(Signed, "_sign", -1.0)
    with pytest.warns(UserWarning, match="tasks hold other rows"):
        runs.reload(folder, study)


def test_data_that_can_no_longer_be_drawn_are_said_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = maml(tasks=Signed(shots=4, queries=4))
    folder = RunFolder(finished(tmp_path, study, seconds=-1.0).folder)
    monkeypatch.setattr(Signed, "episode", lambda *_: 1 / 0)
    with pytest.warns(UserWarning, match="cannot be compared .* tasks could be drawn then and cannot now"):
        runs.reload(folder, study)


def test_a_record_without_a_hash_is_read_as_before(tmp_path: Path) -> None:
    folder = RunFolder(finished(tmp_path, grouped(), seconds=-1.0).folder)
    document = folder.document()
    assert set(document.pop("data")) == {"tasks"}
    (folder.path / "study.json").write_text(json.dumps(document))
    runs.reload(folder, grouped(-1.0))


def test_each_distribution_has_its_hash_and_other_studies_have_none() -> None:
    study = maml(test_tasks={"short": Sinusoid(shots=2, queries=4)})
    found = data.digests(study)
    assert set(found) == {"tasks", "test_tasks.short"}
    assert len(set(found.values())) == 2
    assert data.digests(study) == found
    assert data.digests(walking()) == {}
    assert set(data.digests(maml(tasks=Space(Sinusoid, shots=Int(2, 6))))) == {"tasks"}


def test_data_that_are_not_there_are_missing_as_before() -> None:
    lost = dataclasses.replace(grouped(), space=maml(tasks=Grouped("lost.csv", task="a", y="b")).space)
    with pytest.raises(MissingData, match=r"lost\.csv"):
        data.digests(lost)


@pytest.mark.parametrize("data_", [5, True, 0.5, ["tasks"], {"tasks": 3}])
def test_a_record_of_no_hashes_is_damaged(data_: object, tmp_path: Path) -> None:
    folder = RunFolder(finished(tmp_path, grouped(), seconds=-1.0).folder)
    (folder.path / "study.json").write_text(json.dumps({**folder.document(), "data": data_}))
    with pytest.raises(RecordDamaged, match=r"data is .*, which it cannot be"):
        folder.document()


@pytest.mark.parametrize("trial", [-1, 0.5, True, "0"])
def test_a_model_of_no_trial_is_damaged(trial: object, tmp_path: Path) -> None:
    result = finished(tmp_path, maml())
    home = result.folder / "model"
    (home / "MANIFEST.json").unlink()
    (home / "model.json").write_text(json.dumps({**json.loads((home / "model.json").read_text()), "trial": trial}))
    with pytest.raises(RecordDamaged, match="trial is a whole number from 0 on"):
        load(result.run_id, store=tmp_path, study=maml())
