"""What happens to a unit inside the process that computes it?"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import pickle
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bilevel import trees
from bilevel.errors import BadInput


@dataclass(frozen=True)
class Settings:
    """What of torch's global state decides the bits of a result: workers take it over from the driver."""

    threads: int
    dtype: torch.dtype
    precision: str

    @classmethod
    def here(cls, threads: int) -> Settings:
        """The settings of this process, but with `threads` for a unit."""
        return cls(threads, torch.get_default_dtype(), torch.get_float32_matmul_precision())

    def apply(self) -> None:
        """Make them those of this process."""
        torch.set_num_threads(self.threads)
        torch.set_default_dtype(self.dtype)
        torch.set_float32_matmul_precision(self.precision)


@contextlib.contextmanager
def settled(settings: Settings) -> Iterator[None]:
    """Within: `settings`. Afterwards: what this process had before."""
    before = Settings.here(torch.get_num_threads())
    settings.apply()
    try:
        yield
    finally:
        before.apply()


@dataclass(frozen=True)
class Computed:
    """The result of a unit and how long it took, in seconds."""

    result: trees.Packed
    seconds: float


@dataclass(frozen=True)
class Raised:
    """The unit raised: `reason` in one line, `traceback` as text. Text travels, an exception might not unpickle."""

    reason: str
    traceback: str


@dataclass(frozen=True)
class Missing:
    """This worker was not told the work or the shared tree that the unit names; to be sent again."""


Outcome = Computed | Raised | Missing


def compute(work: Callable[[Any, Any], Any], shared: Any, item: Any) -> Computed | Raised:
    """`work(shared, item)`, ready to travel; what it raises is a value too."""
    begun = time.perf_counter()
    try:
        result = trees.pack(work(shared, item))
    except (Exception, SystemExit) as error:  # noqa: BLE001 the user's code: anything can come, and none of it is ours
        return raised(error)
    return Computed(result, time.perf_counter() - begun)


def raised(error: BaseException) -> Raised:
    """An exception as text."""
    return Raised(f"{type(error).__name__}: {error}", "".join(traceback.format_exception(error)))


@dataclass(frozen=True)
class Hello:
    """Who a worker is, and the class of hardware and library on which equal bits are promised."""

    pid: int
    host: str
    platform: str


def platform() -> str:
    """The class of hardware and library of this process, as one word."""
    return f"torch-{torch.__version__}/{torch.backends.cpu.get_cpu_capability()}"


def usable(device: str) -> torch.device:
    """The device of that name.

    Raises:
        BadInput: torch cannot put a tensor there.
    """
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # torch says "not compiled with CUDA" by an AssertionError
        reason = str(error).partition("\n")[0]
        raise BadInput(
            f"device {device!r} does not work on {socket.gethostname()}: {reason}; leave it out for the CPU"
        ) from error


def keep_memory() -> None:
    """Have this process keep the memory that it frees: the next unit wants as much again.

    glibc by default returns large blocks to the system and faults them in anew, page by page, at every unit: 12 to 30 %
    of the time of a conv4 unit. Elsewhere than on Linux with glibc nothing is changed.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD: no mapping of its own below 1 GiB
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: give nothing back
        mallopt(-2, 64 << 20)  # M_TOP_PAD: grow by 64 MiB at a time


class BilevelWorker:
    """An actor: a warm process that keeps works and shared trees under the keys that the driver gave them."""

    def __init__(self, settings: Settings, device: str, code: Sequence[str]) -> None:
        """Importing this module has imported torch: once an actor says hello, it is warm.

        Args:
            settings: torch's settings, those of the driver.
            device: where shared trees are put, e.g. "cpu", "cuda".
            code: directories that the study's modules come from; on this machine they may exist too.
        """
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the driver, which still wants its last results
        sys.path.extend(directory for directory in code if Path(directory).is_dir())
        settings.apply()
        keep_memory()
        gc.freeze()  # what is imported by now stays: half a second less at each full collection
        self._device = usable(device)
        self._kept: dict[int, Any] = {}

    def hello(self) -> Hello:
        """Who this is; the answer says that the worker is ready."""
        return Hello(os.getpid(), socket.gethostname(), platform())

    def compute(
        self, unit: tuple[int, int, tuple[int, ...], Any], work: bytes | None = None, shared: trees.Packed | None = None
    ) -> Outcome:
        """One unit.

        Args:
            unit: the key of its work, the key of its shared tree, keys that no later unit will name, its item.
            work: the pickled work, when it is sent to this worker for the first time.
            shared: the shared tree, likewise.
        """
        of_work, of_shared, gone, item = unit
        for key in gone:
            self._kept.pop(key, None)
        try:
            if work is not None:
                # From our own driver, over Ray, which pickles every call as it is: not from storage.
                self._kept[of_work] = pickle.loads(work)
            if shared is not None:
                self._kept[of_shared] = trees.to_device(trees.unpack(shared), self._device)
        except Exception as error:  # noqa: BLE001 unpickling runs the user's module code
            return raised(error)
        if of_work not in self._kept or of_shared not in self._kept:
            return Missing()
        return compute(self._kept[of_work], self._kept[of_shared], item)
