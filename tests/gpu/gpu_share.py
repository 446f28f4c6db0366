"""Do several processes share one card, and are the bits of their units those of one process?

    gpu_share.py DEVICE NAME TASKS UNIT MEMBER OF SECONDS     one of them; `shared` starts them

A process sets up, says so, waits for a line, computes its units over and over for some seconds, and answers with the
number of tasks that it did and the digest of each unit's result.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [path for path in (str(HERE), str(HERE.parent / "benchmarks")) if path not in sys.path]


@dataclass(frozen=True)
class Shared:
    """What some processes did together: tasks a second, and by unit the digest of its result."""

    rate: float
    digests: dict[str, str]


def shared(device: str, name: str, *, tasks: int, unit: int, processes: int, seconds: float) -> Shared:
    """`processes` at once on one device, each with its part of the units."""
    started = [
        subprocess.Popen(
            [sys.executable, __file__, device, name, str(tasks), str(unit), str(member), str(processes), str(seconds)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for member in range(processes)
    ]  # fmt: skip
    try:
        for process in started:
            _line(process)
        for process in started:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        found = [_line(process) for process in started]
    finally:
        for process in started:
            process.kill()
            process.communicate()
    digests = {unit: digest for one in found for unit, digest in one["digests"].items()}
    return Shared(sum(one["rate"] for one in found), digests)


def _line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"a process ended: {process.args}")
    found: dict[str, Any] = json.loads(line)
    return found


def main(device: str, name: str, tasks: int, unit: int, member: int, of: int, seconds: float) -> None:
    """One of the processes."""
    from gpu_engine import units_of

    from bilevel import trees
    from bilevel.execute.worker import compute

    work, tree, items = units_of(name, tasks, unit, device)
    mine = items[member::of]
    results = {str(item): compute(work, tree, item) for item in mine}  # which also warms up
    digests = {item: trees.digest(result.result.data.tobytes()) for item, result in results.items()}  # type: ignore[union-attr]
    print(json.dumps({"ready": True}), flush=True)
    sys.stdin.readline()
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        for item in mine:
            compute(work, tree, item)
            done += item.last - item.first
    rate = done / (time.perf_counter() - begun)
    print(json.dumps({"rate": rate, "digests": digests}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:7]), float(sys.argv[7]))  # type: ignore[arg-type]
