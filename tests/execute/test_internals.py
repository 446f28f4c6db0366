"""Which part of Ray that it promises nobody has a new version changed?"""

from __future__ import annotations

import inspect
import sys
from pathlib import Path

import pytest
import ray
from ray._private import ray_constants, utils, worker
from ray._private.node import Node

from bilevel.execute import internals


@pytest.mark.parametrize("purpose", internals.USED)
def test_what_we_lean_on_is_still_there(purpose: str) -> None:
    owner, name = internals.USED[purpose]
    assert hasattr(owner, name), f"Ray {ray.__version__} has no {owner.__name__}.{name} any more: {purpose}"


def test_each_is_of_the_kind_that_we_replace() -> None:
    assert isinstance(ray_constants.NUM_REDIS_GET_RETRIES, int)
    assert isinstance(ray_constants.ENABLE_RAY_CLUSTER, bool)
    assert isinstance(worker._worker_logs_enabled, bool)
    assert not inspect.signature(utils.get_entrypoint_name).parameters
    assert "self" in inspect.signature(Node.start_api_server).parameters
    assert "self" in inspect.signature(Node.start_monitor).parameters
    assert list(inspect.signature(Node.get_session_dir_path).parameters) == ["self"]
    assert "_system_config" in inspect.getsource(ray.init)


def test_afterwards_all_is_as_before() -> None:
    before = (ray_constants.NUM_REDIS_GET_RETRIES, ray_constants.ENABLE_RAY_CLUSTER, utils.get_entrypoint_name)
    servers = vars(Node)["start_api_server"], vars(Node)["start_monitor"]
    with internals.discreet(), internals.impatient(4), internals.lean(), internals.loopback():
        assert (ray_constants.NUM_REDIS_GET_RETRIES, ray_constants.ENABLE_RAY_CLUSTER) == (4, False)
        assert utils.get_entrypoint_name() == Path(sys.argv[0]).name
        assert vars(Node)["start_api_server"] is not servers[0]
    assert (ray_constants.NUM_REDIS_GET_RETRIES, ray_constants.ENABLE_RAY_CLUSTER, utils.get_entrypoint_name) == before
    assert (vars(Node)["start_api_server"], vars(Node)["start_monitor"]) == servers


def test_nothing_else_of_the_library_looks_inside_ray() -> None:
    root = Path(internals.__file__).parents[1]
    found = [path.name for path in root.rglob("*.py") if "ray._private" in path.read_text(encoding="utf-8")]
    assert found == ["internals.py"]
