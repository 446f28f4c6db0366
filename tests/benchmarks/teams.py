"""How is a contestant started, in one process or several, and spoken to?"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import peers
from cases import Case, episodes, weights

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Entry:
    """A contestant: `processes` of `threads` threads, which share the tasks; of us also `workers` on Ray."""

    label: str
    name: str
    processes: int = 1
    threads: int = 1
    workers: int = 0

    @property
    def cores(self) -> int:
        """What it can use."""
        return self.workers or self.processes * self.threads


class Failed(Exception):
    """A contestant ended or a gradient differs."""


class Process:
    """One `contestant.py`."""

    def __init__(self, entry: Entry, case: Case, data: Path, dtype: str, ours_only: bool) -> None:
        interpreter = _interpreter(entry, ours_only)
        (peers.HOME / "logs").mkdir(parents=True, exist_ok=True)
        self._log = peers.HOME / "logs" / f"{entry.name}.log"
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [interpreter, "-W", "ignore", HERE / "contestant.py", entry.name],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
        order = {"case": asdict(case), "data": str(data), "dtype": dtype}
        self.send("setup", **order, threads=entry.threads, workers=entry.workers)

    def send(self, what: str, **details: Any) -> None:
        """Give an order; `receive` waits for its answer."""
        assert self._process.stdin is not None
        try:
            print(json.dumps({"do": what, **details}), file=self._process.stdin, flush=True)
        except BrokenPipeError:
            raise self._gone() from None

    def receive(self) -> dict[str, Any]:
        """The answer to the oldest open order."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._gone()
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End it in good order."""
        with self._process:  # closes its pipes, and waits
            assert self._process.stdin is not None
            self._process.stdin.close()
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def _gone(self) -> Failed:
        tail = "\n".join(self._log.read_text().splitlines()[-15:])
        return Failed(f"{' '.join(map(str, self._process.args))} ended; the end of {self._log}:\n{tail}")


class Team:
    """The processes of an entry, which share the case's tasks evenly."""

    def __init__(self, entry: Entry, case: Case, folder: Path, dtype: str, ours_only: bool) -> None:
        arrays = episodes(case)
        start = {f"w{i}": weight for i, weight in enumerate(weights(case))}
        self.entry, self._folder = entry, folder
        self._members = []
        edges = [case.tasks * part // entry.processes for part in range(entry.processes + 1)]
        for first, last in itertools.pairwise(edges):
            data = folder / f"{case.name} {entry.label} {first}.npz"
            np.savez(data, **{name: array[first:last] for name, array in arrays.items()}, **start)
            part = replace(case, tasks=last - first)
            self._members.append(Process(entry, part, data, dtype, ours_only))

    def ready(self) -> None:
        """Wait until all are set up."""
        for member in self._members:
            member.receive()

    def ask(self, what: str, **details: Any) -> list[dict[str, Any]]:
        """The same order to all at once; the answers when the last is there."""
        for member in self._members:
            member.send(what, **details)
        return [member.receive() for member in self._members]

    def gradient(self) -> np.ndarray:
        """The meta-gradient over all tasks, one long vector."""
        total: np.ndarray | None = None
        for member in self._members:
            to = self._folder / "gradient.npz"
            member.send("gradient", to=str(to))
            member.receive()
            with np.load(to) as stored:
                part = np.concatenate([array.ravel() for array in stored.values()])
            total = part if total is None else total + part
        assert total is not None
        return total / len(self._members)

    def time(self, iterations: int) -> list[float]:
        """Milliseconds of each of some meta-iterations; of several processes until the last is done."""
        if len(self._members) == 1:
            measured: list[float] = self.ask("time", iterations=iterations)[0]["ms"]
            return measured
        spent = []
        for _ in range(iterations):
            start = time.perf_counter()
            self.ask("time", iterations=1)
            spent.append(1e3 * (time.perf_counter() - start))
        return spent

    def memory(self) -> float:
        """Peak of the largest process, MB."""
        peak: float = max(answer["mb"] for answer in self.ask("memory"))
        return peak

    def close(self) -> None:
        """End all."""
        for member in self._members:
            member.close()


def _interpreter(entry: Entry, ours_only: bool) -> str:
    if entry.name in peers.PEERS:
        return str(peers.python(entry.name))
    return sys.executable if entry.name == "bilevel" or ours_only else str(peers.python("torch"))
