"""Who waits for room on a cluster that others have filled: is it said soon, and of what?"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest
import ray

from bilevel import Ray, Space, Tune, Uniform
from bilevel.episodes import Key
from bilevel.execute import cluster, opening
from bilevel.execute.cluster import Cluster
from bilevel.execute.trial_runner import Script
from bilevel.study.events import Order


def test_it_says_what_is_waited_for_and_what_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_nodes", lambda: [{"CPU": 2.0}])
    monkeypatch.setattr(cluster.ray, "available_resources", lambda: {"memory": 1.0})
    has = "the cluster has 1 node, 2 CPUs (0 free), 0 GPUs (0 free)"
    assert Cluster().lacks("worker", 2, 1, 0) == f"waiting for 2 workers of 1 CPU: {has}"
    assert Cluster().lacks("trial", 1, 0.5, 1) == f"waiting for 1 trial of 0.5 CPUs and 1 GPU: {has}"


@pytest.fixture
def full() -> Iterator[None]:
    """A cluster of two CPUs, which somebody holds."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")

    @ray.remote(num_cpus=2)
    class Holder:
        def holds(self) -> bool:
            return True

    holder = Holder.remote()
    assert ray.get(holder.holds.remote())
    yield
    ray.shutdown()


@pytest.mark.slow
@pytest.mark.parametrize("on", [Ray(workers=2), Tune(workers=2)])
def test_it_is_said_once_and_soon(full: None, on: Ray | Tune) -> None:
    heard: list[str] = []
    script = Script(lambda config: config["x"], Space(dict, x=Uniform(0, 1)), Key((1,)), "loss", minimize=True)
    stage = opening.stage(on, script, say=heard.append)
    try:
        for trial in range(2):
            stage.begin(Order(trial, 1, 0, {"x": 0.5}))
        begun = time.monotonic()
        while not heard and time.monotonic() - begun < 60:
            stage.poll(0.5)
        for _ in range(4):
            stage.poll(0.5)
    finally:
        stage.close()
    what = "worker" if isinstance(on, Ray) else "trial"
    assert heard == [f"waiting for 2 {what}s of 1 CPU: the cluster has 1 node, 2 CPUs (0 free), 0 GPUs (0 free)"]
