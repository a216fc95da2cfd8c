"""Control variates: SCAFFOLD's cure for the drift of heterogeneous agents.

guide:   c - c_k added to each local gradient (by `fedrl.learners.add_correction`)
encode:  delta --> later stages --> wire        change of p_k c_k --> statistics, beside all of them
finish:  c moves by the sum of the changes; delta goes on to the server's optimiser
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.checks import check_above_zero, check_positive
from fedrl.core.component import component
from fedrl.core.stage import Stage, zeros_like
from fedrl.core.types import Key, Params, PyTree, Update, UpdateContext
from fedrl.stages.leaves import check_not_encoded

CHANGES = "scaffold"
"""The statistics by which agents change c."""


class ControlVariate(NamedTuple):
    """What an agent keeps: its c_k, and the share p_k with which the server has counted it."""

    variate: Params
    share: jax.Array


@component("stage", reference="Karimireddy et al. (2020), https://arxiv.org/abs/1910.06378")
def scaffold(learning_rate: float, gradient_steps: int = 1) -> Stage:
    """SCAFFOLD, option II: every agent learns how its gradient differs from the mean, and local training undoes it.

    With delta_k the change of parameters after H_k local gradient steps of size eta, S the cohort of a round, and p_k
    the share of agent k among all agents, in the cohort or not,

        c_k <- c_k - c - delta_k / (H_k eta),      c <- c + sum over S of (p_k c_k after - p_k c_k before)

    so c = sum_k p_k c_k over all agents at any time. Where nothing moves any more, c = 0 and c_k is the gradient of
    f_k: that is the minimum of sum_k p_k f_k, whoever takes part in a round, and whatever clips, codes or staleness do
    to delta_k, which is zero there. The aggregator states p_k: `mean()` has n_k / (n_1 + ... + n_N), the samples of the
    local steps of each agent, and `mean("uniform")` has 1 / N. Where a schedule of local work changes p_k, an agent's
    next message takes what it had contributed with the old share back.

    The agents' optimiser is `chain(add_correction(), sgd(eta))`. H_k is `gradient_steps` times the agent's own number
    of local steps, so agents may do unequal work. The formula takes plain gradient descent for granted: with Adam, c_k
    is not a gradient. It doubles what travels up and down. An agent that leaves for good leaves its last c_k behind in
    c, and one that is never heard has no say. Where the server leaves an update out, or passes over a round, c_k is
    what it was before; not so on a clock on which agents go on before the server merges, where c lacks that change for
    good.

    What changes c is added up exactly, beside later stages, so those may not hide it, add noise or hold it back; and it
    goes by the weights of a mean, so rules that see each update and stages that change weights are refused. So is a
    federation that is the learner of another one: its c would be the mean of its own agents.

    Args:
        learning_rate: eta, the step size of the agents' SGD.
        gradient_steps: Optimiser steps in one local step: 1, or `epochs * num_minibatches` for PPO.

    Raises:
        ConfigError: An argument is not above zero.
    """
    check_above_zero(learning_rate=learning_rate)
    check_positive(gradient_steps=gradient_steps)

    def init(params: Params) -> tuple[PyTree, ControlVariate]:
        return zeros_like(params), ControlVariate(zeros_like(params), jnp.float32(0.0))

    def correction(server_state: PyTree, agent_state: ControlVariate) -> PyTree:
        return jax.tree.map(jnp.subtract, server_state, agent_state.variate)

    def encode(
        key: Key, context: UpdateContext, server_state: PyTree, agent_state: ControlVariate, update: Update
    ) -> tuple[Update, ControlVariate]:
        del key
        check_not_encoded(update.value, "scaffold()")
        length, share = context.steps * gradient_steps * learning_rate, jnp.float32(context.share)
        after = jax.tree.map(
            lambda own, c, delta: own - c - delta / length, agent_state.variate, server_state, update.value
        )
        change = jax.tree.map(lambda new, old: share * new - agent_state.share * old, after, agent_state.variate)
        sent = update._replace(statistics={**update.statistics, CHANGES: change})
        return sent, ControlVariate(after, share)

    def finish(key: Key, server_state: PyTree, update: Update) -> tuple[Update, PyTree]:
        del key
        return update, jax.tree.map(lambda c, change: c + change.value, server_state, update.statistics[CHANGES])

    return Stage(encode, init, correction, finish=finish, sums=CHANGES)
