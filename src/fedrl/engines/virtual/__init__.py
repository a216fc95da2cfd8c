"""The engine on a virtual clock: devices, links, absences, and when the server merges."""

from fedrl.engines.virtual.clock import Clock, clock
from fedrl.engines.virtual.engine import simulate_clock
from fedrl.engines.virtual.schedules import (
    Schedule,
    afedpg,
    bounded_staleness,
    fed_async,
    fed_buff,
    synchronous,
)
from fedrl.engines.virtual.spreads import Spread, between, lognormal, stragglers

__all__ = [
    "Clock",
    "Schedule",
    "Spread",
    "afedpg",
    "between",
    "bounded_staleness",
    "clock",
    "fed_async",
    "fed_buff",
    "lognormal",
    "simulate_clock",
    "stragglers",
    "synchronous",
]
