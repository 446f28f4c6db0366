"""Which Ray cluster of our own stays from one run to the next, in whose hands is it, and when does it go?

A process keeps one, which `bilevel.shutdown()` ends, the end of the process, and a run that it cannot serve: one that
needs more CPUs, names an address, or is begun with another environment, folder or import path than the last one left,
which the cluster's processes would not see. Idle workers stay with it for a minute, for a run that brings the same
modules and wants the same of a worker: they are warm. Who calls `ray.shutdown()` has ended it, too; the next run
notices.
"""

from __future__ import annotations

import atexit
import contextlib
import dataclasses
import os
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bilevel.errors import BadInput
from bilevel.execute import cluster, internals, joining
from bilevel.execute.cluster import Cluster

import ray  # isort: skip # after the variables that `cluster` sets for it

WAIT = 60.0
"""Seconds that idle workers wait for another run: they hold memory, and CPUs that a user's own tasks may want."""
LOOK_EVERY = 2.0
"""Seconds between two looks at the processes of a cluster that nobody uses."""


@dataclass(eq=False)
class _Kept:
    """The cluster that stays."""

    cluster: Cluster
    address: str
    """Of its head, by which it is known."""
    cpus: int
    users: list[Cluster] = field(default_factory=list)
    waiting: list[Any] = field(default_factory=list)
    """Handles of idle workers."""
    since: float = 0.0
    kind: object = None
    """What they are workers for."""
    left: Any = None
    """The surroundings of the last run, when it was left."""
    told: threading.Event = field(default_factory=threading.Event)
    """That it has gone."""

    def used(self) -> Cluster:
        """For one more user."""
        self.users.append(dataclasses.replace(self.cluster))
        return self.users[-1]

    def connected(self) -> bool:
        """Whether this process still is connected to it, and to no other one."""
        return bool(ray.is_initialized() and ray.get_runtime_context().gcs_address == self.address)

    def fits(self, cpus: int | None) -> bool:
        """Whether the next run would find there what it would find on a new one."""
        return self.cpus >= (cpus or 0) and self.left == _surroundings()


_kept: _Kept | None = None
_orphan = False
_lock = threading.RLock()


def connect(address: str | None, workers: int | None, cpus: float) -> Cluster:
    """The Ray that this process already uses, or the one at `address` or $RAY_ADDRESS, or one on this machine.

    `release` it. One on this machine is kept for the next who asks.

    Args:
        address: of an existing cluster.
        workers: wanted; None: as many as there is room for.
        cpus: of each worker.

    Raises:
        BadInput: nothing answers at the address, or this process is a forked one.
        ClusterFailed: no local cluster came up.
    """
    global _kept
    with _lock:
        if _orphan:
            raise BadInput(
                "this process was forked from one that keeps a Ray cluster, so it can neither use that nor start one;"
                " call bilevel.shutdown() before the fork, spawn the process, or run on Inline()"
            )
        _notice()
        if _kept is None and ray.is_initialized():
            return Cluster()
        address = address or os.environ.get("RAY_ADDRESS")
        room = cluster.room(workers, cpus)
        if _kept is not None:
            if _kept.users or (not address and _kept.fits(room)):
                return _kept.used()
            _end()
        if address:
            return joining.attach(address)
        started = cluster.start(room)
        _kept = _Kept(started, ray.get_runtime_context().gcs_address, room or os.cpu_count() or 1)
        atexit.unregister(_end)
        atexit.register(_end)
        threading.Thread(target=_watch, args=(_kept,), name="bilevel-cluster", daemon=True).start()
        return _kept.used()


def release(used: Cluster) -> None:
    """Who has called `connect` needs it no more; a cluster at an address is left, one of our own kept."""
    with _lock:
        if used.guard is None:
            used.end()
        elif _kept is not None:
            _kept.users = [user for user in _kept.users if user is not used]
            settle()


def idle(used: Cluster, kind: object, workers: list[Any]) -> bool:
    """Let workers wait for the next run that wants this `kind`; False: they are to be dismissed.

    Call it before `release`.
    """
    with _lock:
        if _kept is None or used not in _kept.users or len(_kept.users) > 1:
            return False
        _kept.waiting, _kept.kind, _kept.since = list(workers), kind, time.monotonic()
        return True


def take(used: Cluster, kind: object = None) -> list[Any]:
    """The workers of this kind that wait; those of another one make room."""
    with _lock:
        if _kept is None or used not in _kept.users:
            return []
        if kind is None or _kept.kind != kind:
            _dismiss(_kept)
        waiting, _kept.waiting = _kept.waiting, []
        return waiting


def _dismiss(kept: _Kept) -> None:
    """End the workers that wait."""
    waiting, kept.waiting = kept.waiting, []
    for worker in waiting:
        with contextlib.suppress(ray.exceptions.RayError):
            ray.kill(worker)


def settle() -> None:
    """A run has ended: what it or its libraries have changed in this process is no reason to start a cluster anew."""
    if _kept is not None:
        _kept.left = _surroundings()


def shutdown() -> None:
    """End the kept cluster, every process of it; without one, do nothing.

    Raises:
        BadInput: a run is at work on it.
    """
    with _lock:
        _notice()
        if _kept is not None and _kept.users:
            raise BadInput("bilevel.shutdown: a run is at work on the Ray cluster; call it when that has ended")
        _end()


def _end() -> None:
    """End it, whoever uses it."""
    global _kept
    with _lock:
        kept, _kept = _kept, None
        if kept is None:
            return
        kept.told.set()
        if kept.connected():
            kept.cluster.end()
        elif kept.cluster.guard is not None:
            kept.cluster.guard.dismiss()


def _notice() -> None:
    """Give up what has gone meanwhile: by `ray.shutdown()`, or because its node has died."""
    if _kept is not None and (not _kept.connected() or internals.lost() or _kept.cluster.dead()):
        _end()


def _watch(kept: _Kept) -> None:
    """End a cluster that has lost a process while nobody uses it: `ray stop` in a terminal is enough for that.

    A minute later Ray would end this process, which may be a notebook.
    """
    while not kept.told.wait(LOOK_EVERY):
        if kept.users:
            continue
        with _lock:
            if _kept is not kept or kept.users or not kept.connected():
                continue
            if internals.lost():
                _end()
            elif kept.waiting and time.monotonic() - kept.since > WAIT:
                _dismiss(kept)


def _surroundings() -> Any:
    """What a process that the cluster starts has from this one: its environment, folder and import path."""
    with contextlib.suppress(OSError):  # the folder is gone
        return dict(os.environ), Path.cwd(), list(sys.path)
    return None


def _forget() -> None:
    """In a child that was forked: the cluster is its parent's."""
    global _kept, _orphan, _lock
    _lock = threading.RLock()  # another thread of the parent may have held it
    if _kept is not None:
        internals.forget()
        _kept, _orphan = None, True


os.register_at_fork(after_in_child=_forget)
