"""Noise that many agents add together, inside a sum that hides its terms: nobody is trusted with an update.

    agent:   clip to C --round to whole units--> r_k + Sk((z S)^2 / m)          S = C / unit, of an agent's update;
                                                                                one trajectory moves r_k by S + sqrt(d)
    sum:     r_1 + ... + r_n + Sk(n (z S)^2 / m)                                n >= m, else it is not opened

A single message has a share of the noise only, so this is refused wherever anybody can read one. All entries are whole
multiples of a unit on the grid of the sum: what the sum opens is exactly the integers for which the price holds.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from fedrl.core.checks import check_one_of
from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.ranges import Count, Positive
from fedrl.core.stage import GridNoise, Noise, Stage
from fedrl.core.types import Key, PyTree, Update, UpdateContext
from fedrl.privacy.mechanisms import largest_clip
from fedrl.privacy.skellam import reach, skellam, skellam_event
from fedrl.stages.clip import clipped, norm_of
from fedrl.stages.leaves import check_not_encoded

DEVIATION = 2048.0
"""The largest standard deviation of an agent's noise in units: its distribution is a table of 23 times as many rows."""
LARGEST_NORM = 2.0**20
"""The largest S, so that float32 holds all whole numbers that occur."""
CHANCE = 1e-4
"""The probability with which rounding at random may enlarge an update beyond S; it is then rounded towards zero."""
LEAST_SHARE = 0.5
"""The share of C that has to remain when room is left for rounding."""
SURCHARGE = 0.02
"""The share of S by which rounding may enlarge what one trajectory changes."""
ROUNDED = 1.125
"""By how much more than the numbers two rounded numbers differ: 1, and float32 arithmetic below `LARGEST_GRADIENT`."""
LARGEST_GRADIENT = 2.0**17
"""The largest norm of a gradient in units: its entries have seven bits behind the point, or more."""
BLOCK, BLOCK_ERROR = 64, 2.0**-15
"""How many squares are added at a time; with that the relative error of a sum of 64^4 of them is below 2^-16."""


@component("stage", reference="Agarwal, Kairouz & Liu (2021), https://arxiv.org/abs/2110.04995")
def distributed_skellam(
    clip: Positive | tuple[Positive, ...], noise_multiplier: Positive, least: Count, unit: str = "agent"
) -> Stage:
    """Clip each update, round it to whole units, and add a share of integer noise, inside a sum that hides its terms.

        x_k <- u (round(x_k min(1, C' / ||x_k||_2) / u) + e_k),    e_k ~ Sk((z C / u)^2 / m)

    The noise of m agents together is Sk((z C / u)^2), with the variance z^2 C^2 of `central_gaussian`. The sum of fewer
    agents is not opened; that of more has more noise.

    u is the power of two for which the deviation of e_k is between 1,024 and 2,048 units. Rounding is at random and
    unbiased; C' is so far below C that it enlarges an update beyond C with a probability of 1e-4 at most, and then the
    update is rounded towards zero instead. So no update is longer than C.

    With the unit "agent", privacy is that of an agent with all its data, of which the neighbouring dataset has none:
    its update is zero, and its noise is in the sum all the same, as everybody knows who takes part.

    With the unit "trajectory", C is how far one episode moves the gradient of its agent, the learner's
    `clips_trajectories`. Gradients are not clipped again, only to 2^17 units, and rounded with the same random numbers
    r in [0, 1) whatever the episodes are: floor(x_i + r_i). Neighbouring gradients with ||x - x'||_2 <= S units differ
    by at most |x_i - x'_i| + 1 in each of d entries then, and by at most S + sqrt(d) together. Scaling down to a fixed
    norm brings no two vectors further apart. The price is that of 1.02 S, and more numbers than keep to it are refused.

    Args:
        clip: C, in units of the parameters; or one C_k per agent, for agents with a stronger guarantee than z gives:
            the noise is that of the largest one.
        noise_multiplier: z, the standard deviation of the noise of m agents together in units of the (largest) C.
        least: m, the fewest agents in a sum whose noise nobody knows; the summation has at least this `minimum`.
        unit: The unit of privacy, "agent" or "trajectory".

    Raises:
        ConfigError: An argument is out of range, or dp_accounting is not installed.

    >>> distributed_skellam(clip=1.0, noise_multiplier=2.0, least=100).noise.grid.unit
    0.0001220703125
    """
    check_one_of(unit, ("agent", "trajectory"), "unit")
    if unit == "trajectory" and isinstance(clip, tuple):
        raise ConfigError(
            f"clip is {clip} and unit is 'trajectory', for which all learners clip episodes alike. Give one number."
        )
    bound = largest_clip(clip)
    deviation = noise_multiplier * bound / math.sqrt(least)
    step = 2.0 ** math.ceil(math.log2(max(deviation / DEVIATION, bound / LARGEST_NORM)))
    variance = (deviation / step) ** 2

    def encode(
        key: Key, context: UpdateContext, server_state: PyTree, agent_state: PyTree, update: Update
    ) -> tuple[Update, PyTree]:
        del server_state
        check_not_encoded(update.value, "distributed_skellam()")
        rounding, noise = (jax.random.fold_in(key, i) for i in range(2))
        of = of_gradient if unit == "trajectory" else of_update
        whole, unflatten = of(rounding, context, update.value)
        sent = step * (whole + skellam(noise, whole.shape, variance))
        return update._replace(value=unflatten(sent)), agent_state

    def of_update(key: Key, context: UpdateContext, value: PyTree) -> tuple[Array, Any]:
        sizes = np.asarray(clip if isinstance(clip, tuple) else (clip,)) / step
        kept = _room(sizes, value, noise_multiplier)
        own = context.agent if isinstance(clip, tuple) else 0
        flat, unflatten = ravel_pytree(clipped(value, jnp.asarray(kept * step, jnp.float32)[own], norm_of))
        return rounded(key, flat / step, jnp.asarray(sizes, jnp.float32)[own]), unflatten

    def of_gradient(key: Key, context: UpdateContext, value: PyTree) -> tuple[Array, Any]:
        del context
        flat, unflatten = ravel_pytree(value)
        _check_few(flat.size, bound / step, noise_multiplier)
        return dithered(key, flat / step), unflatten

    def event(own: float) -> object:
        return skellam_event(noise_multiplier * bound / own, own / step)

    each = tuple(event(own) for own in clip) if isinstance(clip, tuple) else ()
    norm = LARGEST_GRADIENT if unit == "trajectory" else bound / step
    # Computed when it is needed: a calibration makes many stages, and their tables take a tenth of a second.
    grid = GridNoise(step, lambda: step * (math.ceil(norm) + reach(variance) + 1), least)
    if unit == "trajectory":
        return Stage(encode, noise=Noise(event(bound * (1.0 + SURCHARGE)), bound, "agent", "trajectory", grid=grid))
    noise = Noise(event(bound), bound, "agent", each=each, grid=grid)
    return Stage(encode, noise=noise, clips=bound)


def dithered(key: Key, value: Float[Array, " entries"]) -> Float[Array, " entries"]:
    """Return whole numbers, at random without bias, that differ by at most S + `ROUNDED` sqrt(d) where values do by S.

    Args:
        key: A key of its own, the same for both values.
        value: Real numbers, in units of the grid; those of a longer vector than `LARGEST_GRADIENT` are scaled down.
    """
    # No norm is counted on, only that scaling to a fixed one brings no two vectors further apart.
    norm = norm_of(value)
    value = jnp.where(norm <= LARGEST_GRADIENT - 1.0, value, value * ((LARGEST_GRADIENT - 1.0) / norm))
    return jnp.floor(value + jax.random.uniform(key, value.shape))


def _check_few(entries: int, size: float, noise_multiplier: float) -> None:
    """Refuse so many numbers that rounding enlarges what a trajectory changes by more than the price includes."""
    if ROUNDED * math.sqrt(entries) > SURCHARGE * size:
        raise ConfigError(
            f"noise_multiplier is {noise_multiplier:g}, and one trajectory moves a gradient by {size:.3g} units of the "
            f"grid for this noise. Rounding {entries} numbers adds {ROUNDED * math.sqrt(entries):.3g} units, and the "
            f"price includes {SURCHARGE:.0%} of them. Send fewer numbers, let more agents add the noise (least), or "
            "use a larger epsilon."
        )


def rounded(key: Key, value: Float[Array, " entries"], size: jax.Array | float) -> Float[Array, " entries"]:
    """Return whole numbers of at most the L2 norm `size`, rounded at random without bias as far as that allows.

    Args:
        key: A key of its own.
        value: Real numbers, in units of the grid.
        size: S.
    """
    at_random = jnp.floor(value + jax.random.uniform(key, value.shape))
    # Whatever rounding errors a clip has made, what is returned has the norm: the last resort is zero, or NaN of NaN.
    return _first_within(size, at_random, _first_within(size, jnp.trunc(value), value * 0.0))


def _first_within(size: jax.Array | float, one: Array, other: Array) -> Array:
    fits = squared(one) <= jnp.square(jnp.float32(size)) * (1.0 - BLOCK_ERROR)
    return jnp.where(fits, one, other)


def squared(value: Float[Array, " entries"]) -> Float[Array, ""]:
    """Return the sum of squares, to a relative error of at most 2^-16 for up to 64^4 entries."""
    squares = jnp.square(value)
    while squares.size > 1:
        # One after the other, many terms would lose what is added last.
        squares = jnp.pad(squares, (0, -squares.size % BLOCK)).reshape(-1, BLOCK).sum(1)
    return squares.sum()


def _room(sizes: np.ndarray, value: PyTree, noise_multiplier: float) -> np.ndarray:
    """Return the norm to which updates are clipped, in units, so that rounding at random seldom enlarges them beyond S.

    Kairouz, Liu & Steinke (2021), https://arxiv.org/abs/2102.06387, proposition 22: with probability 1 - b the square
    of the norm of r = round(x) is at most ||x||^2 + d / 4 + sqrt(2 log(1 / b)) (||x|| + sqrt(d) / 2).
    """
    entries = sum(leaf.size for leaf in jax.tree.leaves(value))
    spread = math.sqrt(2.0 * math.log(1.0 / CHANCE))
    rest = np.square(sizes) * (1.0 - 2.0 * BLOCK_ERROR) - entries / 4.0 - spread * (sizes + math.sqrt(entries) / 2.0)
    kept = np.sqrt(np.maximum(rest, 0.0))
    if (kept < LEAST_SHARE * sizes).any():
        raise ConfigError(
            f"noise_multiplier is {noise_multiplier:g}, and the clip is {float(sizes.min()):.3g} units of the grid for "
            f"this noise. Rounding {entries} numbers moves an update by about "
            f"{math.sqrt(entries) / 2.0:.3g} units. Send fewer numbers, let more agents add the noise (least), or "
            "use a larger epsilon."
        )
    return kept
