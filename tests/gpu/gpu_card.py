"""What is the card, how fast can it be at best, and how is time taken on it?"""

from __future__ import annotations

import os
import platform
import statistics
import time
from collections.abc import Callable

import torch


def is_cuda(device: str) -> bool:
    return torch.device(device).type == "cuda"


def describe(device: str) -> str:
    """The card (or processor) and the versions that decide bits and times."""
    if is_cuda(device):
        properties = torch.cuda.get_device_properties(device)
        name = f"{properties.name}, {properties.total_memory / 1e9:.0f} GB, CUDA {torch.version.cuda}"
        name += f", cuDNN {torch.backends.cudnn.version()}"
    else:
        name = f"the CPU ({torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads)"
    cores = os.cpu_count()
    return f"{name}; torch {torch.__version__}, Python {platform.python_version()}, {platform.machine()}, {cores} cores"


def wait(device: str) -> None:
    """Until the card has done all that it was given."""
    if is_cuda(device):
        torch.cuda.synchronize(device)


def milliseconds(device: str, work: Callable[[], object], seconds: float, warm: int = 2) -> float:
    """The median of as many calls as fit into `seconds`, at least one; from call to the card's being done."""
    wait(device)
    begun = time.perf_counter()
    for _ in range(warm):
        work()
        wait(device)
        if time.perf_counter() - begun > 2 * seconds:
            break
    spent: list[float] = []
    begun = time.perf_counter()
    while not spent or (time.perf_counter() - begun < seconds and len(spent) < 50):
        start = time.perf_counter()
        work()
        wait(device)
        spent.append(1e3 * (time.perf_counter() - start))
    return statistics.median(spent)


def peak_memory(device: str, work: Callable[[], object]) -> float:
    """MB that the card held at most during a call."""
    if not is_cuda(device):
        return float("nan")
    wait(device)
    torch.cuda.reset_peak_memory_stats(device)
    work()
    wait(device)
    return torch.cuda.max_memory_allocated(device) / 1e6


def product_rate(device: str, size: int, seconds: float) -> float:
    """TFLOP/s of a float32 product of random matrices [size, size], as precise as torch is set."""
    left, right = torch.randn(2, size, size, generator=torch.Generator().manual_seed(0)).to(device)
    return 2 * size**3 / milliseconds(device, lambda: left @ right, seconds) / 1e9


def copy_rate(device: str, megabytes: int, seconds: float) -> float:
    """GB/s of a copy on the device, bytes read and written."""
    source = torch.randn(megabytes * 250_000, generator=torch.Generator().manual_seed(0)).to(device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / milliseconds(device, lambda: target.copy_(source), seconds) / 1e6


def kernels(device: str, work: Callable[[], object]) -> tuple[int, float]:
    """How many kernels a call starts on the card, and the milliseconds that they take."""
    if not is_cuda(device):
        return 0, float("nan")
    from torch.profiler import ProfilerActivity, profile

    work()
    wait(device)
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        work()
        wait(device)
    events = [event for event in found.events() if event.device_type == torch.autograd.DeviceType.CUDA]
    return len(events), sum(event.time_range.elapsed_us() for event in events) / 1e3
