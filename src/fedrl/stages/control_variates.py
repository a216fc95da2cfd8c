"""Control variates: SCAFFOLD's cure for the drift of heterogeneous agents.

guide:   c - c_k added to each local gradient (by `fedrl.learners.corrected`)
encode:  (delta, change of c_k) --> wire
finish:  c moves by the mean change; delta goes on to the server's optimiser
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from fedrl.core.checks import check_above_zero, check_positive
from fedrl.core.component import component
from fedrl.core.stage import Stage, zeros_like
from fedrl.core.types import Context, Key, Params, PyTree, Update
from fedrl.stages.leaves import check_not_encoded


@component("stage", reference="Karimireddy et al. (2020), https://arxiv.org/abs/1910.06378")
def control_variates(learning_rate: float, agents: int, gradient_steps: int = 1) -> Stage:
    """SCAFFOLD, option II: every agent learns how its gradient differs from the mean, and local training undoes it.

    With S the cohort of N agents and delta_k the change of parameters after H_k local gradient steps of size eta:

        c_k <- c_k - c - delta_k / (H_k eta),      c <- c + |S| / N * mean over S of (change of c_k)

    The agents' optimiser is `chain(corrected(), sgd(eta))`. H_k is `gradient_steps` times the agent's own number of
    local steps, so agents may do unequal work. The mean is the aggregator's, weights and all. The formula takes
    plain gradient descent for granted: with Adam, c_k is not a gradient. It doubles what travels up and down.

    Args:
        learning_rate: eta, the step size of the agents' SGD.
        agents: N, how many agents there are in all.
        gradient_steps: Optimiser steps in one local step: 1, or `epochs * minibatch_count` for PPO.

    Raises:
        ConfigError: An argument is not above zero.
    """
    check_above_zero(learning_rate=learning_rate)
    check_positive(agents=agents, gradient_steps=gradient_steps)

    def init(params: Params) -> tuple[PyTree, PyTree]:
        return zeros_like(params), zeros_like(params)

    def guide(shared: PyTree, local: PyTree) -> PyTree:
        return jax.tree.map(jnp.subtract, shared, local)

    def encode(key: Key, context: Context, shared: PyTree, local: PyTree, update: Update) -> tuple[Update, PyTree]:
        del key
        check_not_encoded(update.value, "control_variates()")
        length = context.steps * gradient_steps * learning_rate
        change = jax.tree.map(lambda c, delta: -c - delta / length, shared, update.value)
        sound = jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(change)]).all()
        after = jax.tree.map(lambda c, d: jnp.where(sound, c + d, c), local, change)
        share = context.cohort / agents
        return update._replace(value=(update.value, jax.tree.map(lambda d: share * d, change))), after

    def finish(key: Key, shared: PyTree, update: Update) -> tuple[Update, PyTree]:
        del key
        delta, change = update.value
        return update._replace(value=delta), jax.tree.map(jnp.add, shared, change)

    return Stage(encode, init, guide, finish=finish, expands=True)
