"""Does a pool follow its cluster, when machines join and when one is lost?"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from bilevel.execute import Ray, opening
from bilevel.execute.pool import Pool
from bilevel.study.events import Done, Fault, Units


@pytest.fixture
def cluster() -> Iterator[Any]:
    """A head with one CPU; other nodes are processes on this machine, with an object store of their own."""
    head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def wait_for(pool: Pool, alive: int) -> None:
    stop = time.monotonic() + 60
    while pool.alive != alive:
        assert time.monotonic() < stop, f"{pool.alive} workers, not {alive}, after 60 s"
        pool.poll(0.2)


@pytest.mark.slow
def test_workers_join_with_a_node_and_leave_with_it(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def work(shared: Any, item: int) -> Any:
        time.sleep(0.2)
        return {"w": shared["w"] * item}

    monkeypatch.setattr(sys, "argv", ["/bin/bilevel", "run", "study.py", "--track", "https://me:secret@host"])
    pool = opening.executor(Ray(address=cluster.address))
    wait_for(pool, 1)
    entries = {job["Entrypoint"] for job in ray._private.state.jobs()}
    assert entries == {"bilevel"}  # anyone who may look at the cluster's jobs sees it
    node = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    wait_for(pool, 2)

    w = torch.arange(100_000.0)  # large enough for the object store, and so for that of the lost node
    pool.submit(0, Units(work, {"w": w}, tuple(range(30))))
    begun = time.monotonic()
    seen: list[Any] = []
    while not any(isinstance(event, Done) for event in seen):
        seen += pool.poll(0.2)
        if node is not None and time.monotonic() - begun > 0.5:
            cluster.remove_node(node, allow_graceful=False)
            node = None
    assert node is None
    assert all(torch.equal(result["w"], w * item) for item, result in enumerate(seen[-1].results))
    stop = time.monotonic() + 60
    while not any(isinstance(event, Fault) for event in seen):  # Ray may notice the loss when its units are done again
        assert time.monotonic() < stop, "no fault was reported"
        seen += pool.poll(0.2)
    wait_for(pool, 1)
    pool.close()
    assert not ray.is_initialized()  # the pool had joined the cluster, so it leaves it
