"""Two objectives: the error of a network on handwritten digits, and how many weights it has.

No single trial is best; the result is the set of those that no other one beats in both.
"""

from collections.abc import Iterator

from mlp_asha import Mlp, train

from bilevel import NSGA2, Log, LogInt, OneOf, Report, Run, Space, Study


def sized(cfg: Mlp, run: Run) -> Iterator[Report]:
    """As `train`, with the number of weights beside the error."""
    weights = 64 * cfg.width + cfg.width + 10 * cfg.width + 10
    for report in train(cfg, run):
        yield Report(report.step, {**report.metrics, "weights": weights}, report.state)


study = Study(
    name="pareto-mlp",
    objective=sized,
    minimize=("error", "weights"),
    trials=60,
    space=Space(Mlp, lr=Log(1e-4, 1e-1), width=LogInt(2, 128), act=OneOf("relu", "gelu"), epochs=5),
    search=NSGA2(population=10),
)
