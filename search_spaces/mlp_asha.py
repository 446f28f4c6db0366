"""Tune a small network on handwritten digits: TPE chooses, ASHA stops what does not keep up.

Any training function can stand here: a generator that yields a `Report` after each epoch, and that is not asked for the
next one when it is stopped. With `state` a trial goes on from its last checkpoint when its worker dies.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from bilevel import ASHA, TPE, Log, LogInt, OneOf, Report, Run, Space, Study


@dataclass(frozen=True, kw_only=True)
class Mlp:
    """What is chosen of a network and its training."""

    lr: float  # Adam's step size
    width: int  # hidden units
    act: str
    epochs: int = 27


def digits() -> tuple[Tensor, Tensor]:
    """Images [1797, 64] with pixels from 0 to 1, and their classes."""
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x, dtype=torch.float32) / 16, torch.tensor(y)


def train(cfg: Mlp, run: Run) -> Iterator[Report]:
    """Train on 1,200 digits, report the loss on 300 others after each epoch."""
    x, y = run.cache("digits", digits)
    torch.manual_seed(run.seed)
    act = nn.ReLU() if cfg.act == "relu" else nn.GELU()
    model = nn.Sequential(nn.Linear(64, cfg.width), act, nn.Linear(cfg.width, 10))
    adam = torch.optim.Adam(model.parameters(), lr=cfg.lr)
    first = 1
    if run.state is not None:
        first = run.state["epoch"] + 1
        model.load_state_dict(run.state["model"])
        adam.load_state_dict(run.state["adam"])
        for group in adam.param_groups:
            group["lr"] = cfg.lr  # under PBT the state is another member's, and the rate is this one's
    for epoch in range(first, cfg.epochs + 1):
        order = torch.randperm(1200, generator=torch.Generator().manual_seed(epoch))
        for batch in order.split(64):
            adam.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            adam.step()
        with torch.no_grad():
            scores = model(x[1200:1500])
        loss = float(nn.functional.cross_entropy(scores, y[1200:1500]))
        error = float((scores.argmax(1) != y[1200:1500]).float().mean())
        state = {"epoch": epoch, "model": model.state_dict(), "adam": adam.state_dict()}
        yield Report(epoch, {"loss": loss, "error": error}, state)


study = Study(
    name="mlp-asha",
    objective=train,
    minimize="loss",
    trials=60,
    space=Space(Mlp, lr=Log(1e-5, 1e-1), width=LogInt(8, 256), act=OneOf("relu", "gelu")),
    search=TPE(),
    stop=ASHA(last=27),
)
