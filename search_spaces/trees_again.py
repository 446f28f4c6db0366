"""The same trees for a smaller device: what earlier runs of `trees_limits.py` in this store found is told first."""

import dataclasses

import trees_limits

study = dataclasses.replace(
    trees_limits.study, name="trees-again", limits={"leaves": 1000}, trials=15, warm_start=("trees-limits",)
)
