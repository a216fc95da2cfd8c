"""What an agent may say its update is worth: the weight it leaves with is the only trace, so nothing is added to it.

update.weight = n_k --> n_k * what the agent knows about itself --> a mean by weights

Each works with any aggregator that goes by weights, also under sums that hide each update. An agent states its own
weight: where agents may lie, use a rule that does not believe them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.checks import check_above_zero
from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.reports import mean_return
from fedrl.core.stage import Stage, zeros_like
from fedrl.core.types import Key, Params, PyTree, Update, UpdateContext
from fedrl.stages.leaves import check_not_encoded

WEIGHTED = "averaging by weights: McMahan et al. (2017), https://arxiv.org/abs/1602.05629"
WIDEST = 1e12
"""How many times the resources of another an agent may take: float32 has seven digits, so far less counts already."""


@component("stage", reference=WEIGHTED)
def weight_by_improvement(floor: float = 1.0, most: float = 1000.0) -> Stage:
    """Agents whose return rises count more: w_k = n_k min(max((R_k(t) - R_k(t')) / floor, 1), most).

    t' is the last round in which the agent knew a return. Mean returns stay with the agent; the weight that leaves
    tells their difference.
    An agent counts by its samples in its first round and where no episode ended.

    Args:
        floor: The rise up to which agents count alike, in units of the return: scale it with them. A large one makes
            all count alike.
        most: The largest factor, at least 1. A server believes no agent that claims a larger one.

    Raises:
        ConfigError: The floor is not above zero, or the largest factor is below 1.
    """
    check_above_zero(floor=floor)
    if not 1.0 <= most < np.inf:
        raise ConfigError(f"most is {most}. The smallest factor is 1. Set it to a finite number of 1 or more.")

    def init(params: Params) -> tuple[PyTree, jax.Array]:
        del params
        return (), jnp.float32(jnp.nan)

    def encode(
        key: Key, context: UpdateContext, server_state: PyTree, agent_state: jax.Array, update: Update
    ) -> tuple[Update, jax.Array]:
        del key, server_state
        now = mean_return(context)
        rise = (now - agent_state) / floor
        worth = jnp.minimum(jnp.where(rise > 1.0, rise, 1.0), most)  # false for NaN
        return update._replace(weight=update.weight * worth), jnp.where(jnp.isfinite(now), now, agent_state)

    return Stage(encode, init, reweights=(1.0, most))


class SignalMoments(NamedTuple):
    """Moving sums over an agent's own updates: of each entry, of the squared norm, and how many there were."""

    mean: Params
    square: jax.Array
    rounds: jax.Array


@component("stage", reference="McCandlish et al. (2018), https://arxiv.org/abs/1812.06162")
def weight_by_signal(decay: float = 0.9, least: float = 0.01, most: float = 100.0) -> Stage:
    """Agents whose updates agree with one another over time count more: w_k = n_k SNR_k.

    SNR_k = ||E Delta_k||^2 / E ||Delta_k - E Delta_k||^2, the inverse of a gradient noise scale, from moving
    means m of Delta_k and v of ||Delta_k||^2 over the rounds. With s the sum of the squared weights in those means,

        noise = (v - ||m||^2) / (1 - s),      signal = ||m||^2 - s noise,      SNR = signal / noise

    are unbiased for a Delta_k that does not drift. The updates stay with the agent; the weight tells the ratio. In its
    first round, when there is none, it counts by its samples.

    Args:
        decay: What a moving mean keeps from round to round, in (0, 1).
        least: The smallest ratio that counts, above zero.
        most: The largest.

    Raises:
        ConfigError: An argument is out of range.
    """
    if not 0.0 < decay < 1.0:
        raise ConfigError(f"decay is {decay}. A moving mean keeps a share of the past. Set it between 0 and 1.")
    check_above_zero(least=least, most=most)
    if least > most:
        raise ConfigError(f"least is {least} and most is {most}. A range goes upwards. Set least below most.")

    def init(params: Params) -> tuple[PyTree, SignalMoments]:
        return (), SignalMoments(zeros_like(params), jnp.float32(0.0), jnp.float32(0.0))

    def encode(
        key: Key, context: UpdateContext, server_state: PyTree, agent_state: SignalMoments, update: Update
    ) -> tuple[Update, SignalMoments]:
        del key, context, server_state
        check_not_encoded(update.value, "weight_by_signal()")
        after = SignalMoments(
            jax.tree.map(lambda m, x: decay * m + (1.0 - decay) * x, agent_state.mean, update.value),
            decay * agent_state.square + (1.0 - decay) * _squared(update.value),
            agent_state.rounds + 1.0,
        )
        sound = jnp.isfinite(after.square)  # an update that the server refuses is forgotten
        kept = jax.tree.map(lambda new, old: jnp.where(sound, new, old), after, agent_state)
        return update._replace(weight=update.weight * _ratio(after)), kept

    def _ratio(moments: SignalMoments) -> jax.Array:
        fresh = decay**moments.rounds
        v, m = moments.square / (1.0 - fresh), _squared(moments.mean) / (1.0 - fresh) ** 2
        s = (1.0 - decay) * (1.0 + fresh) / ((1.0 + decay) * (1.0 - fresh))
        noise = jnp.maximum(v - m, 0.0) / jnp.maximum(1.0 - s, 1e-6)
        signal = m - s * noise
        ratio = jnp.where(signal >= most * noise, most, signal / jnp.where(noise > 0.0, noise, 1.0))
        known = (moments.rounds > 1.0) & (v > 0.0) & jnp.isfinite(v)
        return jnp.where(known, jnp.clip(ratio, least, most), 1.0)

    return Stage(encode, init, reweights=(least, most))


@component("stage", reference=WEIGHTED)
def weight_by_capacity(resources: Sequence[float]) -> Stage:
    """Agents that take fewer resources count more: w_k = n_k min_j R_j / R_k, in proportion to 1 / R_k for equal work.

    Args:
        resources: R_k of each agent, in any one unit: seconds per round, joules, bytes per second taken.

    Raises:
        ConfigError: There are none, one is not above zero, or one is more than 1e12 times another; when used, there
            are more agents than that.
    """
    if not len(resources):
        raise ConfigError("resources is empty. There is one number per agent. Write resources = [1.0, 2.0, ...].")
    for one in resources:
        check_above_zero(resources=one)
    taken = np.asarray(resources, np.float64)
    if taken.max() / taken.min() > WIDEST:
        raise ConfigError(
            f"resources go from {taken.min():g} to {taken.max():g}. An agent that takes over {WIDEST:g} times as much "
            "as another would count for nothing. Give all in one unit, or leave that agent out."
        )
    share = (taken.min() / taken).astype(np.float32)

    def encode(
        key: Key, context: UpdateContext, server_state: PyTree, agent_state: PyTree, update: Update
    ) -> tuple[Update, PyTree]:
        del key, server_state
        worth = jnp.asarray(share).at[context.agent].get(mode="fill", fill_value=jnp.nan)  # refused, and counted
        return update._replace(weight=update.weight * worth), agent_state

    return Stage(encode, reweights=(min(resources) / max(resources), 1.0))


def _squared(value: PyTree) -> jax.Array:
    return sum((jnp.square(leaf).sum() for leaf in jax.tree.leaves(value)), jnp.float32(0.0))
