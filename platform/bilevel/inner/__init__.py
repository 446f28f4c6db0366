"""Adapt to one task: rules that are records of meta-parameters with pure functions."""

from bilevel.inner.descent import Adapted, GradientDescent
from bilevel.inner.rule import Rule

__all__ = ["Adapted", "GradientDescent", "Rule"]
