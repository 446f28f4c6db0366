"""Files as damage leaves them: flipped bits, holes, lines moved, fields of JSON gone or of another kind."""

from __future__ import annotations

import json
import random
import zlib
from collections.abc import Callable, Iterator
from typing import Any

DEEP = 3000
"""Brackets of a deep nesting."""


class Raw:
    """Text that stands in JSON as it is."""

    def __init__(self, text: str) -> None:
        self.text = text


ODD: tuple[Any, ...] = (
    *(None, True, 7, -1, 1 << 70, 10**400, 1.5, -0.0, 1e300, float("nan"), float("inf")),
    *("", "text", "\ud800", "\0", "[/b]", [], [[]], ["a"], {}, {"a": 1}, {"": None}),
    *(Raw("9" * 6000), Raw("[" * DEEP + "]" * DEEP), Raw('{"a":' * 50 + "1" + "}" * 50)),
)


def harmed(data: bytes, rng: random.Random) -> bytes:
    """The bytes with one kind of harm, which says nothing of what is in them."""
    if not data:
        return b"\0"
    at, size = rng.randrange(len(data)), len(data)
    span = min(size - at, rng.choice((1, 2, 7, 64, 512)))
    lines = data.splitlines(keepends=True)
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    match rng.randrange(12):
        case 0 | 1 | 2:
            return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
        case 3:
            return bytes(byte ^ (1 << rng.randrange(8)) if rng.random() < 0.01 else byte for byte in data)
        case 4:
            return data[:at] + data[at + span :]
        case 5:
            return data[:at] + rng.randbytes(span) + data[at:]
        case 6:
            return data[:at]
        case 7:
            return data[:at] + bytes(span) + data[at + span :]
        case 8:
            return b"".join([*lines[:i], lines[i], *lines[i:]])
        case 9:
            lines[i], lines[j] = lines[j], lines[i]
            return b"".join(lines)
        case 10:
            return b"".join([*lines[:i], *lines[i + 1 :]])
        case _:
            return bytes(size) if rng.random() < 0.2 else data + rng.choice((b"\0" * 40, b"\n", b"}", b"\xff\xfe"))


def odd(document: Any, rng: random.Random) -> str:
    """A document of JSON with one field gone, or with another value in its place."""
    places = list(_places(document, ()))
    place = rng.choice(places)
    if not place:
        return _text(rng.choice(ODD))
    copy = json.loads(json.dumps(document))
    home = copy
    for part in place[:-1]:
        home = home[part]
    if rng.random() < 0.3:
        del home[place[-1]]
    elif rng.random() < 0.15 and isinstance(home, dict):
        home[rng.choice(("new", "trial", "event", "__class__", "\ud800", ""))] = rng.choice(ODD)
    else:
        home[place[-1]] = rng.choice(ODD)
    return _text(copy)


def odd_line(data: bytes, rng: random.Random) -> bytes:
    """A journal with one odd line whose checksum is right."""
    lines = data.splitlines(keepends=True)
    at = rng.randrange(len(lines))
    said = json.loads(lines[at])
    del said["crc"]
    text = odd(said, rng).encode("utf-8", "surrogatepass")
    if text.endswith(b"}"):
        text = text[:-1] + b',"crc":"%08x"}' % zlib.crc32(text)
    return b"".join([*lines[:at], text + b"\n", *lines[at + 1 :]])


def _places(document: Any, path: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(document, dict):
        for name, value in document.items():
            yield from _places(value, (*path, name))
    elif isinstance(document, list):
        for index, value in enumerate(document):
            yield from _places(value, (*path, index))


def _text(value: Any) -> str:
    """As JSON, compact as the journal is."""
    raws: dict[str, str] = {}
    text = json.dumps(_plain(value, raws), separators=(",", ":"))
    for mark, raw in raws.items():
        text = text.replace(f'"{mark}"', raw)
    return text


def _plain(value: Any, raws: dict[str, str]) -> Any:
    if isinstance(value, Raw):
        mark = f"raw-{len(raws)}"
        raws[mark] = value.text
        return mark
    if isinstance(value, dict):
        return {name: _plain(part, raws) for name, part in value.items()}
    return [_plain(part, raws) for part in value] if isinstance(value, list) else value


Harm = Callable[[bytes, random.Random], bytes]
