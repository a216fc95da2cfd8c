"""Rules that make one update of many."""

from fedrl.aggregators.afl import agnostic
from fedrl.aggregators.mean import mean
from fedrl.aggregators.median import median
from fedrl.aggregators.q_ffl import q_fair
from fedrl.aggregators.weight_by_diversity import by_diversity
from fedrl.aggregators.weight_by_environment import by_settings

__all__ = ["agnostic", "by_diversity", "by_settings", "mean", "median", "q_fair"]
