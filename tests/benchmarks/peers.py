"""How do learn2learn, higher and TorchOpt get on this machine, each in an environment of its own?

`python tests/benchmarks/peers.py` makes, once, under `.bench/` of the repository:

    .bench/torch         torch and numpy, of the versions that this project runs with
    .bench/learn2learn   learn2learn 0.2.0, built from its source distribution
    .bench/higher        higher 0.2.1
    .bench/torchopt      TorchOpt 0.7.3

The three are virtual environments of their own; torch and numpy they all see through a path file to `.bench/torch`,
so that every contestant multiplies matrices with the same build. An environment that is complete is left as it is;
`--fresh` makes them again. Only the standard library is used here.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import shutil
import subprocess
import sys
import tarfile
import venv
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".bench"
PEERS = ("learn2learn", "higher", "torchopt")
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"

# learn2learn imports these at its top and needs none of them for MAML: empty stand-ins.
STUBS = '''"""Empty stand-ins for what learn2learn imports and MAML does not need; import this before learn2learn."""

import importlib.machinery
import sys
import types


class Empty(types.ModuleType):
    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


for name in """torchvision torchvision.transforms torchvision.transforms.functional torchvision.datasets
    torchvision.datasets.utils torchvision.datasets.omniglot torchvision.datasets.folder torchvision.models
    qpth qpth.qp""".split():
    module = Empty(name)
    module.__path__, module.__spec__ = [], importlib.machinery.ModuleSpec(name, None)
    sys.modules[name] = module
'''


class SetupFailed(Exception):
    """An environment could not be made; the message ends with what pip or the compiler said."""


def python(name: str) -> Path:
    """The interpreter of an environment."""
    return HOME / name / "bin" / "python"


def ready(name: str) -> bool:
    """True when the environment was made to its end by this version of this file."""
    mark = HOME / name / "complete"
    return mark.is_file() and mark.read_text() == Path(__file__).read_text()


def prepare(fresh: bool = False) -> None:
    """Make what is missing of `.bench/`.

    Raises:
        SetupFailed: pip or the compiler failed.
    """
    makers: dict[str, Callable[[], None]] = {
        "torch": _make_torch,
        "learn2learn": _make_learn2learn,
        "higher": lambda: _pip("higher", "--no-deps", "higher==0.2.1"),
        "torchopt": lambda: _pip("torchopt", "torchopt==0.7.3"),
    }
    for name, make in makers.items():
        if ready(name) and not fresh:
            continue
        _say(f"making .bench/{name}")
        shutil.rmtree(HOME / name, ignore_errors=True)
        venv.create(HOME / name, with_pip=True)
        if name != "torch":
            _site_packages(name).joinpath("torch.pth").write_text(f"{_site_packages('torch')}\n")
        make()
        _run([python(name), "-W", "ignore", "-c", _IMPORTS[name]])
        (HOME / name / "complete").write_text(Path(__file__).read_text())


_IMPORTS = {
    "torch": "import torch, numpy",
    "learn2learn": "import learn2learn_stubs, learn2learn",
    "higher": "import higher",
    "torchopt": "import torchopt",
}


def _make_torch() -> None:
    """Torch and numpy as this project has them; the CPU wheels' own index is asked only where pip's finds none."""
    wanted = [f"{name}=={importlib.metadata.version(name)}" for name in ("torch", "numpy")]
    try:
        _pip("torch", *wanted)
    except SetupFailed:
        _pip("torch", "--extra-index-url", CPU_WHEELS, *wanted)


def _make_learn2learn() -> None:
    """learn2learn 0.2.0 from source: its generated C does not compile on Python 3.11, so Cython generates it again."""
    _pip("learn2learn", "cython>=3", "setuptools<81", "wheel", "gym", "scipy", "tqdm", "requests", "pillow")
    folder = HOME / "learn2learn" / "source"
    folder.mkdir()
    pip = [python("learn2learn"), "-m", "pip", "download", "-q", "--no-deps", "--no-build-isolation"]
    _run([*pip, "--no-binary", ":all:", "-d", folder, "learn2learn==0.2.0"])
    with tarfile.open(folder / "learn2learn-0.2.0.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    source = folder / "learn2learn-0.2.0"
    _run([python("learn2learn"), "setup.py", "-q", "build_ext", "--inplace"], cwd=source)
    site = _site_packages("learn2learn")
    site.joinpath("learn2learn_stubs.py").write_text(STUBS)
    site.joinpath("learn2learn.pth").write_text(f"{source}\n")


def _pip(name: str, *arguments: str) -> None:
    _run([python(name), "-m", "pip", "install", "-q", "--disable-pip-version-check", *arguments])


def _run(command: list[str | Path], cwd: Path | None = None) -> None:
    ended = subprocess.run(command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if ended.returncode:
        tail = "\n".join(ended.stdout.splitlines()[-20:])
        raise SetupFailed(f"exit status {ended.returncode} of {' '.join(map(str, command))}\n{tail}")


def _site_packages(name: str) -> Path:
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return HOME / name / "lib" / version / "site-packages"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fresh", action="store_true", help="make every environment again")
    try:
        prepare(parser.parse_args().fresh)
    except SetupFailed as error:
        _say(f"cannot prepare the benchmark's environments: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
