"""What works here? Versions, Ray, cluster and token, GPUs, tracker, data sets, disk: one screen."""

from __future__ import annotations

import os
import shutil
import sys
import urllib.request
from base64 import b64encode
from collections.abc import Callable
from http.client import HTTPException
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import unquote_to_bytes, urlsplit, urlunsplit

import torch
from rich.console import Console
from rich.table import Table

from bilevel.drive import (
    runs,
    session,
)
from bilevel.episodes import Key
from bilevel.errors import BilevelError
from bilevel.execute import Ray, opening
from bilevel.record import tracking
from bilevel.record.redaction import redact
from bilevel.study.events import Done, Lost, Tree, Units
from bilevel.tasks import Alphabets, Omniglot
from bilevel.view.paper import plain

PACKAGES = ("bilevel", "torch", "ray", "mlflow", "numpy", "optuna", "cma")
LOW_DISK = 2e9  # bytes


def report(out: Console, store: Path, address: str | None, track: str | None) -> int:
    """Print what works; 0 if all that a run needs does, else 1."""
    checks: list[tuple[str, Callable[[], tuple[bool, str]]]] = [
        ("Python", lambda: (sys.version_info >= (3, 11), sys.version.split()[0])),
        ("packages", _packages),
        ("processor", lambda: (True, f"{os.cpu_count()} CPUs, {session.hardware()}")),
        ("GPUs", _gpus),
        ("Ray", lambda: _ray(address)),
        ("Ray token", _token),
        ("tracker", lambda: _tracker(store, track)),
        ("Alphabets", lambda: _data(Alphabets())),
        ("Omniglot", lambda: _data(Omniglot())),
        ("disk", lambda: _disk(store)),
    ]
    needed = {"Python", "packages", "Ray", "tracker", "disk"}
    table = Table(box=None, show_header=False, padding=(0, 1))
    bad = False
    for name, check in checks:
        good, text = check()
        bad |= not good and name in needed
        mark = plain("ok", "green") if good else plain("fails", "red") if name in needed else plain("-", "yellow")
        table.add_row(mark, name, plain(text))
    out.print(table)
    return 1 if bad else 0


def _packages() -> tuple[bool, str]:
    found = []
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} not installed")
    return True, ", ".join(found)


def _gpus() -> tuple[bool, str]:
    if not torch.cuda.is_available():
        return False, "none; the CPU serves"
    return True, ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))


def _probe(shared: Tree, item: int) -> Tree:
    return {"sum": shared["x"].sum() + item}


def _ray(address: str | None) -> tuple[bool, str]:
    """Starts one worker and has it compute."""
    where = address or os.environ.get("RAY_ADDRESS") or "a local cluster"
    try:
        executor = opening.executor(Ray(workers=1, address=address))
    except BilevelError as error:
        return False, str(error)
    try:
        executor.submit(0, Units(_probe, {"x": torch.ones(3)}, (1,)))
        answers: list[object] = []
        while not any(isinstance(answer, Done | Lost) for answer in answers):
            answers = list(executor.poll(1.0))
    except BilevelError as error:
        return False, str(error)
    finally:
        executor.close()
    return isinstance(answers[-1], Done), f"{where}: a worker started and computed"


def _token() -> tuple[bool, str]:
    mode = os.environ.get("RAY_AUTH_MODE", "not set")
    file = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token"))
    if os.environ.get("RAY_AUTH_TOKEN"):
        return True, f"in RAY_AUTH_TOKEN; RAY_AUTH_MODE {mode}"
    if not file.is_file():
        return False, f"none at {file}; a cluster that listens beyond this machine needs one (RAY_AUTH_MODE=token)"
    readable = file.stat().st_mode & 0o077
    note = f"; others can read it: chmod 600 {file}" if readable else ""
    return not readable, f"{file}; RAY_AUTH_MODE {mode}{note}"


def _tracker(store: Path, track: str | None) -> tuple[bool, str]:
    try:
        uri = runs.uri_of(tracking.restore(track), store)
        tracking.check_uri(uri)
    except BilevelError as error:
        return False, str(error)
    shown = redact(uri)
    if not uri.startswith(("http://", "https://")):
        return True, shown
    try:
        with urllib.request.urlopen(_health(uri), timeout=5) as answer:
            return answer.status == 200, f"{shown}: answers {answer.status}"
    except (OSError, HTTPException) as error:
        return False, f"{shown}: {error}; a run goes on without it, `bilevel sync` completes the record"


def _health(uri: str) -> urllib.request.Request:
    """The question whether a server is well; urllib would take `user:password@` for a part of the host."""
    parts = urlsplit(uri)
    user, at, place = parts.netloc.rpartition("@")
    path = f"{parts.path.rstrip('/')}/health"
    request = urllib.request.Request(urlunsplit(parts._replace(netloc=place, path=path)))
    if at:
        request.add_header("Authorization", f"Basic {b64encode(unquote_to_bytes(user)).decode()}")
    return request


def _data(tasks: Alphabets | Omniglot) -> tuple[bool, str]:
    try:
        tasks.check()
        tasks.episode("test", Key((0,)))
    except BilevelError as error:
        return False, str(error)
    return True, "ready"


def _disk(store: Path) -> tuple[bool, str]:
    there = store.resolve()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    good = free > LOW_DISK and os.access(there, os.W_OK)
    return good, f"{free / 1e9:.1f} GB free for {store}" + ("" if os.access(there, os.W_OK) else "; not writable")
