"""Draw noise for differential privacy from a key, with tails and gaps that a single draw does not have.

A normal number that JAX draws in float32 is the inverse distribution function of 23 random bits: none is beyond 5.5
standard deviations, and only some floats are possible at all, which is enough to tell two neighbouring datasets apart.
The sum of four draws reaches twice as far, and an attacker would have to invert all four together.

Holohan & Braghin (2021), https://arxiv.org/abs/2107.10138. Floating-point attack: Mironov (2012),
https://doi.org/10.1145/2382196.2382264.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from fedrl.core.types import Key, PyTree

DRAWS = 4


def normal(key: Key, shape: tuple[int, ...]) -> jax.Array:
    """Return standard normal numbers, each half the sum of four independent ones.

    >>> normal(jax.random.key(0), (3,)).shape
    (3,)
    """
    return jax.random.normal(key, (DRAWS, *shape)).sum(0) / DRAWS**0.5


def laplace(key: Key, shape: tuple[int, ...]) -> jax.Array:
    """Return Laplace numbers of scale 1, from four uniform draws each.

        log(1 - u_1) cos(pi u_2) + log(1 - u_3) cos(pi u_4),   u uniform on [0, 1)

    The first factor is minus an exponential number, so one term is a product whose sum with an independent copy has a
    Laplace distribution.

    >>> laplace(jax.random.key(0), (3,)).shape
    (3,)
    """
    u = jax.random.uniform(key, (DRAWS, *shape))
    return jnp.log1p(-u[0]) * jnp.cos(jnp.pi * u[1]) + jnp.log1p(-u[2]) * jnp.cos(jnp.pi * u[3])


def with_noise(
    draw: Callable[[Key, tuple[int, ...]], jax.Array], key: Key, value: PyTree, scale: jax.Array | float
) -> PyTree:
    """Return the tree with independent noise added to every array, `scale` times what `draw` returns."""
    leaves, tree = jax.tree.flatten(value)
    # The noise of an array depends on its position, so that no two arrays of one shape have the same.
    noisy = [x + scale * draw(jax.random.fold_in(key, i), x.shape) for i, x in enumerate(leaves)]
    return jax.tree.unflatten(tree, noisy)
