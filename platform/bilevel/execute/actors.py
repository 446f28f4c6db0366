"""Which actors are there, which are on their way, and what if there are none?"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import time
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bilevel.errors import ClusterFailed
from bilevel.execute import internals, kept
from bilevel.execute import luggage as luggages
from bilevel.execute.declarations import Ray, Say, unheard
from bilevel.execute.luggage import Luggage
from bilevel.execute.settings import Settings, platform
from bilevel.execute.units import Call
from bilevel.execute.worker import BilevelWorker, Hello

import ray  # isort: skip # after the variables that `cluster` sets for it


log = logging.getLogger(__name__)

GROWTH = 3.0
"""Seconds between two looks at the size of the cluster."""
STARTING = 60.0
"""Seconds for an actor to start before it is asked for anew (doubled each time): frozen, or without room yet."""
NOTICE = 5.0
"""Seconds without a place on a cluster of others, after which that is said."""
AWAY = 5.0
"""Seconds without a look by the driver, after which they do not count as waiting."""
STILLBORN = 3
"""So many workers in a row that die at their start mean that none can."""


@dataclass(eq=False)
class Member:
    """One actor: starting while `hello` is None; of its calls, the first runs.

    `knows` are the keys that were sent to it, `warm` the works of which it has ended a unit.
    """

    handle: Any
    greeting: Any
    born: float
    patience: float
    hello: Hello | None = None
    calls: deque[Call] = field(default_factory=deque)
    knows: set[int] = field(default_factory=set)
    warm: set[int] = field(default_factory=set)

    @property
    def awaited(self) -> Any:
        """What comes next from it, or None if it is idle."""
        if self.hello is None:
            return self.greeting
        return self.calls[0].ref if self.calls else None

    def __str__(self) -> str:
        return f"worker {self.hello.pid} on {self.hello.host}" if self.hello else "a worker not ready yet"


class Actors:
    """The actors of a pool: asked for without waiting, replaced when lost, more of them when the cluster grows.

    They are never restarted by Ray, which would forget what they were told. On a cluster that is kept they may be those
    of an earlier run, unless each trial is to have a `fresh` one.

    Raises:
        BadInput: the cluster cannot be reached, or no node can ever hold such a worker.
        ClusterFailed: no cluster could be started.
    """

    def __init__(
        self,
        wanted: Ray,
        threads: int,
        luggage: Luggage,
        cpus: float | None = None,
        say: Say = unheard,
        *,
        fresh: bool = False,
    ) -> None:
        self._wanted, self._say = wanted, say
        # A cluster of our own has room for each worker's threads; it does not pretend to have what a trial wants.
        self._cluster = kept.connect(wanted.address, wanted.workers, threads if cpus is None else min(cpus, 1))
        wanted_cpus = cpus or 0.0  # threads that no node has room for may find one that is added
        self._cpus = cpus = threads if cpus is None else cpus
        gpus = wanted.gpus_per_worker
        try:
            self._cluster.check(wanted_cpus, gpus)
            options = {"num_cpus": cpus, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0}
            self._actor = ray.remote(**options)(BilevelWorker)
            self._free = self._cluster.free()
        except BaseException:
            kept.release(self._cluster)
            raise
        device = "cuda" if gpus else wanted.device or "cpu"
        settings = Settings.here(threads)
        alike = (luggages.identity(luggage), settings, device, cpus)
        self._kind = None if fresh or gpus else alike
        self._arguments = (settings, device, ray.put(luggage))
        now = time.monotonic()
        waiting = kept.take(self._cluster, self._kind)
        self.members = [Member(one, one.again.remote(), now, STARTING) for one in waiting]
        self.target = wanted.workers or 0
        self._counted = -GROWTH
        self._lived = self._may_hire = self._looked = time.monotonic()
        self._failures, self._failure = 0, ""
        self._closed = self._told = False

    def ready(self) -> list[Member]:
        """Those that have said hello."""
        return [member for member in self.members if member.hello is not None]

    def staff(self) -> None:
        """Ask for the actors that are missing.

        Raises:
            ClusterFailed: none has been ready for too long, or none can start.
        """
        if self._closed:  # a call to Ray would start a cluster by itself
            raise RuntimeError("this pool of workers is closed; open another")
        now = time.monotonic()
        unseen = now - self._looked  # the driver was elsewhere: an actor that said hello meanwhile was not late
        self._looked = now
        if unseen > AWAY:
            self._lived += unseen
            for member in self.members:
                member.born += unseen
        if self._wanted.workers is None and now - self._counted >= GROWTH:
            self._counted = now
            self.target = max(1, self._cluster.workers(self._cpus, self._wanted.gpus_per_worker))
        for member in [member for member in self.members if member.hello is None]:
            if len(self.members) > self.target:  # the node that it was meant for has gone
                self.dismiss(member)
            elif now - member.born > member.patience:
                self.dismiss(member)
                self._hire(now, 2 * member.patience)
        while now >= self._may_hire and len(self.members) < self.target:
            self._hire(now, STARTING)
        self._tell(now)
        if self.ready():
            self._lived = now
        elif now - self._lived > GROWTH and self._cluster.dead():
            raise ClusterFailed("the local Ray cluster died: its node is gone")
        elif now - self._lived > self._wanted.patience or self._failures >= STILLBORN:
            raise ClusterFailed(self._why_none())

    def greet(self, member: Member) -> str | None:
        """Take the greeting of an actor that has started; the reason if it could not."""
        try:
            member.hello = ray.get(member.greeting)
        except ray.exceptions.RayError as error:
            self._failures += 1
            self._failure = line(error)
            self._may_hire = time.monotonic() + min(30.0, 0.5 * 2.0**self._failures)
            self.dismiss(member)
            return self._failure
        self._failures = 0
        there, here = member.hello.platform, platform()
        if there != here:
            log.warning("results may differ in the last bits: %s on %s, %s here", there, member.hello.host, here)
        return None

    def dismiss(self, member: Member, frozen: bool = False) -> None:
        """Kill an actor; `staff` asks for another in its place."""
        self.members.remove(member)
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(member.handle)
        # Ray takes five seconds to give a stopped process up; on this machine we need not wait.
        if frozen and member.hello is not None and member.hello.host == socket.gethostname():
            _kill(member.hello.pid)

    def close(self, idle: Collection[Member] = ()) -> None:
        """End the actors but for the `idle` ones, which wait for the next run where that may use them.

        May be called again.
        """
        if self._closed:
            return
        self._closed = True
        idle = [member for member in idle if member in self.members and member.hello is not None]
        try:
            usable = bool(idle) and self._kind is not None and ray.is_initialized()
            if usable and kept.idle(self._cluster, self._kind, [member.handle for member in idle]):
                self.members = [member for member in self.members if member not in idle]
            while self.members and ray.is_initialized():
                self.dismiss(self.members[-1])
        finally:
            self.members.clear()
            kept.release(self._cluster)

    def _hire(self, now: float, patience: float) -> None:
        handle = self._actor.remote(*self._arguments)
        self.members.append(Member(handle, handle.hello.remote(), now, patience))

    def _tell(self, now: float) -> None:
        """Say once that others hold what was asked for; a cluster of our own has nobody else."""
        gpus = self._wanted.gpus_per_worker
        wanted = {"CPU": self.target * self._cpus, "GPU": self.target * gpus}
        if self._told or self._cluster.guard is not None or all(self._free[name] >= wanted[name] for name in wanted):
            return
        late = [member for member in self.members if member.hello is None and now - member.born > NOTICE]
        waiting = sum(not internals.placed(member.handle) for member in late)
        if waiting:
            self._told = True
            self._say(self._cluster.lacks("worker", waiting, self._cpus, gpus))

    def _why_none(self) -> str:
        if self._failures:
            why = f"workers do not start ({self._failures} failed; the last: {self._failure})"
        else:
            why = f"no worker was ready for {self._wanted.patience:g} s"
        asked = f"{self.target} workers of {self._cpus:g} CPUs and {self._wanted.gpus_per_worker:g} GPUs each"
        cure = "free CPUs, ask for less, or see that every node has this version of bilevel installed"
        return f"{why}; asked for {asked}, {self._cluster.has()}; {cure}"


def line(error: Exception) -> str:
    """What Ray says, in one line."""
    text = str(error).strip()
    _, found, detail = text.partition("Worker exit detail: ")
    if found:
        return detail.partition(". ")[0]
    if isinstance(error, ray.exceptions.RayTaskError) or "creation task" in text:
        return text.rpartition("\n")[2]  # after the frames, the exception that was raised over there
    return f"{type(error).__name__}: {text.partition(chr(10))[0]}"


def _kill(pid: int) -> None:
    """Kill a worker's process, if that is still what the number means."""
    with contextlib.suppress(OSError):
        if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::BilevelWorker"):
            os.kill(pid, signal.SIGKILL)
