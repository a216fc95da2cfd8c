"""What a server decides: whom it asks, how much each works, when it merges, and what it does with the merged update."""

from fedrl.server.allocation import allocate
from fedrl.server.local_steps import allocated, balanced, balanced_by_time, balanced_steps, from_loss, ramp, steady
from fedrl.server.optimizers import fedadagrad, fedadam, fedavg, fedavgm, fedyogi, normalized_momentum
from fedrl.server.schedules import afedpg, bounded_staleness, fed_async, fed_buff, synchronous
from fedrl.server.selection import by_capacity, by_utility, power_of_choice, round_robin, uniform
from fedrl.server.staleness import constant, hinge, polynomial
from fedrl.server.upload_budget import by_priority

__all__ = [
    "afedpg",
    "allocate",
    "allocated",
    "balanced",
    "balanced_by_time",
    "balanced_steps",
    "bounded_staleness",
    "by_capacity",
    "by_priority",
    "by_utility",
    "constant",
    "fed_async",
    "fed_buff",
    "fedadagrad",
    "fedadam",
    "fedavg",
    "fedavgm",
    "fedyogi",
    "from_loss",
    "hinge",
    "normalized_momentum",
    "polynomial",
    "power_of_choice",
    "ramp",
    "round_robin",
    "steady",
    "synchronous",
    "uniform",
]
