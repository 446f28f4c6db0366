"""How does a user say that units go to workers on Ray?"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bilevel.errors import BadInput
from bilevel.execute.trial_runner import Script

if TYPE_CHECKING:
    from bilevel.execute.pool import Pool
    from bilevel.execute.stage import RayStage


@dataclass(frozen=True)
class Ray:
    """Units go to a pool of warm Ray actors.

    A pool survives the death and the freezing of its workers, and grows when the cluster does.

    Args:
        workers: actors wanted; None: as many as the cluster has room for. Those that find no room yet join later.
        address: of an existing cluster ("host:6379", "auto"); None: $RAY_ADDRESS, else a cluster of its own is
            started on this machine and ended with the pool. A Ray that this process has initialized is used as it is.
        gpus_per_worker: GPUs that each actor gets, fractions too; its shared tensors then lie on that GPU.
        device: where shared tensors are put if Ray gives no GPU; the CPU if not given.
        patience: seconds without any ready worker before the pool gives up with ClusterFailed.

    Raises:
        BadInput: a value that no cluster can satisfy.
    """

    workers: int | None = None
    address: str | None = None
    gpus_per_worker: float = 0.0
    device: str | None = None
    patience: float = 120.0

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise BadInput(f"workers={self.workers}: Ray needs at least one; Inline() computes in this process")
        gpus = self.gpus_per_worker
        if not math.isfinite(gpus) or gpus < 0 or (gpus > 1 and gpus != int(gpus)):
            raise BadInput(f"gpus_per_worker={gpus}: give 0, a fraction below 1, or a whole number")

    def open(self, threads: int = 1, code: Sequence[str] = ()) -> Pool:
        """Connect, and start the workers without waiting for them.

        Args:
            threads: torch threads that a unit computes with, and CPUs that a worker takes.
            code: directories whose loaded modules (the study's file, its neighbours) travel to the workers by value.

        Raises:
            BadInput: the address cannot be reached, or no node can ever hold such a worker.
            ClusterFailed: no cluster could be started on this machine.
        """
        from bilevel.execute.pool import Pool  # Ray takes a second to import: only those who use it pay

        return Pool(self, threads, tuple(code))

    def stage(
        self,
        script: Script,
        code: Sequence[str] = (),
        *,
        threads: int = 1,
        cpus: float = 1,
        gpus: float = 0,
        fresh: bool = False,
    ) -> RayStage:
        """Connect, and start workers for whole trials without waiting for them.

        Args:
            script: of the study whose trials they are.
            code: as for `open`.
            threads: torch threads of a trial.
            cpus, gpus: what a worker takes; no `gpus`: `gpus_per_worker`.
            fresh: a new process for each trial.

        Raises:
            BadInput: the address cannot be reached, or no node can ever hold such a worker.
            ClusterFailed: no cluster could be started on this machine.
        """
        from bilevel.execute.stage import RayStage

        wanted = dataclasses.replace(self, gpus_per_worker=gpus or self.gpus_per_worker)
        return RayStage(wanted, script, tuple(code), threads=threads, cpus=cpus, fresh=fresh)
