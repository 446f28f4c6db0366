"""What holds for every test: one thread of torch, no windows, no phoning home, data where a checkout has it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pytest
import torch
from hypothesis import settings

import bilevel

settings.register_profile("patient", deadline=None)  # a busy machine is no failure
settings.load_profile("patient")
os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # Ray warns of a change to come unless it is chosen
_DATA = Path(__file__).parents[2] / "shared" / "data"
if _DATA.is_dir():
    os.environ.setdefault("BILEVEL_DATA", str(_DATA))

matplotlib.use("Agg")
torch.set_num_threads(1)


@pytest.fixture(scope="module", autouse=True)
def no_cluster_stays() -> Iterator[None]:
    """The next module may want one of its own."""
    yield
    bilevel.shutdown()


@pytest.fixture
def double() -> object:
    """Float64 as torch's default, for gradients that are compared with finite differences."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)
