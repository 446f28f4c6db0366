"""What happens to a trial inside the process that it runs in?"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import random
import sys
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsFloat

import numpy as np
import torch

from bilevel import space as spaces
from bilevel import trees
from bilevel.episodes import Key
from bilevel.errors import BilevelError, TrialFailed, described
from bilevel.execute.callbacks import Away, Lingers, as_generator, final, never
from bilevel.execute.forks import parent_alone
from bilevel.execute.output_capture import Capture, Descriptors, Streams
from bilevel.execute.random_states import RandomStates, Remembered
from bilevel.execute.trial_folder import TrialFolder
from bilevel.space import Space
from bilevel.space.secrets import begun, redacted
from bilevel.study.events import Completed, Order, Raised, Report, Tree, Units
from bilevel.study.given import Run

log = logging.getLogger(__name__)

LAST = 2**63 - 1
"""The last step: what a tracker's database can hold."""
LONGEST = 10_000
"""Characters of a text that is reported."""
RANDOM = "bilevel.random"
"""In a state that is kept: the global random generators as they were."""


@dataclass(frozen=True)
class Script:
    """What of a study is needed to run its trials, wherever they run; it travels once."""

    objective: Callable[..., Any]
    space: Space
    key: Key
    metric: str
    minimize: bool
    copies: bool = True
    """States are copied when they are reported: the objective may go on to change them in place."""

    def host(
        self,
        order: Order,
        cache: dict[Any, Any],
        *,
        echo: bool = False,
        alone: bool = False,
        asked: Callable[[], bool] = never,
        device: str = "cpu",
        home: Path | None = None,
    ) -> Hosted:
        """An attempt, ready to begin; see `Hosted`. `home` is where its folder is made (`TrialFolder`)."""
        with _seeded(order.seed, alone=alone):  # a configuration may be a network
            config = spaces.build(spaces.settle(self.space, order.point))
        if self.space.target is dict:
            config = {**order.point, **config}  # values that the objective is going to ask for by itself
        state = None if order.state is None else {n: part for n, part in order.state.items() if n != RANDOM}
        run = Run(order.seed, order.trial, self.key, state, None, cache, self.metric, self.minimize, device)
        folder = TrialFolder(order.files, home)
        run.place = lambda: folder.path
        hosted = Hosted(
            self.objective,
            config,
            run,
            folder,
            metric=self.metric,
            searched=bool(order.point),
            copies=self.copies,
            echo=echo,
            alone=alone,
            asked=asked,
        )
        if order.state is not None and RANDOM in order.state:
            hosted.restore(order.state[RANDOM])
        return hosted


class Hosted:
    """A trial at work: its generator, the global random generators as they are for it, and what it prints.

    `random`, `numpy.random` and torch's default generator are seeded by the trial's seed, so that code that uses them
    gives the same numbers on a worker that has run other trials before.
    """

    def __init__(
        self,
        objective: Callable[..., Any],
        config: Any,
        run: Run,
        folder: TrialFolder,
        *,
        metric: str = "",
        searched: bool = False,
        copies: bool = True,
        echo: bool = False,
        alone: bool = False,
        asked: Callable[[], bool] = never,
    ) -> None:
        """Nothing of the objective runs yet.

        Args:
            objective: a generator, or a function that calls `run.report` or returns its result.
            config: its configuration.
            run: what it is given beside it.
            folder: for its files.
            metric: what a number that it returns is called.
            searched: values were chosen by a search; if they are bad input, it is this trial alone that fails.
            copies: states are copied when they are reported.
            echo: what it prints goes to standard error, too.
            alone: this process is for trials; nothing else needs its random generators as they were.
            asked: whether this process was asked to leave; then a function is not waited for.
        """
        self.run, self.folder = run, folder
        self.state: Tree | None = run.state
        self.state_step = 0
        self._last = -1
        self._held = ""
        self._generator: Generator[Report | Units | Away, Any, None] = as_generator(
            objective, config, run, metric, asked
        )
        self._metric = metric
        self._searched, self._copies, self._alone = searched, copies, alone
        self._inside = self._ended = self._lingers = self._inference = False
        self._printed: Capture = Descriptors() if alone else Streams(sys.stderr if echo else None)
        self._random: RandomStates | None = None
        self._remembered: Remembered | None = None
        self._settings: tuple[Any, ...] | None = None

    def advance(self, answer: Any) -> Report | Units | Completed | Raised | Away:
        """Let the objective go on to its next report, its units, or its end; or to where it is not to be waited for.

        Raises:
            BilevelError: the run's trouble (a full disk, no cluster, bad input), not the trial's.
        """
        with self.at_work(), self._printed.taken():
            self._ended = True
            try:
                with parent_alone():
                    said: Any = self._generator.send(answer)
            except StopIteration as end:
                try:
                    said = final(end.value, self._metric, max(self._last, 0) + 1)
                except TypeError as error:
                    return raised(error)
                if said is None:
                    return Completed()
            except TrialFailed as error:
                return Raised(redacted(described(error).partition(": ")[2]))
            except BilevelError as error:
                if not self._searched:
                    raise
                return raised(error)
            except BaseException as error:  # the user's code: whatever it raises ends this trial alone
                if not self._alone and isinstance(error, KeyboardInterrupt):
                    raise  # Ctrl-C, in the driver
                return Completed(pruned=True) if _is_pruned(error) else raised(error)
            self._ended = False
            if self._remembered is not None:
                self._remembered.forget()
            if isinstance(said, Away):
                return said
            said, problem = self._readable(said)
            if problem is not None:
                self._leave()
                return Raised(problem)
        if isinstance(said, Report):
            self._last = said.step
            if said.state is not None:
                self.state, self.state_step = said.state, said.step
            return said
        units: Units = said
        return units

    def kept(self) -> Tree | None:
        """The newest state as it is to be kept: with the random generators, where the objective may use them."""
        if self.state is None or self._random is None or not self._copies:
            return self.state
        return {**self.state, RANDOM: self._random.tree()}

    def restore(self, random_: Tree) -> None:
        """Let the random generators go on from where they were: at once, and again when the state is read."""
        self._random = states = RandomStates.of(random_)
        if self.run.state is not None:
            self.run.state = self._remembered = Remembered(self.run.state, states.apply)

    def output(self) -> str:
        """What it has printed since the last call."""
        text = self._held + self._printed.collect()
        self._held = "" if self._ended else begun(text)
        return redacted(text[: len(text) - len(self._held)])

    def close(self) -> bool:
        """End the objective where it stands; whether nothing of it is at work any more."""
        if not self._ended:
            with self.at_work(), self._printed.taken():
                self._leave()
        self.folder.close()
        return not self._lingers

    def _leave(self) -> None:
        try:
            with parent_alone():
                self._generator.close()
        except Lingers:
            self._lingers = True
        except BaseException as error:  # the user's code on its way out, when its trial has been judged
            if not self._alone and isinstance(error, KeyboardInterrupt):
                raise
            log.warning("trial %d, when it was stopped: %s", self.run.trial, described(error))

    def _readable(self, said: Any) -> tuple[Any, str | None]:
        """`_fit`, of objects that may raise anything when they are read."""
        try:
            return self._fit(said)
        except Exception as error:  # noqa: BLE001 the user's own types
            return said, f"what it reported after step {self._last} cannot be read: {described(error)}"

    def _fit(self, said: Any) -> tuple[Any, str | None]:
        """What an objective yields, its metrics as numbers, its state as it can be kept; or what is wrong with it."""
        if isinstance(said, Units):
            return said, None
        if not isinstance(said, Report):
            return said, f"yielded a {type(said).__name__}; it takes Report(...) or Units(...)"
        if isinstance(said.step, np.integer):
            said = dataclasses.replace(said, step=int(said.step))
        if not isinstance(said.step, int) or said.step <= self._last:
            step = repr(said.step) if _short(said.step) else "too large to be shown"
            return said, f"step {step} reported after step {self._last}; steps are whole numbers that grow"
        if said.step > LAST:
            return said, f"a step of {said.step.bit_length()} bits was reported; steps end at {LAST}"
        if not isinstance(said.metrics, Mapping):
            return said, f"step {said.step}: metrics are a {type(said.metrics).__name__}; they take numbers by name"
        metrics, words = {}, dict(said.words)
        for name, value in said.metrics.items():
            if not isinstance(name, str):
                return said, f"step {said.step}: metric {name!r} is named by a {type(name).__name__}; names are text"
            if isinstance(value, str) and name != self._metric:
                words[name] = str(value[:LONGEST])
                continue
            try:
                metrics[name] = _number(value)
            except OverflowError:
                return said, f"step {said.step}: metric {name!r} is a number that no float can hold; report a logarithm"
            except (TypeError, ValueError, RuntimeError):  # or a tensor of several numbers
                return (
                    said,
                    f"step {said.step}: metric {name!r} is a {type(value).__name__}; it takes a number",
                )
        said = dataclasses.replace(said, metrics=metrics, words=words)
        if said.state is None:
            return said, None
        if not isinstance(said.state, dict):
            return said, f"step {said.step}: state is a {type(said.state).__name__}; it takes a dict of what is kept"
        try:
            return dataclasses.replace(said, state=trees.storable(said.state, copy=self._copies)), None
        except (TypeError, ValueError, OverflowError, RecursionError) as error:
            return said, f"step {said.step}: state cannot be kept: {error}"

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Within: the process's random generators and torch's settings are the trial's."""
        if self._inside:
            yield
            return
        self._inside = True
        before, settings = None if self._alone else RandomStates.here(), _settings()
        if self._random is None:
            _seed(self.run.seed)
        else:
            self._random.apply()
        try:
            with torch.inference_mode(self._inference):  # it cannot be set, only entered
                _set(*(self._settings or settings))
                try:
                    yield
                finally:
                    self._inside, self._inference = False, torch.is_inference_mode_enabled()
                    if not self._ended or self.state is not None:
                        self._random, self._settings = RandomStates.here(), _settings()
        finally:
            if before is not None:
                before.apply()
            _set(*settings)


def _number(value: Any) -> float:
    if not isinstance(value, SupportsFloat) or isinstance(value, str):
        raise TypeError("not a number")
    if isinstance(value, torch.Tensor):
        value = value.detach()  # torch warns of a loss that still has its graph
    return float(value)


def _short(value: Any) -> bool:
    """Whether it can be shown: Python refuses to write whole numbers of thousands of digits."""
    return not isinstance(value, int) or value.bit_length() < 128


def _is_pruned(error: BaseException) -> bool:
    """Whether it is `optuna.TrialPruned`; Optuna is not imported for that."""
    return any(kind.__name__ == "TrialPruned" for kind in type(error).__mro__)


def plain(report: Report) -> Report:
    """A report as it travels: plain numbers, no state."""
    metrics = {name: float(value) for name, value in report.metrics.items()}
    return Report(report.step, metrics, found=report.found, words=report.words)


def raised(error: BaseException) -> Raised:
    """An exception as text."""
    lines = "".join(traceback.format_exception(error))
    return Raised(redacted(described(error)), redacted(lines.encode(errors="backslashreplace").decode()))


_SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], Any]], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (torch.is_grad_enabled, torch.set_grad_enabled),  # `with torch.no_grad():` around a yield is common
    (torch.get_deterministic_debug_mode, torch.set_deterministic_debug_mode),
    (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
)
"""What of torch holds for the whole process (or thread): how to read it and how to set it."""


def _settings() -> tuple[Any, ...]:
    return tuple(read() for read, _ in _SETTINGS)


def _set(*values: Any) -> None:
    for (read, write), value in zip(_SETTINGS, values, strict=True):
        if read() != value:
            write(value)


@contextlib.contextmanager
def _seeded(seed: int, *, alone: bool) -> Iterator[None]:
    before = None if alone else RandomStates.here()
    _seed(seed)
    try:
        yield
    finally:
        if before is not None:
            before.apply()


def _seed(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.manual_seed_all(seed)
