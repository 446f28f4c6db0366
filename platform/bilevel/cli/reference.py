"""What can be read about a public name, or for those who come from another tool? Docstrings, and a few pages."""

from __future__ import annotations

import difflib
import inspect
import textwrap
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.resources import files
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from bilevel.errors import BadInput
from bilevel.view.paper import plain

ROOMS = {
    "bilevel": "studies, spaces, searches, executors, results",
    "bilevel.tasks": "distributions over tasks",
    "bilevel.inner": "rules that adapt a model to a task",
    "bilevel.nets": "small networks",
    "bilevel.episodes": "what a task of one's own is made of",
    "bilevel.callbacks": "how trainings in other libraries report",
    "bilevel.stop": "rules that stop trials",
    "bilevel.space.conversion": "spaces from and to other tools, and JSON",
    "bilevel.execute.tuner": "our searches in a Tuner of one's own",
}
"""Modules whose names are public -> what is in them."""


def pages() -> dict[str, str]:
    """The pages, by their name: in Markdown, the first line a title."""
    found = (page for page in files("bilevel.cli").joinpath("pages").iterdir() if page.name.endswith(".md"))
    return {page.name.removesuffix(".md"): page.read_text(encoding="utf-8") for page in found}


def names() -> dict[str, Any]:
    """What is public: every name, with its module, and what it stands for."""
    return {f"{room}.{name}": value for room in ROOMS for name, value in _public(room)}


def overview() -> str:
    """All that there is to read, a line each."""
    lines = ["bilevel help TOPIC: one of these, or a command.", ""]
    for name, text in sorted(pages().items()):
        lines.append(f"  {name:<22}{text.partition(chr(10))[0].lstrip('# ')}")
    for room, about in ROOMS.items():
        lines += ["", f"{room}: {about}"]
        for name, value in _public(room):
            lines.append(f"  {name:<22}{textwrap.shorten(_first(value), 96, placeholder=' …')}")
    return "\n".join(lines)


def explained(topic: str) -> str:
    """A name's signature and docstring, a module's list of names.

    Args:
        topic: `TPE`, `bilevel.TPE`, `inner.GradientDescent`, `bilevel.tasks`, …

    Raises:
        BadInput: nothing is called so; the message names what is near.
    """
    known = names()
    for room in ROOMS:
        if topic in (room, room.removeprefix("bilevel.")):
            listed = [f"  {name:<22}{_first(value)}" for name, value in _public(room)]
            return "\n".join([f"{room}: {ROOMS[room]}", "", inspect.getdoc(import_module(room)) or "", "", *listed])
    full = [name for name in known if name == topic or name.endswith(f".{topic}")]
    if not full:
        short = {name.rpartition(".")[2]: name for name in known} | {page: page for page in pages()}
        near = difflib.get_close_matches(topic, short, 3, 0.5)
        cure = f"did you mean {', '.join(near)}?" if near else "see `bilevel help`"
        raise BadInput(f"help {topic}: nothing is called so; {cure}")
    return "\n\n\n".join(_described(name, known[name]) for name in full)


def show(topic: str | None, console: Console) -> None:
    """Print an overview, a page, or a reference."""
    page = pages().get(topic or "")
    if page is not None:
        console.print(Markdown(page) if console.is_terminal else plain(page))
        return
    text = overview() if topic is None else explained(topic)
    console.print(plain(text))


def _public(room: str) -> Iterator[tuple[str, Any]]:
    module = import_module(room)
    for name in module.__all__:
        value = vars(module)[name] if name in vars(module) else module.__getattr__(name)
        if not inspect.ismodule(value):
            yield name, value


def _described(name: str, value: Any) -> str:
    heading = name
    if inspect.isclass(value) or inspect.isfunction(value):
        heading += _signature(value)
    lines = [heading, "", inspect.getdoc(value) or ""]
    if inspect.isclass(value):
        lines += [
            f"\n.{method}{_signature(function)}\n{textwrap.indent(inspect.getdoc(function) or '', '    ')}"
            for method, function in _methods(value)
        ]
    return "\n".join(lines)


def _methods(kind: type) -> Iterator[tuple[str, Callable[..., Any]]]:
    for name, value in vars(kind).items():
        if not name.startswith("_") and inspect.isfunction(value) and value.__doc__:
            yield name, value


def _signature(value: Callable[..., Any]) -> str:
    try:
        parameters = inspect.signature(value).parameters.values()
    except (TypeError, ValueError):  # of a Protocol, say
        return ""
    shown = [str(p.replace(annotation=inspect.Parameter.empty)) for p in parameters if p.name != "self"]
    line = f"({', '.join(shown)})"
    return line if len(line) < 90 else "(\n    " + ",\n    ".join(shown) + ")"


def _first(value: Any) -> str:
    """The first sentence of what is said of it."""
    return (inspect.getdoc(value) or "").partition("\n")[0]
