"""What did the process that writes to MLflow last say of itself?"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

NAME = "mlflow.json"


def read(folder: Path) -> tuple[dict[str, Any], str | None]:
    """What is in the status file, and what is wrong with it; nothing is where there is none."""
    try:
        said = json.loads((folder / NAME).read_text(encoding="utf-8"))
        if all(fits(said.get(name)) for name, fits in _STATUS.items()):
            return said, None
    except FileNotFoundError:
        return {}, None
    except (OSError, ValueError, AttributeError, RecursionError):
        pass  # whatever is in it, it is none of ours
    return {}, f"{folder / NAME} is damaged; `bilevel sync {folder.name}` writes it anew"


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
    "minimize": lambda value: value is None or isinstance(value, bool),
}
