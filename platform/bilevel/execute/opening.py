"""What carries out the units and the trials of a study, given the user's declaration? And when does it all go?"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence

from bilevel.execute.declarations import Inline, On, Ray, Say, Tune, unheard
from bilevel.execute.inline import InlineExecutor
from bilevel.execute.trial_runner import Script
from bilevel.study.events import Executor, Stage

# Ray takes a second to import and Ray Tune several: only those who use them pay.


def executor(on: On, threads: int = 1, code: Sequence[str] = (), say: Say = unheard) -> Executor:
    """Connect, and start what computes units, without waiting for it.

    Args:
        on: where; of `Tune` the same workers as a pool of warm actors, for it places no units.
        threads: torch threads that a unit computes with, and CPUs that a worker takes.
        code: directories whose loaded modules (the study's file, its neighbours) travel to the workers by value.
        say: told, once, where a cluster has no room for the workers.

    Raises:
        BadInput: the address cannot be reached, no node can ever hold such a worker, or torch knows no such device.
        ClusterFailed: no cluster could be started on this machine.
    """
    if isinstance(on, Inline):
        return InlineExecutor(threads, on.device or "cpu")
    from bilevel.execute.pool import Pool

    return Pool(on.ray() if isinstance(on, Tune) else on, threads, tuple(code), say)


def stage(
    on: Ray | Tune,
    script: Script,
    code: Sequence[str] = (),
    *,
    threads: int = 1,
    cpus: float = 1,
    gpus: float = 0,
    fresh: bool = False,
    say: Say = unheard,
) -> Stage:
    """Connect, and start workers for whole trials without waiting for them (of `Tune`: have it wait for trials).

    Args:
        on: where.
        script: of the study whose trials they are.
        code: as for `executor`.
        threads: torch threads of a trial.
        cpus, gpus: what a trial takes; no `gpus`: `gpus_per_worker`.
        fresh: a new process for each trial.
        say: as for `executor`.

    Raises:
        BadInput: the address cannot be reached, or no node can ever hold such a trial.
        ClusterFailed: no cluster could be started on this machine.
    """
    wanted = dataclasses.replace(on, gpus_per_worker=gpus or on.gpus_per_worker)
    if isinstance(wanted, Tune):
        from bilevel.execute.tune_stage import TuneStage

        return TuneStage(wanted, script, tuple(code), threads=threads, cpus=cpus, fresh=fresh, say=say)
    from bilevel.execute.stage import RayStage

    return RayStage(wanted, script, tuple(code), threads=threads, cpus=cpus, fresh=fresh, say=say)


def shutdown() -> None:
    """End the Ray cluster that this process has started and keeps for its next run.

    The end of the process does the same, and where no cluster is kept nothing happens. Call it to free memory, before
    a `ray.init()` of your own, and before a fork.

    Raises:
        BadInput: a run is at work on it.
    """
    if _KEPT in sys.modules:
        sys.modules[_KEPT].shutdown()


def settle() -> None:
    """A run has ended: what it or its libraries have changed in this process is no reason to start a cluster anew."""
    if _KEPT in sys.modules:
        sys.modules[_KEPT].settle()


_KEPT = "bilevel.execute.kept"
"""Loaded where Ray is."""
