"""How does a run stand, as its record tells?"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bilevel import figures, manifest, trees
from bilevel import space as spaces
from bilevel.drive import pictures
from bilevel.errors import BadInput, RecordDamaged
from bilevel.execute.trial_runner import RANDOM
from bilevel.record import checkpoints, journal, model
from bilevel.record.folder import RunFolder
from bilevel.record.trial_files import BEST, TrialFiles
from bilevel.study import history as histories
from bilevel.study import reading
from bilevel.study.events import Asked, Ended, Opened, Reported, Steered, Tagged
from bilevel.study.history import History, Leader, Trial
from bilevel.study.study import Study

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, repr=False)
class Result:
    """How a run stands; `document` is what `run --json` prints."""

    folder: Path
    document: Mapping[str, Any]

    @property
    def run_id(self) -> str:
        """The run's name in its store."""
        return str(self.document["run_id"])

    @property
    def status(self) -> str:
        """completed, stopped, failed or interrupted."""
        return str(self.document["status"])

    def __repr__(self) -> str:
        return f"<Result {self.run_id}: {self._line()}>"

    def _repr_html_(self) -> str:
        return pictures.table(self.document, self._line())

    def _line(self) -> str:
        folder = RunFolder(self.folder)
        began = journal.started(folder.journal)
        try:
            study = "" if folder.document().get("file") else ", study=..."
        except RecordDamaged:  # said where it is read
            study = ""
        store = "" if self.folder.resolve().parent == Path("runs").resolve() else f", store={str(self.folder.parent)!r}"
        again = f"resume({self.run_id!r}{store}{study})"
        return pictures.line(self.document, "objective" if began is None else began.metric, again)

    @property
    def figures(self) -> pictures.Figures:
        """Those that were drawn at the end, by name; a notebook shows them."""
        return pictures.Figures(self.folder / "figures")

    @property
    def best(self) -> Mapping[str, Any] | None:
        """Of the best trial: trial, objective, config."""
        best: Mapping[str, Any] | None = self.document["best"]
        return best

    @property
    def metrics(self) -> Mapping[str, float]:
        """Of the best trial, by name."""
        metrics: Mapping[str, float] = self.document["metrics"]
        return metrics

    @property
    def fingerprint(self) -> str:
        """SHA-256 over what was learned and the table of trials; equal for equal studies and seeds."""
        return str(self.document["fingerprint"])

    @property
    def trials(self) -> pd.DataFrame:
        """One row a trial: trial, state, objective, step, seconds (at work), seed, of (the trial that it repeats),
        reason (why it failed or was stopped), then each value as config.*, the last of each metric as metrics.*, each
        word that it reported as tags.*.
        """
        import pandas as pd  # dear to import, and not needed to run

        found = search(RunFolder(self.folder))
        rows = [
            {"trial": t.number, "state": t.state, "objective": t.objective, "step": t.step}
            | {"seconds": found.tracks[t.number].seconds, "seed": t.seed, "of": t.of, "reason": t.reason}
            | {f"config.{path}": value for path, value in t.config.items()}
            | {f"metrics.{name}": value for name, value in t.metrics.items()}
            | {f"tags.{name}": word for name, word in t.tags.items()}
            for t in found.trials
        ]
        return pd.DataFrame(rows)

    def state(self, trial: int | None = None) -> dict[str, Any]:
        """The last state that the best trial, or this one, reported: tensors and plain values, to predict or to go on
        with. A network comes back by `module.load_state_dict(result.state()["model"])`, if that is how it was reported.

        Raises:
            BadInput: there is no such trial, or no state of it.
            RecordDamaged: its checkpoint is not as it was written.
        """
        return kept_state(RunFolder(self.folder), trial)

    def files(self, trial: int | None = None) -> dict[str, Path]:
        """What the best trial, or this one, left in `run.folder`: by name (a path with slashes) where it lies.

        Raises:
            BadInput: there is no such trial.
        """
        folder = RunFolder(self.folder)
        found = _chosen(folder, trial)
        home = TrialFiles(folder).left(found.number)
        return {name: home / name for name in sorted(found.files)}

    @property
    def reports(self) -> pd.DataFrame:
        """One row a report, in the order of trials and steps: trial, step, and the metrics as metrics.*."""
        import pandas as pd

        said = [event for event in RunFolder(self.folder).events() if isinstance(event, Reported)]
        kept = {(event.trial, event.step): event for event in said}  # a step that was computed again counts once
        rows = [
            {"trial": trial, "step": step} | {f"metrics.{name}": value for name, value in event.metrics.items()}
            for (trial, step), event in sorted(kept.items(), key=lambda item: item[0])
        ]
        return pd.DataFrame(rows, columns=None if rows else ["trial", "step"])


def _chosen(folder: RunFolder, trial: int | None) -> Trial:
    """The best trial, or the one of this number."""
    history = histories.replay(folder.events())
    if trial is None:
        best = history.champion()
        if best is None:
            raise BadInput(f"{folder.run_id}: no trial is the best one yet; name one")
        trial = best.number
    if trial not in history.trials:
        raise BadInput(f"{folder.run_id}: no trial {trial}; it has 0 to {len(history.trials) - 1}")
    return history.trials[trial]


def kept_state(folder: RunFolder, trial: int | None = None) -> dict[str, Any]:
    """What `Result.state` gives."""
    found = _chosen(folder, trial)
    state = final_state(folder, found)
    if state is None:
        why = (
            f"its checkpoints are deleted: those of the best {BEST} trials are kept, until `bilevel clean`"
            if found.kept
            else "it reported none: yield Report(step, metrics, state={...})"
        )
        raise BadInput(f"{folder.run_id}: trial {found.number} has no state; {why}")
    return {name: part for name, part in state.items() if name != RANDOM}


def final_state(folder: RunFolder, trial: Trial) -> dict[str, Any] | None:
    """The last state of a trial that was kept."""
    for step, sha256 in sorted(trial.kept.items(), reverse=True):
        path = checkpoints.folder(folder.path, trial.number, step)
        if path.exists():
            return checkpoints.load(path, sha256)
    return None


def model_faults(folder: RunFolder, history: History) -> list[str]:
    """What is wrong with the learned model, if there is one."""
    home = folder.path / "model"
    if not home.is_dir():
        return []
    try:
        values, described, _ = model.read(home)
        trial = history.trials.get(described.get("trial", -1))
        if not manifest.is_there(home) and trial is not None and trial.learned not in (None, trees.digest(values)):
            return [f"{home}: it is not what trial {trial.number} learned, as the journal tells"]
    except RecordDamaged as error:
        return [str(error)]
    return []


def figure_history(folder: RunFolder, history: History, state: Mapping[str, Any] | None) -> figures.History:
    """What figures are drawn from."""
    reports: dict[int, list[tuple[int, Mapping[str, float]]]] = {}
    for event in folder.events():
        if isinstance(event, Reported):
            reports.setdefault(event.trial, []).append((event.step, event.metrics))
    best = history.champion()
    shown = (state or {}).get("exhibit")
    if not isinstance(shown, Mapping) or not {"support", "query", "predictions"} <= shown.keys():
        shown = None  # a user's own state may have something of this name
    number = None if best is None else best.number
    return figures.History(reports=reports, exhibit=shown, metric=history.metric, best=number)


def result(folder: RunFolder, history: History, status: str, study: Study | None = None) -> dict[str, Any]:
    """What `run --json` prints: how a run stands."""
    leader = next(iter(history.leaders(1)), None)
    best = None if leader is None else leader.counted[0]
    states = [trial.state for trial in history.trials.values()]
    shown = best or (history.trials[max(history.trials)] if history.trials else None)
    per_step = spaces.flatten(study.space).get("episodes", 0) if study is not None else 0
    per_step = per_step if isinstance(per_step, int) else 0
    seconds, steps_per_second = times(folder)
    return {
        "run_id": folder.run_id,
        "study": _name(folder, study),
        "status": status,
        "trials": {state: states.count(state) for state in ("completed", "stopped", "failed")},
        "best": None if leader is None else _leader(leader, history),
        "metrics": {n: v if math.isfinite(v) else None for n, v in (shown.metrics if shown else {}).items()},
        "episodes": per_step * sum(trial.step for trial in history.trials.values()),
        **({"pareto": [_front(trial, history) for trial in history.pareto()]} if len(history.objectives) > 1 else {}),
        "fingerprint": fingerprint(history),
        "seconds": round(seconds, 3),
        "episodes_per_second": round(per_step * steps_per_second, 3),
    }


def _name(folder: RunFolder, study: Study | None) -> str:
    """The study's, which the journal knows too."""
    if study is not None:
        return study.name
    began = journal.started(folder.journal)
    return str(folder.document()["name"]) if began is None else began.study


def recorded(folder: RunFolder, history: History) -> Mapping[str, Any] | None:
    """The result with which a study finished, if it has.

    Raises:
        RecordDamaged: it is none.
    """
    if history.result is None:
        return None
    try:
        reading.result(history.result)
    except RecordDamaged as error:
        raise RecordDamaged(f"{folder.journal}: {error}; {journal.WITHOUT}") from error
    return history.result


def search(folder: RunFolder, study: Study | None = None) -> figures.Search:
    """What the views of a search are drawn from."""
    return figures.search_history(
        journal.events(folder.journal), parameters=None if study is None else study.parameters or None
    )


def _leader(leader: Leader, history: History) -> dict[str, Any]:
    """The best configuration; of several seeds with the mean over them as objective, and its interval.

    `confirmed` are the trials that it counts by, if it was confirmed. Of one alone, `step` is where its value was
    reached, and `value` which one it is: its last or its best.
    """
    trial, alone = leader.trial, leader.counted[0]
    said: dict[str, Any] = {"trial": trial.number, "objective": leader.mean}
    if leader.runs > 1:
        said |= {"runs": leader.runs, "ci95": leader.half}
    else:
        best = history.value == "best"
        said |= {"step": alone.best_step if best else alone.step, "value": "best" if best else "last"}
    if alone.confirms:
        said["confirmed"] = [one.number for one in leader.counted]
    return said | {"config": dict(trial.config)}


def _front(trial: Trial, history: History) -> dict[str, Any]:
    values = dict(zip(history.objectives, trial.values, strict=True))
    return {"trial": trial.number, "objectives": values, "config": dict(trial.config)}


def fingerprint(history: History) -> str:
    """SHA-256 over the table of trials: config, state, objective and the hash of what was learned; no times."""
    table = [
        {"trial": t.number, "config": dict(t.config), "state": t.state, "objective": t.objective, "learned": t.learned}
        | ({"values": list(t.values)} if t.values else {})
        for t in sorted(history.trials.values(), key=lambda t: t.number)
    ]
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()


def given(folder: RunFolder) -> float:
    """Seconds that somebody gave a study on top of its own, while it ran."""
    return sum(event.seconds for event in folder.events() if isinstance(event, Steered))


def times(folder: RunFolder) -> tuple[float, float]:
    """Seconds at work over all sessions, and outer steps per second (testing at a trial's last step left out)."""
    total, began, last = 0.0, None, 0.0
    gaps: list[float] = []
    reported: tuple[float, int] | None = None
    for now, event in journal.events(folder.journal):
        if isinstance(event, Opened):
            total += 0.0 if began is None else last - began
            began, reported = now, None
        elif isinstance(event, Reported):
            if reported is not None:
                gaps.append((now - reported[0]) / max(1, event.step - reported[1]))
            reported = (now, event.step)
        elif isinstance(event, Asked | Ended):
            reported = None
            if isinstance(event, Ended) and gaps:
                gaps.pop()  # the last step's, which includes the tests
        if not isinstance(event, Steered | Tagged):  # these may come while no driver is at work
            last = now
    mean = sum(gaps) / len(gaps) if gaps else 0.0
    return total + (0.0 if began is None else last - began), 1 / mean if mean > 0 else 0.0
