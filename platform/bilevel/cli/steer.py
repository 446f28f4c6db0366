"""What is asked of a run by `bilevel steer`, as it is written on the command line?"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from bilevel import space as spaces
from bilevel.drive import steering
from bilevel.errors import BadInput


def steer(arguments: argparse.Namespace) -> int:
    """Ask for it, and say what was answered."""
    tags: dict[int, dict[str, str]] = {}
    for trial, note in arguments.note:
        tags.setdefault(_number(trial, "--note"), {})["note"] = note
    for trial, pair in arguments.tag:
        tags.setdefault(_number(trial, "--tag"), {}).update([_pair(pair, "--tag")])
    said = steering.steer(
        arguments.run,
        store=arguments.store,
        points=[_point(pairs) for pairs in arguments.point],
        stop=arguments.stop,
        trials=arguments.trials,
        seconds=arguments.time,
        tags=tags,
    )
    sys.stdout.write(f"{said}\n")
    return 0


def _point(pairs: Sequence[str]) -> dict[str, Any]:
    return {path: spaces.parse(value) for path, value in (_pair(pair, "--point") for pair in pairs)}


def _pair(text: str, option: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or not name:
        wanted = "NAME=WORD" if option == "--tag" else "PATH=VALUE, such as lr=0.01"
        raise BadInput(f"{option} {text}: write {wanted}")
    return name, value


def _number(text: str, option: str) -> int:
    if not text.isdigit():
        raise BadInput(f"{option} {text}: begin with a trial's number")
    return int(text)
