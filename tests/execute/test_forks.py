"""Do the children of a trial end as programs do, and never as a second driver or a second worker?"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from bilevel import Inline, Log, Report, Run, Space, Study, figures, run
from bilevel.cli import cli
from bilevel.drive.process import asked_to_leave, leaving
from bilevel.drive.progress import Quiet
from bilevel.episodes import Key
from bilevel.execute.inline import InlineStage
from bilevel.execute.trial_runner import Script
from bilevel.execute.worker import compute
from bilevel.study.events import Completed, Order, Raised, Said

FORK = multiprocessing.get_context("fork")


def within(seconds: float, work: Callable[[], None]) -> int:
    """The exit status of a process that does this; one that hangs is killed, and fails the test."""
    process = FORK.Process(target=work)
    process.start()
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        process.join()
        pytest.fail(f"still at work after {seconds:g} s")
    return process.exitcode


def played(objective: Any) -> tuple[list[Report], Any]:
    """What a trial reports in this process, while signals are ours; and how it ends."""
    reports: list[Report] = []
    script = Script(objective, Space(dict, lr=Log(0.1, 1.0)), Key((0,)), "loss", minimize=True)
    with leaving():
        stage = InlineStage(script, {}, echo=False, asked=asked_to_leave)
        stage.begin(Order(0, 1, 1, {"lr": 0.5}))
        while True:
            for said in stage.poll(0.1):
                if not isinstance(said, Said):
                    continue
                reports += said.reports
                if said.end is not None:
                    return reports, said.end
                stage.answer(0, None)


def square(x: int) -> int:
    return x * x


def pool(config: Any, run: Run) -> None:
    with FORK.Pool(2) as workers:
        run.report(1, {"loss": float(sum(workers.map(square, range(4))))})


def terminate(config: Any, run: Run) -> Iterator[Report]:
    child = FORK.Process(target=time.sleep, args=(1000,))
    child.start()
    child.terminate()
    child.join()
    yield Report(1, {"loss": float(child.exitcode or 0)})


@pytest.mark.parametrize(("objective", "loss"), [(pool, 14.0), (terminate, -float(signal.SIGTERM))])
def test_children_of_a_trial_end_when_they_are_told(objective: Any, loss: float) -> None:
    def work() -> None:
        reports, end = played(objective)
        assert ([report.metrics["loss"] for report in reports], end) == ([loss], Completed())

    assert within(20.0, work) == 0


def test_children_hear_nothing_of_the_commands_own_handler() -> None:
    """It raises, which Python ignores while a child comes to be: one that is told to end at once would live on."""

    def work() -> None:
        signal.signal(signal.SIGTERM, cli._terminated)
        for _ in range(20):
            reports, end = played(terminate)
            assert ([report.metrics["loss"] for report in reports], end) == ([-float(signal.SIGTERM)], Completed())
        assert signal.getsignal(signal.SIGTERM) is cli._terminated

    assert within(60.0, work) == 0


def test_a_child_has_the_handlers_that_were_there_before(tmp_path: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with leaving():
        child = os.fork()
        if child == 0:
            here = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
            os._exit(0 if here == before and not asked_to_leave() else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert signal.getsignal(signal.SIGTERM) != before[1]


def comes_to(what: Callable[[], Any], status: int) -> Any:
    """An objective whose child does this; its loss is 0 if the child ends with that status."""

    def called(config: Any, run: Run) -> float:
        child = os.fork()
        if child == 0:
            sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
            return float(what() or 0.0)
        return float(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) - status)

    return called


def generated(function: Any) -> Any:
    def made(config: Any, run: Run) -> Iterator[Report]:
        yield Report(1, {"loss": function(config, run)})

    return made


def leaves(code: Any) -> Callable[[], Any]:
    def work() -> None:
        raise SystemExit(code)

    return work


CHILDREN: dict[str, tuple[Callable[[], Any], int]] = {
    "exits with a number": (leaves(3), 3),
    "exits with words": (leaves("no"), 1),
    "exits": (leaves(None), 0),
    "raises": (lambda: 1 / 0, 1),
    "goes on": (lambda: 0.0, 0),
}


@pytest.mark.parametrize("form", ["function", "generator", "unit"])
@pytest.mark.parametrize("name", CHILDREN)
def test_a_forked_child_that_comes_out_of_the_objective_ends(name: str, form: str) -> None:
    what, status = CHILDREN[name]
    function = comes_to(what, status)

    def work() -> None:
        if form == "unit":
            done = compute(lambda shared, item: {"loss": function(shared, item)}, {}, None)
            assert not isinstance(done, Raised)
            return
        reports, end = played(function if form == "function" else generated(function))
        assert ([report.metrics["loss"] for report in reports], end) == ([0.0], Completed())

    assert within(20.0, work) == 0


def test_a_child_cannot_report() -> None:
    def reports(config: Any, run: Run) -> None:
        child = FORK.Process(target=run.report, args=(1, {"loss": 1.0}))
        child.start()
        child.join()
        run.report(1, {"loss": float(child.exitcode or 0)})

    def work() -> None:
        sys.stderr = open(os.devnull, "w")  # noqa: PTH123, SIM115
        assert [report.metrics["loss"] for report in played(reports)[0]] == [1.0]

    assert within(20.0, work) == 0


# -- leaving -----------------------------------------------------------------------------------------------------------


def stuck(config: Any, run: Run) -> None:
    """Waits for what never comes, with a child that would hold up the end of its process."""
    run.report(1, {"loss": 1.0})
    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
    child.start()
    Path(config["note"]).write_text(str(child.pid))
    threading.Event().wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_run_whose_trial_never_reports_again_can_be_left(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bilevel.execute.callbacks.AWAY", 0.3)
    monkeypatch.setattr(figures, "draw", lambda *_: {})
    note, said = tmp_path / "note", tmp_path / "said"
    space = Space(dict, lr=Log(0.1, 1.0), note=str(note))
    study = Study(name="stuck", objective=stuck, minimize="loss", trials=2, space=space)

    def work() -> None:
        result = run(study, on=Inline(), store=tmp_path / "runs", track="none", watch=Quiet())  # else it would end, too
        said.write_text(result.status)

    process = FORK.Process(target=work)
    process.start()
    deadline = time.monotonic() + 60
    while not (note.exists() and note.read_text()):
        assert time.monotonic() < deadline
        assert process.is_alive()
        time.sleep(0.02)
    os.kill(int(process.pid or 0), number)
    process.join(20)
    try:
        assert process.exitcode == 0
        assert said.read_text() == "interrupted"
        assert not Path(f"/proc/{note.read_text()}").exists()
    finally:
        process.kill()


# -- signals of one's own ----------------------------------------------------------------------------------------------


def alarmed(config: Any, run: Run) -> float:
    heard: list[int] = []
    before = signal.signal(signal.SIGALRM, lambda number, frame: heard.append(number))
    signal.setitimer(signal.ITIMER_REAL, 0.02)
    time.sleep(0.1)
    signal.signal(signal.SIGALRM, before)
    return float(len(heard))


def test_a_generator_hears_its_signals_and_a_function_is_told_to_be_one() -> None:
    (report,), end = played(generated(alarmed))
    assert (report.metrics["loss"], end) == (1.0, Completed())
    reports, end = played(alarmed)
    assert not reports
    assert "write it as a generator (yield Report(step, {...})" in end.reason
