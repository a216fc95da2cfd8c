"""Detection of the momentum of a server optimiser, to check that it is the one of the agents' look-ahead.

An optax optimiser does not expose its parameters, so two of its steps are inspected. From d = 0, the changes e1 and
then e2 give, by d <- (1 - alpha) d + alpha delta,

    d1 = alpha e1,    d2 = alpha ((1 - alpha) e1 + e2),

so the ratio of the components of d2 is 1 - alpha. A normalised step has the same length for larger changes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

LARGER = 64.0


def normalized_alpha(optimizer: optax.GradientTransformation) -> float | None:
    """Return alpha of an optimiser with normalised steps along a moving mean of changes; None for any other.

    >>> from fedrl.server import fedadam, fedavgm, normalized_momentum
    >>> [normalized_alpha(each) for each in (normalized_momentum(0.1, 0.25), fedavgm(), fedadam())]
    [0.25, None, None]
    """

    def steps(size: jax.Array) -> jax.Array:
        first, second = jnp.eye(2)
        state, taken = optimizer.init(jnp.zeros(2)), []
        for change in (first, second):
            step, state = optimizer.update(-size * change, state, jnp.zeros(2))
            taken.append(step)
        return jnp.stack(taken)

    # Twice, with changes of different size: only normalised steps have the same length for both. Operation by
    # operation, which compiles nothing that the next optimiser can't use.
    small, large = np.asarray(jax.vmap(steps)(jnp.array([1.0, LARGER])))
    (along, aside), (before, newest) = small
    if not np.allclose(small, large, rtol=1e-3) or not along > 0.0 or not newest > 0.0 or abs(aside) > 1e-6 * along:
        return None
    return round(float(1.0 - before / newest), 4)
