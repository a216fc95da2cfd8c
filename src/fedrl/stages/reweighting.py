"""Stages by which an agent scales the weight of its own update; nothing else about the agent is reported.

update.weight = n_k --> n_k * factor that the agent computes --> weighted mean at the server

They work with any aggregator that uses weights, also under sums that hide single updates. The agent states its own
weight: where agents may be dishonest, use an aggregator that ignores weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import FractionAboveZero, FractionBelowOne, Positive
from fedrl.core.reports import mean_return
from fedrl.core.stage import Stage, zeros_like
from fedrl.core.types import Key, Params, PyTree, Update, UpdateContext
from fedrl.stages.leaves import check_not_encoded

WEIGHTED = "averaging by weights: McMahan et al. (2017), https://arxiv.org/abs/1602.05629"
WIDEST = 1e12
"""Largest ratio of two agents' resources. In float32, with seven digits, a far smaller weight is already negligible."""


@component("stage", reference=WEIGHTED)
def weight_by_improvement(floor: Positive = 1.0, most: Positive = 1000.0) -> Stage:
    """Give agents whose return rises a larger weight: w_k = n_k min(max((R_k(t) - R_k(t')) / floor, 1), most).

    t' is the last round in which an episode of the agent ended. Mean returns stay with the agent, but the weight it
    sends reveals their difference. In an agent's first round, and where no episode ended, w_k = n_k.

    Args:
        floor: Rise of the return up to which the factor is 1, in units of the return. A large one makes all factors 1.
        most: Largest factor, at least 1. The server rejects an update whose weight implies a larger one.

    Raises:
        ConfigError: The floor is not above zero, or the largest factor is below 1.
    """
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
        # The comparison is false for NaN, the rise of a first round or of one without a finished episode.
        worth = jnp.minimum(jnp.where(rise > 1.0, rise, 1.0), most)
        return update._replace(weight=update.weight * worth), jnp.where(jnp.isfinite(now), now, agent_state)

    return Stage(encode, init, reweights=(1.0, most))


class SignalMoments(NamedTuple):
    """Moving averages over an agent's own updates, from 0: of each entry, of the squared norm; the number of rounds."""

    mean: Params
    square: jax.Array
    rounds: jax.Array


@component("stage", reference="McCandlish et al. (2018), https://arxiv.org/abs/1812.06162")
def weight_by_signal(decay: FractionBelowOne = 0.9, least: FractionAboveZero = 0.01, most: Positive = 100.0) -> Stage:
    """Give agents whose updates are consistent over rounds a larger weight: w_k = n_k SNR_k.

    SNR_k = ||E Delta_k||^2 / E ||Delta_k - E Delta_k||^2 is the inverse of a gradient noise scale, estimated from
    moving means m of Delta_k and v of ||Delta_k||^2 over the rounds. With s the sum of the squared weights in a mean,

        noise = (v - ||m||^2) / (1 - s),      signal = ||m||^2 - s noise,      SNR = signal / noise;

    noise and signal are unbiased for a Delta_k that does not drift. Earlier updates stay with the agent, but its weight
    reveals the ratio. In an agent's first round, w_k = n_k.

    Args:
        decay: Factor by which a moving mean decays per round, in (0, 1).
        least: Lower bound of the ratio, above zero.
        most: Upper bound of the ratio.

    Raises:
        ConfigError: An argument is out of range.
    """
    if not 0.0 < decay < 1.0:
        raise ConfigError(f"decay is {decay}. A moving mean decays by a factor in (0, 1). Set it between 0 and 1.")
    if least > most:
        raise ConfigError(f"least is {least} and most is {most}. No ratio lies between them. Set least below most.")

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
        # An update that is not finite is rejected by the server; kept in a moving mean, it would stay for ever.
        sound = jnp.isfinite(after.square)
        kept = jax.tree.map(lambda new, old: jnp.where(sound, new, old), after, agent_state)
        return update._replace(weight=update.weight * _ratio(after)), kept

    def _ratio(moments: SignalMoments) -> jax.Array:
        # The means start from 0: 1 - fresh corrects that bias, as in Adam.
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
def weight_by_capacity(resources: Sequence[Positive]) -> Stage:
    """Give agents that use fewer resources a larger weight: w_k = n_k min_j R_j / R_k.

    Args:
        resources: R_k of each agent, all in the same unit: seconds per round, joules, bytes per second.

    Raises:
        ConfigError: `resources` is empty, one is not above zero, or one is more than 1e12 times another.
    """
    if not len(resources):
        raise ConfigError("resources is empty. Each agent needs a number. Write resources = [1.0, 2.0, ...].")
    taken = np.asarray(resources, np.float64)
    if taken.max() / taken.min() > WIDEST:
        raise ConfigError(
            f"resources range from {taken.min():g} to {taken.max():g}. An agent that uses more than {WIDEST:g} times "
            "as much as another would have a weight of zero. Give all in the same unit, or leave that agent out."
        )
    # Relative to the smallest, so that factors are at most 1 in any unit of the resources.
    share = (taken.min() / taken).astype(np.float32)

    def encode(
        key: Key, context: UpdateContext, server_state: PyTree, agent_state: PyTree, update: Update
    ) -> tuple[Update, PyTree]:
        del key, server_state
        # An agent beyond the list gets NaN, which the server rejects and counts: JAX would clamp the index instead.
        worth = jnp.asarray(share).at[context.agent].get(mode="fill", fill_value=jnp.nan)
        return update._replace(weight=update.weight * worth), agent_state

    return Stage(encode, reweights=(min(resources) / max(resources), 1.0))


def _squared(value: PyTree) -> jax.Array:
    return sum((jnp.square(leaf).sum() for leaf in jax.tree.leaves(value)), jnp.float32(0.0))
