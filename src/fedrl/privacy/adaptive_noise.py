"""Spend more of a privacy budget per round once the updates are small: noise that follows the progress of training.

The decision reads only what was released already, so it costs nothing by itself; but rounds then have prices that
depend on outputs, and the run ends when a filter says that the next round would exceed the budget.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from fedrl.core import draws
from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import FractionBetween, NonNegative, Positive
from fedrl.core.stage import Noise, Stage
from fedrl.core.types import Key, Params, PyTree, Update
from fedrl.privacy.extra import accounting
from fedrl.privacy.server_sums import clip_of_agent, over_expected
from fedrl.stages.clip import norm_of


@component("stage", reference="Lee & Kifer (2018), https://arxiv.org/abs/1808.09501")
def progress_gaussian(
    clip: Positive,
    noise_multiplier: Positive,
    expected: Positive,
    least: Positive,
    signal: NonNegative = 0.1,
    decay: FractionBetween = 0.9,
) -> Stage:
    """Add Gaussian noise at the server that becomes smaller once the released updates consist of noise.

        x = (sum_k x_k + z C e) / n          r = ||x||^2 / (d (z C / n)^2) - 1
        z <- max(decay z, z_min) if r < signal, else z

    r estimates the squared norm of the updates in units of that of the noise, from the released x alone, within about
    sqrt(2 / d) in d dimensions. Lee & Kifer spend part of the budget on the same decision.

    A budget with a filter ends the run (`fedrl.privacy.ledger`): for Gaussian mechanisms, the sum of 1 / z^2 is bounded
    in advance (Smith & Thakurta, 2022, https://arxiv.org/abs/2210.17520). Agents pay for the rounds in which they take
    part, and that a cohort is drawn at random makes none of them cheaper.

    Args:
        clip: C, in units of the parameters.
        noise_multiplier: z in the first round.
        expected: n, the number of agents expected in a round.
        least: z_min, the least multiplier.
        signal: The ratio r below which the noise decreases.
        decay: The factor by which it decreases.

    Raises:
        ConfigError: An argument is out of range.

    >>> progress_gaussian(1.0, 4.0, expected=10, least=1.0).noise.now(jnp.float32(2.0)).noise_multiplier
    2.0
    """
    if least > noise_multiplier:
        raise ConfigError(
            f"least is {least:g} and noise_multiplier is {noise_multiplier:g}. The noise only decreases. Set least to "
            "noise_multiplier or below."
        )

    def init(params: Params) -> tuple[PyTree, PyTree]:
        del params
        return jnp.float32(noise_multiplier), ()

    def finish(key: Key, server_state: PyTree, update: Update) -> tuple[Update, PyTree]:
        deviation = server_state * clip / expected
        summed = over_expected(update, expected)
        value = draws.with_noise(draws.normal, key, summed, deviation)
        entries = sum(leaf.size for leaf in jax.tree.leaves(value))
        ratio = jnp.square(norm_of(value) / deviation) / entries - 1.0
        lower = jnp.maximum(decay * server_state, least)
        return update._replace(value=value), jnp.where(ratio < signal, lower, server_state)

    def now(server_state: PyTree) -> Any:
        return accounting().GaussianDpEvent(float(server_state))

    noise = Noise(accounting().GaussianDpEvent(noise_multiplier), clip, "server", now=now)
    return Stage(clip_of_agent(clip, "progress_gaussian()"), init, finish=finish, noise=noise, clips=clip)
