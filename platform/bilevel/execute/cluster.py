"""Which Ray cluster is used, what can it hold, and what is left of it when we go?"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bilevel.errors import BadInput, ClusterFailed
from bilevel.execute import guard, terminal

# Read when Ray is imported, or by the processes that it starts; a user's own values win.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_worker_niceness", "0")  # Ray's 15 has workers wait for everything else on the machine
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a FutureWarning per worker without a GPU

import ray

from bilevel.execute import internals  # isort: skip # it imports Ray

logging.getLogger("ray.widgets").setLevel(logging.WARNING)  # in a notebook it asks for packages that nobody needs


@dataclass(frozen=True)
class _Guard:
    """The process that ends the cluster's, known by `mark`, should this one be killed."""

    mark: str
    process: subprocess.Popen[bytes]
    home: Path
    """The cluster's files, which nobody else may read."""

    @classmethod
    def post(cls) -> _Guard:
        mark, home = uuid.uuid4().hex, _home()
        arguments = [sys.executable, "-I", "-S", guard.__file__, mark, str(os.getpid()), str(home)]
        nothing = subprocess.DEVNULL
        # A session of its own: Ctrl-C at the terminal is not for it.
        process = subprocess.Popen(arguments, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True)
        return cls(mark, process, home)

    def dismiss(self) -> None:
        """End what is left of the cluster (a stopped worker never hears that it should go), then the guard."""
        guard.end(self.mark, grace=2.0)
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.home, ignore_errors=True)


LONGEST = 24
"""Characters of a temporary directory: a socket's path has 107, of which Ray and we take 83."""
FREE = 64
"""Workers that a node is taken to hold if they need no CPU."""
START = 2
"""Attempts to start a local cluster: Ray gives its raylet 30 s to register, which a loaded machine can miss."""


@dataclass(frozen=True)
class Cluster:
    """The Ray that this process is connected to, by us or not; with a guard if it was started here."""

    joined: bool = False
    guard: _Guard | None = None

    def workers(self, cpus: float, gpus: float) -> int:
        """How many workers of `cpus` CPUs and `gpus` GPUs fit on the nodes that live now, were they empty."""
        return sum(_fitting(node, cpus, gpus) for node in _nodes())

    def dead(self) -> bool:
        """Whether a cluster that was started here has lost its one node, and with it all hope of another."""
        return self.guard is not None and not _nodes()

    def check(self, cpus: float, gpus: float) -> None:
        """Refuse what no node can ever hold.

        Raises:
            BadInput: a worker asks for more CPUs or GPUs than any node has.
        """
        most = max((node.get("CPU", 0.0) for node in _nodes()), default=0.0)
        if cpus > most:
            raise BadInput(
                f"no node has {cpus:g} CPUs ({self.has()}); ask for at most {most:g} (Study.cpus, Study.threads)"
                " or use a cluster that has them (--address)"
            )
        most = max((node.get("GPU", 0.0) for node in _nodes()), default=0.0)
        if gpus > most:
            raise BadInput(
                f"no node has {gpus:g} GPUs ({self.has()}); ask for at most {most:g} (--gpus-per-worker, Study.gpus)"
                f" or use a cluster that has them (--address)"
            )
        if not any(node.get("CPU", 0.0) >= cpus and node.get("GPU", 0.0) >= gpus for node in _nodes()):
            raise BadInput(
                f"no node has {cpus:g} CPUs and {gpus:g} GPUs at once ({self.has()}); ask for fewer CPUs (Study.cpus)"
                " or use a cluster that has such a node (--address)"
            )

    def has(self) -> str:
        """What there is, for a message."""
        nodes = _nodes()
        cpus, gpus = (sum(node.get(name, 0.0) for node in nodes) for name in ("CPU", "GPU"))
        free = self.free()
        return (
            f"the cluster has {len(nodes)} {_s(len(nodes), 'node')}, {cpus:g} CPUs ({free['CPU']:g} free),"
            f" {gpus:g} GPUs ({free['GPU']:g} free)"
        )

    def free(self) -> dict[str, float]:
        """CPUs and GPUs that nobody holds now."""
        free = ray.available_resources()
        return {name: float(free.get(name, 0.0)) for name in ("CPU", "GPU")}

    def lacks(self, what: str, count: int, cpus: float, gpus: float) -> str:
        """That so many workers or trials wait for room, in words."""
        each = [f"{amount:g} {unit}" for amount, unit in ((cpus, _s(cpus, "CPU")), (gpus, _s(gpus, "GPU"))) if amount]
        return f"waiting for {count} {_s(count, what)} of {' and '.join(each) or 'no CPU'}: {self.has()}"

    def end(self) -> None:
        """End a cluster that we started, every process of it; leave one that we joined; let any other alone."""
        if self.joined:
            with handlers(), terminal.spared():
                ray.shutdown()
            internals.silence_worker_logs(False)
        if self.guard is not None:
            self.guard.dismiss()


def _s(count: float, what: str) -> str:
    return what if count == 1 else f"{what}s"


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _fitting(node: dict[str, float], cpus: float, gpus: float) -> int:
    """Fractions do not add up across GPUs: three workers with 0.4 of a GPU need two."""
    fitting = int(node.get("CPU", 0.0) / cpus + 1e-9) if cpus else FREE
    if gpus >= 1:
        return min(fitting, int(node.get("GPU", 0.0) // gpus))
    if gpus > 0:
        return min(fitting, int(node.get("GPU", 0.0)) * int(1 / gpus + 1e-9))
    return fitting


@contextlib.contextmanager
def handlers() -> Iterator[None]:
    """Afterwards SIGTERM is handled as before: Ray sets a handler that ends the process, and at its end none."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if callable(before) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)


# -- a cluster of our own ----------------------------------------------------------------------------------------------


def room(workers: int | None, cpus: float) -> int | None:
    """The CPUs that a cluster of our own is started with for so many workers; None: those of this machine."""
    return None if workers is None else max(math.ceil(workers * cpus), os.cpu_count() or 1)


def start(cpus: int | None) -> Cluster:
    """Start a cluster on this machine, for `room`.

    Raises:
        ClusterFailed: it did not come up.
    """
    posted = _Guard.post()
    options: dict[str, Any] = {
        "address": "local",
        "include_dashboard": False,
        "log_to_driver": False,
        "logging_level": logging.CRITICAL,
        "_temp_dir": str(posted.home / "r"),  # Ray opens it to all; what is above it is ours alone
        "_system_config": dict(internals.SYSTEM_CONFIG),  # Ray writes into it where this cluster spills
        **_memory(),
    }
    if cpus is not None:
        options["num_cpus"] = cpus
    marked = {guard.MARK: posted.mark, **guard.KEEP, "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    try:
        for attempt in range(1, START + 1):
            try:
                with environment(marked), handlers(), terminal.spared(), _ours():
                    ray.init(**options)
                break
            except Exception as error:  # Ray raises a bare one when its 30 s have passed
                ray.shutdown()
                guard.end(posted.mark)
                reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
                if attempt == START:
                    raise ClusterFailed(
                        f"no Ray cluster could be started on this machine ({reason}); --workers 0 needs none"
                    ) from error
    except BaseException:
        posted.dismiss()
        raise
    _protect_token()
    internals.silence_worker_logs(True)
    return Cluster(joined=True, guard=posted)


@contextlib.contextmanager
def _ours() -> Iterator[None]:
    """Within: a cluster that is started is as we want it."""
    with internals.discreet(), internals.lean(), internals.loopback():
        yield


def _home() -> Path:
    """A folder for a cluster's files that is ours alone, with a path short enough for the sockets in it."""
    wanted = [os.environ.get("RAY_TMPDIR", ""), tempfile.gettempdir()]
    base = next((place for place in wanted if place and len(place) <= LONGEST), "/tmp")
    return Path(tempfile.mkdtemp(prefix="bilevel-", dir=base))


@contextlib.contextmanager
def environment(variables: dict[str, str]) -> Iterator[None]:
    """Within: `variables` for the processes that are started. This process and its other children go without."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _memory() -> dict[str, Any]:
    """An object store of 256 MiB; in /tmp where /dev/shm (64 MB in a plain container) is too small for it."""
    size = 256 << 20
    shm = Path("/dev/shm")
    if shm.is_dir() and shutil.disk_usage(shm).free > 2 * size:
        return {"object_store_memory": size}
    return {"object_store_memory": size, "_plasma_directory": "/tmp"}


def _protect_token() -> None:
    """Ray writes its token readable by all; whoever reads it can run code as us."""
    with contextlib.suppress(OSError):
        (Path.home() / ".ray" / "auth_token").chmod(0o600)
