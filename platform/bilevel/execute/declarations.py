"""How does a user say where trials and units of work are carried out? By a value; `opening` makes it live."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from bilevel.errors import BadInput


@dataclass(frozen=True)
class Inline:
    """Units are computed in this process, one after the other: the reference that workers must equal bit by bit.

    Args:
        device: where shared trees are put, e.g. "cuda"; the CPU if not given.
    """

    device: str | None = None


@dataclass(frozen=True)
class Ray:
    """Units go to a pool of warm Ray actors.

    A pool survives the death and the freezing of its workers, and grows when the cluster does.

    Args:
        workers: actors wanted; None: as many as the cluster has room for. Those that find no room yet join later.
        address: of an existing cluster ("host:6379", "auto"); None: $RAY_ADDRESS, else a cluster of its own is
            started on this machine, which the next run in this process finds there (`bilevel.shutdown()`, or the end of
            the process, ends it). A Ray that this process has initialized is used as it is.
        gpus_per_worker: GPUs that each actor gets, fractions too; its shared tensors then lie on that GPU.
        device: where shared tensors are put if Ray gives no GPU; the CPU if not given.
        patience: seconds without any ready worker before the pool gives up with ClusterFailed.
        silence: seconds after which a worker of whole trials that says nothing is replaced if its process, and its
            children, do nothing either; `math.inf` for objectives that wait longer for something elsewhere.

    Raises:
        BadInput: a value that no cluster can satisfy.
    """

    workers: int | None = None
    address: str | None = None
    gpus_per_worker: float = 0.0
    device: str | None = None
    patience: float = 120.0
    silence: float = 900.0

    def __post_init__(self) -> None:
        if self.workers is not None and self.workers < 1:
            raise BadInput(f"workers={self.workers}: Ray needs at least one; Inline() computes in this process")
        gpus = self.gpus_per_worker
        if not math.isfinite(gpus) or gpus < 0 or (gpus > 1 and gpus != int(gpus)):
            raise BadInput(f"gpus_per_worker={gpus}: give 0, a fraction below 1, or a whole number")
        if not self.silence > 0:
            raise BadInput(f"silence={self.silence}: give seconds, or math.inf: such a worker is never replaced")


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
        silence: as for `Ray`; of processes on the driver's own machine.

    Raises:
        BadInput: a value that no cluster can satisfy.
    """

    workers: int | None = None
    address: str | None = None
    gpus_per_worker: float = 0.0
    device: str | None = None
    patience: float = 120.0
    silence: float = 900.0

    def __post_init__(self) -> None:
        self.ray()

    def ray(self) -> Ray:
        """The same workers as a pool of warm actors: where the units of an objective that spreads its work go."""
        return Ray(self.workers, self.address, self.gpus_per_worker, self.device, self.patience, self.silence)


On = Inline | Ray | Tune

Say = Callable[[str], None]
"""Takes what the user should know, in a line."""


def unheard(text: str) -> None:
    """For who has nobody to tell."""
