"""What does a page look like and say in a browser, in real time? Headless Chromium, told what to do by DevTools."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import re
import subprocess
import tempfile
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp

from dashboard import FLAGS

WIDTHS = {"phone": (390, 844), "desktop": (1280, 900)}
WIDE = """(() => { const e = document.documentElement; return [e.scrollWidth, innerWidth,
  [...document.querySelectorAll("main *, #trial *")].filter(n => !n.closest("svg, .js-plotly-plot, .wide, #nav")
    && n.getClientRects().length && n.getBoundingClientRect().right > innerWidth + 1)
    .map(n => n.tagName + "." + n.className)];
})()"""
"""How wide the page is, how wide the window, and what is cut off."""


@dataclass
class Tab:
    """A page that is open; `said`: what it wrote on its console or could not do."""

    socket: aiohttp.ClientWebSocketResponse
    said: list[str] = field(default_factory=list)
    count: int = 0

    async def tell(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of DevTools, and its answer."""
        self.count += 1
        await self.socket.send_json({"id": self.count, "method": method, "params": parameters})
        while True:
            message = json.loads((await self.socket.receive()).data)
            if message.get("id") == self.count:
                assert "error" not in message, message
                return dict(message["result"])
            self._hear(message)

    def _hear(self, message: dict[str, Any]) -> None:
        told = message.get("params", {})
        match message.get("method"):
            case "Runtime.exceptionThrown":
                self.said.append(str(told["exceptionDetails"]))
            case "Runtime.consoleAPICalled":
                self.said.append(" ".join(str(part.get("value", part)) for part in told["args"]))
            case "Log.entryAdded":
                self.said.append(f"{told['entry']['text']} {told['entry'].get('url', '')}")
            case _:
                pass

    async def open(self, url: str, width: int, height: int, *, dark: bool = False) -> None:
        """Go there, as a window or (if it is narrow) a phone of this size does."""
        for domain in ("Page", "Runtime", "Log"):
            await self.tell(f"{domain}.enable")
        await self.resize(width, height)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.tell("Emulation.setEmulatedMedia", features=[scheme])
        await self.tell("Page.navigate", url=url)

    async def resize(self, width: int, height: int) -> None:
        """Another window, or phone."""
        phone = width < 600
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": phone}
        await self.tell("Emulation.setDeviceMetricsOverride", **size)
        await self.tell("Emulation.setTouchEmulationEnabled", enabled=phone)

    async def value(self, expression: str) -> Any:
        """What an expression is in the page."""
        result = await self.tell("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    async def until(self, expression: str, seconds: float = 60.0) -> None:
        """Wait until an expression is true."""
        for _ in range(int(seconds / 0.1)):
            if await self.value(f"Boolean({expression})"):
                return
            await asyncio.sleep(0.1)
        raise AssertionError(f"not within {seconds} s: {expression}; {self.said}; {await self.value(TEXT)}")

    async def drag(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """With the mouse, from one place of the window to another."""
        way = [tuple(a + (b - a) * part for a, b in zip(start, end, strict=True)) for part in (0.3, 0.7, 1)]
        for kind, (x, y) in zip(["Pressed", "Moved", "Moved", "Moved"], [start, *way], strict=True):
            button = {"button": "left", "buttons": 1, "clickCount": int(kind == "Pressed")}
            await self.tell("Input.dispatchMouseEvent", type=f"mouse{kind}", x=x, y=y, **button)
            await asyncio.sleep(0.05)
        last = {"button": "left", "clickCount": 1}
        await self.tell("Input.dispatchMouseEvent", type="mouseReleased", x=end[0], y=end[1], **last)

    async def shoot(self, picture: Path) -> None:
        """A screenshot of the whole page."""
        height = await self.value("document.documentElement.scrollHeight")
        width = await self.value("innerWidth")
        await self.resize(width, min(height + 10, 12_000))
        await asyncio.sleep(2.5)
        taken = await self.tell("Page.captureScreenshot", format="png")
        picture.write_bytes(base64.b64decode(taken["data"]))


TEXT = "document.body ? document.body.innerText.slice(0, 600) : ''"


@contextlib.asynccontextmanager
async def tab(browser: str = "chromium") -> AsyncIterator[Tab]:
    """A browser with one empty page, until the block ends."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        own = [f"--user-data-dir={profile}", "--remote-debugging-port=0", "--remote-allow-origins=*", "about:blank"]
        program = subprocess.Popen(
            [browser, *FLAGS, *own], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        try:
            assert program.stderr is not None
            found = None
            while found is None:
                line = await asyncio.to_thread(program.stderr.readline)
                assert line, "the browser ended"
                found = re.search(r"DevTools listening on ws://127\.0\.0\.1:(\d+)/", line)
            async with aiohttp.ClientSession() as session:
                async with session.get(f"http://127.0.0.1:{found[1]}/json") as answer:
                    tabs = await answer.json()
                address = next(one["webSocketDebuggerUrl"] for one in tabs if one["type"] == "page")
                async with session.ws_connect(address, max_msg_size=0) as socket:
                    yield Tab(socket)
        finally:
            program.terminate()
            program.wait()
            program.stderr.close()  # type: ignore[union-attr]
