"""When events happen: at once, or as devices, links and absences have it."""

from fedrl.clocks.devices import Clock, clock
from fedrl.clocks.distributions import Spread, between, lognormal, stragglers
from fedrl.clocks.immediate import Immediate
from fedrl.clocks.virtual import Virtual

__all__ = ["Clock", "Immediate", "Spread", "Virtual", "between", "clock", "lognormal", "stragglers"]
