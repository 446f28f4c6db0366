"""Which files make a run, and who may write them?"""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bilevel import manifest
from bilevel.errors import BadInput, RecordDamaged, RunLocked, StoreFailed
from bilevel.record import documents, journal
from bilevel.study.events import Event
from bilevel.study.history import ENDED, History

FILES = ("study.json", "journal.jsonl")
"""What makes a folder a run."""


@dataclass(frozen=True)
class RunFolder:
    """`STORE/RUN_ID/`: study.json, journal.jsonl, checkpoints/, model/, figures/, lock."""

    path: Path

    @property
    def run_id(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def journal(self) -> Path:
        """Where the journal lies."""
        return self.path / "journal.jsonl"

    def standing(self, history: History) -> str:
        """The run's status: as it ended, "running" while a driver holds it, "interrupted" otherwise."""
        if history.status in ENDED:
            return history.status
        return "running" if self.driven else "interrupted"

    def document(self) -> dict[str, Any]:
        """`study.json`: where the study came from, its settings and its source.

        Raises:
            RecordDamaged: it is not what was written, or a newer version wrote it; also later, for a key that is not
                in it.
        """
        return documents.read(self.path / "study.json")

    def change(self, document: Mapping[str, Any]) -> None:
        """Write `study.json` anew, at once.

        Raises:
            StoreFailed: the disk is full or gone; it is as it was.
        """
        part = self.path / ".study.json.part"
        try:
            part.write_text(documents.text(document), encoding="utf-8")
            part.replace(self.path / "study.json")
        except OSError as error:
            raise StoreFailed(f"{self.path / 'study.json'}: cannot be written: {error.strerror}") from error

    def events(self) -> Iterator[Event]:
        """What happened, in order.

        Raises:
            RecordDamaged: the journal is not what was written.
        """
        return (event for _, event in journal.events(self.journal))

    def problems(self) -> list[str]:
        """What of study.json, at the journal's end and of the model is damaged, though the rest can be read."""
        found = [journal.lost(self.journal), *manifest.faults(self.path / "model")]
        try:
            self.document()
        except RecordDamaged as error:
            found.append(str(error))
        return [problem for problem in found if problem]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run's lock, which the system lets go of when this process dies.

        Raises:
            RunLocked: another driver holds it.
            BadInput: the store cannot be written.
        """
        try:
            fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise BadInput(
                f"{self.path}: the store cannot be written: {error.strerror}; it can be looked at as it is; to go on,"
                " copy the run to another one (--store DIR)"
            ) from error
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                holder = os.pread(fd, 64, 0).decode(errors="replace").strip() or "unknown"
                raise RunLocked(
                    f"{self.run_id}: another driver (process {holder}) is at work on it; `bilevel steer` reaches it"
                ) from error
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(fd)

    @property
    def driven(self) -> bool:
        """Whether a driver holds the run's lock: a look that writes nothing, for the store may be read-only."""
        try:
            fd = os.open(self.path / "lock", os.O_RDONLY)
        except OSError:  # no driver ever took it, or it is not for us to read
            return False
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return True
        finally:
            os.close(fd)
        return False


def create(store: Path, name: str, document: Mapping[str, Any]) -> RunFolder:
    """A new run's folder, complete with study.json, or nothing at all.

    Raises:
        BadInput: the store cannot be written.
    """
    run_id = _new_id(store, name)
    part = store / f".{run_id}.part"
    try:
        part.mkdir(parents=True)
        (part / "study.json").write_text(documents.text(document), encoding="utf-8")
        (part / "journal.jsonl").touch()
        (part / "checkpoints").mkdir()
        part.rename(store / run_id)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise BadInput(
            f"{store}: the store cannot be written: {error.strerror}; name another with --store DIR"
        ) from error
    return RunFolder(store / run_id)


def _new_id(store: Path, name: str) -> str:
    """One that sorts behind those of all earlier runs: in UTC, and no second run begins in its millisecond."""
    while True:
        now = datetime.now(UTC)
        stamp = f"{now:%Y%m%d-%H%M%S}-{now.microsecond // 1000:03}"
        if not any(store.glob(f"{stamp}-*")):
            return f"{stamp}-{name}-{secrets.token_hex(2)}"


def find(store: Path, run: str) -> RunFolder:
    """The run of this id, of an unambiguous beginning or end of it, or "last"; of a study's name, its newest run; a
    folder's path serves too.

    Raises:
        BadInput: there is none, or more than one.
    """
    if run and any((Path(run) / name).is_file() for name in FILES):
        return RunFolder(Path(run).resolve())
    known = runs(store)
    if run == "last" and known:
        return known[-1]
    exact = [folder for folder in known if folder.run_id == run]
    found = exact or [
        folder for folder in known if run and (folder.run_id.startswith(run) or folder.run_id.endswith(run))
    ]
    if len(found) == 1:
        return found[0]
    named = [folder for folder in known if run and not exact and _study(folder) == run]
    if named:
        return named[-1]
    if not known:
        raise BadInput(f"{store}: no runs there; name the store with --store DIR")
    what = "no such run" if not found else f"{len(found)} runs are called so"
    raise BadInput(f"{run}: {what} in {store}; it has {', '.join(f.run_id for f in (found or known)[-5:])}")


def _study(folder: RunFolder) -> str:
    """The name of a run's study; empty where its document is damaged, which is said where it is read."""
    try:
        return str(folder.document().get("name", ""))
    except RecordDamaged:
        return ""


def runs(store: Path) -> list[RunFolder]:
    """All runs of a store, oldest first; those too of which one of the files is gone."""
    homes = {path.parent for name in FILES for path in store.glob(f"[!.]*/{name}")}
    return [RunFolder(path) for path in sorted(homes)]
