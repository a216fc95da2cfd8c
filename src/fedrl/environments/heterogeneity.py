"""Heterogeneity of the finite environments of a fleet: distances of transitions, rewards and optimal values.

Each agent is compared with the mean environment, whose transitions and rewards are the means over agents. Averaging of
Q-tables converges to the optimal values of the mean environment, so the distance of values is the cost of averaging.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.errors import ConfigError
from fedrl.environments.tabular.model import TabularParams
from fedrl.environments.tabular.planning import optimal_q


class Distances(NamedTuple):
    """Distances of each agent's environment from the mean environment, each `[agents]`.

    Attributes:
        transition: Total variation of P(. | s, a) from the mean, mean over states and actions, from 0 to 1.
        reward: |r(s, a) - mean|, mean over states and actions.
        value: The largest |Q*(s, a) - Q* of the mean environment|.
    """

    transition: jax.Array
    reward: jax.Array
    value: jax.Array


def distances_from_mean(model: TabularParams, gamma: float) -> Distances:
    """Compute the distance of every agent's environment from the mean environment.

    Args:
        model: Model of the fleet, with a leading agent axis on every leaf, as from `fedrl.environments.model_of`.
        gamma: Discount factor in [0, 1), for the values.

    Raises:
        ConfigError: There is no agent axis, or `gamma` is out of range.

    >>> import jax
    >>> from fedrl.environments import random_mdps
    >>> model = random_mdps(jax.random.key(0), agents=2, kappa=0.4)
    >>> distances_from_mean(model, 0.9).transition.round(3).tolist()  # kappa apart, so half of it from their mean
    [0.20000000298023224, 0.20000000298023224]

    Reference: the mean environment is the "imaginary" one of Jin et al. (2022), https://arxiv.org/abs/2204.02634
    """
    if jnp.ndim(model.transition) != 4:
        raise ConfigError(
            f"model.transition has shape {jnp.shape(model.transition)}. To compare agents, it needs a leading agent "
            "axis: [agents, states, actions, states]. Give the model of a fleet."
        )
    # The mean over agents of tables is again a process, the one that averaging of Q-tables solves.
    mean = jax.tree.map(lambda leaf: jnp.asarray(leaf).mean(0), model)
    return Distances(
        # Half the L1 distance is the total variation.
        transition=0.5 * jnp.abs(model.transition - mean.transition).sum(-1).mean((-2, -1)),
        reward=jnp.abs(model.reward - mean.reward).mean((-2, -1)),
        value=jnp.abs(optimal_q(model, gamma) - optimal_q(mean, gamma)).max((-2, -1)),
    )
