"""Aggregation rules: each combines the updates of a round into one."""

from fedrl.aggregators.afl import afl
from fedrl.aggregators.mean import mean
from fedrl.aggregators.median import median
from fedrl.aggregators.q_ffl import q_ffl
from fedrl.aggregators.weight_by_diversity import weight_by_diversity
from fedrl.aggregators.weight_by_environment import weight_by_environment

__all__ = [
    "afl",
    "mean",
    "median",
    "q_ffl",
    "weight_by_diversity",
    "weight_by_environment",
]
