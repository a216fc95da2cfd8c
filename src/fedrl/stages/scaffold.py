"""Control variates: SCAFFOLD's remedy for the client drift of heterogeneous agents.

correction:  c - c_k is added to each local gradient (by `fedrl.learners.add_correction`)
encode:      delta --> later stages --> wire        change of p_k c_k --> statistics, past the later stages
finish:      c changes by the sum of these changes; delta goes to the server's optimiser
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core.component import component
from fedrl.core.ranges import Count, Positive
from fedrl.core.stage import Stage, zeros_like
from fedrl.core.types import Key, Params, PyTree, Update, UpdateContext
from fedrl.stages.leaves import check_not_encoded

CHANGES = "scaffold"
"""Name of the statistics that carry the agents' changes of c."""


class ControlVariate(NamedTuple):
    """An agent's state: its control variate c_k, and the share p_k with which c contains it."""

    variate: Params
    share: jax.Array


@component("stage", reference="Karimireddy et al. (2020), https://arxiv.org/abs/1910.06378")
def scaffold(learning_rate: Positive, gradient_steps: Count = 1) -> Stage:
    """SCAFFOLD, option II: correct every local gradient by its estimated difference from the mean gradient.

    With delta_k the change of parameters after H_k local gradient steps of size eta, S the cohort of a round, and p_k
    the share of agent k among all agents, in the cohort or not,

        c_k <- c_k - c - delta_k / (H_k eta),      c <- c + sum over S of (p_k c_k after - p_k c_k before)

    so c = sum_k p_k c_k over all agents at any time. At a fixed point c = 0 and c_k is the gradient of f_k: this is a
    stationary point of sum_k p_k f_k, whichever agents take part in a round, and whatever clipping, compression or
    staleness do to delta_k, which is zero there. The aggregator defines p_k: n_k / (n_1 + ... + n_N) for `mean()`, with
    n_k the samples of agent k's local steps, and 1 / N for `mean("uniform")`. Where a schedule of local steps changes
    p_k, the agent's next update also replaces its old share in c.

    The agents' optimiser is `chain(add_correction(), sgd(eta))`. H_k is `gradient_steps` times the agent's own number
    of local steps, so agents may do unequal work. The formula assumes plain gradient descent: with Adam, c_k is not a
    gradient. SCAFFOLD doubles the bytes of uploads and broadcasts. The last c_k of an agent that leaves stays in c, and
    an agent that never uploads has c_k = 0. Where the server rejects an update or skips a round, c_k is restored to its
    previous value. The exception is a virtual clock on which agents continue before the server merges: c lacks that
    change for good.

    Changes of c are summed exactly and bypass later stages, which may therefore not hide them, add noise or withhold
    them. The shares are those of a mean, so aggregators that see each update and stages that change weights are
    refused. So is a federation that is the learner of another one: its c would be the mean over its own agents.

    Args:
        learning_rate: eta, the step size of the agents' SGD.
        gradient_steps: Optimiser steps in one local step: 1, or `num_epochs * num_minibatches` for PPO.

    Raises:
        ConfigError: An argument is not above zero.
    """

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
        # With the new share for the new c_k and the old for the old: p_k changes with schedules of local steps, and c
        # would otherwise no longer be the sum of p_k c_k.
        change = jax.tree.map(lambda new, old: share * new - agent_state.share * old, after, agent_state.variate)
        sent = update._replace(statistics={**update.statistics, CHANGES: change})
        return sent, ControlVariate(after, share)

    def finish(key: Key, server_state: PyTree, update: Update) -> tuple[Update, PyTree]:
        del key
        return update, jax.tree.map(lambda c, change: c + change.value, server_state, update.statistics[CHANGES])

    return Stage(encode, init, correction, finish=finish, sums=CHANGES)
