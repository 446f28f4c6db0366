"""What does a store hold, and what of it may go?"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from rich.table import Table

from bilevel.errors import BadInput, RecordDamaged, RunLocked
from bilevel.record import folder as folders
from bilevel.record import journal
from bilevel.record.folder import RunFolder
from bilevel.study import history as histories
from bilevel.view.paper import Paper, paper


def list_runs(arguments: argparse.Namespace) -> int:
    """The runs of a store, one a line."""
    rows = [_row(folder) for folder in folders.runs(arguments.store)]
    if arguments.json:
        sys.stdout.write(json.dumps(rows) + "\n")
        return 0
    table = Table(box=None, header_style="bold", padding=(0, 2))
    for name in ("run", "status", "trials", "step", "objective"):
        table.add_column(name, justify="left" if name in ("run", "status") else "right", no_wrap=True)
    for row in rows:
        shown = "" if row["objective"] is None else f"{row['objective']:.5g}"
        counts = ["" if row[name] is None else str(row[name]) for name in ("trials", "step")]
        table.add_row(row["run"], row["status"], *counts, shown)
    out().print(table if rows else f"no runs in {arguments.store} yet; begin one with `bilevel run FILE`")
    for row in rows:
        if row["problem"]:
            out().print(f"{row['run']}: {row['problem']}", style="red")
    return 0


def _row(folder: RunFolder) -> dict[str, Any]:
    """A run as `list` shows it; one that is damaged is no reason to be silent about others."""
    row: dict[str, Any] = dict.fromkeys(("trials", "step", "objective"))
    try:
        history = histories.replay(folder.events())
    except RecordDamaged as error:
        return {"run": folder.run_id, "status": "damaged", **row, "problem": f"this run is damaged: {error}"}
    best, problems = history.best(), folder.problems()
    return {
        "run": folder.run_id,
        "status": folder.standing(history),
        "trials": len(history.trials),
        "step": max((trial.step for trial in history.trials.values()), default=0),
        "objective": None if best is None else best.objective,
        "problem": f"this run is damaged: {'; '.join(problems)}" if problems else None,
    }


def clean(arguments: argparse.Namespace) -> int:
    """Delete old checkpoints or runs; nothing outside the store, and nothing of a run that cannot be read."""
    days, freed = arguments.older_than, 0
    if not 0 <= days < math.inf:
        raise BadInput(f"--older-than {days:g}: give days, from 0 on; 0 means all that is not at work")
    for folder in folders.runs(arguments.store):
        try:
            target = _outlived(folder, arguments)
            if target is None:
                continue
            _check_inside(arguments.store, target)
            size = sum(path.lstat().st_size for path in target.rglob("*") if not path.is_dir() or path.is_symlink())
            if size and not arguments.dry_run:
                with folder.locked():
                    shutil.rmtree(target)
        except (RecordDamaged, RunLocked) as error:
            out().print(f"left alone: {folder.run_id}: {error}")
            continue
        if size == 0:
            continue
        freed += size
        what = "the run" if target == folder.path else "checkpoints"
        done = "would delete" if arguments.dry_run else "deleted"
        out().print(f"{done} {what} of {folder.run_id} ({size / 1e6:.1f} MB)")
    out().print(f"{freed / 1e6:.1f} MB {'would be freed' if arguments.dry_run else 'freed'}")
    return 0


def _outlived(folder: RunFolder, arguments: argparse.Namespace) -> Path | None:
    """What of a run may go: all of it, its checkpoints, or nothing."""
    status = folder.standing(histories.replay(folder.events()))
    age = (time.time() - folder.journal.stat().st_mtime) / 86400
    if status == "running" or age < arguments.older_than:
        return None
    if arguments.runs or (arguments.failed and status == "failed"):
        return folder.path
    if status == "interrupted":
        return None  # its checkpoints are what it goes on from
    problem = journal.lost(folder.journal)
    if problem:  # it may have more to go on with than can be read
        raise RecordDamaged(problem)
    return folder.path / "checkpoints"


def _check_inside(store: Path, target: Path) -> None:
    """Whether it lies in the store itself, and not where a link from there leads.

    Raises:
        RecordDamaged: it does not.
    """
    home = store.resolve()
    within = target.absolute().relative_to(store.absolute())
    if target.resolve() != home / within or home == target.resolve():
        raise RecordDamaged(f"a link leads to {target.resolve()}, and nothing is deleted outside of the store")


def out() -> Paper:
    """Where results go."""
    return paper()
