"""What may users rely on, and does importing it harm nobody?"""

from __future__ import annotations

import importlib
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "platform" / "bilevel").rglob("*.py"))
PUBLIC = {
    "bilevel": [
        *("Inline", "Learned", "MetaTraining", "Ray", "Report", "Result", "Run", "Secret", "Space", "Study", "Tune"),
        *("Int", "Log", "LogInt", "LogNormal", "Normal", "OneOf", "Uniform"),
        *("SGD", "Adam", "AdamW", "Cosine", "Linear"),
        *("CMAES", "GP", "NSGA2", "PBT", "TPE", "Grid", "Random", "Sobol"),
        *("ASHA", "Hyperband"),
        *("define_by_run", "load", "meta_train", "resume", "run", "shutdown", "steer", "verify"),
    ],
    "bilevel.tasks": ["Alphabets", "Episodes", "Grouped", "Omniglot", "Sinusoid"],
    "bilevel.inner": ["Adapted", "GradientDescent", "Rule"],
    "bilevel.nets": ["conv4", "mlp"],
    "bilevel.episodes": ["Batch", "Episode", "Key", "Scaling", "TaskTraits", "Tasks", "stack"],
    "bilevel.execute.tuner": ["as_tune_searcher"],
    "bilevel.meta.movers": ["SGD", "Adam", "AdamW", "Cosine", "Linear"],
    "bilevel.search": [
        *("CMAES", "GP", "NSGA2", "PBT", "TPE", "Grid", "Random", "Sobol"),
    ],
    "bilevel.stop": ["ASHA", "Hyperband", "Median", "Stop", "Stopper"],
    "bilevel.search.stop": ["ASHA", "Hyperband", "Median", "Stop", "Stopper"],
    "bilevel.space.conversion": [
        *("from_json", "from_optuna", "from_tune", "to_json", "to_optuna"),
        *("describe", "distribution", "inward", "outward", "read"),
    ],
}


@pytest.mark.parametrize("module", PUBLIC)
def test_the_public_names_are_these(module: str) -> None:
    assert sorted(importlib.import_module(module).__all__) == sorted(PUBLIC[module])


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_there_and_documented(module: str) -> None:
    home = importlib.import_module(module)
    for name in home.__all__:
        assert inspect.getdoc(getattr(home, name)), name


def test_every_module_says_first_which_question_it_answers() -> None:
    for path in SOURCES:
        first = path.read_text(encoding="utf-8").split("\n", 1)[0]
        assert re.match(r'r?"""[A-Z].{10,}', first), path.relative_to(ROOT)


def test_the_standard_librarys_platform_is_not_shadowed_from_the_repository_root() -> None:
    script = "import platform, sys, bilevel; print(platform.python_version(), platform.__file__); import torch"
    said = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert said[0] == sys.version.split()[0]
    assert not said[1].startswith(str(ROOT / "platform"))
    assert not (ROOT / "platform" / "__init__.py").exists()


def test_importing_the_library_does_not_import_what_few_runs_need() -> None:
    """MLflow alone takes seconds, and works in a process of its own."""
    script = "import bilevel, sys; print([name for name in ('mlflow', 'sklearn', 'pandas') if name in sys.modules])"
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "[]"


def test_nothing_is_unpickled_from_storage() -> None:
    """`execute/` unpickles what the driver itself sent over Ray, which pickles every call as it is."""
    forbidden = re.compile(
        r"(\bpickle\.loads?|cloudpickle\.loads?|(?<!safetensors\.)torch\.load\(|joblib|allow_pickle=True|shelve|marshal)"
    )
    for path in SOURCES:
        found = forbidden.findall(path.read_text(encoding="utf-8"))
        allowed = {"pickle.loads"} if path.name in ("worker.py", "luggage.py") else set()
        assert set(found) <= allowed, path.relative_to(ROOT)


def test_what_goes_wrong_within_is_the_cause_of_a_failed_import(tmp_path: Path) -> None:
    """An AttributeError there would be taken for a name that `bilevel` does not have."""
    (tmp_path / "torch.py").write_text("raise AttributeError('it is mine')")
    words = [sys.executable, "-c", "from bilevel import run"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == "ImportError: bilevel.run cannot be imported: it is mine"
