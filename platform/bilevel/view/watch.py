"""How is a page served that follows runs? On this machine alone, to be read and not to act, from nothing but files."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http
import json
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import metadata, resources
from typing import Any
from urllib.parse import parse_qs, urlsplit

from bilevel.errors import BadInput
from bilevel.figures.style import SHADES
from bilevel.record.folder import RunFolder
from bilevel.view.following import SHARE, Following, Together

HOST = "127.0.0.1"
PORT = 5001
NAMES = (HOST, "localhost", "[::1]")
"""What the server may be called: who comes by another name was led here by a page that has no business with it. The
port may be another one, as that of `ssh -L`.
"""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; connect-src 'self'; img-src 'self' data:"
    " blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}
KINDS = {"html": "text/html", "css": "text/css", "js": "text/javascript"}
FILES = ("watch.html", "watch.css", "watch.js", "dom.js", "plots.js", "filters.js", "table.js", "trial.js")
SMALL = 4096  # bytes that are not worth packing


@cache
def _file(name: str) -> tuple[bytes, str]:
    """A file of the page, and its mark."""
    data = resources.files("bilevel.view").joinpath("page", name).read_bytes()
    if name == "watch.html":
        data = data.replace(b"PLOTLY", metadata.version("plotly").encode())
    return data, _mark(data)


@cache
def _plotly() -> tuple[bytes, str]:
    data = resources.files("plotly").joinpath("package_data", "plotly.min.js").read_bytes()
    return data, _mark(data)


def _mark(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()[:20]}"'


@cache
def _packed(mark: str, data: bytes) -> bytes:  # noqa: ARG001
    return gzip.compress(data, 6)


class Server(ThreadingHTTPServer):
    """Answers whoever is on this machine; one thread draws what the pages ask for.

    Args:
        folders: of the runs that are followed.
        port: where; 0: any that is free.
        share: as of `Following`.

    Raises:
        OSError: the port is taken.
    """

    daemon_threads = True

    def __init__(self, folders: Sequence[RunFolder], port: int = 0, share: float = SHARE) -> None:
        super().__init__((HOST, port), _Handler)
        self.together = Together([Following(folder, share) for folder in folders])
        self._wanted = threading.Event()
        self._ends = False
        self._problem = ""
        self._workers = [threading.Thread(target=work, daemon=True) for work in (self._serve, self._draw)]

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.server_port}/"

    @contextlib.contextmanager
    def serving(self) -> Iterator[Server]:
        """Within: it answers."""
        for thread in self._workers:
            thread.start()
        try:
            yield self
        finally:
            self._ends = True
            self._wanted.set()
            self.shutdown()
            self.server_close()

    def want(self) -> None:
        """Somebody looks: draw what is due."""
        self._wanted.set()

    def _serve(self) -> None:
        self.serve_forever(poll_interval=0.1)

    def _draw(self) -> None:
        while not self._ends:
            self._wanted.wait()
            self._wanted.clear()
            if self._ends:
                return
            try:
                self.together.draw()
            except Exception as error:  # noqa: BLE001 - said; the next look may bring what can be drawn
                self.complain(f"the pictures cannot be drawn: {type(error).__name__}: {error}")

    def complain(self, words: str) -> None:
        """Say on standard error what goes wrong, the same thing once."""
        if words != self._problem:
            sys.stderr.write(f"bilevel: {words}\n")
        self._problem = words

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that left in the middle of an answer is no error."""
        if not isinstance(sys.exception(), ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    server_version = "bilevel"
    sys_version = ""
    timeout = 60.0  # seconds that a connection may say nothing

    def do_GET(self) -> None:
        """Answer."""
        host = (self.headers.get("Host") or "").strip().lower()
        name = host if host.endswith("]") else host.rpartition(":")[0] or host
        if name not in NAMES:
            self._plain(http.HTTPStatus.MISDIRECTED_REQUEST, f"this page is at {self.server.url}")
            return
        try:
            split = urlsplit(self.path)
        except ValueError:  # `http://[`
            split = urlsplit("/nowhere")
        words = {name: values[-1] for name, values in parse_qs(split.query).items()}
        routes: dict[str, Callable[[], None]] = {
            "/": lambda: self._static(*_file("watch.html"), "html"),
            "/plotly.js": lambda: self._static(*_plotly(), "js", kept="max-age=31536000, immutable"),
            "/changes": lambda: self._changes(words),
            "/trial": lambda: self._trial(words),
            **{f"/page/{name}": self._page(name) for name in FILES[1:]},
        }
        answer = routes.get(split.path)
        if answer is None:
            self._plain(http.HTTPStatus.NOT_FOUND, "there is no such page")
            return
        answer()

    def parse_request(self) -> bool:
        """Whether it is a request to be answered: all that is not GET is refused here."""
        if not super().parse_request():
            return False
        if self.command != "GET":
            self.close_connection = True  # whatever it has sent is not read
            self._plain(http.HTTPStatus.METHOD_NOT_ALLOWED, "this page is to be read", {"Allow": "GET"})
        return self.command == "GET"

    def _page(self, name: str) -> Callable[[], None]:
        return lambda: self._static(*_file(name), name.rpartition(".")[2])

    def _changes(self, words: dict[str, str]) -> None:
        self.server.want()
        drawn = words.get("beside", "0")
        places, together = words.get("at", "").split(","), self.server.together
        self._answer(lambda: together.said(places, _whole(drawn) or 0) | {"shades": SHADES})

    def _trial(self, words: dict[str, str]) -> None:
        run, trial, have = (_whole(words.get(name, "")) for name in ("run", "trial", "have"))
        runs = self.server.together.runs
        if run is None or trial is None or run >= len(runs):
            self._plain(http.HTTPStatus.NOT_FOUND, "there is no such trial")
            return
        self._answer(lambda: runs[run].trial(trial, have))

    def _answer(self, make: Callable[[], Any]) -> None:
        try:
            said = make()
        except BadInput as error:
            self._plain(http.HTTPStatus.NOT_FOUND, str(error))
        except Exception as error:  # noqa: BLE001 - said on the page, and here
            said = f"{type(error).__name__}: {error}"
            self.server.complain(f"the run cannot be shown: {said}")
            self._plain(http.HTTPStatus.INTERNAL_SERVER_ERROR, said)
        else:
            self._json(said)

    # -- how it is sent ------------------------------------------------------------------------------------------------

    def _json(self, said: Any) -> None:
        data = json.dumps(said, separators=(",", ":"), allow_nan=False).encode()
        packs = len(data) > SMALL and self._takes_gzip()
        data = gzip.compress(data, 1) if packs else data
        self._send(http.HTTPStatus.OK, data, "application/json", _coding(packs) | {"Cache-Control": "no-store"})

    def _static(self, data: bytes, mark: str, kind: str, kept: str = "no-cache") -> None:
        headers = {"ETag": mark, "Cache-Control": kept, "Vary": "Accept-Encoding"}
        if mark in (self.headers.get("If-None-Match") or ""):
            self._send(http.HTTPStatus.NOT_MODIFIED, b"", KINDS[kind], headers)
            return
        packs = len(data) > SMALL and self._takes_gzip()
        self._send(http.HTTPStatus.OK, _packed(mark, data) if packs else data, KINDS[kind], headers | _coding(packs))

    def _plain(self, status: http.HTTPStatus, text: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, f"{text}\n".encode(), "text/plain", headers or {})

    def _send(self, status: http.HTTPStatus, data: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (HEADERS | headers).items():
            self.send_header(name, value)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _takes_gzip(self) -> bool:
        return "gzip" in (self.headers.get("Accept-Encoding") or "")

    def log_message(self, *_: object) -> None:
        """Say nothing of each request."""


def _coding(packs: bool) -> dict[str, str]:
    return {"Content-Encoding": "gzip"} if packs else {}


def _whole(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else None
