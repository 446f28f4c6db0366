"""How does a training in another library report to its trial, and stop when it is told to?

Each function makes that library's own callback, a few lines over `run.report`; the library is imported when it is
called. Metrics have the library's names. The objective is a function, `train(cfg, run)`, that hands the callback over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, SupportsFloat

from bilevel.errors import BadInput
from bilevel.study.given import Run

__all__ = ["catboost", "keras", "lightgbm", "lightning", "partial_fit", "transformers", "xgboost"]


def lightgbm(run: Run) -> Callable[[Any], None]:
    """For `lightgbm.train(..., callbacks=[...])` and `fit(..., callbacks=[...])` with validation data.

    After each round of boosting, its number from 1 on: metrics as "valid_0/auc", `valid_names` and metric.
    """
    from lightgbm.callback import EarlyStopException

    def told(env: Any) -> None:
        results = env.evaluation_result_list or []
        metrics = {f"{result[0]}/{result[1]}": float(result[2]) for result in results}
        if run.report(env.iteration + 1, _some(metrics, "valid_sets=[...]")):
            raise EarlyStopException(env.iteration, results)

    told.order = 25  # type: ignore[attr-defined]  # behind those that compute
    return told


def xgboost(run: Run) -> Any:
    """For `xgboost.train(..., evals=[...], callbacks=[...])` and estimators with `callbacks=[...]` and an `eval_set`.

    After each round of boosting, its number from 1 on: metrics as "valid/auc", the name of the data and the metric.
    """
    from xgboost.callback import TrainingCallback

    class Told(TrainingCallback):  # type: ignore[misc, unused-ignore]
        def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:  # noqa: ARG002
            named = {f"{data}/{name}": log[-1] for data, logs in evals_log.items() for name, log in logs.items()}
            metrics = {name: float(last[0] if isinstance(last, tuple) else last) for name, last in named.items()}
            return run.report(epoch + 1, _some(metrics, "evals=[...]"))

    return Told()


def catboost(run: Run) -> Any:
    """For `fit(..., eval_set=..., callbacks=[...])`: after each iteration metrics as "validation/Logloss"."""

    class Told:
        def after_iteration(self, info: Any) -> bool:
            named = {f"{data}/{name}": log[-1] for data, logs in info.metrics.items() for name, log in logs.items()}
            return not run.report(info.iteration, _some({n: float(v) for n, v in named.items()}, "eval_set=..."))

    return Told()


def lightning(run: Run) -> Any:
    """For `Trainer(callbacks=[...])` of PyTorch Lightning: after each validation what the module has logged.

    The step is the epoch, from 1 on.
    """
    try:
        from lightning.pytorch import Callback
    except ImportError:
        from pytorch_lightning import Callback

    class Told(Callback):  # type: ignore[misc, unused-ignore]
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:  # noqa: ARG002
            if not trainer.sanity_checking:
                metrics = {name: float(value) for name, value in trainer.callback_metrics.items()}
                told = run.report(trainer.current_epoch + 1, _some(metrics, "self.log(...) in validation_step"))
                trainer.should_stop = trainer.should_stop or told

    return Told()


def transformers(run: Run) -> Any:
    """For `Trainer(..., callbacks=[...])` of Hugging Face: after each evaluation its metrics, "eval_loss" among them.

    The step is the trainer's, of the optimizer.
    """
    from transformers import TrainerCallback

    class Told(TrainerCallback):  # type: ignore[misc, unused-ignore]
        def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **_: Any) -> Any:  # noqa: ARG002
            numbers = {name: float(value) for name, value in (metrics or {}).items() if isinstance(value, int | float)}
            if run.report(state.global_step, _some(numbers, 'eval_strategy="epoch"')):
                control.should_training_stop = True
            return control

    return Told()


def keras(run: Run) -> Any:
    """For `model.fit(..., callbacks=[...])`: after each epoch, from 1 on, its logs, "val_loss" among them."""
    from keras.callbacks import Callback

    class Told(Callback):  # type: ignore[misc, unused-ignore]
        def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
            metrics = {name: float(value) for name, value in (logs or {}).items()}
            if run.report(epoch + 1, _some(metrics, "model.compile(loss=...)")):
                self.model.stop_training = True

    return Told()


def partial_fit(
    run: Run,
    estimator: Any,
    x: Any,
    y: Any,
    judge: Callable[[Any], Mapping[str, float] | SupportsFloat],
    *,
    steps: int,
    **options: Any,
) -> Any:
    """Fit one of scikit-learn's estimators that learn on the way, by so many passes over the data.

    Args:
        run: whose trial it is.
        estimator: what has a `partial_fit`, such as `SGDClassifier` or `MLPClassifier`.
        x, y: the training data.
        judge: gives metrics of the estimator after a pass, by name, or the objective's value.
        steps: passes.
        options: for `partial_fit`; of classifiers `classes=`, which are those of `y` where they are not given.

    Returns:
        the estimator, as far as it was trained.

    Raises:
        BadInput: the estimator has no `partial_fit`.
    """
    if not hasattr(estimator, "partial_fit"):
        raise BadInput(
            f"callbacks.partial_fit: {type(estimator).__name__} has no partial_fit; fit and return the score"
        )
    from sklearn.base import is_classifier

    if is_classifier(estimator) and "classes" not in options:
        import numpy as np

        options["classes"] = np.unique(y)
    for step in range(1, steps + 1):
        estimator.partial_fit(x, y, **(options if step == 1 else {n: v for n, v in options.items() if n != "classes"}))
        found = judge(estimator)
        if run.report(step, found if isinstance(found, Mapping) else {run.metric: float(found)}):
            break
    return estimator


def _some(metrics: Mapping[str, float], cure: str) -> Mapping[str, float]:
    """The metrics, if there are any."""
    if not metrics:
        raise BadInput(f"bilevel.callbacks: there is nothing to report; give {cure}")
    return metrics
