"""A choice whose options have values of their own: SGD with a momentum, or Adam with its decay of averages.

Values below an option exist only where that option is chosen; a search learns about each on its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bilevel import TPE, Log, OneOf, Report, Run, Space, Study, Uniform


@dataclass(frozen=True, kw_only=True)
class Sgd:
    """Gradient descent with momentum."""

    lr: float
    momentum: float

    def over(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        """The optimizer of these tensors."""
        return torch.optim.SGD(parameters, lr=self.lr, momentum=self.momentum)


@dataclass(frozen=True, kw_only=True)
class Adam:
    """Adam with the decay of its average of gradients."""

    lr: float
    beta: float

    def over(self, parameters: list[Tensor]) -> torch.optim.Optimizer:
        """The optimizer of these tensors."""
        return torch.optim.Adam(parameters, lr=self.lr, betas=(self.beta, 0.999))


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a curve is fitted."""

    optimizer: Sgd | Adam
    steps: int = 100


def fit(cfg: Fit, run: Run) -> Iterator[Report]:
    """Fit a small network to a sine; the loss after all steps."""
    torch.manual_seed(run.seed)
    x = torch.linspace(-3, 3, 64).unsqueeze(1)
    model = nn.Sequential(nn.Linear(1, 16), nn.Tanh(), nn.Linear(16, 1))
    optimizer = cfg.optimizer.over(list(model.parameters()))
    loss = torch.tensor(0.0)
    for _ in range(cfg.steps):
        optimizer.zero_grad()
        loss = nn.functional.mse_loss(model(x), x.sin())
        loss.backward()
        optimizer.step()
    yield Report(cfg.steps, {"loss": loss.item()})


study = Study(
    name="optimizer-choice",
    objective=fit,
    minimize="loss",
    trials=60,
    space=Space(
        Fit,
        optimizer=OneOf(
            Space(Sgd, lr=Log(1e-4, 1.0), momentum=Uniform(0.0, 0.99)),
            Space(Adam, lr=Log(1e-4, 1.0), beta=Uniform(0.5, 0.99)),
        ),
    ),
    search=TPE(),
)
