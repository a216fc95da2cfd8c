"""Who is asked in a round, how much each works, and whose updates are sent: what a server decides."""

from fedrl.selection.admission import by_priority
from fedrl.selection.allocation import allocate
from fedrl.selection.rules import by_capacity, by_utility, power_of_choice, round_robin, uniform
from fedrl.selection.workloads import allocated, balanced, balanced_by_time, balanced_steps, from_loss, ramp, steady

__all__ = [
    "allocate",
    "allocated",
    "balanced",
    "balanced_by_time",
    "balanced_steps",
    "by_capacity",
    "by_priority",
    "by_utility",
    "from_loss",
    "power_of_choice",
    "ramp",
    "round_robin",
    "steady",
    "uniform",
]
