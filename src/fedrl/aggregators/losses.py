"""What rules that care for the worst take for an agent's loss. The server can't measure it, so it is told.

    best = None      the mean loss over the local steps, as the learner counts it
    best = 500.0     max(best - return, 0): how far an agent's mean return in the round is from the best there is

The loss of a policy gradient says nothing of how well an agent does; in reinforcement learning, name the best return.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedrl.core.types import PyTree


def question(reference_return: float | None) -> str:
    """What to ask each agent."""
    return "loss" if reference_return is None else "return"


def losses(values: PyTree, reference_return: float | None, xp: Any) -> Any:
    """F_k, not below zero, `[agents]`. Who can't tell, as no episode ended, counts as the mean of the others."""
    stated = values[question(reference_return)]
    loss = xp.maximum(stated if reference_return is None else reference_return - stated, 0.0)
    known = xp.isfinite(loss)
    loss = xp.where(known, loss, 0.0)
    largest = xp.where(loss.max() > 0.0, loss.max(), 1.0)  # of large losses, the sum might not be finite
    mean = largest * ((loss / largest).sum() / xp.maximum(known.sum(), 1))
    return xp.where(known, loss, mean).astype(np.float32)
