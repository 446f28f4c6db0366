"""What does a user say of a meta-training?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bilevel.episodes import Tasks, TaskTraits
from bilevel.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class MetaTraining:
    """The configuration of `meta_train`.

    Args:
        tasks: a distribution over tasks (`bilevel.tasks`, or any object with `episode(split, key)`).
        rule: how a model adapts to a task, with what is `Learned` (`bilevel.inner`).
        steps: outer steps.
        adaptations: inner steps (of all tasks, all outer steps) after which it ends, if that is sooner: with a searched
            `rule.steps`, more inner steps then do not win by costing more.
        episodes: tasks per outer step.
        test_tasks: further test distributions by name; their metrics are `test/NAME/...`.
        test_steps: inner steps at test; by default the rule's.
        test_episodes: tasks to test on.
        validate_every: outer steps between validations; by default a twentieth of the run.
        validate_episodes: tasks to validate on, the same ones every time.
        unit: episodes computed side by side in one unit of work; by default chosen from the size of the network. It
            decides how the work can be spread and, in the last bits, the result; the number of workers never does.
    """

    tasks: Tasks
    rule: Any
    steps: int
    episodes: int = 32
    adaptations: int | None = None
    test_tasks: Mapping[str, Any] = field(default_factory=dict)
    test_steps: int | None = None
    test_episodes: int = 600
    validate_every: int | None = None
    validate_episodes: int = 200
    unit: int | None = None

    def __post_init__(self) -> None:
        for name in ("steps", "episodes", "test_episodes", "validate_episodes"):
            if vars(self)[name] < 1:
                raise BadInput(f"MetaTraining: {name} is {vars(self)[name]}; it takes at least 1")
        for name in ("test_steps", "validate_every", "unit", "adaptations"):
            if vars(self)[name] is not None and vars(self)[name] < 1:
                raise BadInput(
                    f"MetaTraining: {name} is {vars(self)[name]}; it takes at least 1, or null for the default"
                )
        for name in ("adapt", "evaluate"):
            if not callable(getattr(self.rule, name, None)):
                raise BadInput(f"MetaTraining: rule {type(self.rule).__name__} has no {name}(); see bilevel.inner.Rule")
        for name, tasks in {"tasks": self.tasks, **{f"test_tasks.{n}": t for n, t in self.test_tasks.items()}}.items():
            if not callable(getattr(tasks, "episode", None)):
                raise BadInput(f"MetaTraining: {name} {type(tasks).__name__} has no episode(split, key)")

    def done(self, step: int, adaptations: int) -> float:
        """The fraction of the run that is behind after so many outer steps and adaptations."""
        by_cost = adaptations / self.adaptations if self.adaptations else 0.0
        return min(1.0, max(step / self.steps, by_cost))

    @property
    def judged_steps(self) -> int:
        """Inner steps at test."""
        return self.test_steps or int(self.rule.steps)

    @property
    def validated_every(self) -> int:
        """Outer steps between validations."""
        return self.validate_every or max(1, self.steps // 20)

    def check(self) -> None:
        """Ask the task distributions whether they can draw episodes.

        Raises:
            BadInput, MissingData: they cannot; the message says why and what to do.
        """
        for tasks in (self.tasks, *self.test_tasks.values()):
            TaskTraits(tasks).check()
