"""Which parts of Ray that it promises nobody do we lean on, why, and what would be the supported way?

Each is behind one function here. `USED` lists them, so that a test says by name which one a new Ray has changed; where
one is gone, its function does nothing more than the supported way would, or says so with `ClusterFailed`.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import ray
import ray._private.node
import ray._private.ray_constants
import ray._private.state
import ray._private.utils
import ray._private.worker
import ray._raylet

USED: dict[str, tuple[Any, str]] = {
    "the note that a worker died": (ray._private.worker, "_worker_logs_enabled"),
    "the retries while a head is joined": (ray._private.ray_constants, "NUM_REDIS_GET_RETRIES"),
    "the command line that a dashboard shows": (ray._private.utils, "get_entrypoint_name"),
    "the switch between loopback and network": (ray._private.ray_constants, "ENABLE_RAY_CLUSTER"),
    "the start of the dashboard's server": (ray._private.node.Node, "start_api_server"),
    "the start of the autoscaler": (ray._private.node.Node, "start_monitor"),
    "the folder of a session": (ray._private.node.Node, "get_session_dir_path"),
    "the node that this process is connected to": (ray._private.worker, "_global_node"),
    "the processes of a node that have died": (ray._private.node.Node, "dead_processes"),
    "the state of a connection": (ray._private.worker.Worker, "set_is_connected"),
    "the place of tokens": (ray._raylet, "AuthenticationTokenLoader"),
    "the settings of Ray's libraries": (ray._raylet.Config, "initialize"),
    "what is known of an actor": (ray._private.state, "actors"),
    "what asks a cluster for its state": (ray._private.state, "state"),
    "the mode of a connection": (ray._private.worker.Worker, "set_mode"),
}
"""What each is for -> where it is, and its name."""

SYSTEM_CONFIG = {"task_events_report_interval_ms": 0}
"""For `ray.init(_system_config=)`, of a cluster that we start: no events of tasks, which only a dashboard shows.

Supported: RAY_task_events_report_interval_ms in the environment, which every later cluster would inherit.
"""


def silence_worker_logs(silent: bool) -> None:
    """Whether Ray may say on standard output, which is for results, that a worker died.

    Supported: `log_to_driver=False`, which leaves this one note in.
    """
    ray._private.worker._worker_logs_enabled = not silent


@contextlib.contextmanager
def impatient(seconds: int) -> Iterator[None]:
    """Within: a head that listens has so many seconds to let us in.

    Supported: none; Ray asks 20 times, a second apart, even if it is the token that is wrong.
    """
    with _replaced(ray._private.ray_constants, NUM_REDIS_GET_RETRIES=seconds):
        yield


@contextlib.contextmanager
def discreet() -> Iterator[None]:
    """Within: Ray, which shows a driver's command line to whoever may look, learns the program's name alone.

    Supported: none; `ray.init` takes no entry point.
    """
    with _replaced(ray._private.utils, get_entrypoint_name=lambda: Path(sys.argv[0]).name):
        yield


@contextlib.contextmanager
def loopback() -> Iterator[None]:
    """Within: a cluster that is started listens on the loopback interface alone, whatever networks there are.

    Supported: RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0, which is read when Ray is imported: by this process too, which may
    use a cluster elsewhere next. The processes that are started are given it.
    """
    with _replaced(ray._private.ray_constants, ENABLE_RAY_CLUSTER=False):
        yield


@contextlib.contextmanager
def lean() -> Iterator[None]:
    """Within: a head starts without the server of the dashboard that nobody asked for, and without an autoscaler.

    Ray waits for the first for more than a second, and both take a core while workers start. Supported:
    `include_dashboard=False`, which starts the server all the same, for its other work.
    """
    node = ray._private.node.Node
    names = [name for name in ("start_api_server", "start_monitor") if name in vars(node)]
    with _replaced(node, **{name: lambda *_, **__: None for name in names}):
        yield


def session_folder() -> Path | None:
    """Where the connected cluster keeps its logs and files on this machine; None without one.

    Supported: `ray.init(...).address_info["session_dir"]`, for whoever has connected, which need not be us.
    """
    node = ray._private.worker._global_node
    return None if node is None else Path(node.get_session_dir_path())


def has_token() -> bool:
    """Whether a token is where Ray keeps it: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, or the home folder.

    Supported: `ray get-auth-token`, a command.
    """
    return bool(ray._raylet.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))


def use_token(on: bool) -> None:
    """From now on, this process shows its token to the clusters that it joins, or not.

    Supported: RAY_AUTH_MODE, which is read when Ray is imported.
    """
    if on:
        os.environ["RAY_AUTH_MODE"] = "token"
    else:
        os.environ.pop("RAY_AUTH_MODE", None)
    ray._raylet.Config.initialize("")


def placed(handle: Any) -> bool:
    """Whether an actor has found a node, and a process there.

    Supported: the state API, which needs a dashboard.
    """
    known = ray._private.state.actors(handle._actor_id.hex())  # nothing of one that is not on record yet
    return bool(known.get("Address", {}).get("Port"))


def lost() -> bool:
    """Whether a process has died of the cluster that this process has started, and is connected to.

    Supported: none; a minute after the death of its head, Ray ends this process.
    """
    node = ray._private.worker._global_node
    return node is not None and bool(node.dead_processes())


def forget() -> None:
    """In a child that was forked: this process is connected to no cluster, and ends none when it ends.

    Supported: none; Ray has a child that exits kill the processes of its parent's cluster.
    """
    worker = ray._private.worker.global_worker
    node, ray._private.worker._global_node = ray._private.worker._global_node, None
    worker.set_is_connected(False)
    worker.set_mode(None)
    atexit.unregister(ray.shutdown)
    # What these end with is for threads that only the parent has: they are never to end here.
    for left in (node, *vars(worker).values(), *vars(ray._private.state.state).values()):
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(left))
    with contextlib.suppress(AttributeError):  # elsewhere than with glibc
        library = ctypes.CDLL(None)
        library.on_exit(library._exit, None)  # after Python's own end, and before that of Ray's libraries


@contextlib.contextmanager
def _replaced(owner: ModuleType | type, **values: Any) -> Iterator[None]:
    before = {name: vars(owner)[name] for name in values if name in vars(owner)}
    try:
        for name in before:
            setattr(owner, name, values[name])
        yield
    finally:
        for name, value in before.items():
            setattr(owner, name, value)
