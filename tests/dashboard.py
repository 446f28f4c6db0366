"""What does a reviewer see in the dashboard? Screenshots of a store's newest run, by headless Chromium.

By hand: `.venv/bin/python tests/dashboard.py STORE FOLDER` writes study.png, charts.png, trials.png, compare.png
and one for each figure; with `--phone` the first three, as a phone shows them that reaches the server by a name, the
side bar folded by a touch.
It needs Debian's package chromium, or another that `--browser` names.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
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
from typing import Any

import aiohttp

from bilevel.drive import runs
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
    study, _, query = links["study"].partition("?")
    found = links | {"charts": f"{study}/model-metrics?{query}"}
    return found | {Path(name).stem: f"{study}/artifacts/figures/{name}?{query}" for name in drawn}


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


PHONE = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
NAME = "dashboard.test"
"""Of the server, for the phone: where it is called 127.0.0.1, MLflow opens a panel of its own over the page."""
FOLD = """(bar => bar && bar.getBoundingClientRect().left > 60 && bar.click())(
    document.querySelector('[aria-label="Toggle sidebar"]'))"""


async def photograph(browser: str, urls: dict[str, str], folder: Path, port: int) -> None:
    """Screenshots as a phone shows the pages, in real time, through Chromium's DevTools."""
    with tempfile.TemporaryDirectory() as profile:
        own = [f"--user-data-dir={profile}", f"--host-resolver-rules=MAP {NAME} 127.0.0.1"]
        program = subprocess.Popen(
            [browser, *FLAGS, *own, f"--remote-debugging-port={port}", "about:blank"], stderr=subprocess.DEVNULL
        )
        try:
            async with aiohttp.ClientSession() as session:
                page = await _page(session, port)
                async with session.ws_connect(page, max_msg_size=0) as socket:
                    await _told(socket, "Emulation.setDeviceMetricsOverride", **PHONE)
                    for name, url in urls.items():
                        await _told(socket, "Page.navigate", url=url.replace("127.0.0.1", NAME))
                        await asyncio.sleep(15)
                        await _told(socket, "Runtime.evaluate", expression=FOLD)
                        await asyncio.sleep(5)
                        taken = await _told(socket, "Page.captureScreenshot", format="png")
                        (folder / f"{name}.png").write_bytes(base64.b64decode(taken["data"]))
        finally:
            program.terminate()
            program.wait()


async def _page(session: aiohttp.ClientSession, port: int) -> str:
    while True:
        try:
            async with session.get(f"http://127.0.0.1:{port}/json") as answer:
                return next(str(tab["webSocketDebuggerUrl"]) for tab in await answer.json() if tab["type"] == "page")
        except (aiohttp.ClientError, StopIteration):
            await asyncio.sleep(0.2)


async def _told(socket: aiohttp.ClientWebSocketResponse, method: str, **parameters: Any) -> dict[str, Any]:
    await socket.send_json({"id": 1, "method": method, "params": parameters})
    while True:
        said: dict[str, Any] = json.loads((await socket.receive()).data)
        if said.get("id") == 1:
            return dict(said["result"])


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--browser", default=shutil.which("chromium") or "chromium")
    parser.add_argument("--size", default="1600,1000", help="of the window, WIDTH,HEIGHT")
    parser.add_argument("--patience", type=float, default=180.0, help="seconds of its own time that a page is given")
    parser.add_argument("--phone", action="store_true", help="as a phone shows them, 390 by 844")
    words = parser.parse_args()
    words.folder.mkdir(parents=True, exist_ok=True)
    if words.phone:
        os.environ |= {
            "MLFLOW_SERVER_ALLOWED_HOSTS": f"{NAME}:*,127.0.0.1:*",
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": "*",
        }
        with dashboard(words.store) as port:
            urls = {
                name: url for name, url in pages(words.store, port).items() if name in ("study", "charts", "trials")
            }
            asyncio.run(photograph(words.browser, urls, words.folder, port + 1))
            sys.stdout.writelines(f"{words.folder / name}.png: {url}\n" for name, url in urls.items())
        return
    with dashboard(words.store) as port:
        for name, url in pages(words.store, port).items():
            shoot(words.browser, url, (words.folder / f"{name}.png").resolve(), words.size, words.patience)
            sys.stdout.write(f"{words.folder / name}.png: {url}\n")


if __name__ == "__main__":
    main()
