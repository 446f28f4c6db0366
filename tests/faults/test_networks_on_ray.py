"""Does a study of any network come to the same bits with 0, 1 or 2 workers, again, and after an interruption?"""

from __future__ import annotations

import dataclasses
import os
import signal
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import ray

from bilevel import Adam, Grid, Inline, Learned, OneOf, Ray, Result, Space, Study, figures, resume, run
from bilevel.drive import progress
from bilevel.drive.progress import Progress
from bilevel.errors import NotPromised
from bilevel.inner import GradientDescent
from bilevel.record.folder import RunFolder
from bilevel.study import history
from support.states import KEYED, System
from support.tiny import Said, finished, maml

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")  # of networks that go through the loop


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take seconds, and are not what is tested."""
    monkeypatch.setattr(figures, "draw", lambda *_: {})


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    here = str(Path(__file__).parents[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]))  # the networks' module
        start = partial(ray.init, address="local", num_cpus=2, include_dashboard=False, log_to_driver=False)
        try:
            start(logging_level="ERROR")
        except Exception:  # noqa: BLE001  on a loaded machine the raylet misses Ray's 30 seconds
            ray.shutdown()
            start(logging_level="ERROR")
        yield
        ray.shutdown()


def study(*networks: object) -> Study:
    """One trial for each network."""
    rule = Space(GradientDescent, init=Learned(OneOf(*networks), by=Adam(1e-2)), lr=0.05)
    few = maml(rule=rule, steps=2, episodes=2, unit=1, test_episodes=2, validate_episodes=2)
    return dataclasses.replace(few, search=Grid())


def learned(result: Result) -> dict[str, tuple[object, ...]]:
    """Of each trial by its network: how it ended, what it reached and the hash of what it learned."""
    trials = history.replay(RunFolder(result.folder).events()).trials.values()
    return {str(trial.config["rule.init"]): (trial.state, trial.objective, trial.learned) for trial in trials}


class Impatient(Said):
    """Interrupts when half of the networks have been trained."""

    def progress(self, seen: Progress) -> None:
        super().progress(seen)
        if not self.lines and len(seen.history.trials) > len(KEYED) // 2:
            self.lines.append("interrupted")
            os.kill(os.getpid(), signal.SIGINT)


@pytest.fixture(scope="module")
def wanted(tmp_path_factory: pytest.TempPathFactory) -> Result:
    """In one process."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return finished(tmp_path_factory.mktemp("wanted"), study(*KEYED))


@pytest.mark.slow
def test_every_network_comes_to_one_fingerprint(tmp_path: Path, cluster: None, wanted: Result) -> None:
    table = learned(wanted)
    assert len(table) == len(KEYED)
    assert {state for state, *_ in table.values()} == {"completed"}
    for on in (Inline(), Ray(workers=1), Ray(workers=1), Ray(workers=2), Ray(workers=2)):
        found = run(study(*KEYED), on=on, store=tmp_path, track="none")
        assert learned(found) == table
        assert found.fingerprint == wanted.fingerprint


@pytest.mark.slow
def test_every_network_comes_to_the_same_after_an_interruption(
    tmp_path: Path, cluster: None, wanted: Result, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LOOK_EVERY", 0.0)  # look at every step, however fast the machine is
    broken = run(study(*KEYED), on=Inline(), store=tmp_path, track="none", watch=Impatient())
    assert broken.status == "interrupted"
    again = resume(broken.run_id, store=tmp_path, study=study(*KEYED), on=Ray(workers=2))
    assert learned(again) == learned(wanted)
    assert again.fingerprint == wanted.fingerprint


def test_what_no_key_decides_is_named_before_anything_runs(tmp_path: Path) -> None:
    watch = Said()
    with warnings.catch_warnings():
        warnings.simplefilter("error", NotPromised)
        with pytest.raises(NotPromised, match=r"rule.init: System: .* \(System names urandom\)"):
            finished(tmp_path, maml(rule=Space(GradientDescent, init=Learned(System, by=Adam(1e-2)))), watch=watch)
    assert not watch.seen
    assert not list(tmp_path.iterdir())
