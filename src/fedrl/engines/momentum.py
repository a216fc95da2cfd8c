"""Whether a server steps along the momentum for which agents look ahead.

An optimiser of optax shows nothing of what it is, so it is read off two of its steps. From d = 0, the changes e1 and e2
one after the other make of d <- (1 - alpha) d + alpha delta

    d1 = alpha e1,    d2 = alpha ((1 - alpha) e1 + e2)

so the second step leans towards e1 by 1 - alpha; and steps of a given length are as long for larger changes.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedrl.engines.state import QUICK

LARGER = 64.0


def normalized_alpha(optimizer: optax.GradientTransformation) -> float | None:
    """Alpha of an optimiser whose steps have a given length along a moving mean of changes; None of any other.

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

    small, large = np.asarray(jax.jit(jax.vmap(steps), compiler_options=QUICK)(jnp.array([1.0, LARGER])))
    (along, aside), (before, newest) = small
    if not np.allclose(small, large, rtol=1e-3) or not along > 0.0 or not newest > 0.0 or abs(aside) > 1e-6 * along:
        return None
    return round(float(1.0 - before / newest), 4)
