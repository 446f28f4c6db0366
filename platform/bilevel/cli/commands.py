"""What does each command do?"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import math
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from bilevel import space as spaces
from bilevel.cli import doctor as doctors
from bilevel.cli import reference, server
from bilevel.drive import audit as audits
from bilevel.drive import learner, results, runs, samples, sources
from bilevel.drive.results import Result
from bilevel.errors import BadInput, RecordDamaged
from bilevel.execute import Inline, On, Ray, Tune
from bilevel.meta import MetaTraining
from bilevel.record import folder as folders
from bilevel.record import tracking
from bilevel.record.folder import RunFolder
from bilevel.record.trial_files import TrialFiles
from bilevel.study import history as histories
from bilevel.study import telling
from bilevel.study.history import History
from bilevel.view import report as reports
from bilevel.view import tables, terminal
from bilevel.view.paper import paper, plain

EXIT = {"completed": 0, "stopped": 0, "failed": 1, "interrupted": 130}


# -- run, resume -------------------------------------------------------------------------------------------------------


def run(arguments: argparse.Namespace) -> int:
    """Run a study."""
    if arguments.time is not None and not 0 < arguments.time < math.inf:
        raise BadInput(f"--time {arguments.time:g}: give seconds, more than 0; without a limit leave it out")
    study, source = sources.load(arguments.file, module=arguments.module, arguments=arguments.own)
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
        if vars(arguments)[option] is not None:
            changes[f"--{option}"] = vars(arguments)[option]
    study = runs.changed(study, changes)
    on = _on(arguments)
    with terminal.Screen() as screen:
        result = runs.run(
            study,
            on=on,
            store=arguments.store,
            track=arguments.track,
            seconds=arguments.time,
            slots=arguments.slots,
            watch=screen,
            source=source,
            changes=changes,
        )
    return _done(result, arguments)


def resume(arguments: argparse.Namespace) -> int:
    """Go on with a run."""
    return _go_on(arguments, 0)


def extend(arguments: argparse.Namespace) -> int:
    """More trials for a run, finished or not."""
    if arguments.trials < 1:
        raise BadInput(f"--trials {arguments.trials}: give how many more, from 1 on")
    return _go_on(arguments, arguments.trials)


def _go_on(arguments: argparse.Namespace, more: int) -> int:
    with terminal.Screen() as screen:
        result = runs.resume(
            arguments.run,
            store=arguments.store,
            on=_elsewhere(arguments),
            track=arguments.track,
            slots=arguments.slots,
            watch=screen,
            new_code=arguments.new_code,
            more=more,
        )
    return _done(result, arguments)


def _elsewhere(arguments: argparse.Namespace) -> On | None:
    """Where a run goes on, if not as it began: what is not given stays."""
    given = {name: vars(arguments)[name] for name in ("workers", "address") if vars(arguments)[name] is not None}
    if not given:
        return None
    began = runs.declared(folders.find(arguments.store, arguments.run).document()["execution"])
    if isinstance(began, Inline) or arguments.workers == 0:
        arguments.device = began.device
        return _on(arguments)
    return dataclasses.replace(began, **given)


def _on(arguments: argparse.Namespace) -> On:
    workers, kind = arguments.workers, vars(arguments).get("on", None)
    if workers is not None and workers < 0:
        raise BadInput(f"--workers {workers}: give 0 for this process, or how many Ray workers")
    if kind == "inline" or workers == 0:
        said = "--workers 0" if workers == 0 else "--on inline"
        others = (
            (f"--on {kind}", kind in ("ray", "tune")),
            ("--address", arguments.address is not None),
            (f"--workers {workers}", bool(workers)),
            ("--gpus-per-worker", bool(vars(arguments).get("gpus_per_worker", 0.0))),
        )
        against = next((flag for flag, given in others if given), "")
        if against:
            raise BadInput(f"{said} computes in this process, without Ray; leave it or {against} out")
        return Inline(device=vars(arguments).get("device", None))
    gpus, device = vars(arguments).get("gpus_per_worker", 0.0), vars(arguments).get("device", None)
    if workers is None and arguments.address is None:
        workers = os.cpu_count()
    engine = Tune if kind == "tune" else Ray
    return engine(workers=workers, address=arguments.address, gpus_per_worker=gpus, device=device)


def _done(result: Result, arguments: argparse.Namespace) -> int:
    console = paper(error=True)
    history = histories.replay(RunFolder(result.folder).events())
    best = history.best()
    point = None if best is None else best.point
    console.print(terminal.results(result.document, point, history.metric, telling.tried(history)))
    if result.status == "interrupted":
        console.print(f"resume with: bilevel resume {result.run_id} --store {arguments.store}", style="yellow")
    console.print(f"run: {result.folder}", style="dim")
    _pages(console, result.folder)
    if arguments.json:
        sys.stdout.write(json.dumps(_finite(result.document), allow_nan=False) + "\n")
    return EXIT[result.status]


# -- reading runs ------------------------------------------------------------------------------------------------------


def _warn(folder: RunFolder) -> None:
    """Say on standard error what of a run is damaged, though it can be shown."""
    for problem in folder.problems():
        sys.stderr.write(f"bilevel: {problem}\n")


def show(arguments: argparse.Namespace) -> int:
    """How a run stands."""
    folder = folders.find(arguments.store, arguments.run)
    history = histories.replay(folder.events())
    _warn(folder)
    document = dict(results.recorded(folder, history) or results.result(folder, history, folder.standing(history)))
    if arguments.trial is not None:
        return _show_trial(folder, history, arguments)
    if arguments.json:
        sys.stdout.write(json.dumps(_finite(document), allow_nan=False) + "\n")
        return 0
    out = _out()
    out.print(plain(folder.run_id, "bold").append(f"  {folder.path}", ""))
    best = history.best()
    point = None if best is None else best.point
    out.print(terminal.results(document, point, history.metric, telling.tried(history)))
    if len(history.trials) > 1:
        out.print(tables.search(results.search(folder)))
    else:
        for trial in history.trials.values():
            line = f"trial {trial.number}: {trial.state}, step {trial.step}"
            out.print(line + (f" ({trial.reason})" if trial.reason else ""))
        if document["best"] is not None:
            out.print(_config(document["best"]["config"]))
    out.print(f"fingerprint {document['fingerprint']}", style="dim")
    _pages(out, folder.path)
    return 0


def _show_trial(folder: RunFolder, history: History, arguments: argparse.Namespace) -> int:
    """One trial: what was tried, where, how it went, and what it printed."""
    number = arguments.trial
    if number not in history.trials:
        raise BadInput(f"{folder.run_id}: no trial {number}; it has 0 to {len(history.trials) - 1}")
    if arguments.json:
        trial = dataclasses.asdict(history.trials[number])
        sys.stdout.write(json.dumps({name: _finite(value) for name, value in trial.items()}, allow_nan=False) + "\n")
        return 0
    files = TrialFiles(folder)
    found, places = results.search(folder), files.places(history.trials[number])
    raised = files.error_of(number)
    _out().print(tables.trial(found, number, _text(files.log_of(number)), places, _text(raised)))
    if raised.is_file():
        _out().print(f"the whole traceback: {raised}", style="dim")
    return 0


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _finite(value: Any, words: bool = False) -> Any:
    """As JSON has it: what is not finite is null, and in a configuration (`words`) its name, as it was chosen."""
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value) if words else None
    if isinstance(value, Mapping):
        return {str(name): _finite(part, words or name in ("config", "point")) for name, part in value.items()}
    return [_finite(part, words) for part in value] if isinstance(value, list | tuple) else value


def report(arguments: argparse.Namespace) -> int:
    """One HTML page of a run, to keep or to send."""
    folder = folders.find(arguments.store, arguments.run)
    path = arguments.output or folder.path / "report.html"
    _warn(folder)
    document = _readable(folder)
    facts = {"file": f"{document['file']}:{document.get('object')}"} if document.get("file") else {}
    written = reports.write(results.search(folder), path, facts=facts)
    _out().print(str(written))
    return 0


def _pages(out: Console, path: Path) -> None:
    """Links to the run's pages in the dashboard, if it is recorded there."""
    folder = RunFolder(path)
    document = _readable(folder)
    uri = runs.uri_of(document.get("track"), path.parent)
    if uri == "none" or not document:
        return
    served = uri.startswith(("http://", "https://"))
    state = tracking.recorded(path, uri)
    if state.problem:
        sys.stderr.write(f"bilevel: MLflow: {state.problem}\n")
    for name, link in state.links.items():
        out.print(f"MLflow, {name}: {link}", style="dim")
    if state.links and not served:
        out.print(f"(the dashboard opens with: bilevel ui --store {path.parent})", style="dim")


def _readable(folder: RunFolder) -> Mapping[str, Any]:
    """study.json, or nothing where it is damaged, which `_warn` says."""
    try:
        return folder.document()
    except RecordDamaged:
        return {}


def _config(config: Mapping[str, Any]) -> Table:
    table = Table(box=None, show_header=False, padding=(0, 2))
    for path, value in config.items():
        table.add_row(path, json.dumps(value) if not isinstance(value, str) else value)
    return table


def adapt(arguments: argparse.Namespace) -> int:
    """Predictions for a task of the user's own, as CSV."""
    if arguments.steps is not None and arguments.steps < 0:
        raise BadInput(f"--steps {arguments.steps}: give 0 or more inner steps")
    x, y = samples.read_samples(arguments.support, labelled=True)
    query, _ = samples.read_samples(arguments.query, labelled=False)
    model = learner.load(arguments.run, store=arguments.store)
    module = model.adapt(x, y, steps=arguments.steps)
    csv.writer(sys.stdout).writerows(learner.predictions(module, query, model))
    return 0


def replay(arguments: argparse.Namespace) -> int:
    """One unit computed again."""
    folder = folders.find(arguments.store, arguments.run)
    study, _ = runs.reload(folder)
    again = audits.replay(
        folder, study, trial=arguments.trial, step=arguments.step, unit=arguments.unit, debug=arguments.debug
    )
    same = again.digest == again.recorded
    _out().print(f"trial {arguments.trial}, unit {arguments.unit} of step {arguments.step} ({again.name})")
    _out().print(f"recorded {again.recorded}, computed again {again.digest}: {'equal' if same else 'NOT EQUAL'}")
    return 0 if same else 1


def audit(arguments: argparse.Namespace) -> int:
    """Random units computed again, all checkpoints read."""
    folder = folders.find(arguments.store, arguments.run)
    text = arguments.sample
    try:
        sample = float(text[:-1]) / 100 if text.endswith("%") else float(text)
    except ValueError:
        sample = 0.0
    if not 0 < sample <= 1:
        raise BadInput(f"--sample {text}: give a fraction such as 0.01, or 1%")
    _warn(folder)
    study = runs.reload(folder)[0] if audits.units(folder) else None  # to read checkpoints it is not needed
    found = audits.audit(folder, study, sample=sample, seed=arguments.seed, say=paper(error=True).print)
    for fault in found.faults:
        _out().print(fault, style="red")
    again = f"{found.units} units computed again, " if found.units else ""
    none = "" if found.units else " (its trials are not made of units, which alone are computed again)"
    _out().print(
        f"{again}{found.checkpoints} checkpoints read: "
        + (f"{len(found.faults)} do not agree with the record" if found.faults else "all as recorded")
        + none
    )
    return 1 if found.faults else 0


def sync(arguments: argparse.Namespace) -> int:
    """Complete a run's record in MLflow."""
    folder = folders.find(arguments.store, arguments.run)
    document = folder.document()
    track = tracking.restore(document["track"] if arguments.track is None else arguments.track)
    uri = runs.uri_of(track, folder.path.parent)
    tracking.check_uri(uri)
    if uri == "none":
        raise BadInput(f"{folder.run_id}: begun with --track none; name a tracking server with --track URI")
    state = tracking.sync(folder.path, uri)
    if not state.complete:
        what = state.problem or f"{state.behind} events behind; sync again"
        sys.stderr.write(f"bilevel: MLflow: {what}\n")
        return 1
    _out().print(f"{folder.run_id}: complete in MLflow" + (f"\n{state.url}" if state.url else ""))
    return 0


def ui(arguments: argparse.Namespace) -> int:
    """The dashboard of a store."""
    uri = runs.uri_of(tracking.restore(arguments.track), arguments.store)
    tracking.check_uri(uri)
    command, environment = tracking.ui_command(arguments.store, uri, arguments.port)
    _out().print(f"MLflow dashboard on http://127.0.0.1:{arguments.port} (Ctrl-C ends it)")
    for folder in folders.runs(arguments.store)[-3:]:
        for name, link in tracking.recorded(folder.path, uri, arguments.port).links.items():
            _out().print(f"{folder.run_id}, {name}: {link}", style="dim")
    return server.serve(command, environment)


def doctor(arguments: argparse.Namespace) -> int:
    """What works here."""
    return doctors.report(_out(), arguments.store, arguments.address, arguments.track)


def _out() -> Console:
    return paper()


# -- words -------------------------------------------------------------------------------------------------------------


def explain(arguments: argparse.Namespace) -> int:
    """Explain a command, a name or another tool's words."""
    command = arguments.describe(arguments.topic)
    if command is not None:
        sys.stdout.write(command)
    else:
        reference.show(arguments.topic, _out())
    return 0
