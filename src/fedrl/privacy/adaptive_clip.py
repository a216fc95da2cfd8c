"""Adapt the clipping norm to a quantile of the update norms, from a noisy count, so that it costs no trial runs."""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp

from fedrl.core import draws
from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import FractionBetween, NonNegative, Positive
from fedrl.core.stage import Noise, Stage
from fedrl.core.types import Key, Params, PyTree, Update, UpdateContext
from fedrl.privacy.extra import accounting
from fedrl.privacy.server_sums import over_expected
from fedrl.stages.clip import clipped, norm_of
from fedrl.stages.leaves import PLACES, check_not_encoded


class Counted(NamedTuple):
    """A clipped update, and whether its norm was within the bound: 1/2 if so, else -1/2."""

    value: PyTree
    within: jax.Array


@component("stage", reference="Andrew et al. (2021), https://arxiv.org/abs/1905.03871")
def adaptive_gaussian(
    start_clip: Positive,
    noise_multiplier: Positive,
    expected: Positive,
    count_noise: Positive | None = None,
    quantile: FractionBetween = 0.5,
    learning_rate: NonNegative = 0.2,
) -> Stage:
    """Clip to a norm that follows a quantile of the update norms, and add Gaussian noise to both sums at the server.

        b_k = 1/2 if ||x_k||_2 <= C, else -1/2          x_k <- x_k min(1, C / ||x_k||_2)
        x = (sum_k x_k + z_x C e) / n                    b = 1/2 + (sum_k b_k + s_b e') / n
        C <- C exp(-eta (b - gamma))                     1 / z_x^2 = 1 / z^2 - 1 / (2 s_b)^2

    The two releases of a round together have the privacy loss of one Gaussian mechanism with multiplier z. With fewer
    than about 50 agents in a round, the noise of b is larger than what it counts: use `central_gaussian` there.

    Args:
        start_clip: C in the first round, in units of the parameters.
        noise_multiplier: z.
        expected: n, the number of agents expected in a round.
        count_noise: s_b, above z / 2; by default the larger of n / 20 and 1.5 z.
        quantile: gamma, the share of agents whose updates are not scaled down.
        learning_rate: eta.

    Raises:
        ConfigError: An argument is out of range, such as a count noise that leaves nothing for the updates.

    >>> adaptive_gaussian(start_clip=0.1, noise_multiplier=1.0, expected=100).noise.event.noise_multiplier
    1.0
    """
    of_count = max(expected / 20.0, 1.5 * noise_multiplier) if count_noise is None else count_noise
    if of_count <= noise_multiplier / 2.0:
        raise ConfigError(
            f"count_noise is {of_count:g} and noise_multiplier is {noise_multiplier:g}. The count alone would cost "
            f"more than that multiplier allows. Set count_noise above {noise_multiplier / 2.0:g}, best to n / 20."
        )
    of_updates = (noise_multiplier**-2 - (2.0 * of_count) ** -2) ** -0.5

    def init(params: Params) -> tuple[PyTree, PyTree]:
        del params
        return jnp.float32(start_clip), ()

    def encode(
        key: Key, context: UpdateContext, server_state: PyTree, agent_state: PyTree, update: Update
    ) -> tuple[Update, PyTree]:
        del key, context
        check_not_encoded(update.value, "adaptive_gaussian()", PLACES)
        within = jnp.where(norm_of(update.value) <= server_state, 0.5, -0.5)
        return update._replace(value=Counted(clipped(update.value, server_state, norm_of), within)), agent_state

    def finish(key: Key, server_state: PyTree, update: Update) -> tuple[Update, PyTree]:
        for_value, for_count = jax.random.split(key)
        sums = over_expected(update, expected)
        value = draws.with_noise(draws.normal, for_value, sums.value, of_updates * server_state / expected)
        within = 0.5 + sums.within + of_count / expected * draws.normal(for_count, ())
        return update._replace(value=value), server_state * jnp.exp(-learning_rate * (within - quantile))

    # The norm of what an agent sends includes its count.
    bound = math.hypot(start_clip, 0.5)
    return Stage(
        encode,
        init,
        finish=finish,
        noise=Noise(accounting().GaussianDpEvent(noise_multiplier), bound, "server"),
        clips=bound,
    )
