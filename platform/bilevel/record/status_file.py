"""What did the process that writes to MLflow last say of itself?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAME = "mlflow.json"


def read(folder: Path) -> tuple[dict[str, Any], str | None]:
    """What is in the status file, and what is wrong with it; nothing is where there is none."""
    damaged = f"{folder / NAME} is damaged; `bilevel sync {folder.name}` writes it anew"
    try:
        said = json.loads((folder / NAME).read_text(encoding="utf-8"))
        whole = all(fits(said.get(name)) for name, fits in _STATUS.items())
    except FileNotFoundError:
        return {}, None
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}, damaged
    return (said, None) if whole else ({}, damaged)


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


_STATUS: dict[str, Callable[[Any], bool]] = {
    "pid": lambda value: type(value) is int,
    "synced": lambda value: type(value) is int,
    "behind": lambda value: type(value) is int,
    "problem": _is_text,
    "experiment": _is_text,
    "study": _is_text,
    "trials": lambda value: value is None or (isinstance(value, list) and all(isinstance(v, str) for v in value)),
    "view": _is_text,
    "minimize": lambda value: value is None or isinstance(value, bool),
}
