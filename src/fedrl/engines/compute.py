"""How long the two halves of a round take on the computer that simulates them."""

from __future__ import annotations

from fedrl.core.measures import Measure

COMPUTE = {"agents_compute": Measure("round", "s", "lower"), "server_compute": Measure("round", "s", "lower")}
"""What every simulator measures: seconds of wall time that all agents took, training and encoding, and those that the
merge took. The first round of a run holds the compilation, too."""
