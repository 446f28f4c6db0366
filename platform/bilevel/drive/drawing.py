"""What is kept of a run that has ended besides its record: the learned model and pictures.

The pictures come after the end is on record: one that cannot be drawn is said, and the run is complete without it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from bilevel import figures
from bilevel.drive import results
from bilevel.episodes import TaskTraits
from bilevel.errors import BilevelError
from bilevel.meta import MetaTraining
from bilevel.record import model
from bilevel.record.folder import RunFolder
from bilevel.study.history import History, Trial
from bilevel.study.study import Study

Say = Callable[[str], None]


def export(folder: RunFolder, study: Study, history: History, say: Say) -> None:
    """The learned model of the best trial, into the run's folder; where the study learns none, nothing.

    Raises:
        StoreFailed: the disk is full or gone.
    """
    best = history.champion()
    try:
        state = None if best is None else results.final_state(folder, best)
        config = None if best is None else study.build(best.point)
        if best is None or state is None or not isinstance(config, MetaTraining) or "learned" not in state:
            return
        whose = {"study": study.name, "run_id": folder.run_id, "trial": best.number}
        described: dict[str, Any] = {**whose, "point": dict(best.point), "config": dict(best.config)}
        model.write(folder.path / "model", _kept(state, best, history), described, TaskTraits(config.tasks).scaling)
    except BilevelError:
        raise
    except Exception as error:  # noqa: BLE001 whatever it is, the run has ended and is recorded
        say(f"the learned model could not be written ({_words(error)}); it is in the checkpoints of the run")


def _kept(state: Mapping[str, Any], trial: Trial, history: History) -> Any:
    """What the trial's objective is of: the last weights, or the best, which a training that ends makes its last."""
    best = state.get("best")
    if trial.state == "stopped" and history.value == "best" and isinstance(best, Mapping) and "learned" in best:
        return best["learned"]
    return state["learned"]


def draw(folder: RunFolder, study: Study, history: History, say: Say) -> None:
    """The figures, as PNG into the run's folder; what goes wrong is said and changes nothing else."""
    missing: dict[str, str] = {}

    def failed(name: str, error: Exception) -> None:
        missing[name] = _words(error)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of matplotlib, about letters that its font does not have
        try:
            _draw(folder, study, history, failed)
        except Exception as error:  # noqa: BLE001 the same
            failed("figures", error)
    if missing:
        which = "; ".join(f"{name} ({why})" for name, why in missing.items())
        say(f"not drawn: {which}. The run is complete without.")


def _draw(folder: RunFolder, study: Study, history: History, failed: Callable[[str, Exception], None]) -> None:
    best = history.champion()
    state = results.final_state(folder, best) if best is not None else None
    search = results.search(folder, study) if len(history.trials) > 1 else None
    drawn = figures.draw(results.figure_history(folder, history, state), search, failed)
    home = folder.path / "figures"
    home.mkdir(exist_ok=True)
    for name, figure in drawn.items():
        try:
            figure.savefig(home / f"{name}.png", dpi=110)
        except Exception as error:  # noqa: BLE001 matplotlib computes here, with the user's numbers
            failed(name, error)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
