"""One contestant in a process of its own: `contestant.py NAME`, orders in on stdin, answers out on stdout (JSON lines).

    {"do": "setup", "case": {...}, "data": "x.npz", "dtype": "float32", "threads": 1, "workers": 0} -> {}
    {"do": "gradient", "to": "y.npz"}  -> {}             the meta-gradient at the weights given, before any outer step
    {"do": "time", "iterations": 3}    -> {"ms": [...]}  meta-iterations, each with its outer Adam step
    {"do": "memory"}                   -> {"mb": 431.2}  peak of this process, or of its largest Ray worker

NAME is `plain` or a peer (`sides.py`), `bilevel` (`ours.py`) or `gemm` (`limit.py`). The `.npz` holds the arrays of
`cases.episodes` and the weights `w0`, `w1`, ... The end of stdin ends the process.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from cases import Case
from plain import network, tasks_of


class Contestant(Protocol):
    """What the loop below needs of a side."""

    def gradient(self) -> list[np.ndarray]:
        """The meta-gradient at the present weights, in the order of `cases.weights`."""
        ...

    def iterate(self) -> None:
        """One meta-iteration: gradient and outer Adam step."""
        ...

    def memory(self) -> float:
        """Peak resident memory so far, MB (10^6 bytes)."""
        ...

    def close(self) -> None:
        """End what was started."""
        ...


class Peer:
    """A side of `sides.py` and the outer Adam, rate 1e-3, as in all their examples."""

    def __init__(self, name: str, case: Case, arrays: dict[str, np.ndarray], weights: list[np.ndarray], dtype: str):
        from sides import SIDES

        kind = getattr(torch, dtype)
        self.net = network(case, weights, kind)
        self.accumulate = SIDES[name](case, self.net, tasks_of(case, arrays, kind))
        self.adam = torch.optim.Adam(self.net.parameters(), lr=1e-3)

    def gradient(self) -> list[np.ndarray]:
        self.adam.zero_grad()
        self.accumulate()
        return [parameter.grad.numpy() for parameter in self.net.parameters()]

    def iterate(self) -> None:
        self.adam.zero_grad()
        self.accumulate()
        self.adam.step()

    def memory(self) -> float:
        return peak_memory()

    def close(self) -> None:
        pass


def peak_memory() -> float:
    """Peak resident memory of this process, MB (10^6 bytes).

    Linux gives `VmHWM`; the peak of `getrusage` would include what the parent held when it forked.
    """
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024 / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def set_up(name: str, order: dict[str, Any]) -> Contestant:
    """The contestant of a `setup` order."""
    torch.set_num_threads(order["threads"])
    case = Case(**order["case"])
    with np.load(order["data"]) as stored:
        arrays = {key: stored[key] for key in stored if not key.startswith("w")}
        weights = [stored[f"w{i}"] for i in range(len(stored) - len(arrays))]
    if name == "bilevel":
        from ours import Ours

        return Ours(case, arrays, weights, order["dtype"], workers=order["workers"])
    if name == "gemm":
        from limit import Products

        return Products()
    return Peer(name, case, arrays, weights, order["dtype"])


def answer(contestant: Contestant, order: dict[str, Any]) -> dict[str, Any]:
    """Carry one order out."""
    if order["do"] == "gradient":
        np.savez(order["to"], *contestant.gradient())
        return {}
    if order["do"] == "time":
        spent = []
        for _ in range(order["iterations"]):
            start = time.perf_counter()
            contestant.iterate()
            spent.append(1e3 * (time.perf_counter() - start))
        return {"ms": spent}
    if order["do"] == "memory":
        return {"mb": contestant.memory()}
    raise ValueError(f"unknown order {order['do']!r}; known: setup, gradient, time, memory")


def main() -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints goes to stderr, not between our lines
    contestant: Contestant | None = None
    try:
        for line in sys.stdin:
            order = json.loads(line)
            if contestant is None:
                contestant, reply = set_up(sys.argv[1], order), {}
            else:
                reply = answer(contestant, order)
            print(json.dumps(reply), file=answers, flush=True)
    finally:
        if contestant is not None:
            contestant.close()


if __name__ == "__main__":
    main()
