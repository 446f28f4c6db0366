"""Does a study that names no search get one that fits, and is it said why?"""

from __future__ import annotations

from typing import Any

import pytest

from bilevel.episodes import Key
from bilevel.search import CMAES, GP, NSGA2, TPE
from bilevel.search.choose import choose
from bilevel.search.port import Problem, Search
from bilevel.space.dimensions import Log, OneOf, Parameter

RATES = tuple(Parameter(f"lr{i}", f"lr{i}", Log(1e-4, 1.0)) for i in range(25))
NESTED = (
    Parameter("opt", "opt", OneOf("Sgd", "Adam")),
    Parameter("opt[Sgd].lr", "opt.lr", Log(1e-3, 1.0), when=(("opt", "Sgd"),)),
)


@pytest.mark.parametrize(
    ("parameters", "more", "search", "why"),
    [
        (RATES[:1], {"trials": 50}, GP(), "50 trials of 1 searched value"),
        (RATES[:3], {"trials": 200}, GP(), "200 trials of 3 searched values"),
        (RATES[:3], {"trials": 201}, TPE(), "201 trials"),
        (RATES[:3], {"trials": 300}, CMAES(), "300 trials of 3 numbers"),
        ((*RATES[:2], NESTED[0]), {"trials": 300}, TPE(), "300 trials"),
        (RATES[:3], {"trials": None}, TPE(), "the number of trials is open"),
        (RATES, {"trials": 50}, TPE(), "25 searched values"),
        (NESTED, {"trials": 50}, TPE(), "opt[Sgd].lr depends on opt"),
        (RATES[:3], {"trials": 50, "fidelity": 27}, TPE(), "trials are stopped early"),
        (RATES[:3], {"trials": 50, "objectives": 2}, TPE(), "2 objectives"),
        (RATES[:3], {"trials": 5000, "objectives": 2}, NSGA2(), "2 objectives and 5000 trials"),
    ],
)  # fmt: skip
def test_the_choice_fits_space_and_budget(
    parameters: tuple[Parameter, ...], more: dict[str, Any], search: Search, why: str
) -> None:
    problem = Problem(parameters, Key((0,)), **more)
    chosen, said = choose(problem)
    assert chosen == search
    assert said.startswith(why)
    assert search.open(problem).ask(0) is not None
