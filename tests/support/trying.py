"""Small searches in this process: from beginning to end, or with a driver that dies after any event."""

from __future__ import annotations

import math
import random
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bilevel import ASHA, PBT, Grid, Inline, OneOf, Random, Report, Run, Space, Study, Uniform
from bilevel.drive import results
from bilevel.drive.driver import Driver
from bilevel.execute import opening
from bilevel.execute.inline import InlineStage
from bilevel.execute.trial_runner import Script
from bilevel.record import folder as folders
from bilevel.record.folder import RunFolder
from bilevel.search.port import Told
from bilevel.study import history as histories
from bilevel.study.events import Asked, Ended, Event, Moved, Reported, Stage, Started
from bilevel.study.history import History
from support.tiny import Said


@dataclass(frozen=True, kw_only=True)
class Hill:
    """The configuration of `climb`."""

    x: float
    y: float = 0.0
    steps: int = 3


def height(x: float, y: float = 0.0) -> float:
    """What `climb` comes to in the end: 0 at x = 0.3."""
    return (x - 0.3) ** 2 + y


def climb(config: Hill, run: Run) -> Iterator[Report]:
    """A loss that falls to `height` in a few steps, and can go on from any of them."""
    done = 0 if run.state is None else int(run.state["done"])
    for step in range(done + 1, config.steps + 1):
        loss = height(config.x, config.y) + 1.0 - step / config.steps
        yield Report(step, {"loss": loss}, {"done": step, "w": torch.full((2,), loss)})


def hill(objective: Callable[..., Any] = climb, /, **changes: Any) -> Study:
    """A study of `climb`; `changes` are the study's, those of the space under `values`."""
    values = {"x": Uniform(0.0, 1.0)} | changes.pop("values", {})
    wanted = {"search": Random(), "trials": 5, "seed": 3, "minimize": "loss"} | changes
    if "maximize" in changes and "minimize" not in changes:
        del wanted["minimize"]
    return Study(name="hill", objective=objective, space=Space(Hill, **values), **wanted)


def drifting(config: Hill, run: Run) -> Iterator[Report]:
    """A weight that falls by the rate x at each step: who inherits it and with which rate shows in the loss."""
    state = run.state or {"done": 0, "w": torch.tensor(10.0), "line": []}
    for step in range(int(state["done"]) + 1, config.steps + 1):
        state = {"done": step, "w": state["w"] - config.x, "line": [*state["line"], [run.trial, config.x]]}
        yield Report(step, {"loss": float(state["w"])}, state)


def population(members: int = 4, every: int = 2, steps: int = 8, **changes: Any) -> Study:
    search = PBT(members=members, every=every, resample=0.0)
    return hill(drifting, search=search, trials=None, values={"x": Uniform(0.0, 1.0), "steps": steps}, **changes)


class Killed(BaseException):
    """What a driver dies of here; nobody catches it."""


@dataclass
class Life:
    """One driver's: how it ended, and what its watch was told."""

    status: str
    said: Said
    stage: Any = None


def fresh(store: Path, study: Study, window: int = 0) -> RunFolder:
    """A run that has begun and decided nothing yet."""
    folder = folders.create(store, study.name, {"name": study.name})
    ways = {name: "minimize" if low else "maximize" for name, low in study.objectives.items()}
    several = ways if len(ways) > 1 else {}
    driver = driving(folder, study, Said())
    began = Started(study.name, folder.run_id, study.metric, study.sign > 0, study.seed, objectives=several)
    driver.ledger.record(began)
    driver.ledger.close()
    return folder


def driving(
    folder: RunFolder,
    study: Study,
    said: Said,
    *,
    window: int = 0,
    seconds: float | None = None,
    warm: Sequence[tuple[Mapping[str, Any], Told]] = (),
    stage: Callable[[Script], Stage] | None = None,
) -> Driver:
    """A driver of a run, not at work yet."""
    script = Script(study.objective, study.space, study.key, study.metric, study.sign > 0)
    make = stage or (lambda script: InlineStage(script, {}, echo=False))
    return Driver(
        study,
        folder,
        lambda: make(script),
        lambda: opening.executor(Inline()),
        said,
        seconds=seconds,
        warm=warm,
        window=window,
    )


def live(
    folder: RunFolder,
    study: Study,
    *,
    slots: int = 1,
    kill_after: int | None = None,
    lose: bool = False,
    interrupt_after: int | None = None,
    **more: Any,
) -> Life:
    """One driver's life.

    Args:
        folder: the run.
        study: what it is of.
        slots: trials at work at a time.
        kill_after: it dies right after it has recorded so many events.
        lose: of those, what the journal has not committed yet is lost.
        interrupt_after: after so many it is asked to leave.
    """
    said = Said()
    driver = driving(folder, study, said, **more)
    before, count = driver.ledger.record, 0

    def record(event: Event, *, commit: bool = False) -> None:
        nonlocal count
        before(event, commit=commit)
        count += 1
        if count == interrupt_after:
            signal.raise_signal(signal.SIGTERM)
        if count == kill_after:
            if lose:
                driver.ledger._journal._pending.clear()
            raise Killed

    driver.ledger.record = record  # type: ignore[method-assign]
    try:
        return Life(driver.drive(slots), said)
    except Killed:
        return Life("killed", said)
    finally:
        driver.ledger.close()


def searched(store: Path, study: Study, **more: Any) -> tuple[RunFolder, History]:
    """A search from beginning to end."""
    folder = fresh(store, study)
    life = live(folder, study, **more)
    assert life.status in ("completed", "failed"), life.status
    return folder, replayed(folder)


def replayed(folder: RunFolder) -> History:
    """What the journal tells."""
    return histories.replay(folder.events())


def fingerprint(folder: RunFolder) -> str:
    """Of a run as it stands."""
    return results.fingerprint(replayed(folder))


def check_once(folder: RunFolder) -> None:
    """Nothing is in the journal twice: a trial's end, a step, or numbers that leave one out."""
    asked, ended, steps = Counter[int](), Counter[int](), Counter[tuple[int, int]]()
    moves: Counter[int] = Counter()
    for event in folder.events():
        match event:
            case Asked():
                asked[event.trial] += 1
            case Ended():
                ended[event.trial] += 1
            case Moved():
                moves[event.trial] += 1
            case Reported():
                assert event.trial not in ended, f"trial {event.trial} has ended and reports step {event.step}"
                steps[event.trial, event.step, moves[event.trial]] += 1
            case _:
                pass
    assert sorted(asked) == list(range(len(asked)))
    assert set(ended) == set(asked)
    for counts in (asked, ended, steps):
        assert set(counts.values()) <= {1}, counts


def count_events(folder: RunFolder) -> int:
    """How many its drivers have recorded (the first line aside)."""
    return sum(1 for _ in folder.events()) - 1


def noisy(config: Hill, run: Run) -> float:
    return config.x + 0.2 * random.random()  # the global generator is the trial's own


def nan_at_last(config: Hill, run: Run) -> Iterator[Report]:
    yield Report(1, {"loss": 1.0})
    yield Report(2, {"loss": math.nan if run.trial == 1 else config.x})


def halving(*xs: float, steps: int = 9, factor: int = 3, **changes: Any) -> Study:
    """These points in turn, successively halved from step 1 on."""
    values = {"x": OneOf(*xs), "steps": steps}
    defaults = {"search": Grid(), "trials": None, "stop": ASHA(first=1, factor=factor, last=steps)}
    return hill(values=values, **(defaults | changes))


def undisturbed(store: Path, study: Study, **more: Any) -> tuple[str, int]:
    folder, _ = searched(store, study, **more)
    check_once(folder)
    return fingerprint(folder), count_events(folder)
