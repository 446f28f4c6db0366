"""Does bilevel compute on this machine's card what it computes on the CPU, the same bits every time, and how fast?

    PYTHONPATH=platform python tests/gpu/check.py                 on the first card; without one it says so and ends 0
    PYTHONPATH=platform python tests/gpu/check.py --device cpu --small      its own logic, in a minute, without a card

Needs torch and numpy alone (no Ray, no MLflow), builds nothing and downloads nothing, and takes under five minutes on a
data center's card. What is left when `--seconds` are over is said to be left out. Exit status: 1 where a gradient is
wrong or bits differ, else 0. Errors are relative, over all tensors, against the CPU in float64.

How to read the times: `bilevel, engine` is the whole meta-iteration (draw, stack, to the card, gradient, back, outer
step), `held` the same with the episodes on the card, `any order` without torch's deterministic algorithms, `CUDA graph`
the gradient recorded once and replayed (not a part of the engine: what is to be had; its `MB` leave out what the
recording holds). `of peak` is of the fastest float32 product seen on this card, counting the matrix products that the
gradient needs; `busy` the share of the time in which kernels run, the rest being Python that starts them.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import math
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path[:0] = [path for path in (str(HERE), str(HERE.parent / "benchmarks")) if path not in sys.path]

import gpu_card as card  # noqa: E402  these lie beside this file
import gpu_cases as examples  # noqa: E402
import gpu_engine as engine  # noqa: E402
import gpu_share as share  # noqa: E402
import gpu_speed as speed  # noqa: E402
from limit import operations  # noqa: E402

from bilevel import trees  # noqa: E402
from bilevel.batched import verify  # noqa: E402
from bilevel.execute.settings import Settings, settled, usable  # noqa: E402

EQUAL_64, EQUAL_32 = 1e-9, 1e-3


@dataclass
class Sheet:
    """What is printed, and what failed."""

    device: str
    until: float
    small: bool
    lines: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def say(self, text: str = "") -> None:
        """A line, at once."""
        self.lines.append(text)
        print(text, flush=True)

    def judge(self, good: bool, what: str) -> str:
        """A mark for the table; what is not good fails the whole."""
        if not good:
            self.failures.append(what)
        return "" if good else " FAILS"

    @property
    def late(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() > self.until


def gradients(sheet: Sheet) -> None:
    """Every rule on every network: batched in float64 and float32, and the loop in float32."""
    sheet.say("\nGRADIENTS on the card against the CPU in float64: relative error (batched f64, batched f32, loop f32)")
    chosen = list(examples.NETWORKS.items())[:: 3 if sheet.small else 1]
    for name, example in chosen:
        cells = []
        for title, variant in examples.RULES.items():
            wanted = examples.gradient(example, variant, "cpu", torch.float64)
            errors = [
                _error(
                    functools.partial(examples.gradient, example, variant, sheet.device, dtype, batched=batched), wanted
                )
                for dtype, batched in ((torch.float64, True), (torch.float32, True), (torch.float32, False))
            ]
            good = errors[0] <= EQUAL_64 and errors[1] <= EQUAL_32 and errors[2] <= EQUAL_32
            mark = sheet.judge(good, f"gradient: {name}, {title}: {errors}")
            cells.append(f"{title} " + " ".join(f"{error:.0e}" for error in errors) + mark)
        sheet.say(f"  {name:12} " + "; ".join(cells))


def _error(work: Callable[[], examples.Gradient], wanted: examples.Gradient) -> float:
    try:
        return examples.distance(work(), wanted)
    except Exception:  # noqa: BLE001  the table says that it failed, stderr why
        traceback.print_exc()
        return math.inf


def verdicts(sheet: Sheet) -> None:
    """`verify` with module and inputs on the card."""
    sheet.say("\nVERIFY on the card (float64): error of the batched form against the loop")
    found = []
    for name, example in examples.NETWORKS.items():
        episode = trees.to_device(example.episode(), sheet.device)
        verdict = verify(example.module().to(sheet.device), episode.support.x[0], episode.support.y[0])
        found.append(f"{name} {verdict.error:.0e}{sheet.judge(verdict.exact, f'verify: {name}: {verdict.reason}')}")
    sheet.say("  " + ", ".join(found))


def bits(sheet: Sheet) -> None:
    """The same gradient five times, as units compute and as torch is by itself; then whole trainings."""
    times = 2 if sheet.small else 5
    sheet.say(f"\nBITS of {times} float32 gradients: as units compute / as torch is by itself")
    ours = Settings.here(torch.get_num_threads()).on(usable(sheet.device))
    found = []
    for name, example in examples.NETWORKS.items():
        kinds = []
        for settings in (ours, Settings.here(torch.get_num_threads())):
            with settled(settings), warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                digests = {
                    trees.digest(
                        examples.gradient(example, examples.RULES["second order"], sheet.device, torch.float32)
                    )
                    for _ in range(times)
                }
            warned = sorted({str(one.message).split(" ")[0] for one in said})
            kinds.append(("same" if len(digests) == 1 else f"{len(digests)} different") + f" {warned}" * bool(warned))
        mark = sheet.judge("different" not in kinds[0] or "[" in kinds[0], f"bits: {name}: {kinds[0]}")
        found.append(f"{name}: {kinds[0]} / {kinds[1]}{mark}")
    sheet.say("  " + "; ".join(found))
    for name, tasks, unit in (("sinusoid-5", 32, 8), ("conv4-5", 8, 4))[: 1 if sheet.small else 2]:
        config, steps = engine.config_of(name, tasks, unit), 2 if sheet.small else 6
        runs = [engine.learned(config, device, steps) for device in (sheet.device, sheet.device, "cpu")]
        one, two = (trees.digest(learned) for learned, _ in runs[:2])
        mark = sheet.judge(one == two, f"bits: {name} trained twice")
        sheet.say(
            f"  {name} trained twice, {steps} outer steps of {tasks} tasks in units of {unit}: fingerprints {one[:16]}"
            f" and {two[:16]}{mark}; validation loss {runs[0][1]:.6f}, on the CPU {runs[2][1]:.6f}"
        )


def studies(sheet: Sheet) -> None:
    """A whole study through `bilevel.run`, twice, where all that it needs is installed."""
    try:
        one, two = engine.whole(sheet.device, 2 if sheet.small else 20)
    except ImportError as error:
        sheet.say(f"\nSTUDY left out: {error}")
        return
    sheet.say(f"\nSTUDY run twice: fingerprints {one[:16]} and {two[:16]}{sheet.judge(one == two, 'bits: a study')}")


def waiting(sheet: Sheet) -> None:
    """Where a unit waits for the card."""
    if not card.is_cuda(sheet.device):
        return
    sheet.say(
        "\nWAITS of a unit for the card, by line (copies of inputs count; none is in a step if these do not grow)"
    )
    for name in ("sinusoid-5", "conv4-5"):
        found = engine.waits(name, 32, sheet.device)
        sheet.say(f"  {name}: " + (", ".join(f"{line} {n}x" for line, n in found.most_common()) or "none"))


def times(sheet: Sheet) -> None:
    """Meta-iterations of 5 inner steps, second order, with their outer Adam step, over 8 to 512 tasks."""
    seconds, size = (0.05, 256) if sheet.small else (0.4, 8192)
    counts = (2, 4) if sheet.small else (8, 32, 128, 512)
    peak = card.product_rate(sheet.device, size, seconds)
    copied = card.copy_rate(sheet.device, 8 if sheet.small else 1024, seconds)
    sheet.say(
        f"\nTIMES of a meta-iteration in float32 (no TF32); at best: products {peak:.1f} TFLOP/s,"
        f" copies {copied:.0f} GB/s"
    )
    for name in ("sinusoid-5", "conv4-5"):
        _errors(sheet, name, 2 if sheet.small else 8)
        sheet.say(
            f"  {name:18}{'tasks':>6}{'ms':>10}{'ms/task':>9}{'TFLOP/s':>9}"
            f"{'of peak':>8}{'MB':>8}{'kernels':>8}{'busy':>6}"
        )
        slow: set[str] = set()
        for tasks in counts:
            case = speed.case_of(name, tasks)
            for title in [title for title in SHOWN if title not in slow and _possible(sheet, title)]:
                if sheet.late:
                    sheet.say(f"  left out, the time is over: {title}, {tasks} tasks")
                    continue
                try:
                    ms = _row(sheet, title, case, operations(case), peak, seconds)
                except Exception as error:  # noqa: BLE001  the next rows are worth having
                    sheet.say(f"  {title:18}{tasks:6} {type(error).__name__}: {str(error).splitlines()[0][:90]}")
                    slow.add(title)
                    continue
                if ms > SLOW:
                    slow.add(title)


SHOWN = {
    "bilevel, engine": ("bilevel, engine", 1, "highest"),
    "bilevel, held": ("bilevel, held", 1, "highest"),
    "held, any order": ("bilevel, held", 0, "highest"),
    "held, TF32": ("bilevel, held", 1, "high"),
    "held, CUDA graph": ("bilevel, graph", 1, "highest"),
    "torch.func": ("torch.func", 0, "highest"),
    "plain loop": ("plain loop", 0, "highest"),
}
"""By title: the side, whether torch is deterministic, and the precision of products."""


SLOW = 1500.0
"""Milliseconds of a meta-iteration from which on a side takes part no further."""


def _possible(sheet: Sheet, title: str) -> bool:
    return "graph" not in title or card.is_cuda(sheet.device)


def _row(sheet: Sheet, title: str, case: speed.Case, flop: float, peak: float, seconds: float) -> float:
    side, deterministic, precision = SHOWN[title]
    here = Settings.here(torch.get_num_threads())
    wanted = here.on(torch.device(sheet.device)) if deterministic else here
    with settled(dataclasses.replace(wanted, convolutions="ieee", precision=precision)):
        one = speed.SIDES[side](case, sheet.device, torch.float32)
        ms = card.milliseconds(sheet.device, one.iterate, seconds)
        mb = card.peak_memory(sheet.device, one.iterate)
        started, busy = card.kernels(sheet.device, one.iterate) if side != "plain loop" else (0, math.nan)
    rate = flop / ms / 1e9
    sheet.say(
        f"  {title:18}{case.tasks:6}{ms:10.1f}{ms / case.tasks:9.3f}{rate:9.2f}"
        f"{rate / peak:8.1%}{mb:8.0f}{started:8}{busy / ms:6.0%}"
    )
    return ms


def _errors(sheet: Sheet, name: str, tasks: int) -> None:
    case = speed.case_of(name, tasks)
    wanted = speed.flat(speed.Loop(case, "cpu", torch.float64).gradient())
    found = []
    for side, make in ((side, make) for side, make in speed.SIDES.items() if _possible(sheet, side)):
        for dtype, bar in ((torch.float64, EQUAL_64), (torch.float32, EQUAL_32)):
            try:
                gap = speed.flat(make(case, sheet.device, dtype).gradient()) - wanted
                error = float(gap.norm() / wanted.norm())
            except Exception as failed:  # noqa: BLE001  a peer that fails is a row of the table
                found.append(f"{side} {type(failed).__name__}")
                continue
            good = error <= bar or not side.startswith("bilevel")
            found.append(f"{side} {error:.0e}{sheet.judge(good, f'{name}: {side} {dtype}: {error}')}")
    sheet.say(f"  {name}: gradients of {tasks} tasks against the loop on the CPU, f64 then f32: " + ", ".join(found))


def sharing(sheet: Sheet) -> None:
    """One, two and four processes on the card, the same units."""
    tasks, unit, seconds = (4, 1, 0.2) if sheet.small else (256, 32, 2.0)
    counts = (1, 2) if sheet.small else (1, 2, 4, 8)
    sheet.say(f"\nPROCESSES on one card: {tasks} tasks in units of {unit}")
    for name in ("sinusoid-5", "conv4-5")[: 1 if sheet.small else 2]:
        alone: dict[str, str] = {}
        found = []
        for count in counts:
            if sheet.late:
                found.append(f"{count}: left out, the time is over")
                continue
            one = share.shared(sheet.device, name, tasks=tasks, unit=unit, processes=count, seconds=seconds)
            alone = alone or one.digests
            same = one.digests == alone
            mark = sheet.judge(same, f"bits: {name} in {count} processes")
            found.append(f"{count}: {one.rate:.0f} tasks/s, {'same' if same else 'other'} bits{mark}")
        sheet.say(f"  {name}: " + "; ".join(found))


SECTIONS = (gradients, verdicts, bits, waiting, studies, sharing, times)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", help="a torch device; by default the card, where there is one")
    parser.add_argument("--small", action="store_true", help="tiny sizes")
    parser.add_argument("--seconds", type=float, default=270.0, help="after which nothing more is begun")
    parser.add_argument("--out", type=Path, help="a file for what is printed")
    options = parser.parse_args(argv)
    if options.device is None and not torch.cuda.is_available():
        print("no card here: nothing was checked (torch.cuda.is_available() is False; --device cpu tries the logic)")
        return 0
    sheet = Sheet(options.device or "cuda", time.monotonic() + options.seconds, options.small)
    sheet.say(card.describe(sheet.device))
    for section in SECTIONS:
        begun = time.monotonic()
        if sheet.late:
            sheet.say(f"left out, the time is over: {section.__name__}")
            continue
        try:
            section(sheet)
        except Exception as error:  # noqa: BLE001  the other sections are worth having
            traceback.print_exc()
            sheet.failures.append(f"{section.__name__}: {type(error).__name__}: {str(error).splitlines()[:1]}")
        sheet.say(f"  ({section.__name__}: {time.monotonic() - begun:.0f} s)")
    sheet.say("\n" + ("\n".join(f"FAILED {what}" for what in sheet.failures) or "all held"))
    if options.out is not None:
        options.out.write_text("\n".join(sheet.lines) + "\n")
    return 1 if sheet.failures else 0


if __name__ == "__main__":
    sys.exit(main())
