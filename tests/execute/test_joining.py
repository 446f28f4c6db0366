"""Is a cluster that was started by hand joined with the token that lies where Ray keeps it, with nothing else said?"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bilevel.execute import terminal

JOIN = """
import sys
from bilevel.errors import BadInput
from bilevel.execute import joining
try:
    joined = joining.attach(sys.argv[1])
    print(joined.has())
    joined.end()
except BadInput as error:
    print(error)
"""


def test_lines_of_rays_libraries_do_not_reach_the_terminal(capfd: pytest.CaptureFixture[str]) -> None:
    with terminal.spared() as heard:
        os.write(2, b"[2026-11-28 06:33:47,722 W 32222 32222] gcs_client.cc:210: refused\nmine\n")
        sys.stderr.write("and mine\n")
    assert sorted(capfd.readouterr().err.splitlines()) == ["and mine", "mine"]
    assert "refused" in heard.text


@pytest.fixture
def short() -> Iterator[Path]:
    """A folder whose path is short enough for sockets."""
    with tempfile.TemporaryDirectory(prefix="blv-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture
def head(short: Path) -> Iterator[str]:
    """A cluster as `ray start --head` makes it, in the home of somebody who has a token."""
    token = short / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("ab" * 32)
    token.chmod(0o600)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = ["--block", f"--port={port}", "--num-cpus=1", "--include-dashboard=false", f"--temp-dir={short}/r"]
    options += ["--disable-usage-stats", "--object-store-memory=100000000", "--dashboard-agent-listen-port=0"]
    options += ["--min-worker-port=0", "--max-worker-port=0"]
    ray = Path(sys.executable).with_name("ray")
    with (short / "head.log").open("wb") as log:
        started = subprocess.Popen([ray, "start", "--head", *options], env=_at(short), stdout=log, stderr=log)
    stop = time.monotonic() + 60
    while "runtime started" not in (short / "head.log").read_text():
        assert started.poll() is None, (short / "head.log").read_text()
        assert time.monotonic() < stop
        time.sleep(0.1)
    yield f"127.0.0.1:{port}"
    started.terminate()  # with --block it ends what it has started
    started.wait(30)


def _at(home: Path) -> dict[str, str]:
    return {**{name: value for name, value in os.environ.items() if "RAY" not in name}, "HOME": str(home)}


@pytest.mark.slow
def test_a_cluster_that_asks_for_a_token_gets_it_from_the_home_folder(head: str, short: Path) -> None:
    def joined(home: Path, **more: str) -> str:
        program = [sys.executable, "-c", JOIN, head]
        done = subprocess.run(program, env={**_at(home), **more}, capture_output=True, text=True)
        assert done.stderr == ""
        return done.stdout

    assert joined(short).startswith("the cluster has 1 node, 1 CPUs")
    assert "asks for another token" in joined(short / "elsewhere")
    assert "asks for another token" in joined(short, RAY_AUTH_TOKEN="cd" * 32)
