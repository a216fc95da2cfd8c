"""Wall time of the two halves of a simulated round."""

from __future__ import annotations

from fedrl.core.measures import Measure

COMPUTE = {"agents_compute": Measure("round", "s", "lower"), "server_compute": Measure("round", "s", "lower")}
"""Measures of every simulation: seconds of wall time for training and encoding of all agents, and for the merge. The
first round of a run includes compilation."""
