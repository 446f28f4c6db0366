"""What must every executor do, and do the bits of a result depend on which it is?"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import ray
import torch

from bilevel.errors import BadInput
from bilevel.execute import Inline, Ray, opening
from bilevel.study.events import Done, Executor, Fault, Lost, Units

PLACES = {"inline": Inline(), "ray": Ray(workers=2)}


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    """A cluster that the pools find, as in a notebook: room for several of them, one start for all tests here."""
    ray.init(address="local", num_cpus=5, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def opened(cluster: None) -> Iterator[dict[str, Executor]]:
    live = {name: opening.executor(place) for name, place in PLACES.items()}
    yield live
    for executor in live.values():
        executor.close()


@pytest.fixture(params=list(PLACES))
def executor(request: pytest.FixtureRequest, opened: dict[str, Executor]) -> Executor:
    return opened[request.param]


def until_end(executor: Executor, *tickets: int) -> dict[int, Done | Lost]:
    """How each ticket ends; a fault fails the test."""
    ended: dict[int, Done | Lost] = {}
    stop = time.monotonic() + 120
    while set(tickets) - set(ended):
        assert time.monotonic() < stop, "nothing came back within 120 s"
        for event in executor.poll(1.0):
            assert not isinstance(event, Fault), event
            assert event.ticket not in ended
            ended[event.ticket] = event
    return ended


def carried_out(executor: Executor, units: Units, ticket: int = 0) -> list[Any]:
    executor.submit(ticket, units)
    done = until_end(executor, ticket)[ticket]
    assert isinstance(done, Done), done
    return done.results


def scaled(shared: Any, item: int) -> Any:
    return {"sum": {"w": shared["w"] * item}, "count": item, "list": [shared["w"].sum()]}


def chaotic(shared: Any, item: int) -> Any:
    """A long product whose last bits any change of order, threads or alignment would show."""
    x = torch.randn(65, 33, generator=torch.Generator().manual_seed(item))
    for _ in range(6):
        x = torch.tanh(x @ shared["w"].T @ shared["w"]) + torch.nn.functional.softmax(x, dim=1) * shared["bias"]
    return {"x": x, "loss": x.square().mean()}


@dataclass(frozen=True)
class Shard:
    step: int
    first: int

    def __str__(self) -> str:
        return f"step {self.step}, shard {self.first}"


def test_results_come_in_the_order_of_the_items(executor: Executor) -> None:
    def sleepy(_: Any, item: float) -> Any:
        time.sleep(item)
        return {"slept": item}

    items = (0.05, 0.0, 0.02, 0.0, 0.01, 0.0, 0.0)
    assert carried_out(executor, Units(sleepy, {}, items)) == [{"slept": item} for item in items]


def test_a_result_keeps_its_structure(executor: Executor) -> None:
    (result,) = carried_out(executor, Units(scaled, {"w": torch.arange(3.0), "name": "kept"}, (2,)))
    assert torch.equal(result["sum"]["w"], torch.tensor([0.0, 2.0, 4.0]))
    assert result["count"] == 2
    assert torch.equal(result["list"][0], torch.tensor(3.0))
    assert result["sum"]["w"].add_(1).sum() == 9  # its own memory, writable


def test_no_result_is_a_result(executor: Executor) -> None:
    assert carried_out(executor, Units(lambda _shared, _item: None, {}, (1, 2))) == [None, None]


def test_no_units_are_done_at_once(executor: Executor) -> None:
    assert carried_out(executor, Units(scaled, {}, ())) == []


def test_tickets_do_not_mix(executor: Executor) -> None:
    for ticket in (3, 1, 2):
        executor.submit(ticket, Units(scaled, {"w": torch.full((2,), float(ticket))}, tuple(range(5))))
    for ticket, done in until_end(executor, 1, 2, 3).items():
        assert isinstance(done, Done)
        assert [result["sum"]["w"][0].item() for result in done.results] == [ticket * item for item in range(5)]


def test_a_large_shared_tree_arrives_whole(executor: Executor) -> None:
    w = torch.arange(1_000_000, dtype=torch.float64)
    results = carried_out(executor, Units(scaled, {"w": w}, (1, 2)))
    assert torch.equal(results[1]["sum"]["w"], 2 * w)


def test_a_shared_tree_changed_later_leaves_what_was_submitted(executor: Executor) -> None:
    for value in (1.0, 2.0, 3.0):
        (result,) = carried_out(executor, Units(scaled, {"w": torch.full((2,), value)}, (1,)))
        assert result["sum"]["w"].tolist() == [value, value]


def test_an_exception_names_the_unit_and_drops_its_ticket_alone(executor: Executor) -> None:
    def fragile(_: Any, item: Shard) -> Any:
        if item.first == 2:
            raise ValueError(f"no letters in {item.first}")
        return {"first": item.first}

    executor.submit(1, Units(fragile, {}, tuple(Shard(7, first) for first in range(5))))
    executor.submit(2, Units(scaled, {"w": torch.ones(1)}, (1, 2)))
    ended = until_end(executor, 1, 2)
    lost = ended[1]
    assert isinstance(lost, Lost)
    assert (lost.unit, lost.reason) == ("step 7, shard 2", "ValueError: no letters in 2")
    assert "in fragile" in lost.traceback
    assert isinstance(ended[2], Done)


def test_a_unit_that_exits_is_lost_not_the_process(executor: Executor) -> None:
    def leaves(_: Any, item: int) -> Any:
        sys.exit(item)

    executor.submit(0, Units(leaves, {}, (3,)))
    lost = until_end(executor, 0)[0]
    assert isinstance(lost, Lost)
    assert (lost.unit, lost.reason) == ("3", "SystemExit: 3")


def test_what_a_unit_prints_is_not_a_result(executor: Executor, capfd: pytest.CaptureFixture[str]) -> None:
    def chatty(_: Any, item: int) -> Any:
        sys.stdout.write("hello from a unit\n")
        return {}

    carried_out(executor, Units(chatty, {}, (1, 2, 3)))
    assert capfd.readouterr().out == ""


def test_threads_of_this_process_stay_as_they_were(executor: Executor) -> None:
    def threads(_: Any, item: int) -> Any:
        return torch.get_num_threads()

    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        assert carried_out(executor, Units(threads, {}, (1, 2))) == [1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_poll_returns_after_its_timeout(executor: Executor) -> None:
    begun = time.monotonic()
    assert executor.poll(0.05) == []
    assert time.monotonic() - begun < 2.0


def test_bits_are_those_of_this_process_for_any_number_of_workers(opened: dict[str, Executor]) -> None:
    generator = torch.Generator().manual_seed(1)
    shared = {"w": torch.randn(35, 33, generator=generator) * 0.3, "bias": torch.randn(33, generator=generator)}
    units = Units(chaotic, shared, tuple(range(7)))
    expected = carried_out(opening.executor(Inline()), units)
    for workers in (1, 2, 3):
        pool = opened["ray"] if workers == 2 else opening.executor(Ray(workers=workers))
        for one, other in zip(carried_out(pool, units), expected, strict=True):
            for name in expected[0]:
                assert one[name].numpy().tobytes() == other[name].numpy().tobytes(), (workers, name)
        if workers != 2:
            pool.close()
    assert ray.is_initialized(), "a pool ended a cluster that it had found, not started"


def test_torch_defaults_of_the_driver_hold_on_workers() -> None:
    def zeros(_: Any, item: int) -> Any:
        return torch.zeros(2)

    try:
        torch.set_default_dtype(torch.float64)
        for place in (Inline(), Ray(workers=1)):
            pool = opening.executor(place)
            (result,) = carried_out(pool, Units(zeros, {}, (1,)))
            assert result.dtype == torch.float64
            pool.close()
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("place", [Inline(), Ray(workers=1)], ids=PLACES)
def test_a_study_file_may_import_its_neighbours(
    place: Inline | Ray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers have no copy of them: the files are gone before the work is sent."""
    study_name, neighbour = f"study_{place.__class__.__name__}", f"neighbour_{place.__class__.__name__}"
    (tmp_path / f"{neighbour}.py").write_text("def twice(x):\n    return 2 * x\n")
    (tmp_path / f"{study_name}.py").write_text(
        f"import {neighbour} as neighbour\nfrom dataclasses import dataclass\n"
        "@dataclass(frozen=True)\nclass Item:\n    value: int\n"
        "def work(shared, item):\n    return {'twice': neighbour.twice(item.value)}\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    study = importlib.import_module(study_name)
    for file in tmp_path.glob("*.py"):
        file.unlink()
    executor = opening.executor(place, code=[str(tmp_path)])
    results = carried_out(executor, Units(study.work, {}, (study.Item(1), study.Item(4))))
    executor.close()
    assert results == [{"twice": 2}, {"twice": 8}]


@pytest.mark.parametrize("place", [Inline(), Ray(workers=1)], ids=PLACES)
def test_close_may_be_called_twice_and_with_work_left(place: Inline | Ray) -> None:
    executor = opening.executor(place)
    executor.submit(0, Units(scaled, {"w": torch.ones(2)}, tuple(range(50))))
    executor.close()
    executor.close()


@pytest.mark.parametrize("fields", [{"workers": 0}, {"workers": -1}, {"gpus_per_worker": 1.5}, {"gpus_per_worker": -1}])
def test_a_declaration_that_no_cluster_can_satisfy_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(BadInput, match=f"{next(iter(fields))}={next(iter(fields.values()))}"):
        Ray(**fields)


def test_a_device_that_is_not_here_is_refused() -> None:
    with pytest.raises(BadInput, match="nonsense"):
        opening.executor(Inline(device="nonsense"))
