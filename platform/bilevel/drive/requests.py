"""What comes of a request from outside: is it possible, and which events is it?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from bilevel import space as spaces
from bilevel.errors import BadInput
from bilevel.record.mailbox import Request
from bilevel.space.dimensions.checks import is_number
from bilevel.study.decisions import Decisions
from bilevel.study.events import Event, Steered, Tagged
from bilevel.study.history import History


def heed(request: Request, history: History, decisions: Decisions | None, *, limited: bool) -> list[Event]:
    """What comes of a request: a `Steered` with the answer, and if it is not refused, `Tagged` of trials."""
    try:
        if request.what is None:
            raise BadInput("the request cannot be read")
        what = {"points": [], "stop": [], "trials": 0, "seconds": 0.0, "tags": {}} | dict(request.what)
        tagged = [_tagged(history, number, words) for number, words in _mapping(what["tags"], "tags").items()]
        steered = _steered(request.name, what, history, decisions, limited=limited)
    except BadInput as error:
        return [Steered(request.name, str(error), refused=True)]
    said = [steered.said, *(f"trial {event.trial}: {', '.join(event.tags)}" for event in tagged)]
    return [_answered(steered, "; ".join(part for part in said if part)), *tagged]


def _answered(steered: Steered, said: str) -> Steered:
    return Steered(steered.request, said, steered.points, steered.stop, steered.trials, steered.seconds)


def _steered(
    name: str, what: Mapping[str, Any], history: History, decisions: Decisions | None, *, limited: bool
) -> Steered:
    trials, seconds, stop = what["trials"], what["seconds"], what["stop"]
    if type(trials) is not int or trials < 0:
        raise BadInput(f"{trials!r} more trials; give a whole number from 1 on")
    if not is_number(seconds) or not 0 <= seconds < math.inf:
        raise BadInput(f"{seconds!r} seconds more; give a number from 0 on")
    if not isinstance(stop, list) or not all(type(number) is int for number in stop):
        raise BadInput(f"stop is {stop!r}; it takes numbers of trials")
    for number in stop:
        if number not in history.trials:
            raise BadInput(f"no trial {number} to be stopped; it has 0 to {len(history.trials) - 1}")
    over = [number for number in stop if number not in history.running]
    stop = [number for number in stop if number in history.running]
    if over and not (stop or trials or seconds or what["points"] or what["tags"]):
        raise BadInput(f"trial {over[0]} is {history.trials[over[0]].state}; only one that runs can be stopped")
    if seconds and not limited:
        raise BadInput("it has no time limit that could be raised")
    points = [] if decisions is None else _points(what["points"], decisions, trials)
    if decisions is not None and trials:
        _check_more(decisions)
    said = [
        f"{len(points)} {'point' if len(points) == 1 else 'points'} to try next" if points else "",
        f"trial {', '.join(map(str, stop))} ends" if stop else "",
        f"trial {', '.join(map(str, over))} had ended before" if over else "",
        f"{trials} {'trial' if trials == 1 else 'trials'} more" if trials else "",
        f"{seconds:g} s more" if seconds else "",
    ]
    return Steered(name, "; ".join(filter(None, said)), tuple(points), tuple(stop), trials, float(seconds))


def _check_more(decisions: Decisions) -> None:
    """Whether more trials would be tried."""
    if decisions.populates:
        raise BadInput("its members are a population, which is whole: it takes no more trials")
    if decisions.budget is None:
        raise BadInput(f"it has no number of trials that could be raised; {decisions.study.name} ends by itself")
    if decisions.over:
        raise BadInput(f"{decisions.over}, so more trials would change nothing")


def _points(given: Any, decisions: Decisions, more: int) -> Sequence[Mapping[str, Any]]:
    """The points as the search knows them, if there is room for them."""
    study = decisions.study
    if not isinstance(given, list):
        raise BadInput(f"points is {given!r}; it takes a list of configurations")
    if given and (decisions.populates or not study.parameters):
        why = "its members are a population, which is whole" if decisions.populates else "it searches no values"
        raise BadInput(f"no points can be added: {why}")
    points = []
    for values in given:
        point = spaces.complete(study.space, _mapping(values, "a point"))
        if not decisions.asking.allowed(point):
            raise BadInput(f"where refuses {dict(values)}")
        points.append(point)
    left = decisions.left
    if points and left is not None and left + more < len(points):
        raise BadInput(f"{left} of its {decisions.budget} trials are left to ask for; give it more, too (--trials)")
    return points


def _tagged(history: History, number: str, words: Any) -> Tagged:
    if not (number.isdigit() and int(number) in history.trials):
        raise BadInput(f"no trial {number}; it has 0 to {len(history.trials) - 1}")
    for name, word in _mapping(words, f"trial {number}: tags").items():
        if not name or not isinstance(word, str):
            raise BadInput(f"trial {number}: tag {name!r} is {word!r}; names and values are text")
    return Tagged(int(number), dict(words))


def _mapping(value: Any, what: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise BadInput(f"{what}: {value!r}; it takes values by name")
    return value
