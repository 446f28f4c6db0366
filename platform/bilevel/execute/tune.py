"""How does a user say that trials are those of Ray Tune?"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bilevel.execute.ray import Ray
from bilevel.execute.trial_runner import Script

if TYPE_CHECKING:
    from bilevel.execute.pool import Pool
    from bilevel.execute.tune_stage import TuneStage


@dataclass(frozen=True)
class Tune:
    """The study's trials run as trials of Ray Tune: its resources and placement; our searches, stops and record.

    What is asked next, what is stopped and what goes on from where stays the study's affair, and is in its journal:
    `bilevel resume` takes the place of `Tuner.restore`, and Tune's own loggers, checkpoints and retries are off. An
    objective that spreads its work is held by the driver, as with `Ray`: its units go to warm actors on the same
    cluster, and Tune has no trials to place.

    What `Ray` does beyond this: it replaces workers that have grown, and those of other machines that are stopped.

    Args:
        workers: trials that Tune has at work at a time; None: as many as the cluster has room for.
        address: of an existing cluster, as for `Ray`.
        gpus_per_worker: GPUs of each trial, fractions too, where the study names none.
        device: where shared tensors of units are put if Ray gives no GPU; the CPU if not given.
        patience: seconds in which none of the waiting trials finds a place before Tune is given up with ClusterFailed.

    Raises:
        BadInput: a value that no cluster can satisfy.
    """

    workers: int | None = None
    address: str | None = None
    gpus_per_worker: float = 0.0
    device: str | None = None
    patience: float = 120.0

    def __post_init__(self) -> None:
        self._ray()

    def open(self, threads: int = 1, code: Sequence[str] = ()) -> Pool:
        """A pool of warm actors for the units of an objective that spreads its work: see `Ray.open`."""
        return self._ray().open(threads, code)

    def stage(
        self,
        script: Script,
        code: Sequence[str] = (),
        *,
        threads: int = 1,
        cpus: float = 1,
        gpus: float = 0,
        fresh: bool = False,
    ) -> TuneStage:
        """Connect, and have Tune wait for trials.

        Args:
            script: of the study whose trials they are.
            code: directories whose loaded modules travel to the trials by value.
            threads: torch threads of a trial.
            cpus, gpus: what a trial takes; no `gpus`: `gpus_per_worker`.
            fresh: a new process for each trial.

        Raises:
            BadInput: the address cannot be reached, or no node can ever hold such a trial.
            ClusterFailed: no cluster could be started on this machine.
        """
        from bilevel.execute.tune_stage import TuneStage  # Ray Tune takes seconds to import

        wanted = dataclasses.replace(self, gpus_per_worker=gpus or self.gpus_per_worker)
        return TuneStage(wanted, script, tuple(code), threads=threads, cpus=cpus, fresh=fresh)

    def _ray(self) -> Ray:
        return Ray(**{field.name: getattr(self, field.name) for field in dataclasses.fields(Ray)})
