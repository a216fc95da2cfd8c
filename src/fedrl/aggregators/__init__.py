"""Rules that make one update of many, and what the server does with it."""

from fedrl.aggregators.mean import mean
from fedrl.aggregators.median import median
from fedrl.aggregators.server_optimizers import fedadagrad, fedadam, fedavg, fedavgm, fedyogi

__all__ = ["fedadagrad", "fedadam", "fedavg", "fedavgm", "fedyogi", "mean", "median"]
