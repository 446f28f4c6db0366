"""Does the program stand what it promises to stand, at full size? One command a promise, by hand; it prints figures.

.venv/bin/python tests/faults/acceptance.py kill-workers --seed 7     10 workers killed, 2 frozen; a deadly unit
.venv/bin/python tests/faults/acceptance.py kill-driver --seed 7      20 times, and at each step of a checkpoint
.venv/bin/python tests/faults/acceptance.py tracker --seed 7          absent, killed, hung
.venv/bin/python tests/faults/acceptance.py damage --seed 7           checkpoints, full disks, a second driver
.venv/bin/python tests/faults/acceptance.py memory                    20,000 steps
"""

from __future__ import annotations

import argparse
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

from bilevel import Inline, figures, runs, sources  # noqa: E402
from bilevel.record import tracking  # noqa: E402
from programs import TINY, metric_steps, run_folder  # noqa: E402


def say(text: str) -> None:
    """A line of figures."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def tests(file: str, chosen: str, **variables: object) -> int:
    """The fault tests of a file with other numbers."""
    environment = os.environ | {f"BILEVEL_FAULT_{name.upper()}": str(value) for name, value in variables.items()}
    command = [
        sys.executable,
        "-m",
        "pytest",
        str(HERE / file),
        "-k",
        chosen,
        "-v",
        "--timeout",
        "3000",
        "--durations=0",
    ]
    say(f"{variables}: {' '.join(command[1:])}")
    return subprocess.run(command, env=environment, check=False, cwd=HERE.parents[1]).returncode


# -- the tracker -------------------------------------------------------------------------------------------------------


class Waited:
    """How long the program waits for its tracker before the training is over."""

    def __init__(self) -> None:
        self.seconds = 0.0
        waited, before = self, tracking.Tracker

        class Timed(before):  # type: ignore[misc, valid-type]
            def __init__(self, *arguments: Any) -> None:
                begun = time.perf_counter()
                super().__init__(*arguments)
                waited.seconds += time.perf_counter() - begun

            def status(self) -> tracking.TrackerStatus:
                begun = time.perf_counter()
                found = super().status()
                waited.seconds += 0.0 if self.leaving else time.perf_counter() - begun
                return found

            leaving = False

            def finish(self, timeout: float) -> tracking.TrackerStatus:
                self.leaving = True
                return super().finish(timeout)

        tracking.Tracker = Timed  # type: ignore[misc]


def server(home: Path, port: int) -> subprocess.Popen[bytes]:
    """A tracking server, answering."""
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{home / 'mlflow.db'}", "--artifacts-destination", str(home / "kept")]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, process_group=0)
    while True:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        time.sleep(0.2)


def tracker(steps: int, seed: int) -> int:
    """Runs beside a server that is absent, is killed in the middle, hangs; each completed by `sync`."""
    figures.draw = lambda history: {}
    waited = Waited()
    failed = 0
    for fault, number in {"absent": None, "killed": 9, "hung": 19}.items():
        with tempfile.TemporaryDirectory() as folder:
            home = Path(folder)
            (home / "tiny.py").write_text(TINY)
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                port = int(probe.getsockname()[1])
            up = None if number is None else server(home, port)
            study, source = sources.load(str(home / "tiny.py"))
            study = study.set("steps", steps)
            waited.seconds, begun = 0.0, time.perf_counter()
            watch = Striker(up, number, steps // 3 + seed % (steps // 3))
            uri = f"http://127.0.0.1:{port}"
            made = runs.run(study, on=Inline(), store=home, track=uri, source=source, watch=watch)
            whole = time.perf_counter() - begun
            trained = float(made.document["seconds"])
            if up is not None and number is not None:
                os.killpg(up.pid, 9)
                up.wait()
            again = server(home, port)
            begun = time.perf_counter()
            standing = tracking.sync(made.folder, uri)
            found = metric_steps(home, "train/loss")
            single = found == [list(range(1, steps + 1))]
            os.killpg(again.pid, 9)
            again.wait()
            share = waited.seconds / trained
            say(
                f"server {fault} (struck at step {watch.at}): trained {trained:.1f} s of {whole:.1f} s, waited for the "
                f"tracker {waited.seconds:.3f} s = {share:.2%}; sync {time.perf_counter() - begun:.1f} s, "
                f"{'complete' if standing.complete else standing.problem}, steps {'whole' if single else 'WRONG'}"
            )
            failed += not (share < 0.01 and standing.complete and single)
    return failed


class Striker(runs.Quiet):
    """Strikes the server when the run has reached a step."""

    def __init__(self, process: subprocess.Popen[bytes] | None, number: int | None, at: int) -> None:
        self.process, self.number, self.at = process, number, at

    def progress(self, progress: Any) -> None:
        reached = max((trial.step for trial in progress.history.trials.values()), default=0) >= self.at
        if reached and self.process is not None and self.number is not None:
            os.killpg(self.process.pid, self.number)
            self.process = None


# -- memory ------------------------------------------------------------------------------------------------------------


def memory(steps: int) -> int:
    """Resident memory of the driver over a long run, and the size of its journal."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        (home / "tiny.py").write_text(TINY)
        words = ["run", str(home / "tiny.py"), "--store", str(home / "store"), "--steps", str(steps)]
        command = [sys.executable, "-m", "bilevel.cli", *words, "--workers", "0", "--track", "none", "--json"]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        seen: list[tuple[int, float]] = []
        while process.poll() is None:
            made = run_folder(home / "store")
            size = (made / "journal.jsonl").stat().st_size if made and (made / "journal.jsonl").exists() else 0
            seen.append((size, resident(process.pid)))
            time.sleep(0.5)
        made = run_folder(home / "store")
        journal = (made / "journal.jsonl").stat().st_size / 1e6 if made else 0.0
        deciles: list[list[float]] = [[] for _ in range(10)]
        for size, rss in seen:
            part = int(10 * size / 1e6 / journal)
            if part < 10 and size:  # behind: the tests of the last step, and the figures
                deciles[part].append(rss)
        means = [sum(part) / len(part) for part in deciles if part]
        early, late = means[1], means[-1]
        say(f"{steps} steps: exit {process.returncode}, journal {journal:.2f} MB, {len(seen)} samples of the driver")
        say(f"resident MB in each tenth of the training: {', '.join(f'{mean:.1f}' for mean in means)}")
        return int(process.returncode != 0 or journal > 20 or late > 1.05 * early)


def resident(pid: int) -> float:
    """Megabytes; 0 for a process that has gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def main() -> int:
    """One promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("promise", choices=["kill-workers", "kill-driver", "tracker", "damage", "memory"])
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="of the moments")
    parser.add_argument("--steps", type=int, help="of the runs of 'tracker' (3,000) and 'memory' (20,000)")
    words = parser.parse_args()
    say(f"seed {words.seed}")
    match words.promise:
        case "kill-workers":
            return tests("test_run_on_ray.py", "not driver", seed=words.seed, kills=10, freezes=2)
        case "kill-driver":
            return tests("test_driver_killed.py", "random_moments or any_step", seed=words.seed, kills=20)
        case "damage":
            return tests("test_driver_killed.py", "not (random_moments or any_step)", seed=words.seed)
        case "tracker":
            return tracker(words.steps or 3000, words.seed)
        case _:
            return memory(words.steps or 20_000)


if __name__ == "__main__":
    sys.exit(main())
