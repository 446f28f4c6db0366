"""What does a reviewer see of a search? The page of `bilevel report` at desktop and phone width, by headless Chromium.

By hand: `.venv/bin/python tests/pages.py FOLDER [PAGE ...]` writes NAME-WIDTH.png for each page and width, and says
how wide the page is beside the window, which must be equal. Without a page, those of some made-up searches are taken.
It needs Debian's package chromium, or another that `--browser` names.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bilevel.figures import Search
from bilevel.view import report
from support import searches

FLAGS = [
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--force-color-profile=srgb",
    "--host-resolver-rules=MAP * ~NOTFOUND",
]  # fmt: skip
WIDTHS = (390, 1440)
PROBE = """<script>addEventListener("load", () => setTimeout(() => {
  const all = [...document.querySelectorAll("main *")].filter(n => !n.closest("svg, .js-plotly-plot"));
  const cut = all.filter(n => n.getBoundingClientRect().right > innerWidth + 1).map(n => n.tagName + "." + n.className);
  const e = document.documentElement, size = `width ${e.scrollWidth} of ${innerWidth}, height ${e.scrollHeight}`;
  const charts = [...document.querySelectorAll(".panel")].filter(n => n.querySelector("svg.main-svg")).length;
  parent.postMessage(`${size}, ${charts} plots, cut off: ${cut.join(" ") || "nothing"}`, "*"); }, 1500));</script>"""
FRAME = """<!doctype html><style>body, iframe {{margin: 0; border: 0; display: block}}</style>
<iframe src="{page}" width="{width}" height="{height}"></iframe>
<script>onmessage = e => {{ const p = document.createElement("pre"); p.id = "probe"; p.textContent = e.data;
  document.head.append(p); }}</script>"""


def made() -> dict[str, Search]:
    """Searches of every kind."""
    two = {"loss": "minimize", "cost": "minimize"}
    return {
        "asha": searches.search(searches.study(40, lost=(5,), broken_at=20)),
        "population": searches.search(searches.population(), None),
        "pareto": searches.search(searches.study(60, objectives=two, rungs=())),
        "limits": searches.search(searches.study(40, limit=0.9, rungs=(), metric="valid/accuracy", minimize=False)),
        "large": searches.large(),
    }


def shoot(browser: str, page: Path, picture: Path, width: int) -> str:
    """A screenshot of the whole page at a width; gives what `measured` gives."""
    said, height = measured(browser, page, width)
    with tempfile.TemporaryDirectory() as folder:
        frame = Path(folder) / "frame.html"
        frame.write_text(FRAME.format(page=page.resolve().as_uri(), width=width, height=height + 20), encoding="utf-8")
        run(browser, frame, max(width, 500), height + 20, f"--screenshot={picture.resolve()}")
    return said


def measured(browser: str, page: Path, width: int) -> tuple[str, int]:
    """What a page says of itself when it is drawn this wide: its size, how many plots, what is cut off; its height.

    The page is in a frame, for no window of Chromium is narrower than 500 pixels.
    """
    with tempfile.TemporaryDirectory() as folder:
        probe, frame = Path(folder) / "page.html", Path(folder) / "frame.html"
        probe.write_text(page.read_text(encoding="utf-8").replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
        frame.write_text(FRAME.format(page=probe.as_uri(), width=width, height=2000), encoding="utf-8")
        said = run(browser, frame, width, 2000, "--dump-dom")
    found = re.search(r'<pre id="probe">(.*?height (\d+).*?)</pre>', said)
    if found is None:
        raise SystemExit(f"{page}: the browser drew nothing")
    return found[1], int(found[2])


def run(browser: str, page: Path, width: int, height: int, *wanted: str) -> str:
    """Open a page in a window of this size, and do what is wanted."""
    with tempfile.TemporaryDirectory() as profile:
        own = [f"--user-data-dir={profile}", f"--window-size={width},{height}", "--virtual-time-budget=20000"]
        command = [browser, *FLAGS, *own, *wanted, page.resolve().as_uri()]
        return subprocess.run(command, check=True, capture_output=True, timeout=300, text=True).stdout


def main() -> None:
    """Take the pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("pages", type=Path, nargs="*")
    parser.add_argument("--browser", default=shutil.which("chromium") or "chromium")
    words = parser.parse_args()
    words.folder.mkdir(parents=True, exist_ok=True)
    pages = words.pages or [
        report.write(search, words.folder / f"{name}.html", title=name) for name, search in made().items()
    ]
    for page in pages:
        for width in WIDTHS:
            picture = words.folder / f"{page.stem}-{width}.png"
            sys.stdout.write(f"{picture}: {shoot(words.browser, page, picture, width)}\n")


if __name__ == "__main__":
    main()
