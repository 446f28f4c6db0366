"""Where are this process's global random generators, and how do they get back there with a state?"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from bilevel import trees
from bilevel.study.events import Tree


class RandomStates:
    """The states of `random`, `numpy.random` and torch's default generator."""

    def __init__(self, python: Any, numpy: Any, torch_: torch.Tensor) -> None:
        self._states = python, numpy, torch_

    @classmethod
    def here(cls) -> RandomStates:
        """Those of this process, now."""
        return cls(random.getstate(), np.random.get_state(), torch.get_rng_state())

    def tree(self) -> Tree:
        """As it is kept."""
        (version, words, gauss), numpy, torch_ = self._states
        named = {"name": numpy[0], "words": torch.tensor(numpy[1].astype(np.int64)), "rest": list(numpy[2:])}
        python = {"version": version, "words": torch.tensor(words), "gauss": gauss}
        return {"python": python, "numpy": named, "torch": torch_}

    @classmethod
    def of(cls, tree: Tree) -> RandomStates:
        """As it was."""
        python, named = tree["python"], tree["numpy"]
        words = tuple(int(word) for word in python["words"])
        numpy = (named["name"], named["words"].numpy().astype(np.uint32), *named["rest"])
        # A copy: torch takes no state from the middle of a buffer, where a tensor that has travelled may lie.
        return cls((python["version"], words, python["gauss"]), numpy, tree["torch"].clone())

    def apply(self) -> None:
        """Put this process's generators there."""
        python, numpy, torch_ = self._states
        random.setstate(python)
        np.random.set_state(numpy)
        torch.set_rng_state(torch_)


class Remembered(dict[str, Any]):
    """A state to go on from, whose reading puts the random generators back to where they were with it.

    An objective makes its network, which draws weights, and then loads the state: from there on it is to draw what it
    would have drawn had it not been interrupted. So until its next report the first look at the state puts them back,
    and each one at a part with tensors (weights that are loaded); a number may be read in the middle of a step.
    """

    def __init__(self, state: Tree, put_back: Callable[[], None]) -> None:
        super().__init__(state)
        self._put_back: Callable[[], None] | None = put_back
        self._looked = False

    def forget(self) -> None:
        """The objective is past what it begins with: to read the state changes nothing any more."""
        self._put_back = None

    def _look(self, part: Any) -> None:
        if self._put_back is not None and (not self._looked or _has_tensors(part)):
            self._looked = True
            self._put_back()

    def __getitem__(self, name: str) -> Any:
        part = super().__getitem__(name)
        self._look(part)
        return part

    def get(self, name: str, default: Any = None) -> Any:
        """As a dict's."""
        part = super().get(name, default)
        self._look(part)
        return part

    def __iter__(self) -> Iterator[str]:  # with it `dict(state)` and `**state` take each part by its name
        return super().__iter__()

    def values(self) -> Any:
        """As a dict's."""
        self._look(dict(super().items()))
        return super().values()

    def items(self) -> Any:
        """As a dict's."""
        self._look(dict(super().items()))
        return super().items()

    def pop(self, *arguments: Any) -> Any:
        """As a dict's."""
        part = super().pop(*arguments)
        self._look(part)
        return part

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (dict(super().items()),)


def _has_tensors(part: Any) -> bool:
    found = False

    def seen(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal found
        found = True
        return tensor

    trees.map_tensors(seen, part)
    return found
