"""Does the page's server answer who may ask, with what there is, and nothing else?"""

from __future__ import annotations

import asyncio
import gzip
import http.client
import json
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import browser
import journals
from bilevel.cli import cli
from bilevel.record.folder import RunFolder
from bilevel.study.events import Ended, Event
from bilevel.view import watch
from bilevel.view.watch import Server
from programs import until

WILD = "<img src=x onerror=\"document.title='no'\">"
STATIC = ["/", "/plotly.js", *(f"/page/{name}" for name in watch.FILES[1:])]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    folder = journals.folder(tmp_path)
    journals.write(folder, journals.halving(8)[:40])
    return folder


@pytest.fixture
def server(home: Path) -> Iterator[Server]:
    with Server([RunFolder(home)], share=0).serving() as running:
        yield running


def ask(
    server: Server, path: str, headers: Mapping[str, str] | None = None, method: str = "GET"
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=20)
    try:
        connection.request(method, path, headers=headers or {})
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def document(server: Server, path: str) -> dict[str, Any]:
    status, headers, body = ask(server, path)
    assert (status, headers["content-type"]) == (200, "application/json; charset=utf-8")
    assert headers["cache-control"] == "no-store"
    found: dict[str, Any] = json.loads(body)
    return found


@pytest.mark.parametrize("path", STATIC)
def test_the_page_is_whole_and_kept(path: str, server: Server) -> None:
    status, headers, body = ask(server, path)
    assert (status, len(body)) == (200, int(headers["content-length"]))
    assert "default-src 'none'" in headers["content-security-policy"]
    assert "unsafe-eval" not in headers["content-security-policy"]
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert ask(server, path, {"If-None-Match": headers["etag"]})[::2] == (304, b"")
    _, packed, small = ask(server, path, {"Accept-Encoding": "gzip"})
    assert (gzip.decompress(small) if packed.get("content-encoding") == "gzip" else small) == body


def test_the_page_asks_nobody_else() -> None:
    for name in watch.FILES:
        text = watch._file(name)[0].decode()
        assert "http://" not in text
        assert "https://" not in text
        assert "innerHTML" not in text
        assert "eval(" not in text


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:5001", "127.0.0.1.evil.example", "", "localhost.", "[::2]"]
)
def test_who_comes_by_another_name_is_refused(host: str, server: Server) -> None:
    for path in ("/", "/changes", "/trial?run=0&trial=0", "/nowhere"):
        status, _, body = ask(server, path, {"Host": host})
        assert status == 421
        assert b"trial" not in body


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST:80", "localhost:9000", "[::1]:7", "[::1]"])
def test_names_of_this_machine_are_good(host: str, server: Server) -> None:
    assert ask(server, "/", {"Host": host})[0] == 200


def test_it_listens_on_this_machine_alone(server: Server) -> None:
    assert server.server_address[0] == "127.0.0.1"


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/page/",
        "/page/../watch.py",
        "/page/%2e%2e/watch.py",
        "/../etc/passwd",
        "/page/watch.html",
    ],
)
def test_other_paths_are_not_there(path: str, server: Server) -> None:
    assert ask(server, path)[0] == 404


@pytest.mark.parametrize(
    "query", ["", "run=0", "run=1&trial=0", "run=0&trial=99", "run=-1&trial=0", "run=0&trial=%C2%B2"]
)
def test_trials_that_are_not_there(query: str, server: Server) -> None:
    assert ask(server, f"/trial?{query}")[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "HEAD", "TRACE", "JUMP"])
def test_it_can_only_be_read(method: str, server: Server) -> None:
    status, headers, _ = ask(server, "/changes", method=method)
    assert (status, headers["allow"]) == (405, "GET")


def test_what_is_new_comes_by_and_by(server: Server, home: Path) -> None:
    first = document(server, "/changes?at=")
    run = first["runs"][0]
    assert run["whole"]
    assert first["shades"]
    until(lambda: not document(server, "/changes")["runs"][0]["drawing"], 30, "the pictures")
    drawn = document(server, f"/changes?at={run['at']}")["runs"][0]
    assert (drawn["rows"], drawn["whole"]) == ([], False)
    assert "learning_curves" in drawn["pictures"]
    assert document(server, f"/changes?at={drawn['at']}")["runs"][0]["pictures"] == {}
    events = journals.halving(8)
    journals.write(home, events[40:44])
    new = document(server, f"/changes?at={drawn['at']}")["runs"][0]
    assert {row["n"] for row in new["rows"]} == {event.trial for event in events[40:44]}  # type: ignore[union-attr]
    assert document(server, "/trial?run=0&trial=0")["n"] == 0


def test_a_drawing_that_fails_is_said_and_the_rest_goes_on(
    server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken() -> None:
        raise ValueError("no ink")

    monkeypatch.setattr(server.together, "draw", broken)
    said = ""
    for _ in range(3):
        document(server, "/changes")

    def heard() -> bool:
        nonlocal said
        said += capfd.readouterr().err
        return "no ink" in said

    until(heard, 20, "a word")
    assert document(server, "/changes")["runs"][0]["rows"]
    assert said.count("no ink") == 1


def test_a_run_that_cannot_be_shown_is_said_on_the_page_and_here(
    server: Server, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> dict[str, Any]:
        raise ValueError("no sense")

    monkeypatch.setattr(server.together, "said", broken)
    for _ in range(3):
        status, _, body = ask(server, "/changes")
        assert (status, body) == (500, b"ValueError: no sense\n")
    assert capfd.readouterr().err == "bilevel: the run cannot be shown: ValueError: no sense\n"


# -- the command -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_says_where_it_is_and_ends_when_it_is_told(number: signal.Signals, home: Path) -> None:
    words = [sys.executable, "-m", "bilevel.cli", "watch", "last", "--store", str(home.parent), "--port", "0"]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        line = program.stdout.readline()
        assert home.name in line
        port = int(line.partition("127.0.0.1:")[2].partition("/")[0])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
        connection.request("GET", "/")
        assert connection.getresponse().status == 200
        connection.close()
        program.send_signal(number)
        _, err = program.communicate(timeout=20)
    assert (program.returncode, err) == (0, "")


def test_a_port_that_is_taken_is_said_and_the_usual_one_gives_way(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from bilevel.cli import watch as command

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert cli.main(["watch", "last", "--store", str(home.parent), "--port", str(port)]) == 2
        assert f"127.0.0.1:{port} cannot be had" in capsys.readouterr().err
        monkeypatch.setattr(command, "PORT", port)
        with command._listening([RunFolder(home)], None) as server:
            assert server.server_port != port
    assert cli.main(["watch", "last", "--store", str(home.parent), "--port", "99999"]) == 2
    capsys.readouterr()
    assert cli.main(["watch", "nobody", "--store", str(home.parent)]) == 2
    assert "no such run" in capsys.readouterr().err


# -- in a browser ------------------------------------------------------------------------------------------------------


async def look(server: Server, home: Path, events: list[Event]) -> list[str]:
    """Follow a run that grows, as who filters, zooms and scrolls; gives what the browser complained of."""
    curves = "document.querySelector('#chart-learning_curves .panel')"
    async with browser.tab() as tab:
        await tab.open(server.url, *browser.WIDTHS["desktop"])
        await tab.until("document.querySelectorAll('#trials tbody tr').length === 4")
        assert "running" in await tab.value("document.querySelector('#heads').innerText")
        await tab.until("document.querySelectorAll('.panel svg.main-svg').length > 2")
        await tab.value("document.querySelector('#filter details').open = true")
        await tab.value("(i => { i.value = 'lr=0.1'; i.dispatchEvent(new Event('input')) })"
                        "(document.querySelector('#filter input[type=search]'))")  # fmt: skip
        await tab.until("document.querySelectorAll('#trials tbody tr').length === 1")
        await tab.value(f"{curves}.scrollIntoView({{block: 'center'}})")
        await tab.until(f"{curves}.querySelector('svg.main-svg')")
        x, y, width, height = await tab.value(f"(r => [r.x, r.y, r.width, r.height])({curves}.getBoundingClientRect())")
        await tab.drag((x + 0.4 * width, y + 0.3 * height), (x + 0.6 * width, y + 0.6 * height))
        await tab.until(f"{curves}.layout.xaxis.autorange === false && {curves}.layout.xaxis.range[0] > 3")
        zoomed = await tab.value(f"{curves}.layout.xaxis.range")
        await tab.value("document.querySelector('#trials tbody tr').click()")
        await tab.until("document.querySelector('#trial pre').innerText.includes('hello')")
        place = await tab.value(f"{curves}.getBoundingClientRect().y")
        (home / "logs" / "trial-0001.txt").write_text(f"hello\n{WILD}\nagain\n")
        journals.write(home, events)
        await tab.until("document.querySelector('#heads .tiles').innerText.includes('8')")
        await tab.until("document.querySelector('#filter .said').innerText === '2 of 8 are shown'")
        await tab.until("document.querySelector('#heads').innerText.includes('completed')")
        assert await tab.value("document.querySelectorAll('#trials tbody tr').length") == 2  # the filter has stayed
        await tab.until(f"{curves}.data.some(line => line.name === 'completed')")
        assert await tab.value(f"{curves}.layout.xaxis.range") == zoomed
        assert abs(await tab.value(f"{curves}.getBoundingClientRect().y") - place) < 5  # though parts above have gone
        await tab.until("document.querySelector('#trial pre').innerText.includes('again')")
        assert await tab.value("document.querySelectorAll('img').length") == 0
        assert WILD in await tab.value("document.querySelector('#trial pre').innerText")
        wide = {}
        for name, size in browser.WIDTHS.items():
            await tab.open(server.url, *size, dark=name == "phone")
            await tab.until("document.querySelectorAll('#trials tbody tr').length === 8")
            await tab.until("document.querySelectorAll('.panel svg.main-svg').length > 0")
            wide[name] = await tab.value(browser.WIDE)
            await tab.value("document.querySelector('#trials tbody tr').click()")
            await tab.until("document.querySelector('#trial .pill')")
            wide[f"{name}, a trial"] = await tab.value(browser.WIDE)
        assert all(found[0] == found[1] and not found[2] for found in wide.values()), wide
        return list(tab.said)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no Chromium")
def test_in_a_browser_a_run_is_followed_as_it_grows(tmp_path: Path) -> None:
    home = journals.folder(tmp_path)
    events = journals.halving(8)
    cut = max(i for i, event in enumerate(events) if isinstance(event, Ended) and event.trial < 4) + 1
    journals.write(home, events[:cut])
    (home / "logs").mkdir()
    (home / "logs" / "trial-0001.txt").write_text("hello\n")
    folder = RunFolder(home)
    with Server([folder], share=0).serving() as server, folder.locked():
        said = asyncio.run(look(server, home, events[cut:]))
    assert said == []
