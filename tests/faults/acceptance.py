"""Does the program stand what it promises to stand, at full size? One command a promise, by hand; it prints figures.

.venv/bin/python tests/faults/acceptance.py kill-workers --seed 7     10 workers killed, 2 frozen; a deadly unit
.venv/bin/python tests/faults/acceptance.py kill-driver --seed 7      20 times, and at each step of a checkpoint
.venv/bin/python tests/faults/acceptance.py tracker --seed 7          absent, killed, hung
.venv/bin/python tests/faults/acceptance.py damage --seed 7           checkpoints, full disks, a second driver
.venv/bin/python tests/faults/acceptance.py memory                    20,000 steps
.venv/bin/python tests/faults/acceptance.py search-kill --seed 7      a search: 20 drivers and 20 workers killed
.venv/bin/python tests/faults/acceptance.py search-same --seed 7      one fingerprint, whatever the workers
.venv/bin/python tests/faults/acceptance.py search-mlflow             PBT and ASHA as MLflow's client reads them
"""

from __future__ import annotations

import argparse
import json
import os
import random
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

from bilevel import Inline, figures  # noqa: E402
from bilevel.drive import progress, runs, sources  # noqa: E402
from bilevel.record import tracking  # noqa: E402
from programs import TINY, metric_steps, run_folder  # noqa: E402
from support import storms  # noqa: E402

COMMAND = (sys.executable, "-m", "bilevel.cli")
PROMISES = (
    "kill-workers", "kill-driver", "tracker", "damage", "memory", "search-kill", "search-same", "search-mlflow",
)  # fmt: skip


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
    figures.draw = lambda *_: {}
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


class Striker(progress.Quiet):
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
        command = [*COMMAND, *words, "--workers", "0", "--track", "none", "--json"]
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


# -- searches ----------------------------------------------------------------------------------------------------------


def search_kill(seed: int) -> int:
    """40 trials of TPE and successive halving; 20 drivers and 20 workers are killed, with one slot and with two."""
    failed = 0
    for slots in (1, 2):
        with tempfile.TemporaryDirectory() as folder, storms.home(Path(folder), COMMAND) as place:
            undisturbed = place.run("undisturbed", "study", "--workers", 0, "--track", "none", pace=0.0).end()[1]
            words = ("--workers", 2, "--slots", slots)
            chance = random.Random(seed + slots)
            found = storms.weather(
                place, "store", "study", words, chance, drivers=20, workers=20, gap=9 if slots == 1 else 5
            )
            figures = storms.check(place, "store", 40)
            runs_by_status = storms.statuses(place, "store")
            same = found.document["fingerprint"] == undisturbed["fingerprint"]
            failed += runs_by_status.get("RUNNING", 0) + (slots == 1 and not same)
            say(
                f"slots {slots}: {found.drivers} drivers and {found.workers} workers killed in {found.seconds:.0f} s; "
                f"{figures['trials']} asked, {figures['trials']} ended ({found.document['trials']}), none run again; "
                f"{figures['attempts again']} times gone on from the last checkpoint, {figures['steps']} steps, "
                f"{figures['steps computed']} computed; MLflow: {runs_by_status}; "
                f"fingerprint {'equal' if same else 'not equal'} to the undisturbed run's"
            )
            if slots == 1 and not same:
                say(storms.differences(place, "undisturbed", "store"))
    return failed


def search_same(seed: int) -> int:
    """The same search with one slot, twice and resumed; with four, deterministic, on 1 to 4 workers and resumed."""
    chance, failed = random.Random(seed), 0
    with tempfile.TemporaryDirectory() as folder, storms.home(Path(folder), COMMAND) as place:
        found: dict[str, dict[str, str]] = {"slots 1": {}, "slots 4, deterministic": {}}
        for name, words in {"in process": ("--workers", 0), "on 2 workers": ("--workers", 2)}.items():
            run = place.run(name, "study", *words, "--slots", 1, "--track", "none")
            found["slots 1"][name] = run.end()[1]["fingerprint"]
        again = storms.weather(
            place, "1", "study", ("--workers", 2, "--slots", 1), chance, drivers=4, workers=2, gap=40, track="none"
        )
        found["slots 1"]["4 drivers, 2 workers killed"] = again.document["fingerprint"]
        for workers in (1, 2, 3, 4):
            run = place.run(str(10 + workers), "ordered", "--workers", workers, "--slots", 4, "--track", "none")
            found["slots 4, deterministic"][f"on {workers} workers"] = run.end()[1]["fingerprint"]
        for counts in ((1, 2, 3, 4), (4, 3, 2, 1)):
            words = ("--workers", counts[0], "--slots", 4)
            store = f"changing{counts[0]}"
            again = storms.weather(
                place, store, "ordered", words, chance, drivers=4, workers=2, gap=40, counts=counts, track="none"
            )
            storms.check(place, store, 40)
            found["slots 4, deterministic"][f"killed, on {counts} workers in turn"] = again.document["fingerprint"]
        for name, prints in found.items():
            failed += len(set(prints.values())) != 1
            say(f"{name}: {len(set(prints.values()))} fingerprint of {len(prints)} runs")
            for run_name, text in prints.items():
                say(f"  {text[:16]} {run_name}")
    return failed


READ = """
import json, sys
import mlflow
mlflow.set_tracking_uri(sys.argv[1])
client = mlflow.MlflowClient()
(experiment,) = [e for e in client.search_experiments() if e.name == "storm"]
runs = client.search_runs([experiment.experiment_id], max_results=1000)
print(json.dumps([[r.info.run_id, r.info.status, r.data.tags, r.data.params, r.data.metrics] for r in runs]))
"""


def search_mlflow() -> int:
    """PBT and successive halving with 20 trials each: what is said, and what MLflow's own client reads."""
    failed = 0
    for name, more in {"members": (), "study": ("--trials", 20)}.items():
        with tempfile.TemporaryDirectory() as folder, storms.home(Path(folder), COMMAND) as place:
            status, document, err = place.run("store", name, "--workers", 2, *more).end()
            loud = [line for line in err.splitlines() if any(w in line.lower() for w in ("warn", "error", "traceback"))]
            statuses = storms.statuses(place, "store")
            uri = f"sqlite:///{place.path / 'store' / 'mlflow.db'}"
            read = subprocess.run([sys.executable, "-W", "ignore", "-c", READ, uri], capture_output=True, check=True)
            pages = json.loads(read.stdout.splitlines()[-1])
            children = [page for page in pages if page[2].get("bilevel.kind") == "trial"]
            nested = {page[2].get("mlflow.parentRunId") for page in children} == {
                page[0] for page in pages if page[2].get("bilevel.kind") == "study"
            }
            told = all(page[3] and "objective" in page[4] for page in children)
            storms.check(place, "store", 20)
            failed += status != 0 or bool(loud) or len(children) != 20 or not nested or not told
            say(
                f"{'PBT' if name == 'members' else 'ASHA'}: {len(children)} trials, {document['trials']}, MLflow: "
                f"{statuses}, children {'nested' if nested else 'NOT NESTED'}, parameters and objectives "
                f"{'there' if told else 'MISSING'}, warnings: {loud or 'none'}"
            )
    return failed


def main() -> int:
    """One promise."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("promise", choices=PROMISES)
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
        case "search-kill":
            return search_kill(words.seed)
        case "search-same":
            return search_same(words.seed)
        case "search-mlflow":
            return search_mlflow()
        case "tracker":
            return tracker(words.steps or 3000, words.seed)
        case _:
            return memory(words.steps or 20_000)


if __name__ == "__main__":
    sys.exit(main())
