"""What did a trial raise, where in the user's own code? A traceback without the frames of libraries in between."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_FRAME = re.compile(r'^\s+File "(?P<file>[^"]+)", line \d+')
_LIBRARY = re.compile(r"[/\\](site-packages|dist-packages|lib[/\\]python3[.\d]*)[/\\]|^<frozen ")
_OURS = re.compile(r"[/\\]bilevel[/\\](batched|cli|drive|execute|meta|record|search|space|study)[/\\]\w+\.py$")
_HERE = str(Path(__file__).parents[1])


def shortened(text: str) -> str:
    """A traceback with the user's own frames and the last one; of others in between how many there are.

    What is no frame (the error itself, its notes, "During handling of ...") stays. All of it is in the run's folder.
    """
    made: list[str] = []
    left: list[list[str]] = []
    parts = list(_parts(text))
    for index, part in enumerate(parts):
        last = index + 1 == len(parts) or not _FRAME.match(parts[index + 1][0])
        if _FRAME.match(part[0]) and not last and not _own(part[0]):
            left.append(part)
            continue
        made += _told(left)
        left = []
        made += part
    return "\n".join([*made, *_told(left)])


def _parts(text: str) -> Iterator[list[str]]:
    """The lines of each frame together, those between frames one by one."""
    frame: list[str] = []
    for line in text.rstrip("\n").splitlines():
        if _FRAME.match(line):
            if frame:
                yield frame
            frame = [line]
        elif frame and line.startswith("    "):
            frame.append(line)
        else:
            if frame:
                yield frame
            frame = []
            yield [line]
    if frame:
        yield frame


def _own(line: str) -> bool:
    """Whether a frame is the user's: neither Python's, nor an installed library's, nor bilevel's."""
    found = _FRAME.match(line)
    file = found["file"] if found is not None else ""
    return not (_LIBRARY.search(file) or _OURS.search(file) or file.startswith(_HERE))


def _told(left: list[list[str]]) -> list[str]:
    return [f"  ... {len(left)} frame{'s' * (len(left) > 1)} of libraries left out"] if left else []
