"""What does each word on the command line mean?"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table

from bilevel import audit as audits
from bilevel import doctor, learner, runs, sources, terminal
from bilevel import space as spaces
from bilevel import study as studies
from bilevel.errors import BadInput, BilevelError
from bilevel.execute import Inline, Ray
from bilevel.record import folder as folders
from bilevel.record import tracking
from bilevel.record.folder import RunFolder
from bilevel.runs import On, Result
from bilevel.study import History
from bilevel.training import MetaTraining

EXIT = {"completed": 0, "stopped": 0, "failed": 1, "interrupted": 130}
EXAMPLES = """examples:
  bilevel run search_spaces/alphabets_maml.py                 a study, on all CPUs of this machine
  bilevel run study.py --set rule.lr=0.1 --steps 500          with other values (any value of the space, by its path)
  bilevel run study.py:tiny --workers 0 --json                the study named `tiny`, in this process, result as JSON
  bilevel run study.py --address auto --gpus-per-worker 0.5   on an existing Ray cluster, two workers a GPU
  bilevel resume last                                         go on after an interruption or a crash
  bilevel adapt last --support mine.npz --query new.npz       use what was learned on a task of your own
  bilevel ui                                                  look at everything in the MLflow dashboard
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command `bilevel`; the exit status: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    warnings.formatwarning = lambda message, *_args, **_kw: f"bilevel: {message}\n"
    try:
        status: int = arguments.command(arguments)
    except BadInput as error:
        return _fail(error, 2)
    except BilevelError as error:
        return _fail(error, 1)
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except BrokenPipeError:  # `bilevel list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return status


def _fail(error: object, status: int) -> int:
    sys.stderr.write(f"bilevel: {error}\n")
    return status


# -- run, resume -------------------------------------------------------------------------------------------------------


def _run(arguments: argparse.Namespace) -> int:
    study, source = sources.load(arguments.file)
    changes: dict[str, Any] = {}
    for change in arguments.set:
        path, equals, value = change.partition("=")
        if not equals:
            raise BadInput(f"--set {change}: write PATH=VALUE, such as rule.lr=0.1")
        changes[path] = spaces.parse(value)
    if arguments.steps is not None:
        if study.space.target is not MetaTraining:
            raise BadInput(f"--steps is for a MetaTraining; {study.name} is not one (use --set)")
        changes["steps"] = arguments.steps
    for option in ("seed", "trials"):
        if getattr(arguments, option) is not None:
            changes[f"--{option}"] = getattr(arguments, option)
    study = runs.changed(study, changes)
    on = _on(arguments)
    with terminal.Screen() as screen:
        result = runs.run(
            study,
            on=on,
            store=arguments.store,
            track=arguments.track,
            seconds=arguments.time,
            slots=arguments.slots or 1,
            watch=screen,
            source=source,
            changes=changes,
        )
    return _done(result, arguments)


def _resume(arguments: argparse.Namespace) -> int:
    given = arguments.workers is not None or arguments.address is not None
    with terminal.Screen() as screen:
        result = runs.resume(
            arguments.run,
            store=arguments.store,
            on=_on(arguments) if given else None,
            track=arguments.track,
            slots=arguments.slots or 1,
            watch=screen,
            new_code=arguments.new_code,
        )
    return _done(result, arguments)


def _on(arguments: argparse.Namespace) -> On:
    workers, kind = arguments.workers, getattr(arguments, "on", None)
    if workers is not None and workers < 0:
        raise BadInput(f"--workers {workers}: give 0 for this process, or how many Ray workers")
    if kind == "inline" or workers == 0:
        if kind == "ray" or arguments.address is not None:
            raise BadInput("--workers 0 (or --on inline) computes in this process, without Ray; leave --address out")
        return Inline(device=getattr(arguments, "device", None))
    gpus, device = getattr(arguments, "gpus_per_worker", 0.0), getattr(arguments, "device", None)
    if workers is None and arguments.address is None:
        workers = os.cpu_count()
    return Ray(workers=workers, address=arguments.address, gpus_per_worker=gpus, device=device)


def _done(result: Result, arguments: argparse.Namespace) -> int:
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    console.print(terminal.results(result.document))
    if result.status == "interrupted":
        console.print(f"resume with: bilevel resume {result.run_id} --store {arguments.store}", style="yellow")
    console.print(f"run: {result.folder}", style="dim")
    _pages(console, result.folder)
    if arguments.json:
        sys.stdout.write(json.dumps(result.document, allow_nan=False) + "\n")
    return EXIT[result.status]


# -- reading runs ------------------------------------------------------------------------------------------------------


def _list(arguments: argparse.Namespace) -> int:
    rows: list[dict[str, Any]] = []
    for folder in folders.runs(arguments.store):
        history = studies.replay(folder.events())
        best = history.best()
        rows.append(
            {
                "run": folder.run_id,
                "status": standing(folder, history),
                "trials": len(history.trials),
                "step": max((trial.step for trial in history.trials.values()), default=0),
                "objective": None if best is None else best.objective,
            }
        )
    if arguments.json:
        sys.stdout.write(json.dumps(rows) + "\n")
        return 0
    table = Table(box=None, header_style="bold", padding=(0, 2))
    for name in ("run", "status", "trials", "step", "objective"):
        table.add_column(name, justify="left" if name in ("run", "status") else "right", no_wrap=True)
    for row in rows:
        shown = "" if row["objective"] is None else f"{row['objective']:.5g}"
        table.add_row(row["run"], row["status"], str(row["trials"]), str(row["step"]), shown)
    _out().print(table if rows else f"no runs in {arguments.store} yet; begin one with `bilevel run FILE`")
    return 0


def standing(folder: RunFolder, history: History) -> str:
    """A run's status: as it ended, "running" while a driver holds it, "interrupted" otherwise."""
    if history.status in ("completed", "failed", "stopped"):
        return history.status
    try:
        with folder.locked():
            return "interrupted"
    except BadInput:
        return "running"


def _show(arguments: argparse.Namespace) -> int:
    folder = folders.find(arguments.store, arguments.run)
    history = studies.replay(folder.events())
    document = dict(history.result or runs.result(folder, history, standing(folder, history)))
    if arguments.json:
        sys.stdout.write(json.dumps(document, allow_nan=False) + "\n")
        return 0
    out = _out()
    out.print(f"[bold]{folder.run_id}[/bold]  {folder.path}")
    out.print(terminal.results(document))
    for trial in history.trials.values():
        line = f"trial {trial.number}: {trial.state}, step {trial.step}"
        out.print(line + (f" ({trial.reason})" if trial.reason else ""), markup=False)
    if document["best"] is not None:
        out.print(_config(document["best"]["config"]))
    out.print(f"fingerprint {document['fingerprint']}", style="dim")
    _pages(out, folder.path)
    return 0


def _pages(out: Console, path: Path) -> None:
    """Links to the run's pages in the dashboard, if it is recorded there."""
    folder = RunFolder(path)
    uri = runs.uri_of(folder.document()["track"], path.parent)
    if uri == "none":
        return
    served = uri.startswith(("http://", "https://"))
    state = tracking.recorded(path, uri)
    for name, link in state.links.items():
        out.print(f"MLflow, {name}: {link}", style="dim", markup=False)
    if state.links and not served:
        out.print(f"(the dashboard opens with: bilevel ui --store {path.parent})", style="dim", markup=False)


def _config(config: Mapping[str, Any]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2))
    for path, value in config.items():
        table.add_row(path, json.dumps(value) if not isinstance(value, str) else value)
    return table


def _adapt(arguments: argparse.Namespace) -> int:
    if arguments.steps is not None and arguments.steps < 0:
        raise BadInput(f"--steps {arguments.steps}: give 0 or more inner steps")
    x, y = learner.read_samples(arguments.support, labelled=True)
    query, _ = learner.read_samples(arguments.query, labelled=False)
    model = learner.load(arguments.run, store=arguments.store)
    module = model.adapt(x, y, steps=arguments.steps)
    csv.writer(sys.stdout).writerows(learner.predictions(module, query, model))
    return 0


def _replay(arguments: argparse.Namespace) -> int:
    folder = folders.find(arguments.store, arguments.run)
    study, _ = runs.reload(folder)
    again = audits.replay(
        folder, study, trial=arguments.trial, step=arguments.step, unit=arguments.unit, debug=arguments.debug
    )
    same = again.digest == again.recorded
    _out().print(f"trial {arguments.trial}, unit {arguments.unit} of step {arguments.step} ({again.name})")
    _out().print(f"recorded {again.recorded}, computed again {again.digest}: {'equal' if same else 'NOT EQUAL'}")
    return 0 if same else 1


def _audit(arguments: argparse.Namespace) -> int:
    folder = folders.find(arguments.store, arguments.run)
    study, _ = runs.reload(folder)
    text = arguments.sample
    try:
        sample = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        sample = 0.0
    if not 0 < sample <= 1:
        raise BadInput(f"--sample {text}: give a fraction such as 0.01, or 1%")
    found = audits.audit(folder, study, sample=sample, seed=arguments.seed, say=Console(stderr=True).print)
    for fault in found.faults:
        _out().print(fault, style="red", markup=False)
    _out().print(
        f"{found.units} units computed again, {found.checkpoints} checkpoints read: "
        + (f"{len(found.faults)} do not agree with the record" if found.faults else "all as recorded")
    )
    return 1 if found.faults else 0


def _sync(arguments: argparse.Namespace) -> int:
    folder = folders.find(arguments.store, arguments.run)
    document = folder.document()
    track = arguments.track if arguments.track is not None else tracking.restore(document["track"])
    uri = runs.uri_of(track, folder.path.parent)
    tracking.check_uri(uri)
    if uri == "none":
        raise BadInput(f"{folder.run_id}: begun with --track none; name a tracking server with --track URI")
    state = tracking.sync(folder.path, uri)
    if state.problem:
        return _fail(f"MLflow: {state.problem}", 1)
    _out().print(f"{folder.run_id}: complete in MLflow" + (f"\n{state.url}" if state.url else ""))
    return 0


def _clean(arguments: argparse.Namespace) -> int:
    now, freed, out = time.time(), 0, _out()
    for folder in folders.runs(arguments.store):
        history = studies.replay(folder.events())
        status = standing(folder, history)
        age = (now - folder.journal.stat().st_mtime) / 86400
        if status == "running" or age < arguments.older_than:
            continue
        whole = arguments.runs or (arguments.failed and status == "failed")
        if not whole and status == "interrupted":
            continue  # its checkpoints are what it goes on from
        target = folder.path if whole else folder.path / "checkpoints"
        size = sum(path.stat().st_size for path in target.rglob("*") if path.is_file())
        if size == 0:
            continue
        freed += size
        what = "the run" if whole else "checkpoints"
        out.print(
            f"{'would delete' if arguments.dry_run else 'deleted'} {what} of {folder.run_id} ({size / 1e6:.1f} MB)"
        )
        if not arguments.dry_run:
            with folder.locked():
                shutil.rmtree(target)
    out.print(f"{freed / 1e6:.1f} MB {'would be freed' if arguments.dry_run else 'freed'}")
    return 0


def _ui(arguments: argparse.Namespace) -> int:
    uri = runs.uri_of(arguments.track, arguments.store)
    command, environment = tracking.ui_command(arguments.store, uri, arguments.port)
    _out().print(f"MLflow dashboard on http://127.0.0.1:{arguments.port} (Ctrl-C ends it)")
    for folder in folders.runs(arguments.store)[-3:]:
        for name, link in tracking.recorded(folder.path, uri, arguments.port).links.items():
            _out().print(f"{folder.run_id}, {name}: {link}", style="dim", markup=False)
    try:
        return subprocess.run(command, env=environment, check=False).returncode
    except KeyboardInterrupt:
        return 0


def _doctor(arguments: argparse.Namespace) -> int:
    return doctor.report(_out(), arguments.store, arguments.address, arguments.track)


def _out() -> Console:
    return Console(highlight=False, soft_wrap=True)


# -- the words ---------------------------------------------------------------------------------------------------------


class _Parser(argparse.ArgumentParser):
    """Errors are one line, as everywhere else."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="bilevel",
        description="Hyperparameter and meta-optimization: two loops, one engine, on Ray, recorded in MLflow.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        name: str, function: Any, text: str, *, run: bool = False, store: bool = True
    ) -> argparse.ArgumentParser:
        made = commands.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            formatter_class=argparse.HelpFormatter,
        )
        made.set_defaults(command=function)
        if run:
            made.add_argument("run", metavar="RUN", help="a run's id, an unambiguous part of it, its folder, or 'last'")
        if store:
            made.add_argument(
                "--store", type=Path, default=Path("runs"), metavar="DIR", help="directory of runs (default: runs)"
            )
        return made

    _run_words(command("run", _run, "run a study"))
    resume = command("resume", _resume, "go on with a run where its record ends", run=True)
    _where_words(resume)
    resume.add_argument("--new-code", action="store_true", help="take the study's file as it is now, though it changed")
    listed = command("list", _list, "list the runs of a store")
    listed.add_argument("--json", action="store_true", help="as one JSON array")
    show = command("show", _show, "show how a run stands", run=True)
    show.add_argument("--json", action="store_true", help="the JSON object that `run --json` prints")
    adapt = command("adapt", _adapt, "adapt what a run learned to a task of your own; predictions as CSV", run=True)
    adapt.add_argument(
        "--support", type=Path, required=True, metavar="FILE", help=".npz with x, y, or .csv ending in y"
    )
    adapt.add_argument("--query", type=Path, required=True, metavar="FILE", help=".npz with x, or .csv")
    adapt.add_argument("--steps", type=int, metavar="K", help="inner steps (default: as in training)")
    replay = command("replay", _replay, "compute one unit of work again, in this process, and compare", run=True)
    replay.add_argument("--step", type=int, required=True, help="the outer step")
    replay.add_argument("--unit", type=int, default=0, help="which of the step's units (default: 0)")
    replay.add_argument("--trial", type=int, default=0, help="the trial (default: 0)")
    replay.add_argument("--debug", action="store_true", help="stop in the debugger where the unit begins")
    audit = command("audit", _audit, "read all checkpoints, compute random units again, and compare", run=True)
    audit.add_argument(
        "--sample", default="1%", metavar="SHARE", help="share of the units, as 1%% or 0.01 (default: 1%%)"
    )
    audit.add_argument("--seed", type=int, default=0, help="decides which units (default: 0)")
    sync = command("sync", _sync, "complete a run's record in MLflow", run=True)
    sync.add_argument("--track", metavar="URI", help="MLflow tracking URI (default: as the run began)")
    _clean_words(command("clean", _clean, "delete old checkpoints, or old runs"))
    ui = command("ui", _ui, "open the MLflow dashboard of a store on this machine")
    ui.add_argument("--port", type=int, default=5000, help="on 127.0.0.1 (default: 5000)")
    ui.add_argument("--track", metavar="URI", help="a database of your own (default: the store's)")
    check = command("doctor", _doctor, "say in one screen what works here")
    check.add_argument("--address", metavar="A", help="a Ray cluster to try")
    check.add_argument("--track", metavar="URI", help="a tracking server to try")
    return parser


def _run_words(run: argparse.ArgumentParser) -> None:
    run.add_argument(
        "file", metavar="FILE[:NAME]", help="a Python file with `study = Study(...)`, or another NAME in it"
    )
    run.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="a value of the space by its dotted path, as JSON or a string; repeatable",
    )
    run.add_argument(
        "--steps", type=int, metavar="N", help="outer steps of a meta-training (default: the study's, as for all below)"
    )
    run.add_argument("--trials", type=int, metavar="N", help="how many trials")
    run.add_argument("--seed", type=int, metavar="N", help="the study's seed")
    run.add_argument("--time", type=float, metavar="SECONDS", help="stop after so long")
    _where_words(run)
    run.add_argument("--on", choices=["inline", "ray"], help="the engine (default: ray, unless --workers 0)")
    run.add_argument(
        "--gpus-per-worker",
        type=float,
        default=0.0,
        metavar="X",
        help="GPUs of each worker, fractions too (default: 0)",
    )
    run.add_argument("--device", metavar="D", help="torch device where Ray gives no GPU (default: cpu)")


def _where_words(command: argparse.ArgumentParser) -> None:
    command.add_argument("--workers", type=int, metavar="N", help="inner-loop workers (default: the CPUs; 0: no Ray)")
    command.add_argument("--slots", type=int, metavar="N", help="trials in flight (default: 1)")
    command.add_argument("--address", metavar="A", help="an existing Ray cluster, host:port or auto")
    command.add_argument(
        "--track", metavar="URI", help="MLflow tracking URI (default: a database in the store); or none"
    )
    command.add_argument("--json", action="store_true", help="the result as the last line of standard output")


def _clean_words(clean: argparse.ArgumentParser) -> None:
    clean.add_argument(
        "--older-than",
        type=float,
        default=30.0,
        metavar="DAYS",
        help="only what was last touched so long ago (default: 30)",
    )
    clean.add_argument("--runs", action="store_true", help="whole runs, not only the checkpoints of ended ones")
    clean.add_argument("--failed", action="store_true", help="of failed runs, everything")
    clean.add_argument("--dry-run", action="store_true", help="only say what would go")


if __name__ == "__main__":
    sys.exit(main())
