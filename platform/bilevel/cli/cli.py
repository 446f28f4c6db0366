"""What can be said on the command line?"""

from __future__ import annotations

import argparse
import io
import os
import signal
import sys
import warnings
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

from bilevel.errors import BadInput, BilevelError
from bilevel.space.secrets import redacted

EXAMPLES = """examples:
  bilevel run search_spaces/alphabets_maml.py                 a study, on all CPUs of this machine
  bilevel run study.py --set rule.lr=0.1 --steps 500          with other values (any value of the space, by its path)
  bilevel run study.py:tiny --workers 0 --json                the study named `tiny`, in this process, result as JSON
  bilevel run -m package.study -- --data big.csv              a module; what follows -- is its own sys.argv (recorded)
  bilevel run study.py --address auto --gpus-per-worker 0.5   on an existing Ray cluster, two workers a GPU
  bilevel run search_spaces/mlp_asha.py --trials 100          a search; trials run side by side on the workers
  bilevel resume last                                         go on after an interruption or a crash
  bilevel steer last --point lr=0.01 width=64                 try this next, while it runs; --stop 7, --note 7 "odd"
  bilevel extend last --trials 50                             50 trials more, with all that was learned so far
  bilevel show last --trial 7                                 what one trial did and printed
  bilevel report last                                         the search as one HTML page
  bilevel watch last                                          the same while it runs, as a page that follows it
  bilevel adapt last --support mine.npz --query new.npz       use what was learned on a task of your own
  bilevel ui                                                  look at everything in the MLflow dashboard
  bilevel help TPE                                            what a name of the library means; alone: all names
"""
RUN = "a run's id, its beginning or end, its folder, a study's name, or 'last'"


def main(argv: Sequence[str] | None = None) -> int:
    """The command `bilevel`; the exit status: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    if argv is None:
        signal.signal(signal.SIGTERM, _terminated)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name may hold what no encoding has
            stream.reconfigure(errors="backslashreplace")
    arguments = parsed(sys.argv[1:] if argv is None else argv)
    warnings.formatwarning = lambda message, *_args, **_kw: f"bilevel: {message}\n"
    try:
        module, _, function = arguments.command.partition(".")  # a word of help needs none of what a command needs
        status: int = getattr(import_module(f"bilevel.cli.{module}"), function)(arguments)
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


def parsed(words: Sequence[str]) -> argparse.Namespace:
    """What the words of a command mean; those behind `--` are a study's own."""
    words = list(words)
    end = words.index("--") if "--" in words else len(words)
    parser = _parser()
    arguments = parser.parse_args(words[:end])
    if words[end:] and arguments.command != "commands.run":
        parser.error("-- and what follows it are arguments of a study's own; they go with `bilevel run`")
    arguments.own = words[end + 1 :]
    return arguments


def _terminated(*_: object) -> NoReturn:
    """Where nothing leaves in better order, a command ends at SIGTERM as it does at Ctrl-C."""
    raise KeyboardInterrupt


def _fail(error: object, status: int) -> int:
    sys.stderr.write(redacted(f"bilevel: {error}\n"))
    return status


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
    words = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        name: str, text: str, *, does: str = "", run: bool = False, store: bool = True
    ) -> argparse.ArgumentParser:
        made = words.add_parser(
            name,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            formatter_class=argparse.HelpFormatter,
        )
        made.set_defaults(command=does or f"commands.{name}")
        if run:
            made.add_argument("run", metavar="RUN", help=RUN)
        if store:
            made.add_argument(
                "--store", type=Path, default=Path("runs"), metavar="DIR", help="directory of runs (default: runs)"
            )
        return made

    _run_words(command("run", "run a study"))
    resume = command("resume", "go on with a run where its record ends", run=True)
    _where_words(resume, goes_on=True)
    resume.add_argument("--new-code", action="store_true", help="take the study's file as it is now, though it changed")
    listed = command("list", "list the runs of a store", does="store.list_runs")
    listed.add_argument("--json", action="store_true", help="as one JSON array")
    extend = command("extend", "add trials to a run, finished or not", run=True)
    extend.add_argument("--trials", type=int, required=True, metavar="N", help="how many more")
    _where_words(extend, goes_on=True)
    extend.add_argument("--new-code", action="store_true", help="take the study's file as it is now, though it changed")
    _steer_words(command("steer", "steer a run, also while it is at work", does="steer.steer", run=True))
    show = command("show", "show how a run stands, or one of its trials", run=True)
    show.add_argument("--json", action="store_true", help="the JSON object that `run --json` prints")
    show.add_argument("--trial", type=int, metavar="N", help="this trial: configuration, course, output")
    report = command("report", "write one HTML page of a run, to keep or to send", run=True)
    report.add_argument("--output", type=Path, metavar="FILE", help="where to (default: in the run's folder)")
    watch = command(
        "watch", "follow runs at work, or look at ended ones, on one page of this machine", does="watch.watch"
    )
    watch.add_argument("runs", metavar="RUN", nargs="+", help=f"{RUN}; several stand side by side")
    watch.add_argument("--port", type=int, metavar="N", help="on 127.0.0.1 (default: 5001, or any that is free)")
    adapt = command("adapt", "adapt what a run learned to your own task; predictions as CSV", run=True)
    adapt.add_argument(
        "--support", type=Path, required=True, metavar="FILE", help=".npz with x, y, or .csv ending in y"
    )
    adapt.add_argument("--query", type=Path, required=True, metavar="FILE", help=".npz with x, or .csv")
    adapt.add_argument("--steps", type=int, metavar="K", help="inner steps (default: as in training)")
    replay = command("replay", "compute one unit of work again, here, and compare", run=True)
    replay.add_argument("--step", type=int, required=True, help="the outer step")
    replay.add_argument("--unit", type=int, default=0, help="which of the step's units (default: 0)")
    replay.add_argument("--trial", type=int, default=0, help="the trial (default: 0)")
    replay.add_argument("--debug", action="store_true", help="stop in the debugger where the unit begins")
    audit = command("audit", "read all checkpoints, compute random units again, and compare", run=True)
    audit.add_argument(
        "--sample", default="1%", metavar="SHARE", help="share of the units, as 1%% or 0.01 (default: 1%%)"
    )
    audit.add_argument("--seed", type=int, default=0, help="decides which units (default: 0)")
    sync = command("sync", "complete a run's record in MLflow", run=True)
    sync.add_argument("--track", metavar="URI", help="MLflow tracking URI (default: as the run began)")
    _clean_words(command("clean", "delete old checkpoints, or old runs", does="store.clean"))
    ui = command("ui", "open the MLflow dashboard of a store on this machine")
    ui.add_argument("--port", type=int, default=5000, help="on 127.0.0.1 (default: 5000)")
    ui.add_argument("--track", metavar="URI", help="a database of your own (default: the store's)")
    check = command("doctor", "say in one screen what works here")
    check.add_argument("--address", metavar="A", help="a Ray cluster to try")
    check.add_argument("--track", metavar="URI", help="a tracking server to try")
    about = command(
        "help",
        "explain a command, a public name, or the words of Optuna, Ray Tune and W&B",
        does="commands.explain",
        store=False,
    )
    about.add_argument(
        "topic", nargs="?", metavar="TOPIC", help="a command, TPE, tasks.Grouped, optuna, ray-tune, wandb, ..."
    )
    about.set_defaults(describe=lambda topic: words.choices[topic].format_help() if topic in words.choices else None)
    return parser


def _run_words(run: argparse.ArgumentParser) -> None:
    run.add_argument(
        "file", metavar="FILE[:NAME]", help="a Python file with `study = Study(...)`, or another NAME in it"
    )
    run.add_argument(
        "-m",
        dest="module",
        action="store_true",
        help="FILE is a module's dotted name, found as `python -m` finds it: here, or among the installed ones",
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
    run.add_argument("--trials", type=int, metavar="N", help="how many trials (of a search: configurations)")
    run.add_argument("--seed", type=int, metavar="N", help="the study's seed")
    run.add_argument(
        "--time", type=float, metavar="SECONDS", help="stop this call after so long; Study.seconds holds over all"
    )
    _where_words(run)
    run.add_argument(
        "--on",
        choices=["inline", "ray", "tune"],
        help="the engine (default: ray, unless --workers 0); tune: trials of Ray Tune",
    )
    run.add_argument(
        "--gpus-per-worker",
        type=float,
        default=0.0,
        metavar="X",
        help="GPUs of each worker, fractions too (default: 0)",
    )
    run.add_argument("--device", metavar="D", help="torch device where Ray gives no GPU (default: cpu)")


def _where_words(command: argparse.ArgumentParser, *, goes_on: bool = False) -> None:
    """Where a run computes; one that goes on does as it began, in all that is not given."""

    def default(words: str) -> str:
        return "default: as the run began" if goes_on else f"default: {words}"

    command.add_argument(
        "--workers", type=int, metavar="N", help=f"inner-loop workers ({default('the CPUs')}; 0: no Ray)"
    )
    slots = default("the workers; 1 if the objective spreads its work")
    command.add_argument("--slots", type=int, metavar="N", help=f"trials in flight ({slots})")
    address = default("Ray of its own, on this machine")
    command.add_argument("--address", metavar="A", help=f"an existing Ray cluster, host:port or auto ({address})")
    track = default("a database in the store")
    command.add_argument("--track", metavar="URI", help=f"MLflow tracking URI ({track}); or none")
    command.add_argument("--json", action="store_true", help="the result as the last line of standard output")


def _steer_words(steer: argparse.ArgumentParser) -> None:
    steer.epilog = "Each is written into the run's journal, so that it does the same when it is resumed."
    steer.add_argument(
        "--point",
        nargs="+",
        action="append",
        default=[],
        metavar="PATH=VALUE",
        help="try this configuration next; what is left out is in the middle; repeatable, as all of these",
    )
    steer.add_argument("--stop", type=int, action="append", default=[], metavar="TRIAL", help="end a running trial")
    steer.add_argument("--trials", type=int, default=0, metavar="N", help="so many trials more")
    steer.add_argument("--time", type=float, default=0.0, metavar="SECONDS", help="so much more time")
    for option, word, text in (
        ("--note", "TEXT", "a note on a trial, which MLflow shows"),
        ("--tag", "NAME=WORD", "a tag on a trial; NAME= takes it off"),
    ):
        steer.add_argument(option, nargs=2, action="append", default=[], metavar=("TRIAL", word), help=text)


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
