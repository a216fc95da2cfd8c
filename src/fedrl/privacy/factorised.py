"""Add noise that is correlated between rounds, so that most of it cancels in the sum of the rounds (DP-FTRL).

    noise of round t = (S^-1 e)_t,   e_1, e_2, ... independent,   S lower triangular

No privacy comes from secret samples of agents, so agents may take part whenever they are available, as long as an agent
waits for a known number of rounds in between: `fedrl.server.spaced`.

Kairouz et al. (2021), https://arxiv.org/abs/2103.00039; S as a buffered linear Toeplitz matrix, whose noise needs a few
arrays of memory: McMahan, Xu & Zhang (2024), https://arxiv.org/abs/2408.08868.
"""

from __future__ import annotations

import importlib.util
from functools import lru_cache
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedrl.core import draws
from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import Count, Positive
from fedrl.core.stage import Noise, Secret, Stage
from fedrl.core.types import Key, Params, PyTree, Update
from fedrl.privacy.extra import accounting
from fedrl.privacy.server_sums import clip_of_agent, over_expected

BUFFERS = 2
"""More buffers reduce the noise of hundreds of rounds by less than one percent, and take longer to optimise."""


class Strategy(NamedTuple):
    """The matrix S: ones on the diagonal, and sum_j scale_j decay_j^(i - 1) on the i-th diagonal below it.

    Attributes:
        decay: `[buffers]`, the decay of each buffer per round.
        scale: `[buffers]`, its share of the output.
        sensitivity: The largest norm of S times the contributions of one agent, for updates with a norm of at most 1.
    """

    decay: tuple[float, ...]
    scale: tuple[float, ...]
    sensitivity: float


@component("stage", reference="McMahan, Xu & Zhang (2024), https://arxiv.org/abs/2408.08868")
def factorised_gaussian(
    clip: Positive,
    noise_multiplier: Positive,
    expected: Positive,
    rounds: Count,
    separation: Count,
) -> Stage:
    """Clip each update on its agent, and add Gaussian noise at the server that is correlated between rounds.

        x_k <- x_k min(1, C / ||x_k||_2)
        x_t = (sum_k x_k + z C s (S^-1 e)_t) / n,    e_t ~ N(0, I)

    s is the sensitivity of S to an agent that takes part whenever it may. All rounds together are one Gaussian
    mechanism with multiplier z. The noise of the sum of all rounds, where the parameters end, is smaller than that of
    independent noise at the same z.

    What the server remembers of earlier noise leaves it by no broadcast and no checkpoint. A run that is resumed begins
    another such mechanism, and pays for it.

    Args:
        clip: C, in units of the parameters.
        noise_multiplier: z.
        expected: n, the number of agents expected in a round.
        rounds: The number of rounds that the mechanism covers.
        separation: The least number of rounds from one participation of an agent to its next one, which the selection
            has to keep. With 1, agents take part in every round, and independent noise is as good.

    Raises:
        ConfigError: An argument is out of range, or jax_privacy is not installed.
    """
    strategy = strategy_for(rounds, separation)
    decay, scale = jnp.asarray(strategy.decay, jnp.float32), jnp.asarray(strategy.scale, jnp.float32)
    deviation = noise_multiplier * clip * strategy.sensitivity / expected

    def init(params: Params) -> tuple[PyTree, PyTree]:
        return Secret(jax.tree.map(lambda x: jnp.zeros((len(decay), *x.shape), jnp.float32), params)), ()

    def finish(key: Key, server_state: PyTree, update: Update) -> tuple[Update, PyTree]:
        buffers = server_state.value
        fresh = draws.with_noise(draws.normal, key, jax.tree.map(jnp.zeros_like, update.value), 1.0)
        correlated = jax.tree.map(lambda e, kept: e - jnp.tensordot(scale, kept, 1), fresh, buffers)
        kept = jax.tree.map(lambda old, new: _decayed(decay, old) + new, buffers, correlated)
        summed = over_expected(update, expected)
        return update._replace(value=jax.tree.map(lambda x, e: x + deviation * e, summed, correlated)), Secret(kept)

    event = accounting().GaussianDpEvent(noise_multiplier)
    noise = Noise(event, clip, "server", rounds=rounds, separation=separation)
    return Stage(clip_of_agent(clip, "factorised_gaussian()"), init, finish=finish, noise=noise, clips=clip)


def _decayed(decay: jax.Array, buffers: jax.Array) -> jax.Array:
    return decay.reshape(-1, *[1] * (buffers.ndim - 1)) * buffers


@lru_cache(maxsize=64)
def strategy_for(rounds: int, separation: int) -> Strategy:
    """Return the strategy with the least noise in the worst sum of rounds; this takes seconds, and is remembered.

    Raises:
        ConfigError: jax_privacy is not installed.
    """
    if importlib.util.find_spec("jax_privacy") is None:
        raise ConfigError(
            "Noise that is correlated between rounds needs jax_privacy, which is not installed. Run "
            "pip install 'fedrl[factorised]'."
        )
    from jax_privacy.matrix_factorization import buffered_toeplitz, sensitivity

    with jax.enable_x64(True), jax.ensure_compile_time_eval():
        sizes = {"min_buffers": BUFFERS, "max_buffers": BUFFERS}
        found = buffered_toeplitz.optimize(n=rounds, min_sep=separation, max_participations=None, **sizes)
        most = sensitivity.get_min_sep_sensitivity_upper_bound(found.materialize(rounds), separation)
        decay, scale = (np.asarray(x, float).tolist() for x in (found.buf_decay, found.output_scale))
    return Strategy(tuple(decay), tuple(scale), float(most))


def matrix_of(strategy: Strategy, rounds: int) -> np.ndarray:
    """Return S, `[rounds, rounds]`."""
    decay, scale = np.asarray(strategy.decay), np.asarray(strategy.scale)
    column = [1.0, *(float((scale * decay**i).sum()) for i in range(rounds - 1))]
    return np.array([[column[i - j] if i >= j else 0.0 for j in range(rounds)] for i in range(rounds)])
