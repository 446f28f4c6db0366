"""Does a pool of workers give the same results whatever happens to its workers, and leave nothing behind?"""

from __future__ import annotations

import contextlib
import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from bilevel import trees
from bilevel.errors import BadInput, ClusterFailed
from bilevel.execute import Inline, Ray, guard, opening
from bilevel.execute import units as limits
from bilevel.execute.pool import Pool
from bilevel.study.events import Done, Fault, Lost, Units

SEED = int(os.environ.get("BILEVEL_FAULT_SEED", secrets.randbelow(10**6)))
"""Of the moments of the faults; it is part of the test's name, and the variable repeats a run."""


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    """Shared by the tests here: each finds it in the state in which faults left it."""
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    pool = opening.executor(Ray(workers=2))
    yield pool
    pool.close()
    ray.shutdown()


def step(shared: Any, item: int) -> Any:
    generator = torch.Generator().manual_seed(item)
    x = torch.randn(40, 40, generator=generator)
    for _ in range(100):
        x = torch.tanh(x @ shared["w"])
    return {"grad": x @ shared["w"].T, "loss": x.square().mean()}


def descend(executor: Any, steps: int, between: Any = lambda _: None) -> tuple[torch.Tensor, list[Fault]]:
    """A small optimisation, each step of which depends on all before it; faults are let in by `between`."""
    w = torch.eye(40)
    faults: list[Fault] = []
    for number in range(steps):
        executor.submit(number, Units(step, {"w": w}, tuple(range(number, number + 4))))
        ended = None
        while ended is None:
            for event in executor.poll(0.05):
                if isinstance(event, Fault):
                    faults.append(event)
                else:
                    ended = event
            between(number)
        assert isinstance(ended, Done), ended
        for result in ended.results:
            w = w - 0.01 * result["grad"]
    return w, faults


def settle(pool: Pool, alive: int) -> None:
    """Wait until so many workers are ready."""
    stop = time.monotonic() + 90
    while pool.alive < alive:
        assert time.monotonic() < stop, f"{pool.alive} of {alive} workers after 90 s"
        pool.poll(0.2)


def events_of(pool: Pool, ticket: int, seconds: float = 90.0) -> list[Done | Lost | Fault]:
    """All that happens until the ticket ends."""
    seen: list[Done | Lost | Fault] = []
    stop = time.monotonic() + seconds
    while not any(isinstance(event, Done | Lost) and event.ticket == ticket for event in seen):
        assert time.monotonic() < stop, f"ticket {ticket} has not ended after {seconds} s: {seen}"
        seen += pool.poll(0.2)
    return seen


@pytest.mark.slow
@pytest.mark.parametrize("seed", [SEED], ids=["chance"])
def test_workers_killed_at_random_moments_change_no_bit(pool: Pool, seed: int) -> None:
    chance = random.Random(seed)
    expected, _ = descend(opening.executor(Inline()), 60)
    settle(pool, 2)
    moments = sorted(chance.sample(range(60), 4))

    def strike(number: int) -> None:
        if moments and number >= moments[0] and pool.pids():
            moments.pop(0)
            os.kill(chance.choice(sorted(pool.pids())), signal.SIGKILL)

    w, faults = descend(pool, 60, strike)
    assert torch.equal(w, expected)
    assert not moments
    assert {fault.kind for fault in faults} <= {"died"}
    assert faults


def test_a_stopped_worker_is_replaced(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both are stopped, so that nobody can take a unit over: the deadline alone helps."""
    for name in ("LEAST", "WARMING"):
        monkeypatch.setattr(limits, name, 4.0)
    settle(pool, 2)
    descend(pool, 5)  # which notices whom an earlier test has killed
    settle(pool, 2)
    stopped = list(pool.pids())
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    w, faults = descend(pool, 5)
    assert torch.equal(w, descend(opening.executor(Inline()), 5)[0])
    kinds = [fault.kind for fault in faults]
    assert kinds == ["frozen"] * max(2, len(kinds))  # a third is a new worker that this machine gave no time to start
    assert all("no answer for" in fault.detail for fault in faults)
    assert not set(stopped) & living()


def test_a_straggler_does_not_hold_the_others_up(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its unit is given to an idle worker long before the deadline (10 s), and what it says later is ignored."""
    monkeypatch.setattr(limits, "LATE", 0.2)
    settle(pool, 2)
    descend(pool, 10)
    slow = next(iter(pool.pids()))
    os.kill(slow, signal.SIGSTOP)
    begun = time.monotonic()
    w, faults = descend(pool, 10, lambda number: os.kill(slow, signal.SIGCONT) if number == 5 else None)
    assert time.monotonic() - begun < 8
    assert torch.equal(w, descend(opening.executor(Inline()), 10)[0])
    assert faults == []
    assert slow in pool.pids()


def test_a_unit_that_kills_its_workers_is_named(pool: Pool) -> None:
    def deadly(_: Any, item: str) -> Any:
        if item == "shard 3 of step 9":
            os.kill(os.getpid(), signal.SIGKILL)
        return {}

    pool.submit(1, Units(deadly, {}, ("shard 2 of step 9", "shard 3 of step 9")))
    seen = events_of(pool, 1)
    lost = seen[-1]
    assert isinstance(lost, Lost)
    assert lost.unit == "shard 3 of step 9"
    assert "lost 4 times" in lost.reason
    assert sum(isinstance(event, Fault) for event in seen) == 4
    assert torch.equal(descend(pool, 2)[0], descend(opening.executor(Inline()), 2)[0])  # and the pool works on


def test_what_cannot_be_pickled_is_said(pool: Pool) -> None:
    import threading

    lock = threading.Lock()
    for units in (
        Units(lambda _shared, _item: lock.locked(), {}, (1,)),
        Units(step, {"w": torch.eye(40)}, (lock,)),
        Units(lambda _shared, _item: threading.Lock(), {}, (1,)),
    ):
        pool.submit(1, units)
        lost = events_of(pool, 1)[-1]
        assert isinstance(lost, Lost)
        assert "cannot pickle" in lost.reason


def test_two_thousand_tiny_units_leave_nothing(pool: Pool) -> None:
    """No reference is kept to what is over; the time per unit is Ray's, about a millisecond."""
    settle(pool, 2)
    before = held(pool)
    pool.submit(0, Units(lambda shared, item: {"x": shared["w"] * item}, {"w": torch.ones(3)}, tuple(range(2000))))
    begun = time.monotonic()
    (done,) = events_of(pool, 0)
    assert isinstance(done, Done)
    assert [result["x"][0].item() for result in done.results] == list(range(2000))
    assert time.monotonic() - begun < 20  # ten times what it takes, for a loaded machine
    assert held(pool) == before


@pytest.mark.slow
def test_nothing_is_printed_and_nothing_stays() -> None:
    """A whole life in a process of its own: units, a killed worker, a stopped one, the end."""
    script = (
        "import os, signal, sys\n"
        "from bilevel.study.events import Done, Units\n"
        "from bilevel.execute import Ray, opening\n"
        "pool = opening.executor(Ray(workers=2))\n"
        "def work(shared, item):\n    print('from a unit')\n    return {}\n"
        "while pool.alive < 2: pool.poll(1.0)\n"
        "one, two = pool.pids()\n"
        "os.kill(one, signal.SIGKILL)\n"
        "pool.submit(0, Units(work, {}, tuple(range(8))))\n"
        "while not any(isinstance(event, Done) for event in pool.poll(1.0)): pass\n"
        "os.kill(two, signal.SIGSTOP)\n"
        "mark = pool._actors._cluster.guard.mark\n"
        "pool.close()\n"
        "import bilevel\n"
        "bilevel.shutdown()\n"
        "from bilevel.execute import guard\n"
        "sys.exit(len(guard.family(mark)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def descendants(pid: int) -> dict[int, str]:
    """The command lines of all processes below this one, by id."""
    children: dict[int, list[int]] = {}
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # gone since
            parent = int((place / "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(place.name))
    found, left = {}, [pid]
    while left:
        for child in children.get(left.pop(), []):
            left.append(child)
            with contextlib.suppress(OSError):
                found[child] = Path(f"/proc/{child}/cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
    return found


def test_a_killed_driver_leaves_nothing() -> None:
    script = (
        "import os, signal, sys, time\n"
        "from bilevel.execute import Ray, opening\n"
        "pool = opening.executor(Ray(workers=1))\n"
        "while not pool.alive: pool.poll(1.0)\n"
        "(pid,) = pool.pids()\n"
        "os.kill(pid, signal.SIGSTOP)\n"
        "print(pool._actors._cluster.guard.mark, flush=True)\n"
        "time.sleep(100)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        mark = driver.stdout.readline().strip()
        tree = descendants(driver.pid)
        agents = {"ray::DashboardAgent", "ray::RuntimeEnvAgent"}
        while not agents <= set(tree.values()):
            time.sleep(0.05)
            tree = descendants(driver.pid)
        known = guard.family(mark)
        # Their titles overwrote a part of it, which chance decides.
        shown = [Path(f"/proc/{pid}/environ").read_bytes() for pid, command in tree.items() if command in agents]
        driver.kill()
    assert [command for pid, command in tree.items() if pid not in known and guard.__file__ not in command] == []
    assert not any(b"\0\0" in environment for environment in shown)
    assert [command for command in tree.values() if "/dashboard.py" in command or "/monitor.py" in command] == []
    stop = time.monotonic() + 10
    while guard.family(mark) and time.monotonic() < stop:
        time.sleep(0.05)
    assert guard.family(mark) == set()


def test_an_address_where_nothing_listens_is_refused_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    begun = time.monotonic()
    with pytest.raises(BadInput, match=r"127\.0\.0\.1:1 .*ray start --head"):
        opening.executor(Ray(address="127.0.0.1:1"))
    with pytest.raises(BadInput, match="no scheme"):
        opening.executor(Ray(address="ray://somewhere:10001"))
    assert time.monotonic() - begun < 5


def test_more_gpus_than_any_node_has_are_refused(pool: Pool) -> None:
    with pytest.raises(BadInput, match=r"no node has 64 GPUs \(the cluster has 1 node, "):
        opening.executor(Ray(workers=1, gpus_per_worker=64))


def test_no_room_for_any_worker_is_said(pool: Pool) -> None:
    settle(pool, 2)
    full = opening.executor(Ray(workers=1, patience=1.0), threads=1000)
    with pytest.raises(ClusterFailed, match="no worker was ready for 1 s; asked for 1 workers of 1000 CPUs"):
        events_of(full, 0)
    full.close()


@pytest.mark.slow
def test_workers_that_cannot_start_are_said(pool: Pool) -> None:
    broken = opening.executor(Ray(workers=1, device="cuda:99"))
    with pytest.raises(ClusterFailed, match=r"workers do not start .*'cuda:99' does not work"):
        events_of(broken, 0)
    broken.close()


def living() -> set[int]:
    found = set()
    for stat in os.scandir("/proc"):
        if stat.name.isdigit():
            try:
                with open(f"/proc/{stat.name}/stat") as file:  # noqa: PTH123
                    if file.read().rpartition(")")[2].split()[0] != "Z":
                        found.add(int(stat.name))
            except OSError:
                continue
    return found


def held(pool: Pool) -> tuple[int, int, int]:
    return len(pool._tickets), len(pool._queue), sum(len(member.calls) for member in pool._actors.members)


def test_the_last_units_of_a_middling_length_wait_for_whoever_is_free() -> None:
    work = limits.Work(step, 1, b"")
    unit = limits.Unit(limits.Ticket(1, work, 2, trees.pack({}), 1), 0, 0)
    assert unit.depth(plenty=True) == 1  # nothing is known about it yet
    for seconds, while_plenty, at_last in ((0.01, 2, 2), (0.2, 2, 1), (5.0, 1, 1)):
        work.seconds[int] = deque([seconds])
        assert (unit.depth(plenty=True), unit.depth(plenty=False)) == (while_plenty, at_last)
