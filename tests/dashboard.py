"""What does a reviewer see in the dashboard? Screenshots of a store's newest run, by headless Chromium.

By hand: `.venv/bin/python tests/dashboard.py STORE FOLDER` writes study.png, charts.png, trials.png and one
for each figure. It needs Debian's package chromium, or another that `--browser` names.
"""

from __future__ import annotations

import argparse
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bilevel import runs
from bilevel.record import folder as folders
from bilevel.record import tracking

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--force-color-profile=srgb",
]  # fmt: skip


def pages(store: Path, port: int) -> dict[str, str]:
    """Links to the newest run's pages by name."""
    newest = folders.find(store, "last")
    drawn = sorted(path.name for path in (newest.path / "figures").glob("*.png"))
    links = tracking.recorded(newest.path, runs.uri_of(None, store), port).links
    if not links:
        raise SystemExit(f"{newest.run_id} is not in MLflow; complete it with `bilevel sync {newest.run_id}`")
    study = links["study"]
    found = {"study": study, "charts": f"{study}/model-metrics", "trials": links["trials"]}
    return found | {Path(name).stem: f"{study}/artifacts/figures/{name}" for name in drawn}


@contextmanager
def dashboard(store: Path) -> Iterator[int]:
    """`bilevel ui` of a store on a free port, until the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = int(probe.getsockname()[1])
    command = [sys.executable, "-m", "bilevel.cli", "ui", "--store", str(store), "--port", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0)
    try:
        deadline = time.monotonic() + 120
        while not answers(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"the dashboard does not answer on port {port}")
            time.sleep(0.2)
        yield port
    finally:
        os.killpg(process.pid, 15)
        process.wait()


def answers(port: int) -> bool:
    """Whether the server is up."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def shoot(browser: str, url: str, picture: Path, size: str, patience: float) -> None:
    """A screenshot of a page as it is after `patience` seconds of its own time."""
    with tempfile.TemporaryDirectory() as profile:
        own = [f"--user-data-dir={profile}", f"--window-size={size}", f"--virtual-time-budget={int(1000 * patience)}"]
        command = [browser, *FLAGS, *own, f"--screenshot={picture}", url]
        subprocess.run(command, check=True, capture_output=True, timeout=300)


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--browser", default=shutil.which("chromium") or "chromium")
    parser.add_argument("--size", default="1600,1000", help="of the window, WIDTH,HEIGHT")
    parser.add_argument("--patience", type=float, default=180.0, help="seconds of its own time that a page is given")
    words = parser.parse_args()
    words.folder.mkdir(parents=True, exist_ok=True)
    with dashboard(words.store) as port:
        for name, url in pages(words.store, port).items():
            shoot(words.browser, url, (words.folder / f"{name}.png").resolve(), words.size, words.patience)
            sys.stdout.write(f"{words.folder / name}.png: {url}\n")


if __name__ == "__main__":
    main()
