"""Rules that make one update of many, and what the server does with it."""

from fedrl.aggregators.agnostic import agnostic
from fedrl.aggregators.by_diversity import by_diversity
from fedrl.aggregators.by_settings import by_settings
from fedrl.aggregators.mean import mean
from fedrl.aggregators.median import median
from fedrl.aggregators.q_fair import q_fair
from fedrl.aggregators.server_optimizers import fedadagrad, fedadam, fedavg, fedavgm, fedyogi, normalized_momentum
from fedrl.aggregators.staleness import constant, hinge, polynomial

__all__ = [
    "agnostic",
    "by_diversity",
    "by_settings",
    "constant",
    "fedadagrad",
    "fedadam",
    "fedavg",
    "fedavgm",
    "fedyogi",
    "hinge",
    "mean",
    "median",
    "normalized_momentum",
    "polynomial",
    "q_fair",
]
