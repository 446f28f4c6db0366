"""What must every stage do with the trials that it is given, in this process and on warm workers alike?"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import math
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from bilevel import Int, OneOf, Ray, Report, Run, Space, Tune
from bilevel.episodes import Key
from bilevel.errors import BadInput
from bilevel.execute import cluster as clusters
from bilevel.execute import opening, vitals
from bilevel.execute import stage as stages
from bilevel.execute import tune_stage as tune_stages
from bilevel.execute.inline import InlineStage
from bilevel.execute.stage import RayStage
from bilevel.execute.trial_runner import Script
from bilevel.study.events import Completed, Fault, Gone, Order, Placed, Raised, Said, Stage, Units

PLACES = ("inline", "ray", "tune")


# -- trials ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Act:
    """What a trial does here, and how often."""

    what: str
    n: int
    data: Any = None

    def __post_init__(self) -> None:
        if self.n == 13:
            raise ValueError("n=13 brings bad luck")


def play(act: Act, run: Run) -> Iterator[Any]:
    yield from ACTS[act.what](act, run)


def count(act: Act, run: Run) -> Iterator[Report]:
    state = run.state or {"done": 0, "w": torch.zeros(3), "by": []}
    for step in range(state["done"] + 1, act.n + 1):
        state = {"done": step, "w": state["w"] + step, "by": [*state["by"], run.trial]}
        yield Report(step, {"loss": 1.0 / step, "big": np.float32(2.0), "tensor": torch.tensor(3)}, state)


def fail(act: Act, run: Run) -> Iterator[Report]:
    yield Report(1, {"loss": 1.0})
    raise KeyError("width")


def leave(act: Act, run: Run) -> Iterator[Report]:
    yield Report(1, {"loss": 1.0})
    sys.exit(3)


def chat(act: Act, run: Run) -> Iterator[Report]:
    for step in range(1, act.n + 1):
        sys.stdout.write(f"out {step}\n")
        sys.stderr.write(f"err {step}\n")
        yield Report(step, {"loss": 1.0})
    sys.stdout.write("bye\n")


def chatter(act: Act, run: Run) -> Iterator[Report]:
    """Prints in all ways that programs know."""
    log = logging.getLogger("theirs")
    if not log.handlers:
        log.propagate = False
        log.addHandler(logging.StreamHandler())
    log.error("logged in trial %d", run.trial)
    sys.stdout.buffer.write(b"bytes\n")
    sys.stdout.flush()
    subprocess.run(["echo", f"child, {sys.stdout.encoding.lower()}"], stdout=sys.stdout, check=True)
    os.write(2, b"from C\n")
    faulthandler.enable()
    faulthandler.disable()
    yield Report(1, {"loss": 1.0})


def draw(act: Act, run: Run) -> Iterator[Report]:
    for step in range(1, act.n + 1):
        yield Report(step, {"python": random.random(), "numpy": np.random.rand(), "torch": torch.rand(())})


def soil(act: Act, run: Run) -> Iterator[Report]:
    """Leaves what code does leave behind."""
    os.environ["BILEVEL_TEST_SOIL"] = "here"
    os.environ.pop("PATH", None)
    os.chdir("/")
    sys.stdout, sys.stderr = sys.__stdout__, sys.__stderr__
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(2)
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    yield Report(1, {"loss": 0.0})


def look(act: Act, run: Run) -> Iterator[Report]:
    print("seen")  # noqa: T201 sys.stdout is the trial's again
    found = {
        "environment": "BILEVEL_TEST_SOIL" in os.environ or "PATH" not in os.environ,
        "folder": Path.cwd() == Path("/"),
        "dtype": torch.get_default_dtype() != torch.float32,
        "threads": torch.get_num_threads() != 1,
    }
    yield Report(1, {name: float(left) for name, left in found.items()})


def dear(act: Act, run: Run) -> Iterator[Report]:
    yield Report(1, {"loss": run.cache("dear", lambda: float(run.trial))})


def spread(act: Act, run: Run) -> Iterator[Any]:
    results = yield Units(lambda _shared, item: {"x": item}, {}, (1, 2))
    yield Report(1, {"loss": float(len(results))})


def odd(act: Act, run: Run) -> Iterator[Report]:
    for step, value in enumerate((math.nan, math.inf, -math.inf), 1):
        yield Report(step, {"loss": value})


def heavy(act: Act, run: Run) -> Iterator[Report]:
    w = torch.arange(5_000_000, dtype=torch.float32) if run.state is None else run.state["w"] + 1
    yield Report(1 if run.state is None else 2, {"loss": float(w.sum())}, {"w": w})


def busy(act: Act, run: Run) -> Iterator[Report]:
    for step in range(1, act.n + 1):
        time.sleep(0.05)
        yield Report(step, {"loss": 1.0, "pid": os.getpid()})


def patient(act: Act, run: Run) -> Iterator[Report]:
    with contextlib.ExitStack() as stack:
        stack.callback(lambda: Path(act.data).write_text(f"trial {run.trial} left"))
        yield from busy(act, run)


def grow(act: Act, run: Run) -> Iterator[Report]:
    run.cache(("grown", run.trial), lambda: torch.ones(act.n * 250_000))  # MB
    yield Report(1, {"loss": 1.0, "pid": os.getpid()})


def cut(act: Act, run: Run) -> Iterator[Report]:
    """Closes what is not its own, as programs do that make a daemon of themselves."""
    if act.n == 1:
        os.closerange(3, act.data)
    yield Report(1, {"loss": 1.0})


def wait(act: Act, run: Run) -> Iterator[Report]:
    """For what never comes."""
    yield Report(1, {"loss": 1.0, "pid": os.getpid()})
    if act.n == 2:
        threading.Event().wait()


ACTS = {
    f.__name__: f
    for f in (
        cut,
        wait,
        count,
        fail,
        leave,
        chat,
        chatter,
        draw,
        soil,
        look,
        dear,
        spread,
        odd,
        heavy,
        busy,
        patient,
        grow,
    )
}
SPACE = Space(Act, what=OneOf(*ACTS), n=Int(1, 1000))
KEY = Key((7,))


def script(space: Space = SPACE) -> Script:
    return Script(play, space, KEY, "loss", minimize=True)


def order(what: str, n: int = 3, *, trial: int = 0, attempt: int = 1, seed: int = 11, **more: Any) -> Order:
    point = {"what": what, "n": n}
    return Order(trial, attempt, seed, point, **({"attended": True, "keep": (0.0, 0.0)} | more))


# -- stages ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A cluster that the stages find, as in a notebook."""
    ray.init(address="local", num_cpus=4, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def opened(cluster: None) -> Iterator[dict[str, Stage]]:
    """One worker: what a trial leaves behind is there for the next one."""
    live: dict[str, Stage] = {
        "inline": InlineStage(script(), {}, echo=False),
        "ray": opening.stage(Ray(workers=1), script()),
        "tune": opening.stage(Tune(workers=1), script()),
    }
    yield live
    for stage in live.values():
        stage.close()


@pytest.fixture(params=PLACES)
def stage(request: pytest.FixtureRequest, opened: dict[str, Stage]) -> Stage:
    return opened[request.param]


@pytest.fixture
def on_ray(opened: dict[str, Stage]) -> RayStage:
    found = opened["ray"]
    assert isinstance(found, RayStage)
    return found


@dataclass
class Played:
    """All that a trial said."""

    placed: list[Placed] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)
    gone: list[Gone] = field(default_factory=list)

    @property
    def reports(self) -> list[Report]:
        return [report for said in self.said for report in said.reports]

    @property
    def end(self) -> Any:
        return self.said[-1].end

    @property
    def output(self) -> str:
        return "".join(said.output for said in self.said)

    @property
    def states(self) -> list[tuple[int, Any]]:
        return [(said.state_step, said.state) for said in self.said if said.state is not None]


def perform(stage: Stage, *orders: Order, seconds: float = 90.0, until: int | None = None) -> dict[int, Played]:
    """These trials side by side: every report is answered by "go on", until all have ended or one has so many."""
    found = {order.trial: Played() for order in orders}
    for each in orders:
        stage.begin(each)
    stop = time.monotonic() + seconds
    while not all(played.gone or (played.said and played.end is not None) for played in found.values()):
        assert time.monotonic() < stop, f"not ended within {seconds} s: {found}"
        for said in stage.poll(0.5):
            if isinstance(said, Fault):
                continue
            played = found[said.trial]
            {Placed: played.placed, Said: played.said, Gone: played.gone}[type(said)].append(said)  # type: ignore[index]
            if isinstance(said, Said) and said.end is None:
                if until is not None and len(played.reports) >= until:
                    return found
                stage.answer(said.trial, [{}, {}] if said.units is not None else None)
    return found


def one(stage: Stage, what: str, n: int = 3, **more: Any) -> Played:
    wanted = order(what, n, **more)
    return perform(stage, wanted)[wanted.trial]


# -- what a trial says -------------------------------------------------------------------------------------------------


def test_reports_come_in_order_as_plain_numbers_and_then_the_end(stage: Stage) -> None:
    played = one(stage, "count", 4)
    assert [report.step for report in played.reports] == [1, 2, 3, 4]
    assert played.reports[1].metrics == {"loss": 0.5, "big": 2.0, "tensor": 3.0}
    assert {type(value) for report in played.reports for value in report.metrics.values()} == {float}
    assert all(report.state is None for report in played.reports)
    assert played.end == Completed()
    assert [(p.trial, p.attempt) for p in played.placed] == [(0, 1)]
    assert played.placed[0].worker


def test_whoever_is_attended_waits_after_each_report(stage: Stage) -> None:
    played = one(stage, "count", 4)
    assert [len(said.reports) for said in played.said] == [1, 1, 1, 1, 0]


def test_whoever_is_not_attended_says_all_the_same(stage: Stage) -> None:
    played = one(stage, "count", 50, attended=False, keep=(100.0, 100.0))
    assert [report.step for report in played.reports] == list(range(1, 51))
    assert played.end == Completed()
    step, state = played.states[-1]
    assert (step, state["done"]) == (50, 50)  # the last one always comes


def test_a_state_comes_along_when_it_is_wanted_and_goes_back_as_it_was(stage: Stage) -> None:
    played = one(stage, "count", 3, trial=4)
    assert [step for step, _ in played.states] == [1, 2, 3]
    _, state = played.states[1]
    assert state["w"].tolist() == [3.0] * 3
    again = one(stage, "count", 5, trial=5, state=state)
    assert [report.step for report in again.reports] == [3, 4, 5], again.end
    assert again.states[-1][1]["by"] == [4, 4, 5, 5, 5]
    assert again.states[-1][1]["w"].tolist() == [15.0] * 3
    assert state["w"].tolist() == [3.0] * 3, "the state that it was given was changed"


def test_a_large_state_travels_whole(stage: Stage) -> None:
    (_, state), *_ = one(stage, "heavy").states
    assert torch.equal(state["w"], torch.arange(5_000_000, dtype=torch.float32))
    again = one(stage, "heavy", state=state).states[-1][1]
    assert torch.equal(again["w"], state["w"] + 1)


def test_what_user_code_raises_is_its_trials_end_in_words(stage: Stage) -> None:
    played = one(stage, "fail")
    assert isinstance(played.end, Raised)
    assert played.end.reason == "KeyError: 'width'"
    assert "in fail" in played.end.traceback
    assert [report.step for report in played.reports] == [1]
    assert one(stage, "leave").end.reason == "SystemExit: 3"
    assert one(stage, "count").end == Completed()


def test_a_configuration_that_refuses_its_values_is_its_trials_end(stage: Stage) -> None:
    played = one(stage, "count", 13)
    assert played.end.reason == "ValueError: n=13 brings bad luck"
    assert played.reports == []


def test_numbers_that_are_not_finite_come_through(stage: Stage) -> None:
    values = [report.metrics["loss"] for report in one(stage, "odd").reports]
    assert math.isnan(values[0])
    assert values[1:] == [math.inf, -math.inf]


def test_what_a_trial_prints_comes_with_what_it_says_and_goes_nowhere_else(
    stage: Stage, capfd: pytest.CaptureFixture[str]
) -> None:
    played = one(stage, "chat", 2)
    assert [said.output for said in played.said] == ["out 1\nerr 1\n", "out 2\nerr 2\n", "bye\n"]
    assert capfd.readouterr() == ("", "")


def test_whatever_a_trial_writes_to_is_its_log_also_for_the_next_one(
    stage: Stage, capfd: pytest.CaptureFixture[str]
) -> None:
    for trial in (0, 1):
        played = one(stage, "chatter", trial=trial)
        assert played.end == Completed(), played.end
        lines = [f"logged in trial {trial}", "bytes", "child, utf-8", "from C"]
        own = lines[:2] if isinstance(stage, InlineStage) else lines  # in this process, others write there, too
        assert played.output.splitlines() == own
    assert [line in capfd.readouterr().err for line in ("logged", "bytes")] == [False, False]


def test_units_are_for_who_spreads(stage: Stage) -> None:
    played = one(stage, "spread")
    if isinstance(stage, InlineStage):
        assert played.end == Completed()
        assert played.reports[0].metrics == {"loss": 2.0}
    else:
        assert "spreads = True" in played.end.reason


# -- who ran before ----------------------------------------------------------------------------------------------------


def test_random_numbers_are_the_trials_own(stage: Stage) -> None:
    def draws(trial: int, seed: int) -> list[Any]:
        return [report.metrics for report in one(stage, "draw", trial=trial, seed=seed).reports]

    before = (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())
    first, other = draws(0, 1), draws(1, 2)
    one(stage, "soil")
    assert draws(2, 1) == first != other
    assert before == (random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist())


def test_trials_side_by_side_do_not_mix_their_random_numbers(stage: Stage) -> None:
    alone = [one(stage, "draw", 5, seed=seed).reports for seed in (1, 2)]
    both = perform(stage, order("draw", 5, trial=0, seed=1), order("draw", 5, trial=1, seed=2))
    assert [both[trial].reports for trial in (0, 1)] == alone


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    """What trials in this process leave behind, no other test finds."""
    here, folder = dict(os.environ), Path.cwd()
    yield
    os.environ.clear()
    os.environ.update(here)
    os.chdir(folder)
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(1)


def test_what_a_trial_leaves_behind_the_next_one_does_not_find(stage: Stage) -> None:
    one(stage, "soil")
    found = one(stage, "look")
    left = {name for name, left in found.reports[0].metrics.items() if left}
    if isinstance(stage, InlineStage):  # in this process, its folder and environment are everybody's
        left -= {"environment", "folder"}
    assert left == set()
    assert found.output == "seen\n"
    assert torch.get_default_dtype() == torch.float32
    assert torch.get_num_threads() == 1


def test_what_is_dear_is_kept_from_trial_to_trial(stage: Stage) -> None:
    values = {one(stage, "dear", trial=trial).reports[0].metrics["loss"] for trial in (3, 4, 5)}
    assert len(values) == 1


# -- places ------------------------------------------------------------------------------------------------------------


def test_more_trials_than_places_are_all_done(stage: Stage) -> None:
    found = perform(stage, *(order("count", 3, trial=trial) for trial in range(7)))
    assert all(len(played.reports) == 3 for played in found.values())


def test_a_trial_that_is_closed_says_no_more_and_leaves_its_place(stage: Stage, tmp_path: Path) -> None:
    """One that waits for its answer: its own `finally` is run, and its worker is used again."""
    note = tmp_path / "note"
    space = Space(Act, what=OneOf(*ACTS), n=Int(1, 1000), data=str(note))
    mine: Stage = (
        InlineStage(script(space), {}, echo=False)
        if isinstance(stage, InlineStage)
        else opening.stage((Ray if isinstance(stage, RayStage) else Tune)(workers=1), script(space))
    )
    try:
        pids = set()
        played = perform(mine, order("patient", 50, trial=1), until=2)[1]
        pids |= {report.metrics["pid"] for report in played.reports}
        mine.close_trial(1)
        other = one(mine, "busy", 2, trial=2)
        assert note.read_text() == "trial 1 left"
        pids |= {report.metrics["pid"] for report in other.reports}
        assert len(pids) == 1
        assert mine.poll(0.2) == []
        mine.close_trial(1)  # nothing is left to close
    finally:
        mine.close()
        mine.close()


def test_a_trial_closed_while_it_computes_leaves_its_place(stage: Stage) -> None:
    stage.begin(order("busy", 1000, trial=1, attended=False))
    stop = time.monotonic() + 60
    while not any(isinstance(said, Placed) for said in stage.poll(0.1)):
        assert time.monotonic() < stop
    stage.close_trial(1)
    assert one(stage, "count", trial=2).end == Completed()


def test_a_trial_closed_before_it_began_never_begins(stage: Stage) -> None:
    for trial in (1, 2, 3):
        stage.begin(order("busy", 3, trial=trial))
    stage.close_trial(3)
    seen: set[int] = set()
    ended: set[int] = set()
    while ended != {1, 2}:
        for said in stage.poll(0.5):
            seen |= {said.trial} if isinstance(said, Said) else set()
            if isinstance(said, Said) and said.end is None:
                stage.answer(said.trial, None)
            elif isinstance(said, Said):
                ended.add(said.trial)
    assert seen == {1, 2}


def test_an_answer_to_who_is_not_there_is_ignored(stage: Stage) -> None:
    stage.answer(99, None)
    stage.close_trial(99)
    assert one(stage, "count").end == Completed()


def test_poll_returns_after_its_timeout(stage: Stage) -> None:
    begun = time.monotonic()
    assert stage.poll(0.05) == []
    assert time.monotonic() - begun < 2.0


# -- on workers --------------------------------------------------------------------------------------------------------


def pid_of(on_ray: RayStage) -> int:
    return int(one(on_ray, "busy", 1, trial=77).reports[0].metrics["pid"])


def struck(on_ray: RayStage, blow: int, trial: int = 3) -> tuple[Gone, int]:
    """A worker in the middle of a trial, and what is said of it."""
    pid = pid_of(on_ray)
    on_ray.begin(order("busy", 1000, trial=trial, attempt=2, attended=False))
    stop, placed = time.monotonic() + 60, False
    while True:
        assert time.monotonic() < stop, "the worker was not missed"
        for said in on_ray.poll(0.2):
            if isinstance(said, Placed) and not placed:
                placed = True
                os.kill(pid, blow)
            elif isinstance(said, Gone):
                return said, pid
            elif isinstance(said, Said):
                on_ray.answer(said.trial, None)


def test_of_a_worker_that_is_killed_the_driver_is_told_and_another_comes(on_ray: RayStage) -> None:
    gone, pid = struck(on_ray, signal.SIGKILL)
    assert (gone.trial, gone.attempt, gone.kind) == (3, 2, "died")
    assert str(pid) in gone.detail
    assert pid_of(on_ray) != pid


def test_a_worker_that_is_stopped_is_replaced(on_ray: RayStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "SILENCE", 1.0)
    gone, pid = struck(on_ray, signal.SIGSTOP)
    assert (gone.trial, gone.kind) == (3, "frozen")
    assert pid_of(on_ray) != pid
    assert not Path(f"/proc/{pid}").exists()


@pytest.mark.slow
@pytest.mark.parametrize("place", [Ray(workers=1), Tune(workers=1)], ids=PLACES[1:])
@pytest.mark.parametrize("last", [20, 100])
def test_a_worker_whose_descriptors_a_trial_has_closed_is_replaced(place: Ray | Tune, cluster: None, last: int) -> None:
    space = Space(Act, what=OneOf(*ACTS), n=Int(1, 1000), data=last)
    stage = opening.stage(place, script(space))
    try:
        assert [gone.kind for gone in perform(stage, order("cut", 1, trial=1))[1].gone] == ["died"]
        assert one(stage, "cut", 2, trial=2).end == Completed()
    finally:
        stage.close()


@pytest.mark.slow
@pytest.mark.parametrize("place", [Ray(workers=1, silence=2.0), Tune(workers=1, silence=2.0)], ids=PLACES[1:])
def test_a_worker_that_says_nothing_and_does_nothing_is_replaced(
    place: Ray | Tune, cluster: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "SILENCE", 0.5)
    monkeypatch.setattr(tune_stages, "SILENCE", 0.5)
    monkeypatch.setattr(vitals, "SHARE", 0.2)  # a busy worker's own threads, in so short a time
    stage = opening.stage(place, script())
    try:
        waits = perform(stage, order("wait", 2, trial=1))[1]
        assert [(gone.trial, gone.kind) for gone in waits.gone] == [(1, "frozen")]
        assert re.search(r"for \d+ s it has said nothing, and its process done nothing", waits.gone[0].detail)
        pid = int(waits.reports[0].metrics["pid"])
        assert one(stage, "wait", 1, trial=2).reports[0].metrics["pid"] != pid
        assert not Path(f"/proc/{pid}").exists()
    finally:
        stage.close()


@pytest.mark.parametrize("place", [Ray, Tune])
def test_a_silence_that_is_no_time_is_refused(place: type[Ray | Tune]) -> None:
    with pytest.raises(BadInput, match=r"silence=0: give seconds, or math.inf"):
        place(silence=0)


def test_a_worker_that_dies_while_its_trial_waits_is_noticed_at_the_answer(on_ray: RayStage) -> None:
    perform(on_ray, order("busy", 100, trial=4), until=1)
    (pid,) = {member.hello.pid for member in on_ray._actors.ready() if member.hello is not None}
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.3)
    on_ray.answer(4, None)
    stop, found = time.monotonic() + 60, []
    while not found:
        assert time.monotonic() < stop
        found = [said for said in on_ray.poll(0.2) if isinstance(said, Gone)]
    assert [(gone.trial, gone.kind) for gone in found] == [(4, "died")]


def test_a_worker_that_has_grown_is_replaced(on_ray: RayStage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "GROWTH", 60.0)
    pid = pid_of(on_ray)
    assert one(on_ray, "grow", 100, trial=1).reports[0].metrics["pid"] == pid
    assert pid_of(on_ray) != pid


class Weighed:
    """Data that counts how often it is packed."""

    packed = 0

    def __init__(self) -> None:
        self.values = np.zeros(1_000_000)

    def __reduce__(self) -> Any:
        Weighed.packed += 1
        return _weighed, (self.values,)


def _weighed(values: Any) -> Weighed:
    made = Weighed.__new__(Weighed)
    made.values = values
    return made


def test_data_in_the_space_travels_once(cluster: None) -> None:
    Weighed.packed = 0
    space = Space(Act, what=OneOf(*ACTS), n=Int(1, 1000), data=OneOf(Weighed(), "none"))
    stage = opening.stage(Ray(workers=1), script(space))
    try:
        packed = Weighed.packed
        for trial in range(5):
            point = {"what": "count", "n": 2, "data": ("Weighed", "none")[trial % 2]}
            wanted = Order(trial, 1, 5, point, attended=True)
            assert len(pickle.dumps(wanted)) < 1000
            assert perform(stage, wanted)[trial].end == Completed()
        assert Weighed.packed == packed == 1
    finally:
        stage.close()


@pytest.mark.parametrize("place", [Ray, Tune])
def test_a_process_of_its_own_for_each_trial_if_asked_for(cluster: None, place: type[Ray | Tune]) -> None:
    stage = opening.stage(place(workers=1), script(), fresh=True)
    try:
        pids = [one(stage, "busy", 1, trial=trial).reports[0].metrics["pid"] for trial in range(2)]
    finally:
        stage.close()
    assert len(set(pids)) == 2


@pytest.mark.parametrize("place", [Ray, Tune, None])
def test_a_function_that_does_not_stop_when_told_shares_its_process_with_nobody(
    cluster: None, place: type[Ray | Tune] | None
) -> None:
    def heedless(act: Act, run: Run) -> None:
        for step in range(1, 100 if act.n == 2 else 3):
            time.sleep(0.02)
            run.report(step, {"loss": 1.0, "pid": os.getpid()})

    called = Script(heedless, SPACE, KEY, "loss", minimize=True)
    stage: Stage = InlineStage(called, {}, echo=False) if place is None else opening.stage(place(workers=1), called)
    try:
        first = perform(stage, order("count", 2), until=1)[0].reports[0].metrics["pid"]
        stage.close_trial(0)
        second = perform(stage, order("count", 3, trial=1))[1]
        assert second.end == Completed()
        assert not second.gone
        if place is not None:
            assert second.reports[0].metrics["pid"] != first
    finally:
        stage.close()


def test_what_no_node_can_hold_is_refused(cluster: None) -> None:
    with pytest.raises(BadInput, match=r"no node has 64 CPUs .*ask for at most 4 \(Study\.cpus"):
        opening.stage(Ray(workers=1), script(), cpus=64)
    with pytest.raises(BadInput, match=r"no node has 2 GPUs"):
        opening.stage(Ray(workers=1), script(), gpus=2)


def test_no_node_may_have_both(cluster: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clusters, "_nodes", lambda: [{"CPU": 64.0}, {"CPU": 4.0, "GPU": 2.0}])
    clusters.Cluster().check(4, 2)
    with pytest.raises(BadInput, match=r"no node has 8 CPUs and 1 GPUs at once"):
        clusters.Cluster().check(8, 1)


def test_an_objective_that_cannot_be_pickled_is_bad_input(cluster: None) -> None:
    import threading

    lock = threading.Lock()

    def locked(act: Act, run: Run) -> float:
        return float(lock.locked())

    with pytest.raises(BadInput, match="cannot pickle"):
        opening.stage(Ray(workers=1), Script(locked, SPACE, KEY, "loss", minimize=True))
