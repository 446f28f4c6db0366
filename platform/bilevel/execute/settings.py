"""What of a process decides the bits and the speed of what is computed in it?"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from bilevel.errors import BadInput


@dataclass(frozen=True)
class Settings:
    """What of torch's global state decides the bits of a result: workers take it over from the driver."""

    threads: int
    dtype: torch.dtype
    precision: str
    convolutions: str
    """Of float32 on a GPU: "ieee", or as torch has it by default "tf32", with 10 bits of mantissa."""
    deterministic: int
    """0: sums may be added up in any order on a GPU; 1: not where torch can do otherwise (else it warns); 2: never."""
    filled: bool
    """Whether deterministic torch also fills the memory that it gets, which no result here depends on."""

    @classmethod
    def here(cls, threads: int) -> Settings:
        """The settings of this process, but with `threads` for a unit."""
        return cls(
            threads,
            torch.get_default_dtype(),
            torch.get_float32_matmul_precision(),
            _convolutions(),
            torch.get_deterministic_debug_mode(),
            torch.utils.deterministic.fill_uninitialized_memory,  # type: ignore[attr-defined]
        )

    def on(self, device: torch.device) -> Settings:
        """For units on `device`: on a GPU bits that repeat, and convolutions as exact as products are asked to be."""
        if device.type != "cuda":
            return self
        exact = "ieee" if self.precision == "highest" else self.convolutions
        return dataclasses.replace(self, convolutions=exact, deterministic=max(1, self.deterministic), filled=False)

    def apply(self) -> None:
        """Make them those of this process."""
        torch.set_num_threads(self.threads)
        torch.set_default_dtype(self.dtype)
        torch.set_float32_matmul_precision(self.precision)
        if self.convolutions != _convolutions():
            _convolve_in(self.convolutions)
        torch.set_deterministic_debug_mode(self.deterministic)
        torch.utils.deterministic.fill_uninitialized_memory = self.filled  # type: ignore[attr-defined]


_NAMED = torch.__version__ >= "2.9"
"""Whether torch has a precision for each kind of operation; the flag of before then raises where those differ."""


def _convolutions() -> str:
    if _NAMED:
        return str(torch.backends.cudnn.conv.fp32_precision)  # type: ignore[attr-defined, unused-ignore]
    return "tf32" if torch.backends.cudnn.allow_tf32 else "ieee"


def _convolve_in(precision: str) -> None:
    if _NAMED:
        torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined, unused-ignore]
    else:
        torch.backends.cudnn.allow_tf32 = precision == "tf32"


@contextlib.contextmanager
def settled(settings: Settings) -> Iterator[None]:
    """Within: `settings`. Afterwards: what this process had before."""
    before = Settings.here(torch.get_num_threads())
    settings.apply()
    try:
        yield
    finally:
        before.apply()


def platform() -> str:
    """The class of hardware and library of this process, as one word."""
    return f"torch-{torch.__version__}/{torch.backends.cpu.get_cpu_capability()}"


def usable(device: str) -> torch.device:
    """The device of that name; a GPU is made ready for products whose bits repeat.

    Raises:
        BadInput: torch cannot put a tensor there.
    """
    if device.startswith("cuda"):  # read by cuBLAS when it begins: without it, torch warns that its bits may vary
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
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
