"""Is a secret in the configuration, and nowhere else?"""

from __future__ import annotations

import dataclasses
import pickle
import sys
from pathlib import Path
from typing import Any

import pytest
from ray import cloudpickle

from bilevel import Inline, Log, OneOf, Ray, Report, Secret, Space, Study, run
from bilevel.cli import cli
from bilevel.errors import BadInput
from bilevel.space import assign, build, flatten, settle
from bilevel.space.conversion import from_json, to_json
from bilevel.space.secrets import begun, redacted
from support import tiny
from support.tiny import finished

KEY = "sk-\"very/secret\" 'ü' 0123456789"
SAID = KEY.encode()


@dataclasses.dataclass(frozen=True)
class Client:
    rate: float
    api_key: str
    plan: str = "free"


@dataclasses.dataclass(frozen=True)
class Unsaid:
    api_key: Any = Secret("BILEVEL_TEST_KEY")  # noqa: RUF009 - it is never changed


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BILEVEL_TEST_KEY", KEY)


def asks(config: Client, run: Any) -> Any:
    """An objective that is careless with what it is given."""
    print(f"asking with {config.api_key!r} and {config.api_key}", flush=True)  # noqa: T201
    assert config.api_key == KEY
    yield Report(1, {"loss": config.rate})
    if config.rate < 0.05:
        raise ValueError(f"401: {config.api_key} is not allowed: {config!r}")


def study(**more: Any) -> Study:
    space = Space(Client, rate=Log(0.01, 0.1), api_key=Secret("BILEVEL_TEST_KEY"))
    return Study(name="asks", objective=asks, minimize="loss", space=space, trials=6, **more)


def test_the_configuration_has_it_and_what_is_written_down_its_name() -> None:
    space = Space(Client, rate=0.1, api_key=Secret("BILEVEL_TEST_KEY"))
    assert build(space).api_key == KEY
    assert flatten(space)["api_key"] == "Secret('BILEVEL_TEST_KEY')"
    assert KEY not in repr(space)
    assert build(Space(dict, a={"b": Secret("BILEVEL_TEST_KEY")})) == {"a": {"b": KEY}}
    assert build(Space(dict, client=Client(0.1, Secret("BILEVEL_TEST_KEY"))))["client"].api_key == KEY  # type: ignore[arg-type]
    assert build(Space(Unsaid)).api_key == KEY
    chosen = Space(dict, key=OneOf(Secret("BILEVEL_TEST_KEY"), Secret("OTHER")))
    assert build(settle(chosen, {"key": "Secret('BILEVEL_TEST_KEY')"})) == {"key": KEY}
    assert pickle.loads(pickle.dumps(Secret("A"))) == Secret("A") != Secret("B")


def test_it_stands_in_json_by_its_name() -> None:
    text = to_json(Space(dict, key=Secret("BILEVEL_TEST_KEY")))
    assert KEY not in text
    assert build(from_json(text)) == {"key": KEY}


def test_what_cannot_be_kept_secret_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    space = Space(Client, rate=0.1, api_key=Secret("BILEVEL_TEST_KEY"))
    with pytest.raises(BadInput, match="what is set would be recorded; set the environment variable BILEVEL_TEST_KEY"):
        assign(space, "api_key", "sk-1")
    assert flatten(assign(space, "api_key", Secret("OTHER")))["api_key"] == "Secret('OTHER')"
    with pytest.raises(BadInput, match=r"Client.rate: Secret\('K'\) is a Secret; it takes float"):
        Space(Client, rate=Secret("K"), api_key="a")
    with pytest.raises(BadInput, match="give the name of an environment variable"):
        Secret("")
    monkeypatch.setenv("BILEVEL_TEST_KEY", "abc")
    with pytest.raises(BadInput, match="fewer than 4 characters"):
        build(space)
    monkeypatch.delenv("BILEVEL_TEST_KEY")
    with pytest.raises(BadInput, match="variable BILEVEL_TEST_KEY is not set; export it"):
        build(space)


def test_a_run_without_it_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("BILEVEL_TEST_KEY")
    with pytest.raises(BadInput, match="BILEVEL_TEST_KEY is not set"):
        run(study(), on=Inline(), store=tmp_path, track="none")
    assert list(tmp_path.iterdir()) == []


def test_text_is_hidden_in_every_form_also_where_it_is_cut() -> None:
    Secret("BILEVEL_TEST_KEY").reveal()
    assert redacted(f"a {KEY} b {KEY!r}") == "a *** b '***'" or KEY[4:10] not in redacted(f"{KEY!r}")
    assert begun('asking with sk-"ver') == 'sk-"ver'
    assert begun("asking") == ""


def everything(store: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in store.rglob("*") if path.is_file())


def test_a_careless_objective_leaves_it_nowhere(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    result = finished(tmp_path, study())
    assert result.document["trials"]["failed"]
    written = everything(tmp_path)
    assert b"asking with" in written
    assert b"401: *** is not allowed" in written
    for form in (SAID, b"very/secret", b"0123456789"):
        assert form not in written
    for words in (["show", "last"], ["show", "last", "--trial", "0"], ["list"], ["show", "last", "--json"]):
        assert cli.main([*words, "--store", str(tmp_path)]) == 0
    out, err = capfd.readouterr()
    assert "very/secret" not in out
    assert "401: very/secret" not in err
    again = finished(tmp_path / "again", study())
    assert again.fingerprint == result.fingerprint


def test_another_text_is_the_same_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calm = dataclasses.replace(study(), objective=lambda config, run: {"loss": config.rate})
    first = finished(tmp_path, calm)
    monkeypatch.setenv("BILEVEL_TEST_KEY", "sk-rotated")
    assert finished(tmp_path, calm).fingerprint == first.fingerprint


@pytest.mark.slow
def test_on_workers_and_in_mlflow_it_is_nowhere_either(tmp_path: Path) -> None:
    here = (tiny, sys.modules[__name__])  # workers know no folder of tests
    for module in here:
        cloudpickle.register_pickle_by_value(module)
    try:
        result = run(study(), on=Ray(workers=1), store=tmp_path)
    finally:
        for module in here:
            cloudpickle.unregister_pickle_by_value(module)
    assert result.document["trials"]["completed"]
    written = everything(tmp_path)
    assert b"Secret('BILEVEL_TEST_KEY')" in written
    for form in (SAID, b"very/secret", b"0123456789"):
        assert form not in written
