"""When events happen: at once, or as devices, links and absences have it."""

from fedrl.engines.clocks.devices import Clock, clock
from fedrl.engines.clocks.immediate import Immediate
from fedrl.engines.clocks.spreads import Spread, between, lognormal, stragglers
from fedrl.engines.clocks.virtual import Virtual

__all__ = ["Clock", "Immediate", "Spread", "Virtual", "between", "clock", "lognormal", "stragglers"]
