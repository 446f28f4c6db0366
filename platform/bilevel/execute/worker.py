"""What happens to a unit inside the process that computes it?"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import os
import pickle
import signal
import socket
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from bilevel import trees
from bilevel.episodes import guarded
from bilevel.execute import luggage as luggages
from bilevel.execute.callbacks import Away
from bilevel.execute.forks import in_children, parent_alone
from bilevel.execute.luggage import Luggage
from bilevel.execute.settings import Settings, keep_memory, platform, settled, usable
from bilevel.execute.trial_folder import Files
from bilevel.execute.trial_runner import Hosted, Script, plain, raised
from bilevel.study.events import Completed, Order, Raised, Report, Units


@dataclass(frozen=True)
class Computed:
    """The result of a unit and how long it took, in seconds."""

    result: trees.Packed
    seconds: float


@dataclass(frozen=True)
class Missing:
    """This worker was not told the work, the shared tree or the script that is named; to be sent again."""


@dataclass(frozen=True)
class Spoiled:
    """An earlier trial of this worker computes on, though it was stopped: the order is for another worker."""


@dataclass(frozen=True)
class Played:
    """How far a trial came: see `events.Said`; `state` is packed, `megabytes` is what this process holds."""

    reports: tuple[Report, ...]
    end: Completed | Raised | None
    output: str
    state: trees.Packed | None
    state_step: int
    megabytes: float
    files: Files = field(default_factory=dict)


Outcome = Computed | Raised | Missing
Answer = bytes | tuple[bytes, trees.Packed | None, Files]
"""A pickled `Played | Missing | Spoiled`; state and files beside it, whose arrays Ray need not copy."""

FLUSH = 0.2
"""Seconds for which reports that need no answer are collected before they are sent."""


def unpacked(answer: Answer) -> Played | Missing | Spoiled:
    """What a worker of ours said, over Ray: not from storage."""
    if isinstance(answer, bytes):
        said: Played | Missing | Spoiled = pickle.loads(answer)
        return said
    played: Played = pickle.loads(answer[0])
    return dataclasses.replace(played, state=answer[1], files=answer[2])


def compute(work: Callable[[Any, Any], Any], shared: Any, item: Any, *, alone: bool = False) -> Computed | Raised:
    """`work(shared, item)`, ready to travel; what it raises is a value too. `alone`: nobody presses Ctrl-C here."""
    begun = time.perf_counter()
    try:
        with parent_alone():
            result = trees.pack(work(shared, item))
    except BaseException as error:  # the user's code: anything can come, and none of it is ours
        if not alone and isinstance(error, KeyboardInterrupt):
            raise
        return raised(error)
    return Computed(result, time.perf_counter() - begun)


@dataclass(frozen=True)
class Hello:
    """Who a worker is, and the class of hardware and library on which equal bits are promised."""

    pid: int
    host: str
    platform: str
    node: str = ""
    """Ray's id of its node."""


def _hear_no_signals() -> None:
    """Ctrl-C is for the driver, which still wants its last results. Children of a trial hear their signals as ever.

    A handler that does nothing, since what is ignored or blocked is so in every child, too.
    """
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # Ray blocks it
    # Ray's handler of SIGTERM is for a worker, not for a child of one.
    in_children({signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL})


class BilevelWorker:
    """An actor: a warm process that keeps works and shared trees under the keys that the driver gave them."""

    def __init__(self, settings: Settings, device: str, luggage: Luggage) -> None:
        """Importing this module has imported torch: once an actor says hello, it is warm.

        Args:
            settings: torch's settings, those of the driver.
            device: where shared trees are put, e.g. "cpu", "cuda".
            luggage: the study's modules.
        """
        _hear_no_signals()
        self._pollers = _pollers()
        from bilevel.execute import internals  # it imports Ray, without which this module is used, too

        self._home = internals.session_folder()  # goes with the cluster, however that ends
        luggages.unpack(luggage, self._home)
        self._luggage = luggage
        settings.apply()
        keep_memory()
        gc.freeze()  # what is imported by now stays: half a second less at each full collection
        self._settings = settings
        self._device = usable(device)
        self._on_device = settings.on(self._device)
        self._kept: dict[int, Any] = {}
        self._cache: dict[Any, Any] = {}
        self._trial: _Playing | None = None
        self._spoiled = False
        self._surroundings = dict(os.environ), Path.cwd()
        self._modules = frozenset(sys.modules)

    def hello(self) -> Hello:
        """Who this is; the answer says that the worker is ready."""
        import ray  # late: this module is used without Ray, too

        node = ray.get_runtime_context().get_node_id()
        return Hello(os.getpid(), socket.gethostname(), platform(), node)

    def again(self) -> Hello:
        """Be as a new worker for another run that brings the same modules; who this is."""
        self.leave()
        if self._spoiled:
            raise RuntimeError("a trial that was stopped computes on")
        self._kept.clear()
        self._cache.clear()
        luggages.forget(self._modules)
        luggages.settle(self._luggage)
        self._settings.apply()
        return self.hello()

    def compute(
        self, unit: tuple[int, int, tuple[int, ...], Any], work: bytes | None = None, shared: trees.Packed | None = None
    ) -> Outcome:
        """One unit.

        Args:
            unit: the key of its work, the key of its shared tree, keys that no later unit will name, its item.
            work: the pickled work, when it is sent to this worker for the first time.
            shared: the shared tree, likewise.
        """
        of_work, of_shared, gone, item = unit
        for key in gone:
            self._kept.pop(key, None)
        try:
            if work is not None:
                # From our own driver, over Ray, which pickles every call as it is: not from storage.
                self._kept[of_work] = pickle.loads(work)
                self._settings.apply()  # a module that was imported for it may have changed them
            if shared is not None:
                self._kept[of_shared] = trees.to_device(trees.unpack(shared), self._device)
        except BaseException as error:  # noqa: BLE001 unpickling runs the user's module code
            return raised(error)
        if of_work not in self._kept or of_shared not in self._kept:
            return Missing()
        on_device = contextlib.nullcontext() if self._on_device == self._settings else settled(self._on_device)
        try:
            with guarded(save=False), on_device:
                return compute(self._kept[of_work], self._kept[of_shared], item, alone=True)
        finally:
            self._end_if_cut_off()

    def play_packed(
        self, call: bytes, state: trees.Packed | None = None, script: bytes | None = None, files: Files | None = None
    ) -> Answer:
        """`play` as it travels: pickled in one piece, but for what is large.

        Args:
            call: the pickled key and order, without its state and files.
            state, files: of the order.
            script: as for `play`.
        """
        key, order = pickle.loads(call)  # from our own driver, over Ray: not from storage
        if state is not None:
            order = dataclasses.replace(order, state=state)
        if files:
            order = dataclasses.replace(order, files=files)
        said = self.play(key, order, script)
        if not isinstance(said, Played) or (said.state is None and not said.files):
            return pickle.dumps(said, pickle.HIGHEST_PROTOCOL)
        light = dataclasses.replace(said, state=None, files={})
        return pickle.dumps(light, pickle.HIGHEST_PROTOCOL), said.state, said.files

    def play(self, key: int, order: Order | None, script: bytes | None = None) -> Played | Missing | Spoiled:
        """Begin a trial, or go on with the one that waits here.

        Args:
            key: of the script.
            order: the attempt to begin, its state packed; None: the last report is answered by "go on".
            script: the pickled script, when it is sent to this worker for the first time.
        """
        if script is not None:
            self._kept[key] = pickle.loads(script)  # from our own driver, over Ray: not from storage
        if order is not None:
            if key not in self._kept:
                return Missing()
            self.leave()
            if self._spoiled:
                return Spoiled()
            self._settings.apply()
            self._trial = _Playing(self._kept[key], order, self._cache, str(self._device), self._home)
        if self._trial is None:
            return Spoiled() if self._spoiled else Missing()
        try:
            played = self._trial.go_on()
        finally:
            self._end_if_cut_off()
        if played.end is not None:
            self.leave()
        return played

    def _end_if_cut_off(self) -> None:
        """End this process if user code has closed what Ray listens with: nobody would ever hear of it again."""
        if not self._pollers.items() <= _pollers().items():
            os._exit(1)

    def leave(self) -> None:
        """End the trial that is here, and leave nothing of it but `Run.cache`."""
        trial, self._trial = self._trial, None
        if trial is None:
            return
        self._spoiled |= not trial.close()
        environment, folder = self._surroundings
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        with contextlib.suppress(OSError):  # somebody deleted it
            os.chdir(folder)
        if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
            torch.cuda.empty_cache()


class _Playing:
    """A trial on this worker, and when its state was last wanted."""

    def __init__(
        self, script: Script, order: Order, cache: dict[Any, Any], device: str, home: Path | None = None
    ) -> None:
        self._order = order
        self._minimize = script.minimize
        self._metric = script.metric
        self._sent_step = 0
        self._sent_at = self._filed_at = time.monotonic()
        self._best: float | None = None
        self._failed: Raised | None = None
        try:
            state = None if order.state is None else trees.unpack(order.state)
            order = dataclasses.replace(order, state=state)
            self._hosted: Hosted | None = script.host(order, cache, alone=True, device=device, home=home)
        except BaseException as error:  # noqa: BLE001 the user's configuration refuses these values
            self._hosted, self._failed = None, raised(error)

    def go_on(self) -> Played:
        """To the next report that somebody waits for, or the end; without one, for a little while."""
        hosted = self._hosted
        if hosted is None:
            return Played((), self._failed, "", None, 0, 0.0)
        reports: list[Report] = []
        until = time.monotonic() + FLUSH
        end: Completed | Raised | None = None
        wanted = False
        with hosted.at_work():
            while end is None:
                said = hosted.advance(None)
                if isinstance(said, Report):
                    reports.append(plain(said))
                    wanted = self._wanted(said)
                    if wanted or self._order.attended or time.monotonic() >= until:
                        break
                elif isinstance(said, Units | Away):
                    end = Raised("yielded Units on a worker; set `spreads = True` on the objective, so that it may")
                else:
                    end = said
        state, step = None, 0
        if (wanted or end is not None) and hosted.state is not None and hosted.state_step > self._sent_step:
            state, step = trees.pack(hosted.kept()), hosted.state_step
            self._sent_step, self._sent_at = step, time.monotonic()
        # Files go with the state that they belong to, and wherever the trial may be stopped, or has ended.
        due = self._order.attended or end is not None or state is not None or self._stale()
        files = hosted.folder.news() if due else {}
        if files:
            self._filed_at = time.monotonic()
        return Played(tuple(reports), end, hosted.output(), state, step, resident(), files)

    def close(self) -> bool:
        """End it where it stands; whether it has ended."""
        return self._hosted is None or self._hosted.close()

    def _stale(self) -> bool:
        """Whether files, should there be new ones, have waited as long as a state may."""
        return time.monotonic() - self._filed_at >= self._order.keep[0]

    def _wanted(self, report: Report) -> bool:
        """Whether it is time for a state: now and then, and sooner after a new best."""
        every, best_every = self._order.keep
        since = time.monotonic() - self._sent_at
        value = report.metrics.get(self._metric)
        better = value is not None and (self._best is None or (float(value) < self._best) == self._minimize)
        if better and value is not None:
            self._best = float(value)
        return report.state is not None and (since >= every or (better and since >= best_every))


def _pollers() -> dict[str, str]:
    """What the threads of Ray wait at, by descriptor: it stays from the start of a process to its end."""
    found = {}
    with contextlib.suppress(OSError):  # no /proc here
        for name in os.listdir("/proc/self/fd"):  # noqa: PTH208
            with contextlib.suppress(OSError):  # the one of this very list
                link = os.readlink(f"/proc/self/fd/{name}")  # noqa: PTH115
                if link == "anon_inode:[eventpoll]":
                    found[name] = link
    return found


def resident() -> float:
    """Megabytes of memory that this process holds."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:  # elsewhere than on Linux
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
