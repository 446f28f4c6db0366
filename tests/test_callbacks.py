"""Does each library's own training report through the callback made for it, and stop when it is told to?"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

os.environ.setdefault("KERAS_BACKEND", "torch")

from bilevel import Inline, Log, Space, Study, callbacks, figures, run
from bilevel.episodes import Key
from bilevel.errors import BadInput
from bilevel.study.events import Report
from bilevel.study.given import Run
from support.tiny import Said

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries, about each other

RNG = np.random.default_rng(0)
X = RNG.normal(size=(120, 4)).astype(np.float32)
Y = (X[:, 0] + 0.3 * RNG.normal(size=120) > 0).astype(int)
LAST = 3


class Heard:
    """A run whose reports are kept; it is stopped at a step."""

    def __init__(self, last: int) -> None:
        self.reports: list[Report] = []

        def sink(report: Report) -> bool:
            self.reports.append(report)
            return report.step >= last

        self.run = Run(1, 0, Key((0,)), sink=sink, metric="accuracy")

    def check(self, names: set[str], steps: list[int]) -> None:
        assert [report.step for report in self.reports] == steps
        for report in self.reports:
            assert names <= set(report.metrics)
            assert all(np.isfinite(value) for value in report.metrics.values())


def test_lightgbm() -> None:
    library = pytest.importorskip("lightgbm")
    heard = Heard(LAST)
    data, other = library.Dataset(X[:80], Y[:80]), library.Dataset(X[80:], Y[80:])
    options = {"objective": "binary", "metric": ["auc", "binary_logloss"], "verbose": -1, "num_threads": 1}
    told = callbacks.lightgbm(heard.run)
    model = library.train(options, data, 20, valid_sets=[other], valid_names=["valid"], callbacks=[told])
    heard.check({"valid/auc", "valid/binary_logloss"}, [1, 2, 3])
    assert model.current_iteration() == LAST
    heard = Heard(100)
    classifier = library.LGBMClassifier(n_estimators=4, verbose=-1, n_jobs=1)
    classifier.fit(X[:80], Y[:80], eval_set=[(X[80:], Y[80:])], callbacks=[callbacks.lightgbm(heard.run)])
    heard.check({"valid_0/binary_logloss"}, [1, 2, 3, 4])
    with pytest.raises(BadInput, match=r"nothing to report; give valid_sets="):
        library.train(options, library.Dataset(X, Y), 2, callbacks=[callbacks.lightgbm(heard.run)])


def test_xgboost() -> None:
    library = pytest.importorskip("xgboost")
    heard = Heard(LAST)
    data, other = library.DMatrix(X[:80], Y[:80]), library.DMatrix(X[80:], Y[80:])
    options = {"objective": "binary:logistic", "eval_metric": ["auc", "logloss"], "nthread": 1}
    told = callbacks.xgboost(heard.run)
    model = library.train(options, data, 20, evals=[(other, "valid")], callbacks=[told], verbose_eval=False)
    heard.check({"valid/auc", "valid/logloss"}, [1, 2, 3])
    assert model.num_boosted_rounds() == LAST
    heard = Heard(100)
    classifier = library.XGBClassifier(n_estimators=4, n_jobs=1, callbacks=[callbacks.xgboost(heard.run)])
    classifier.fit(X[:80], Y[:80], eval_set=[(X[80:], Y[80:])], verbose=False)
    heard.check({"validation_0/logloss"}, [1, 2, 3, 4])


def test_catboost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("catboost")
    monkeypatch.chdir(tmp_path)
    heard = Heard(LAST)
    model = library.CatBoostClassifier(iterations=20, verbose=False, thread_count=1, allow_writing_files=False)
    model.fit(X[:80], Y[:80], eval_set=(X[80:], Y[80:]), callbacks=[callbacks.catboost(heard.run)])
    heard.check({"validation/Logloss", "learn/Logloss"}, [1, 2, 3])
    assert len(model.get_evals_result()["learn"]["Logloss"]) == LAST


def test_lightning(tmp_path: Path) -> None:
    library = pytest.importorskip("pytorch_lightning")

    class Net(library.LightningModule):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def loss(self, batch: Any) -> torch.Tensor:
            return torch.nn.functional.mse_loss(self.layer(batch[0]).flatten(), batch[1])

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            return self.loss(batch)

        def validation_step(self, batch: Any, _: int) -> None:
            self.log("loss", self.loss(batch))

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD(self.parameters(), 0.1)

    heard = Heard(LAST)
    data = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(torch.tensor(X), torch.tensor(Y).float()), batch_size=40
    )
    trainer = library.Trainer(
        max_epochs=9,
        callbacks=[callbacks.lightning(heard.run)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        default_root_dir=tmp_path,
    )
    trainer.fit(Net(), data, data)
    heard.check({"loss"}, [1, 2, 3])
    assert trainer.current_epoch == LAST


def test_keras() -> None:
    library = pytest.importorskip("keras")
    heard = Heard(LAST)
    model = library.Sequential([library.layers.Dense(1, activation="sigmoid")])
    model.compile(loss="binary_crossentropy", optimizer="sgd", metrics=["accuracy"])
    told = callbacks.keras(heard.run)
    model.fit(X[:80], Y[:80], validation_data=(X[80:], Y[80:]), epochs=9, verbose=0, callbacks=[told])
    heard.check({"loss", "val_loss", "val_accuracy"}, [1, 2, 3])


def test_transformers(tmp_path: Path) -> None:
    library = pytest.importorskip("transformers")
    pytest.importorskip("accelerate")

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(4, 1)

        def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
            out = self.layer(x).flatten()
            return {"loss": torch.nn.functional.mse_loss(out, labels), "logits": out}

    heard = Heard(6)
    rows = [{"x": torch.tensor(x), "labels": torch.tensor(float(y))} for x, y in zip(X, Y, strict=True)]
    options = library.TrainingArguments(
        output_dir=str(tmp_path),
        eval_strategy="epoch",
        save_strategy="no",
        num_train_epochs=9,
        per_device_train_batch_size=40,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
    )
    told = callbacks.transformers(heard.run)
    library.Trainer(Net(), options, train_dataset=rows, eval_dataset=rows, callbacks=[told]).train()
    heard.check({"eval_loss"}, [3, 6])


def test_partial_fit() -> None:
    from sklearn.linear_model import LinearRegression, SGDClassifier, SGDRegressor

    heard = Heard(LAST)
    model = callbacks.partial_fit(
        heard.run, SGDClassifier(random_state=0), X[:80], Y[:80], lambda fitted: fitted.score(X[80:], Y[80:]), steps=9
    )
    heard.check({"accuracy"}, [1, 2, 3])
    assert model.t_ == 1 + LAST * 80
    heard = Heard(100)

    def judge(fitted: Any) -> Mapping[str, float]:
        return {"accuracy": fitted.score(X, Y), "size": 1.0}

    callbacks.partial_fit(heard.run, SGDRegressor(), X, Y, judge, steps=2)
    heard.check({"accuracy", "size"}, [1, 2])
    with pytest.raises(BadInput, match="LinearRegression has no partial_fit"):
        callbacks.partial_fit(heard.run, LinearRegression(), X, Y, judge, steps=2)


def test_a_study_of_boosted_trees_with_its_own_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = pytest.importorskip("xgboost")
    monkeypatch.setattr(figures, "draw", lambda *_: {})

    def train(config: dict[str, float], run: Run) -> None:
        options = {"objective": "binary:logistic", "eta": config["eta"], "seed": run.seed, "nthread": 1}
        data, other = library.DMatrix(X[:80], Y[:80]), library.DMatrix(X[80:], Y[80:])
        told = callbacks.xgboost(run)
        library.train(options, data, 5, evals=[(other, "valid")], callbacks=[told], verbose_eval=False)

    space = Space(dict, eta=Log(0.01, 1.0))
    study = Study(name="trees", objective=train, minimize="valid/logloss", trials=4, space=space)
    result = run(study, on=Inline(), store=tmp_path, track="none", watch=Said())
    assert result.status == "completed"
    assert list(result.trials["step"]) == [5] * 4
