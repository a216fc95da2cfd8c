"""Rules that make one update of many, and what the server does with it."""

from fedrl.aggregators.mean import mean
from fedrl.aggregators.median import median
from fedrl.aggregators.server_optimizers import fedadagrad, fedadam, fedavg, fedavgm, fedyogi
from fedrl.aggregators.staleness import constant, hinge, polynomial

__all__ = [
    "constant",
    "fedadagrad",
    "fedadam",
    "fedavg",
    "fedavgm",
    "fedyogi",
    "hinge",
    "mean",
    "median",
    "polynomial",
]
