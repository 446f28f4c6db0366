"""How do a result and its figures show themselves at the end of a notebook's cell?"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MOST = 12  # metrics and values in a result's table
LONGEST = 60  # characters of a value


@dataclass(frozen=True)
class Figure:
    """A figure's PNG file, which a notebook shows."""

    path: Path

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.path.read_bytes()).decode()
        return f'<img alt="{html.escape(self.path.stem)}" style="max-width:100%" src="data:image/png;base64,{data}">'


class Figures(Mapping[str, Figure]):
    """The figures of a run by name. A notebook shows them all, or one: `result.figures["slices"]`."""

    def __init__(self, folder: Path) -> None:
        self._found = {file.stem: Figure(file) for file in sorted(folder.glob("*.png"))}

    def __getitem__(self, name: str) -> Figure:
        return self._found[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def __len__(self) -> int:
        return len(self._found)

    def __repr__(self) -> str:
        return f"<Figures: {', '.join(self) or 'none; they are drawn when a run has ended'}>"

    def _repr_html_(self) -> str:
        return "".join(figure._repr_html_() for figure in self._found.values()) or html.escape(repr(self))


def line(document: Mapping[str, Any], metric: str, again: str) -> str:
    """A result in a line; of one that was interrupted, `again` says how it goes on."""
    counts = ", ".join(f"{count} {state}" for state, count in document["trials"].items() if count)
    text = f"{document['study']}: {document['status']} ({counts or 'no trial ended'})"
    best = document["best"]
    if best is not None:
        text += f", best trial {best['trial']} with {metric} {best['objective']:.5g}"
    if document["status"] == "interrupted":
        text += f"; go on with {again}"
    return text


def table(document: Mapping[str, Any], said: str) -> str:
    """A result as HTML: the line, the best trial's values and what it reported."""
    rows = {name: f"{value:.5g}" for name, value in document["metrics"].items() if value is not None}
    values = {} if document["best"] is None else {n: _short(v) for n, v in document["best"]["config"].items()}
    best = document["best"] or {}
    whose = f"of trial {best['trial']} alone" if best.get("runs") else "of the best trial"
    parts = (("value", "of the best trial", values), ("metric", whose, rows))
    columns = "".join(_column(name, whose, found) for name, whose, found in parts if found)
    return f"<b>{html.escape(said)}</b><div style='display:flex;gap:2em'>{columns}</div>"


def _column(title: str, whose: str, rows: Mapping[str, str]) -> str:
    shown = [
        f"<tr><td>{html.escape(n)}</td><td>{html.escape(v[:LONGEST])}</td></tr>" for n, v in list(rows.items())[:MOST]
    ]
    more = f"<tr><td colspan=2>and {len(rows) - MOST} more</td></tr>" if len(rows) > MOST else ""
    return f"<table><tr><th>{title}</th><th>{whose}</th></tr>{''.join(shown)}{more}</table>"


def _short(value: Any) -> str:
    return f"{value:.5g}" if isinstance(value, float) else str(value)
