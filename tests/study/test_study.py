"""Is a study that cannot work refused when it is defined?"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from bilevel import Space
from bilevel.errors import BadInput
from support.tiny import walking


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"name": "no spaces"}, "name 'no spaces'; use up to 64 letters"),
        ({"name": ""}, "name ''"),
        ({"name": "../up"}, "name '../up'"),
        ({"minimize": None}, "name one metric"),
        ({"maximize": "loss"}, "'loss' cannot be both minimized and maximized"),
        ({"objective": 3}, "objective 3 cannot be called"),
        ({"space": {"steps": 3}}, "space is a dict; write Space"),
        ({"seed": -1}, "seed is -1; it takes a whole number from 0 on"),
        ({"seed": 1.5}, "seed is 1.5"),
        ({"trials": 0}, "trials is 0; it takes a whole number from 1 on"),
        ({"trials": True}, "trials is True"),
        ({"threads": 0}, "threads is 0"),
        ({"value": "mean"}, "value is 'mean'; it takes 'last' or 'best'"),
    ],
)
def test_what_a_study_cannot_be(changes: dict[str, Any], match: str) -> None:
    with pytest.raises(BadInput, match=match):
        dataclasses.replace(walking(), **changes)


def test_set_gives_another_study_and_leaves_this_one() -> None:
    study = walking(steps=4)
    assert study.set("steps", 6).config()["steps"] == 6
    assert study.config()["steps"] == 4
    assert isinstance(study.set("units", 1).space, Space)
