"""Does the check of a card say what it should, tried on the CPU at small sizes?"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from bilevel import inner

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
FORBIDDEN = "ray mlflow optuna cma greenlet pandas scipy sklearn matplotlib PIL safetensors rich plotly threadpoolctl"


@pytest.fixture(autouse=True)
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The files beside this one import each other, and those of the benchmark, by name, as scripts do."""
    places = (HERE, HERE.parent / "benchmarks")
    for place in places:
        monkeypatch.syspath_prepend(str(place))
    yield
    for name, module in list(sys.modules.items()):
        if Path(getattr(module, "__file__", None) or "/").parent in places and name != __name__:
            del sys.modules[name]


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The check with two networks, two rules and what takes a moment."""
    import check
    import gpu_cases

    networks = {name: gpu_cases.NETWORKS[name] for name in ("mlp numbers", "tokens")}
    rules = {name: gpu_cases.RULES[name] for name in ("second order", "learned rates")}
    monkeypatch.setattr(gpu_cases, "NETWORKS", networks)
    monkeypatch.setattr(gpu_cases, "RULES", rules)
    monkeypatch.setattr(check, "SECTIONS", (check.gradients, check.verdicts, check.bits))
    return check


def test_without_a_card_it_says_so_and_torch_alone_carries_it() -> None:
    start = f"""
import runpy, sys
sys.modules.update(dict.fromkeys({FORBIDDEN.split()!r}))
import bilevel.tasks.sinusoid, bilevel.meta, bilevel.meta.movers
sys.argv = ["check.py"]
runpy.run_path({str(HERE / "check.py")!r}, run_name="__main__")
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "platform"), "CUDA_VISIBLE_DEVICES": ""}
    ended = subprocess.run([sys.executable, "-c", start], env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("no card here: nothing was checked")


def test_what_holds_is_printed_and_ends_0(few: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert few.main(["--device", "cpu", "--small", "--out", str(tmp_path / "sheet.txt")]) == 0
    text = (tmp_path / "sheet.txt").read_text()
    assert text == capsys.readouterr().out
    assert "all held" in text
    assert "tokens: same / same" in text
    assert "sinusoid-5 trained twice" in text
    assert "FAIL" not in text


def test_a_wrong_gradient_is_marked_and_ends_1(
    few: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import gpu_cases

    true = gpu_cases.gradient

    def off(*arguments: Any, **options: Any) -> Any:
        found = true(*arguments, **options)
        return {name: value * (1 if arguments[3] == torch.float64 else 1.01) for name, value in found.items()}

    monkeypatch.setattr(gpu_cases, "gradient", off)
    monkeypatch.setattr(few, "SECTIONS", (few.gradients,))
    assert few.main(["--device", "cpu", "--small"]) == 1
    assert "FAILED gradient: mlp numbers, second order" in capsys.readouterr().out


def test_bits_that_differ_are_marked(few: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import gpu_cases

    monkeypatch.setattr(gpu_cases, "gradient", lambda *_, **__: {"w": torch.rand(3)})
    sheet = few.Sheet("cpu", time.monotonic() + 60, small=True)
    monkeypatch.setattr(few.engine, "learned", lambda *_: ({"w": torch.rand(3)}, 0.0))
    few.bits(sheet)
    assert [failure.split(":")[1].strip() for failure in sheet.failures[:2]] == ["mlp numbers", "tokens"]
    assert sheet.failures[2] == "bits: sinusoid-5 trained twice"


def test_what_the_time_does_not_suffice_for_is_said(few: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert few.main(["--device", "cpu", "--small", "--seconds", "0"]) == 0
    assert "left out, the time is over: gradients" in capsys.readouterr().out


def test_a_gradient_that_is_no_number_never_passes() -> None:
    import check
    from gpu_cases import distance

    assert not distance({"w": torch.tensor([torch.nan])}, {"w": torch.ones(1)}) <= check.EQUAL_32


def test_every_rule_of_the_library_is_checked() -> None:
    from gpu_cases import RULES

    rules = {
        kind for name in inner.__all__ if inspect.isclass(kind := getattr(inner, name)) and hasattr(kind, "evaluate")
    } - {inner.Rule}
    assert rules == {variant.rule for variant in RULES.values()}


def test_all_sides_compute_the_gradient_of_the_definition() -> None:
    import gpu_speed

    case = gpu_speed.case_of("sinusoid-5", 2)
    wanted = gpu_speed.flat(gpu_speed.Loop(case, "cpu", torch.float64).gradient())
    for side in ("torch.func", "bilevel, held", "bilevel, engine"):
        one = gpu_speed.SIDES[side](case, "cpu", torch.float64)
        torch.testing.assert_close(gpu_speed.flat(one.gradient()), wanted, rtol=1e-9, atol=1e-12)
        one.iterate()
        one.iterate()


def test_time_is_taken_and_counted_on_a_processor_too() -> None:
    import gpu_card

    calls: list[int] = []
    assert gpu_card.milliseconds("cpu", lambda: calls.append(1), 0.0) >= 0
    assert calls
    assert gpu_card.product_rate("cpu", 16, 0.0) > 0
    assert gpu_card.copy_rate("cpu", 1, 0.0) > 0
    assert "CPU" in gpu_card.describe("cpu")


@pytest.mark.slow
def test_two_processes_compute_the_bits_of_one() -> None:
    import gpu_share

    one, two = (
        gpu_share.shared("cpu", "sinusoid-5", tasks=4, unit=1, processes=count, seconds=0.1) for count in (1, 2)
    )
    assert len(one.digests) == 4
    assert one.digests == two.digests
    assert min(one.rate, two.rate) > 0
