"""What does a notebook show of a study at work? The panel of the terminal, in the cell's output, kept up to date."""

from __future__ import annotations

import io
import sys
import time
import warnings
from typing import Any

from rich.console import RenderableType

from bilevel.view.paper import Paper
from bilevel.view.terminal import Screen

EVERY = 0.5  # seconds between two pictures
WIDTH = 100  # characters
STYLE = "white-space:pre;overflow-x:auto;line-height:1.25;font-family:Menlo,'DejaVu Sans Mono',monospace"


def watch() -> Screen:
    """A watch for people in front of a notebook."""
    warnings.filterwarnings("ignore", message="IProgress not found")  # of tqdm, which Optuna brings, and nobody uses
    return Screen(Paper(file=sys.stdout, highlight=False, soft_wrap=True, force_jupyter=False), Display())


class Display:
    """One output of a cell, which changes as it is told; as rich's `Live`."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._at = 0.0

    def update(self, shown: RenderableType) -> None:
        """Show this instead, unless the last picture is fresh."""
        if time.monotonic() - self._at < EVERY:
            return
        self._at = time.monotonic()
        from IPython.display import HTML, display  # whoever is here has it

        picture = HTML(html(shown))  # type: ignore[no-untyped-call]
        if self._handle is None:
            self._handle = display(picture, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(picture)


def html(shown: RenderableType) -> str:
    """What the terminal would show, as HTML that needs nothing else."""
    console = Paper(file=io.StringIO(), record=True, width=WIDTH, force_jupyter=False, highlight=False)
    console.print(shown)
    return console.export_html(inline_styles=True, code_format=f'<pre style="{STYLE}">{{code}}</pre>')
