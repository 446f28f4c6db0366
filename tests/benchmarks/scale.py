"""Does a driver stay small and quick over 10,000 trials? Its memory and speed at every tenth, and the time to ask TPE.

python tests/benchmarks/scale.py [--trials 10000] [--search random|tpe] [--workers 2]
"""

from __future__ import annotations

import argparse
import gc
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bilevel import TPE, Inline, Int, Log, OneOf, Random, Ray, Report, Run, Space, Study, Uniform, figures, run
from bilevel.drive.progress import Progress
from bilevel.study.asking import Asking

GROWTH, ASK = 100.0, 0.05


@dataclass(frozen=True, kw_only=True)
class Config:
    """Five values, as a small search has."""

    lr: float
    momentum: float
    width: int
    depth: int
    act: str


def trial(config: Config, run: Run) -> Iterator[Report]:
    """Three reports."""
    for step in range(1, 4):
        yield Report(step, {"loss": (config.lr - 0.01) ** 2 + config.momentum / step + 1 / config.width})


class Meter:
    """Notes the driver's memory [MB] and the clock whenever another tenth of the trials has ended."""

    def __init__(self, trials: int) -> None:
        self.trials = trials
        self.rows: list[tuple[int, float, float]] = []

    def progress(self, progress: Progress) -> None:
        """Called a few times a second."""
        ended = sum(progress.history.ended.values())
        if not self.rows or ended >= self.rows[-1][0] + self.trials // 10:
            gc.collect()
            self.rows.append((ended, memory(), time.perf_counter()))

    def say(self, text: str) -> None:
        """Nothing that belongs here."""


def memory() -> float:
    """Megabytes of this process that are its own."""
    fields = Path("/proc/self/smaps_rollup").read_text().split()
    return sum(int(fields[i + 1]) for i, field in enumerate(fields) if field.startswith("Private_")) / 1000


def main() -> int:
    """Print the table; 1 if a bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--search", choices=["random", "tpe"], default="tpe")
    parser.add_argument("--workers", type=int, default=2)
    arguments = parser.parse_args()
    space = Space(
        Config,
        lr=Log(1e-4, 1.0),
        momentum=Uniform(0.0, 1.0),
        width=Int(1, 100),
        depth=Int(1, 8),
        act=OneOf("relu", "gelu", "tanh"),
    )
    search = TPE() if arguments.search == "tpe" else Random()
    study = Study(name="scale", objective=trial, minimize="loss", space=space, search=search, trials=arguments.trials)
    asks: list[float] = []
    question = Asking._question

    def timed(self: Any, searcher: Any) -> Any:
        began = time.perf_counter()
        point = question(self, searcher)
        asks.append(time.perf_counter() - began)
        return point

    Asking._question = timed  # type: ignore[method-assign]
    figures.draw = lambda *_: {}
    meter = Meter(arguments.trials)
    on = Ray(workers=arguments.workers) if arguments.workers else Inline()
    with tempfile.TemporaryDirectory() as folder:
        run(study, on=on, store=folder, watch=meter)
    print(f"{'trials':>8}{'driver [MB]':>14}{'trials/s':>12}{'ask [ms]':>12}")
    for (_, _, before), (ended, megabytes, now) in zip(meter.rows, meter.rows[1:], strict=False):
        rate = (arguments.trials // 10) / (now - before)
        ask = statistics.median(asks[max(0, ended - 200) : ended] or [0.0])
        print(f"{ended:8}{megabytes:14.1f}{rate:12.1f}{1000 * ask:12.2f}")
    growth = meter.rows[-1][1] - meter.rows[1][1] if len(meter.rows) > 1 else 0.0
    last = statistics.median(asks[-200:])
    bars = {
        f"driver grew by {growth:.1f} MB since the first tenth (bar {GROWTH:g})": growth < GROWTH,
        f"the last 200 asks took {1000 * last:.1f} ms in the median (bar {1000 * ASK:g})": last < ASK,
    }
    for text, met in bars.items():
        print(f"{'met   ' if met else 'MISSED'}  {text}")
    return 0 if all(bars.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
