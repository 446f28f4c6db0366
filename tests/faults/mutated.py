"""What becomes of a run, a model, a user's file, when it is damaged in every way that we can think of?

.venv/bin/python tests/faults/mutated.py --count 3000 --seed 7        all files; --only NAME for one
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import io
import json
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np

from bilevel import Inline, OneOf, Space, Uniform, figures, manifest, trees
from bilevel.cli import cli
from bilevel.drive import keeping, runs, session, sources
from bilevel.drive.learner import Learner, load, predictions
from bilevel.drive.samples import read_samples
from bilevel.errors import BilevelError
from bilevel.record import documents, model
from bilevel.record.folder import RunFolder
from bilevel.record.trial_files import TrialFiles
from bilevel.space import flatten
from bilevel.space.conversion import from_json, to_json
from bilevel.study import history as histories
from support.mutations import harmed, odd, odd_line
from support.tiny import Said, Walk, finished, maml, walking

STUDY = """
from bilevel import Int, Random, Report, Space, Study

def objective(config, run):
    loss = run.seed % 7
    for step in range(1, config["steps"] + 1):
        loss = loss * 0.5 + config["width"]
        yield Report(step, {"loss": loss}, {"step": step})

study = Study(name="odd", objective=objective, minimize="loss", trials=2, search=Random(),
              space=Space(dict, steps=3, width=Int(1, 9)))
"""
PARSER = functools.cache(cli._parser)  # its making takes longer than all else
TEXTS = 10
"""One look in so many draws the tables for people, too, which take most of the time."""
UNSAFE = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "pickle.find_class", "os.fork")


class Watcher:
    """Whether anything is run or imported that no file of ours should bring about."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.on = False
        sys.addaudithook(self._hook)

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.on and event in UNSAFE:
            self.seen.append(f"{event} {arguments}")
        elif self.on and event == "import" and arguments[0] == "bilevel_test_canary":
            self.seen.append(f"import {arguments[0]}")


WATCHER = Watcher()


@dataclass(frozen=True)
class Case:
    """A file, how it is harmed, and what its readers then make of it: a result, and what they say of it.

    `sure`: any other result than that of the whole file must be said. Where nothing tells a file from another one (a
    user's table, a checksum that was forged with it), a result is right as such.
    """

    name: str
    file: Path
    harm: Callable[[bytes, random.Random], bytes]
    read: Callable[[], tuple[Any, str]]
    sure: bool = True
    forge: Callable[[], None] = lambda: None


def outcome(case: Case, whole: Any, before: bytes, rng: random.Random) -> str:
    """right, said, error; or what is wrong."""
    data = case.harm(before, rng)
    case.file.write_bytes(data)
    try:
        case.forge()
        WATCHER.seen.clear()
        WATCHER.on = True
        try:
            found, said = case.read()
        finally:
            WATCHER.on = False
    except BilevelError as error:
        text = str(error)
        return "error" if text and "Traceback" not in text else f"an empty error {error!r}"
    except BaseException as error:  # noqa: BLE001 - a traceback is what is looked for
        where = traceback.extract_tb(error.__traceback__)[-1]
        return f"TRACEBACK {type(error).__name__}: {str(error)[:100]} ({Path(where.filename).name}:{where.lineno})"
    if WATCHER.seen:
        return f"EXECUTED {WATCHER.seen[0]}"
    if "Traceback" in said:
        return f"TRACEBACK said: {said[-200:]}"
    if found == whole or not case.sure:
        return "right"
    if "older" in said or "damaged" in said:
        return "said"
    return f"SILENT difference: {str(found)[:200]} not {str(whole)[:200]}; said {said[:200]!r}"


def tried(case: Case, count: int, seed: int) -> tuple[Counter[str], list[str]]:
    """How often each outcome, and the bad ones, each with the number by which it is found again."""
    backup = Path(tempfile.mkdtemp()) / "backup"
    home = case.file.parent
    shutil.copytree(home, backup)
    before = case.file.read_bytes()
    whole, _ = case.read()
    counts: Counter[str] = Counter()
    bad: list[str] = []
    there = _stamps(home)
    for number in range(count):
        try:
            found = outcome(case, whole, before, random.Random(f"{case.name}/{seed}/{number}"))
        finally:
            case.file.write_bytes(before)
            if _stamps(home, case.file) != {path: stamp for path, stamp in there.items() if path != case.file}:
                shutil.rmtree(home)
                shutil.copytree(backup, home)
                there = _stamps(home)
        counts[found if found in ("right", "said", "error") else "bad"] += 1
        if found not in ("right", "said", "error"):
            bad.append(f"{case.name} {seed}/{number}: {found}")
    shutil.rmtree(backup.parent)
    return counts, bad


def _stamps(home: Path, but: Path | None = None) -> dict[Path, tuple[int, int]]:
    """Files that are there, with size and time; `lock` is written whenever somebody looks."""
    files = (path for path in home.rglob("*") if path.is_file() and path != but and path.name != "lock")
    return {path: (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


# -- readers -----------------------------------------------------------------------------------------------------------


def command(*words: str) -> tuple[int, str, str]:
    """Status, standard output and standard error of the command."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with mock.patch.object(cli, "_parser", PARSER):
            status = cli.main(words)
    return status, out.getvalue(), err.getvalue()


def shown(folder: Path) -> Callable[[], tuple[Any, str]]:
    """What `list`, `show` and `resume` (which gives the result again) tell of a run that has ended."""

    looks = 0

    def read() -> tuple[Any, str]:
        nonlocal looks
        store, name = str(folder.parent), folder.name
        status, listed, err = command("list", "--store", store, "--json")
        assert status == 0, err
        said = err + listed
        row = next((row for row in json.loads(listed) if row["run"] == name), None)
        assert row is not None, "the run is not listed"
        found: list[Any] = [{key: row[key] for key in ("status", "trials", "step", "objective")}]
        looks += 1
        for words in (["show", name, "--json"], ["show", name])[: 2 if looks % TEXTS == 1 else 1]:
            status, out, err = command(*words, "--store", store)
            said += err
            assert status in (0, 1), f"show ends with {status}"
            if "--json" in words:
                found.append((status, out))
        watch = Said()
        with mock.patch.object(figures, "draw", return_value={}):
            result = runs.resume(name, store=store, watch=watch, track="none")
        found.append({key: result.document[key] for key in ("fingerprint", "best", "trials", "metrics")})
        return found, said + "\n".join(watch.lines)

    return read


def resumed(folder: Path) -> Callable[[], tuple[Any, str]]:
    """The fingerprint of a run that goes on; whatever it goes on from, it must come to the same."""

    def read() -> tuple[Any, str]:
        watch = Said()
        with mock.patch.object(figures, "draw", return_value={}), contextlib.redirect_stderr(io.StringIO()):
            result = runs.resume(folder.name, store=folder.parent, watch=watch, track="none")
        return result.fingerprint, "\n".join(watch.lines)

    return read


def reloaded(folder: Path) -> Callable[[], tuple[Any, str]]:
    """What study.json says of how to go on, beside what `list`, `show` and `resume` tell."""
    look = shown(folder)

    def read() -> tuple[Any, str]:
        found, said = look()
        run = RunFolder(folder)
        document = run.document()
        study, _ = runs.reload(run)
        return (found, study.config(), study.seed, repr(runs.declared(document["execution"])), document["track"]), said

    return read


def newest(folder: Path) -> Callable[[], tuple[Any, str]]:
    """The state from which a trial would go on."""
    run = RunFolder(folder)
    history = histories.replay(run.events())

    def read() -> tuple[Any, str]:
        lines: list[str] = []
        step, state = TrialFiles(run).last(history.trials[0], history, lines.append)
        return (step, trees.digest(state or {})), "\n".join(lines)

    return read


def learned(home: Path) -> Callable[[], tuple[Any, str]]:
    """The model, as `load` and `start=` read it."""

    def read() -> tuple[Any, str]:
        values, described, scaling = model.read(home)
        manifest.read(home / "learned.safetensors")
        return (trees.digest(values), described, scaling), ""

    return read


def adapted(learner: Learner, support: Path, query: Path) -> Callable[[], tuple[Any, str]]:
    """Predictions, as `bilevel adapt` makes them."""

    def read() -> tuple[Any, str]:
        x, y = read_samples(support, labelled=True)
        asked, _ = read_samples(query, labelled=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            rows = predictions(learner.adapt(x, y), asked, learner)
        assert all(np.isfinite(row).all() for row in rows[1:]), "a prediction that is not finite"
        return rows, ""

    return read


# -- forgers: a checksum that is right again ---------------------------------------------------------------------------


def odd_document(data: bytes, rng: random.Random) -> bytes:
    """study.json with an odd value and the checksum of it."""
    said = json.loads(data)
    said.pop(documents.CHECK)
    text = odd(said, rng)
    try:
        return documents.text(json.loads(text)).encode()
    except (ValueError, TypeError, RecursionError):
        return text.encode()


def odd_json(data: bytes, rng: random.Random) -> bytes:
    """Any JSON with an odd value."""
    return odd(json.loads(data), rng).encode("utf-8", "surrogatepass")


def signed(home: Path) -> Callable[[], None]:
    """The manifest of a directory is made to fit what is in it."""

    def forge() -> None:
        entries = json.loads((home / manifest.NAME).read_text())
        for name in entries["files"]:
            data = (home / name).read_bytes()
            entries["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        (home / manifest.NAME).write_text(json.dumps(entries))

    return forge


# -- cases -------------------------------------------------------------------------------------------------------------


def cases(home: Path) -> list[Case]:
    """All files that are read, harmed without and with the knowledge of what is in them."""
    (home / "odd.py").write_text(STUDY)
    study, source = sources.load(str(home / "odd.py"))
    with (
        mock.patch.object(figures, "draw", return_value={}),
        mock.patch.multiple(keeping, KEEP_EVERY=0.0, KEEP_BEST_EVERY=0.0),
    ):
        ended = runs.run(study, on=Inline(), store=home / "ended", track="none", source=source).folder
        half = runs.run(study, on=Inline(), store=home / "half", track="none", source=source).folder
        kept = finished(home / "kept", walking()).folder
    _interrupt(half)
    weights = finished(home / "weights", maml()).folder
    learner = load(str(weights), study=maml())
    space = Space(dict, a=Uniform(0, 1), b=OneOf(Space(Walk, steps=3), "x", ordered=True), c={"d": [1, (2, 3.5)]})
    (home / "space").mkdir()
    (home / "space" / "a.json").write_text(to_json(space))
    files = home / "files"
    files.mkdir()
    x, y = np.linspace(-2, 2, 10)[:, None], np.linspace(1, 3, 10)
    np.savez(files / "support.npz", x=x, y=y)
    np.savez_compressed(files / "query.npz", x=x)
    (files / "support.csv").write_text("x,y\n" + "".join(f"{a},{b}\n" for a, b in zip(x[:, 0], y, strict=True)))
    (files / "query.csv").write_text("x\n" + "".join(f"{a}\n" for a in x[:, 0]))
    checkpoint = sorted((kept / "checkpoints" / "trial-0000").iterdir())[-1]

    def spaces() -> tuple[Any, str]:
        return flatten(from_json((home / "space" / "a.json").read_text(encoding="utf-8", errors="replace"))), ""

    def model_loaded() -> tuple[Any, str]:
        return load(str(weights), study=maml()).outputs, ""

    def with_seal_gone(run: Path) -> Callable[[], None]:
        return lambda: (run / "journal.seal").unlink(missing_ok=True)

    plain = [
        Case("study.json", ended / "study.json", harmed, reloaded(ended)),
        Case("journal.jsonl, ended", ended / "journal.jsonl", harmed, shown(ended)),
        Case("journal.jsonl, to go on", half / "journal.jsonl", harmed, resumed(half)),
        Case("journal.seal", ended / "journal.seal", harmed, shown(ended)),
        *(
            Case(f"checkpoint, {name}", checkpoint / name, harmed, newest(kept))
            for name in ("state.safetensors", "state.json", "MANIFEST.json")
        ),
        *(
            Case(f"model, {name}", weights / "model" / name, harmed, learned(weights / "model"))
            for name in ("learned.safetensors", "model.json", "MANIFEST.json")
        ),
        *(
            Case(
                f"adapt, {role}.{kind}",
                files / f"{role}.{kind}",
                harmed,
                adapted(learner, files / f"support.{kind}", files / f"query.{kind}"),
                sure=kind == "npz",
            )
            for role in ("support", "query")
            for kind in ("npz", "csv")
        ),
        Case("a space as JSON", home / "space" / "a.json", harmed, spaces, sure=False),
    ]
    knowing = [
        Case("study.json, forged", ended / "study.json", odd_document, reloaded(ended), sure=False),
        Case(
            "journal.jsonl, ended, forged",
            ended / "journal.jsonl",
            odd_line,
            shown(ended),
            False,
            with_seal_gone(ended),
        ),
        Case(
            "journal.jsonl, to go on, forged",
            half / "journal.jsonl",
            odd_line,
            resumed(half),
            False,
            with_seal_gone(half),
        ),
        Case(
            "model.json, forged",
            weights / "model" / "model.json",
            odd_json,
            model_loaded,
            False,
            signed(weights / "model"),
        ),
        Case("a space as JSON, odd", home / "space" / "a.json", odd_json, spaces, sure=False),
    ]
    return [*plain, *knowing]


def _interrupt(run: Path) -> None:
    """As after a kill in the last trial."""
    lines = (run / "journal.jsonl").read_bytes().splitlines(keepends=True)
    last = max(i for i, line in enumerate(lines) if b'"event":"asked"' in line)
    (run / "journal.jsonl").write_bytes(b"".join(lines[: last + 3]))
    (run / "journal.seal").unlink()


def main() -> int:
    """All cases; 1 if one had a traceback, a silent difference, or ran something."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=3000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--only", default="", metavar="REGEX")
    arguments = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as home:
        session._git = lambda _: None  # it is a program that is run
        for case in cases(Path(home)):
            if not re.search(arguments.only, case.name):
                continue
            begun = time.monotonic()
            counts, bad = tried(case, arguments.count, arguments.seed)
            figures_ = ", ".join(f"{counts[kind]} {kind}" for kind in ("error", "said", "right", "bad"))
            sys.stdout.write(f"{case.name}: {figures_}, {time.monotonic() - begun:.0f} s\n")
            for text, times in Counter(line.partition(": ")[2] for line in bad).most_common(8):
                example = next(line for line in bad if text in line).partition(": ")[0]
                sys.stdout.write(f"    {times} x {text} (first: {example})\n")
            sys.stdout.flush()
            failed += counts["bad"]
    sys.stdout.write(f"{failed} bad\n")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
