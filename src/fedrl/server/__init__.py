"""Make the server's decisions: selection, local steps, upload budget, schedule, and the optimiser of merged updates."""

from fedrl.server.allocation import allocate
from fedrl.server.local_steps import (
    adacomm,
    constant,
    linear,
    proportional_steps,
    proportional_to_measured_speed,
    proportional_to_speed,
    water_filling,
)
from fedrl.server.optimizers import fedadagrad, fedadam, fedavg, fedavgm, fedyogi, normalized_momentum
from fedrl.server.schedules import afedpg, bounded_staleness, fed_async, fed_buff, synchronous
from fedrl.server.selection import by_capacity, oort, poisson, power_of_choice, round_robin, uniform
from fedrl.server.spacing import spaced
from fedrl.server.staleness import hinge, ignore_staleness, polynomial
from fedrl.server.upload_budget import greedy

__all__ = [
    "adacomm",
    "afedpg",
    "allocate",
    "bounded_staleness",
    "by_capacity",
    "constant",
    "fed_async",
    "fed_buff",
    "fedadagrad",
    "fedadam",
    "fedavg",
    "fedavgm",
    "fedyogi",
    "greedy",
    "hinge",
    "ignore_staleness",
    "linear",
    "normalized_momentum",
    "oort",
    "poisson",
    "polynomial",
    "power_of_choice",
    "proportional_steps",
    "proportional_to_measured_speed",
    "proportional_to_speed",
    "round_robin",
    "spaced",
    "synchronous",
    "uniform",
    "water_filling",
]
