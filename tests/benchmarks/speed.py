"""How fast is second-order MAML here beside learn2learn, higher and TorchOpt, all in one run?

    python tests/benchmarks/speed.py              # or `make bench`: everything, about ten minutes on 2 cores
    python tests/benchmarks/speed.py --quick      # two cases, three rounds
    python tests/benchmarks/speed.py --cases conv4-5 --runs 15
    python tests/benchmarks/speed.py --ours       # our side alone; no environment is made

Every contestant is a process (or two) of its own with the interpreter and packages of its own environment
(`peers.py`) and is given the same network, weights and episodes (`cases.py`). **First** each computes one meta-gradient
in float64, which must equal the definition (`plain.py`: one task after another) to a relative 1e-8. **Then** fresh
processes compute in float32, one contestant after the other, round after round (A B C A B C ...), so that a machine
that slows down slows all of them. A meta-iteration is: adapt to all tasks, query loss, backward to the weights, one
outer Adam step; for us also drawing and stacking the episodes, and on workers the way to the Ray actors and back. The
peers hold their episodes ready. Our 32 conv4 tasks go in four units of eight, two a worker: fewer and larger units than
by default, which leaves work for eight workers (a tenth slower on two).

How to read the table: `ms` is the median over rounds of a meta-iteration (of each round's median), `from .. to` the
fastest and the slowest round, `MB` the peak memory of the process (of us: of a worker), `gradient` the relative
difference from the definition, `x limit` the time in multiples of what its matrix products alone would take on as many
cores (`limit.py`). A ratio among the bars is the median over rounds of the ratios within a round. Times of a loaded
machine mean nothing; its load is printed first.

Progress goes to stderr. Exit status: 0, also where a bar is missed; 1 if a gradient differs or a contestant fails.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import peers
from cases import CASES, Case
from limit import PRODUCT, operations
from teams import Entry, Failed, Team

TOLERANCE = 1e-8
ROUND = 500.0
"""Milliseconds that a contestant computes in a round, at least one iteration."""


PLAIN = Entry("definition", "plain")
GEMM = tuple(Entry(f"gemm {threads}", "gemm", threads=threads) for threads in (1, 2))
LEARN2LEARN, LEARN2LEARN_2, LEARN2LEARN_TWICE = (
    Entry("learn2learn", "learn2learn"),
    Entry("learn2learn, 2 threads", "learn2learn", threads=2),
    Entry("learn2learn, 2 processes", "learn2learn", processes=2),
)
OURS, OURS_1, OURS_2 = (
    Entry("bilevel, in process", "bilevel"),
    Entry("bilevel, 1 worker", "bilevel", workers=1),
    Entry("bilevel, 2 workers", "bilevel", workers=2),
)


def entries(case: Case) -> tuple[Entry, ...]:
    """Who takes part: one thread each where networks are tiny, all that two cores give where they are not."""
    if not case.ways:
        return (LEARN2LEARN, LEARN2LEARN_2, Entry("higher", "higher"), Entry("TorchOpt", "torchopt"), OURS)
    others = (Entry("higher, 2 threads", "higher", threads=2), Entry("TorchOpt, 2 threads", "torchopt", threads=2))
    return (LEARN2LEARN_2, LEARN2LEARN_TWICE, *others, OURS, OURS_1, OURS_2)


@dataclass(frozen=True)
class Bar:
    """A ratio of two contestants' times (or peaks of memory) and what it should be."""

    text: str
    case: str
    above: Entry
    below: Entry
    wanted: float
    of: str = "ms"


BARS = (
    Bar("sinusoid, one process: times learn2learn", "sinusoid-5", LEARN2LEARN, OURS, 8.0),
    Bar("sinusoid, one process: times learn2learn of 2 threads", "sinusoid-5", LEARN2LEARN_2, OURS, 8.0),
    Bar("conv4, 2 workers: times one learn2learn of 2 threads", "conv4-5", LEARN2LEARN_2, OURS_2, 2.2),
    Bar("conv4, 2 workers: times two learn2learn of 1 thread", "conv4-5", LEARN2LEARN_TWICE, OURS_2, 1.25),
    Bar("conv4, 2 workers: times 1 worker", "conv4-5", OURS_1, OURS_2, 1.6),
    Bar("conv4, memory of a worker: times learn2learn's", "conv4-5", OURS_2, LEARN2LEARN_2, 1.5, of="mb"),
)


@dataclass
class Measured:
    """What was found out about an entry: a float64 gradient's relative error; by round, the median milliseconds."""

    gradient: float = 0.0
    rounds: list[float] = field(default_factory=list)
    mb: float = 0.0

    @property
    def ms(self) -> float:
        """Median over rounds."""
        return statistics.median(self.rounds)


Found = dict[str, Measured]
"""By the label of the entry."""


def measure(case: Case, taking_part: Sequence[Entry], rounds: int, ours_only: bool) -> Found:
    """Check the gradients of a case, then time it.

    Raises:
        Failed: a gradient differs from the definition, or a contestant ended.
    """
    found = {entry.label: Measured() for entry in taking_part}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _say(f"{case.name}: checking the gradients of {len(taking_part)} contestants")
        reference = _gradient(PLAIN, case, folder, ours_only)
        for entry in taking_part:
            gap = _gradient(entry, case, folder, ours_only) - reference
            error = float(np.linalg.norm(gap) / np.linalg.norm(reference))
            found[entry.label].gradient = error
            if not error <= TOLERANCE:
                raise Failed(f"{case.name}: the meta-gradient of {entry.label} differs by a relative {error:.1e}")
        found |= {entry.label: Measured() for entry in GEMM}
        with ExitStack() as stack:
            teams = []
            for entry in (*taking_part, *GEMM):
                teams.append(Team(entry, case, folder, "float32", ours_only))
                stack.callback(teams[-1].close)
            _say(f"{case.name}: timing {rounds} rounds")
            _time(teams, rounds, found)
    return found


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _gradient(entry: Entry, case: Case, folder: Path, ours_only: bool) -> np.ndarray:
    team = Team(entry, case, folder, "float64", ours_only)
    try:
        team.ready()
        return team.gradient()
    finally:
        team.close()


def _time(teams: Sequence[Team], rounds: int, found: Found) -> None:
    for team in teams:
        team.ready()
    counts = []
    for team in teams:
        team.time(1)
        counts.append(min(50, max(1, round(ROUND / team.time(2)[-1]))))
    for _ in range(rounds):
        for team, count in zip(teams, counts, strict=True):
            found[team.entry.label].rounds.append(statistics.median(team.time(count)))
    for team in teams:
        found[team.entry.label].mb = team.memory()


# -- what is shown -----------------------------------------------------------------------------------------------------


def limits(case: Case, found: Found) -> dict[int, float]:
    """Milliseconds that the matrix products of a case take at the fastest product seen, by threads."""
    return {gemm.threads: operations(case) / PRODUCT * min(found[gemm.label].rounds) for gemm in GEMM}


def table(case: Case, taking_part: Sequence[Entry], found: Found) -> str:
    """The case as text."""
    limit = limits(case, found)
    rates = {gemm.threads: PRODUCT / min(found[gemm.label].rounds) / 1e6 for gemm in GEMM}
    lines = [
        f"{case.name}: {case.tasks} tasks, {case.steps} inner step(s), support {case.sizes[0]}, query {case.sizes[1]};"
        f" matrix products {operations(case) / 1e9:.2f} GFLOP, at least "
        + " or ".join(f"{limit[n]:.2f} ms on {n} ({rates[n]:.0f} GFLOP/s)" for n in limit),
        f"  {'':26}{'ms':>9} {'from .. to':>20} {'MB':>7} {'gradient':>9} {'x limit':>8}",
    ]
    for entry in taking_part:
        one = found[entry.label]
        spread = f"{min(one.rounds):.1f} .. {max(one.rounds):.1f}"
        distance = one.ms / limit[min(entry.cores, 2)]
        lines.append(f"  {entry.label:26}{one.ms:9.1f} {spread:>20} {one.mb:7.0f} {one.gradient:9.0e} {distance:8.1f}")
    return "\n".join(lines)


def ratio(bar: Bar, found: Found) -> float:
    """The bar's ratio: of times the median over rounds, of memory that of the peaks."""
    above, below = found[bar.above.label], found[bar.below.label]
    if bar.of == "mb":
        return above.mb / below.mb
    return statistics.median(a / b for a, b in zip(above.rounds, below.rounds, strict=True))


def judged(results: dict[str, Found]) -> list[dict[str, Any]]:
    """The bars whose contestants were measured."""
    rows = []
    for bar in BARS:
        found = results.get(bar.case, {})
        if bar.above.label in found and bar.below.label in found:
            value = ratio(bar, found)
            met = value <= bar.wanted if bar.of == "mb" else value >= bar.wanted
            rows.append({"bar": bar.text, "case": bar.case, "measured": value, "wanted": bar.wanted, "met": met})
    return rows


def _machine() -> dict[str, Any]:
    import torch

    return {
        "machine": platform.machine(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(), "torch": torch.__version__, "cpu": torch.backends.cpu.get_cpu_capability(),
    }  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run the benchmark; exit status as the module says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="sinusoid-5 and conv4-5 only, three rounds")
    parser.add_argument("--cases", nargs="+", choices=CASES, metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--runs", type=int, help="rounds (9)")
    parser.add_argument("--ours", action="store_true", help="our side alone")
    parser.add_argument("--out", type=Path, default=peers.HOME / "speed.json", help="all figures as JSON (%(default)s)")
    options = parser.parse_args(argv)
    names = options.cases or (["sinusoid-5", "conv4-5"] if options.quick else list(CASES)[:5])
    rounds = options.runs or (3 if options.quick else 9)
    machine = _machine()
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    results: dict[str, Found] = {}
    try:
        if not options.ours:
            peers.prepare()
        for name in names:
            case = CASES[name]
            taking_part = [entry for entry in entries(case) if entry.name == "bilevel" or not options.ours]
            results[name] = measure(case, taking_part, rounds, options.ours)
            print(f"\n{table(case, taking_part, results[name])}", flush=True)
    except (Failed, peers.SetupFailed) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    rows = judged(results)
    print()
    for row in rows:
        print(f"{'met   ' if row['met'] else 'MISSED'} {row['bar']:54} {row['measured']:6.2f} (wanted {row['wanted']})")
    figures = {name: {label: asdict(one) for label, one in found.items()} for name, found in results.items()}
    limit = {name: limits(CASES[name], found) for name, found in results.items()}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(
        json.dumps({"machine": machine, "cases": figures, "limit_ms": limit, "bars": rows}, indent=1) + "\n"
    )
    print(f"all figures: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
