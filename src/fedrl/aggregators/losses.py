"""Losses of agents for fair aggregators and loss-based selections. The server can't measure them: agents report them.

    reference_return = None      the mean loss over the local steps, as the learner defines it
    reference_return = 500.0     max(reference_return - return, 0): the gap of the agent's mean return in the round

The loss of a policy gradient does not measure performance; in reinforcement learning, set `reference_return`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedrl.core.types import PyTree


def question(reference_return: float | None) -> str:
    """Return the name of the report that agents have to send."""
    return "loss" if reference_return is None else "return"


def losses(values: PyTree, reference_return: float | None, xp: Any) -> Any:
    """Return F_k >= 0, `[agents]`; an agent without one, since no episode ended, gets the mean of the others."""
    stated = values[question(reference_return)]
    loss = xp.maximum(stated if reference_return is None else reference_return - stated, 0.0)
    known = xp.isfinite(loss)
    loss = xp.where(known, loss, 0.0)
    # Divided by the largest before summing: a sum of large losses may overflow float32.
    largest = xp.where(loss.max() > 0.0, loss.max(), 1.0)
    mean = largest * ((loss / largest).sum() / xp.maximum(known.sum(), 1))
    return xp.where(known, loss, mean).astype(np.float32)
