"""What does MLflow's page that compares a study's trials open with? All searched values and the objective.

By itself it would show the first metric of the alphabet. MLflow keeps a shared view of its charts in a tag of the
experiment, which a link names (`viewStateShareKey`).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence
from typing import Any

TAG = "mlflow.sharedViewState."
LONGEST = 4900  # characters; a server's database takes 5000
PARAMETERS = 10  # of the parallel coordinates, and those that have a chart of their own
PAIRS = 6  # of objectives


def shared(children: str, parameters: Sequence[str], objectives: Sequence[str], *, minimize: bool) -> str:
    """The view as text.

    Args:
        children: MLflow's filter of the trials' runs.
        parameters: names of MLflow's params that every trial has; fewer are shown where the text would be too long.
        objectives: names of MLflow's metrics, the leading one first.
        minimize: whether the smaller leading one comes first.
    """
    count = min(len(parameters), PARAMETERS)
    while True:
        text = json.dumps(_view(children, parameters[:count], objectives, minimize), separators=(",", ":"))
        if len(text) <= LONGEST or count == 0:
            return text
        count -= 1


def _view(children: str, parameters: Sequence[str], objectives: Sequence[str], minimize: bool) -> dict[str, Any]:
    lead = objectives[0]
    all_at_once: dict[str, Any] = {"type": "PARALLEL", "selectedParams": list(parameters), "showAllRuns": True}
    all_at_once["selectedMetrics"] = [*reversed(objectives[1:]), lead]  # colored by the last one
    pairs = [_scatter(("METRIC", a), ("METRIC", b)) for a, b in itertools.combinations(objectives, 2)]
    slices = [_scatter(("PARAM", name), ("METRIC", lead)) for name in parameters]
    sections = [
        ("all values", 1, 420, [all_at_once] if parameters else []),
        ("the Pareto front", 2, 360, pairs[:PAIRS]),
        (f"{lead} against each value", 3, 300, slices),
    ]
    kept = [(f"section-{n}", section) for n, section in enumerate(sections) if section[-1]]
    charts = [(name, chart) for name, section in kept for chart in section[-1]]
    return {
        "searchFilter": children,
        "orderByKey": f"metrics.`{lead}`",
        "orderByAsc": minimize,
        "runsHiddenMode": "SHOW_ALL",
        "isAccordionReordered": True,
        "compareRunSections": [
            {
                "uuid": name,
                "name": title,
                "display": True,
                "isReordered": True,
                "columns": columns,
                "cardHeight": height,
            }
            for name, (title, columns, height, _) in kept
        ],
        "compareRunCharts": [
            {"uuid": f"chart-{n}", "metricSectionId": name, "isGenerated": False, "deleted": False} | chart
            for n, (name, chart) in enumerate(charts)
        ],
    }


def _scatter(x: tuple[str, str], y: tuple[str, str]) -> dict[str, Any]:
    x_axis, y_axis = ({"type": kind, "key": key} for kind, key in (x, y))
    return {"type": "SCATTER", "runsCountToCompare": 500, "xaxis": x_axis, "yaxis": y_axis}
