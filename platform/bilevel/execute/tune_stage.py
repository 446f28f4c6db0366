"""How do trials run as trials of Ray Tune, while the driver decides?"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any

from bilevel import trees
from bilevel.errors import ClusterFailed
from bilevel.execute import kept
from bilevel.execute.actors import NOTICE
from bilevel.execute.declarations import Say, Tune, unheard
from bilevel.execute.luggage import pack
from bilevel.execute.settings import Settings
from bilevel.execute.stage import SILENCE, STEP, shipped
from bilevel.execute.trial_runner import Script
from bilevel.execute.tune_mailbox import Mailbox, Seat
from bilevel.execute.tune_trials import carry_out, trial_class
from bilevel.execute.vitals import vitals
from bilevel.study.events import Fault, Gone, Order, Placed, Said

import ray  # isort: skip # after the variables that `cluster` sets for it

if TYPE_CHECKING:
    from ray import tune


log = logging.getLogger(__name__)

LEAVE = 30.0
"""Seconds for Tune to end by itself, before the cluster is closed over its head."""


class TuneStage:
    """`bilevel.study.events.Stage` on Ray Tune, which runs in a thread of this process.

    Nothing is retried here: of a trial whose process is lost the driver is told, and it decides.
    """

    def __init__(
        self,
        wanted: Tune,
        script: Script,
        code: tuple[str, ...],
        *,
        threads: int,
        cpus: float,
        fresh: bool,
        say: Say = unheard,
    ) -> None:
        gpus = wanted.gpus_per_worker
        self._patience, self._silence = wanted.patience, wanted.silence
        self._say, self._told, self._each = say, False, (cpus, gpus)
        self._asked = f"a trial takes {cpus:g} CPUs and {gpus:g} GPUs"
        self._mailbox = Mailbox(wanted.workers)
        self._cluster = kept.connect(wanted.address, wanted.workers, min(cpus, 1))
        kept.take(self._cluster)  # Tune has no use for workers that wait, and needs their CPUs
        try:
            self._cluster.check(cpus, gpus)
            self._room = wanted.workers or max(1, self._cluster.workers(cpus, gpus))
            device = "cuda" if gpus else wanted.device or "cpu"
            luggage = pack(code)
            trial = trial_class(shipped(script, luggage), Settings.here(threads), device, ray.put(luggage))
            self._error: BaseException | None = None
            self._placed = time.monotonic()
            self._thread = threading.Thread(
                target=self._work, args=(trial, {"cpu": cpus, "gpu": gpus}, not fresh), name="bilevel-tune", daemon=True
            )
            self._thread.start()
        except BaseException:
            kept.release(self._cluster)
            raise

    # -- the port ------------------------------------------------------------------------------------------------------

    @property
    def alive(self) -> int:
        """Trials that have a process now."""
        return self._mailbox.alive

    @property
    def room(self) -> int:
        """Trials that are wanted at a time, or that the cluster has room for."""
        return self._room

    def begin(self, order: Order) -> None:
        """Queue an attempt; Tune takes it when it has a place."""
        if not self._mailbox.waiting():  # nobody has looked since, and so nobody has waited
            self._placed = time.monotonic()
        state = None if order.state is None else trees.pack(order.state)
        self._mailbox.begin(dataclasses.replace(order, state=state))

    def answer(self, trial: int, answer: Any) -> None:  # noqa: ARG002 units do not come from here
        """Let a trial go on after its report."""
        self._mailbox.answer(trial)

    def close_trial(self, trial: int) -> None:
        """End an attempt: one that waits is told, one that computes loses its process."""
        seat = self._mailbox.close_trial(trial)
        if seat is not None:
            _kill(seat)

    def poll(self, timeout: float) -> list[Said | Placed | Gone | Fault]:
        """What has happened, waiting at most `timeout` seconds for the first of it.

        Raises:
            ClusterFailed: no trial has found a place for too long, or Tune has given up.
        """
        until = time.monotonic() + timeout
        while True:
            left = until - time.monotonic()
            news = self._mailbox.news(min(left, STEP))
            if news:
                return news
            self._look_around()
            if left <= 0:
                return []

    def close(self) -> None:
        """End Tune's trials, and leave the cluster to the next ones. May be called again."""
        for seat in self._mailbox.close():
            _kill(seat)
        self._thread.join(LEAVE)
        if self._thread.is_alive():
            log.warning("Ray Tune has not ended within %g s; what it holds is freed when this process ends", LEAVE)
        kept.release(self._cluster)

    def _work(self, trial: type[tune.Trainable], resources: dict[str, float], reuse: bool) -> None:
        """What the other thread does."""
        try:
            carry_out(self._mailbox, trial, resources, reuse=reuse)
        except BaseException as error:  # noqa: BLE001 it is the driver's thread that must hear of it
            self._error = error

    def _look_around(self) -> None:
        now = time.monotonic()
        if not self._thread.is_alive():
            why = str(self._error).strip().rpartition("\n")[2]  # Tune puts tracebacks into its messages
            raise ClusterFailed(f"Ray Tune gave up: {why or type(self._error).__name__}")
        if not self._told and self._mailbox.waiting() and now - self._placed > NOTICE:
            self._tell()
        if not self._mailbox.waiting():
            self._placed = now
        elif self._cluster.dead():
            raise ClusterFailed("the local Ray cluster died: its node is gone")
        elif now - self._placed > self._patience:
            raise ClusterFailed(
                f"no trial has found a place for {self._patience:g} s; {self._asked}, {self._cluster.has()}; free CPUs,"
                f" ask for less, or see that every node has this version of bilevel installed"
            )
        for seat in self._mailbox.computing():
            hello = seat.greeting.hello if seat.greeting is not None else None
            if hello is not None and now - seat.heard > SILENCE and hello.host == os.uname().nodename:
                seat.heard = now
                seat.frozen = self._frozen(seat, hello.pid, now)
                if seat.frozen:
                    os.kill(hello.pid, signal.SIGKILL)  # then Ray hears of it at once

    def _tell(self) -> None:
        """Say once that others hold what trials ask for."""
        groups = ray.util.placement_group_table().values()
        waiting = min(self._room, sum(group["state"] == "PENDING" for group in groups))  # Tune's have no name
        if waiting and self._cluster.guard is None:
            self._told = True
            self._say(self._cluster.lacks("trial", waiting, *self._each))

    def _frozen(self, seat: Seat, pid: int, now: float) -> str:
        """Why an attempt's process will not answer; empty if it may."""
        found = vitals(pid)
        if found is None:
            return ""
        idle = seat.pulse.idle(found, now)
        silent = f"for {idle:.0f} s it has said nothing, and its process done nothing" if idle > self._silence else ""
        return "its process is stopped" if found.stopped else silent


def _kill(seat: Seat) -> None:
    if seat.greeting is not None:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(seat.greeting.handle)
