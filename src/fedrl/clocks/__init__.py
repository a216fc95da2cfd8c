"""Decide when events happen: at once, or after the times that devices, links and absences take."""

from fedrl.clocks.devices import Clock, clock
from fedrl.clocks.distributions import Distribution, lognormal, stragglers, uniform_between
from fedrl.clocks.immediate import Immediate
from fedrl.clocks.virtual import Virtual

__all__ = [
    "Clock",
    "Distribution",
    "Immediate",
    "Virtual",
    "clock",
    "lognormal",
    "stragglers",
    "uniform_between",
]
