"""How much each agent counts among all agents, whoever of them takes part in a round.

    p_k = w_k / (w_1 + ... + w_N),      w_k the weight that the aggregator gives to n_k samples

A cohort is a part of all: over it the shares do not add up to one, and they are not made to.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Int

from fedrl.federation.federation import Federation


def shares(federation: Federation, steps: Int[np.ndarray, " agents"]) -> Float32[np.ndarray, " agents"]:
    """p_k of each agent, with n_k its local steps times the samples of one.

    Args:
        federation: Whose aggregator gives the weights: `mean()` by samples, `mean("uniform")` the same to all.
        steps: Local steps of every agent.
    """
    aggregator, samples = federation.aggregator, federation.learner.samples
    weights = np.array([aggregator.weight_scale(float(count * samples)) for count in steps], np.float64)
    return np.asarray(weights / weights.sum(), np.float32)
