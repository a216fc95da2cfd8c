"""How long the two halves of a round take on the computer that simulates them."""

from __future__ import annotations

import time

from fedrl.core.measures import Measure

COMPUTE = {"agents_compute": Measure("round", "s", "lower"), "server_compute": Measure("round", "s", "lower")}
"""What every simulator measures: seconds of wall time that all agents took, training and encoding, and those that the
merge took. The first round of a run holds the compilation, too."""


def compute_of(began: float, trained: float) -> dict[str, float]:
    """The sums of `COMPUTE` for a round that ends now.

    Args:
        began: `time.perf_counter()` as it began.
        trained: The same when its agents had trained.
    """
    spent = {"agents_compute": trained - began, "server_compute": time.perf_counter() - trained}
    return {name: round(seconds, 6) for name, seconds in spent.items()}
