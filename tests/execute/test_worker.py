"""Does a unit compute under the settings that its bits depend on, and only it?"""

from __future__ import annotations

import gc
import pickle
import signal
from typing import Any

import pytest
import torch

from bilevel.execute import Inline, inline, opening, settings, worker
from bilevel.execute.luggage import pack as pack_modules
from bilevel.execute.settings import Settings, settled
from bilevel.execute.worker import BilevelWorker, Computed
from bilevel.study.events import Done, Units
from bilevel.trees import pack, unpack

CARD = torch.device("cuda")


def seen(shared: Any, item: int) -> dict[str, Any]:
    """What a unit finds."""
    return {
        "deterministic": torch.get_deterministic_debug_mode(),
        "convolutions": torch.backends.cudnn.conv.fp32_precision,
        "filled": torch.utils.deterministic.fill_uninitialized_memory,
        "threads": torch.get_num_threads(),
    }


AS_TORCH_IS = {"deterministic": 0, "convolutions": "tf32", "filled": True, "threads": 1}
ON_A_CARD = {"deterministic": 1, "convolutions": "ieee", "filled": False, "threads": 1}


def test_on_a_gpu_sums_have_an_order_and_convolutions_their_precision() -> None:
    here = Settings.here(1)
    assert here.on(torch.device("cpu")) is here
    with settled(here.on(CARD)):
        assert seen({}, 0) == ON_A_CARD
    assert seen({}, 0) == AS_TORCH_IS


def test_what_the_user_asked_of_torch_stays() -> None:
    before = Settings.here(1)
    with settled(before):
        torch.set_deterministic_debug_mode("error")
        torch.set_float32_matmul_precision("high")
        with settled(Settings.here(1).on(CARD)):
            assert seen({}, 0) == {**ON_A_CARD, "deterministic": 2, "convolutions": "tf32"}
    assert Settings.here(1) == before


def test_a_precision_of_each_kind_of_operation_is_no_hindrance() -> None:
    conv = torch.backends.cudnn.conv
    before = conv.fp32_precision
    try:
        conv.fp32_precision = "ieee"
        with settled(Settings.here(1).on(torch.device("cpu"))):
            assert conv.fp32_precision == "ieee"
    finally:
        conv.fp32_precision = before


def test_units_in_process_compute_under_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inline, "usable", lambda device: CARD)
    executor = opening.executor(Inline("cuda"))
    executor.submit(0, Units(seen, {}, (0,)))
    (done,) = executor.poll(10.0)
    assert isinstance(done, Done)
    assert done.results == [ON_A_CARD]
    assert seen({}, 0) == AS_TORCH_IS


def test_units_on_a_worker_compute_under_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "usable", lambda device: CARD)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(gc, "freeze", lambda: None)
    actor = BilevelWorker(Settings.here(1), "cuda", pack_modules(()))
    outcome = actor.compute((0, 1, (), 0), pickle.dumps(seen), pack({}))
    assert isinstance(outcome, Computed)
    assert unpack(outcome.result) == ON_A_CARD
    assert seen({}, 0) == AS_TORCH_IS


def test_a_gpu_is_made_ready_for_products_whose_bits_repeat(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def empty(size: int, *, device: str) -> Any:
        asked.append(settings.os.environ.get("CUBLAS_WORKSPACE_CONFIG", ""))
        return torch.zeros(size)

    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch, "empty", empty)
    settings.usable("cpu")
    settings.usable("cuda:0")
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    settings.usable("cuda")
    assert asked == ["", ":4096:8", ":16:8"]
