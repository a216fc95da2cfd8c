"""What the options of the optimisers do, by hand."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrl.core.errors import ConfigError
from fedrl.core.types import LocalContext
from fedrl.learners import adam, add_correction, chain, fedprox, rmsprop, sgd
from fedrl.learners.parts.optimizers import descend

ZERO = jnp.zeros(2)
NO_HINT = LocalContext(ZERO, ZERO)


def path(optimizer, gradient, steps: int, context: LocalContext = NO_HINT, start=ZERO) -> np.ndarray:
    params, state, seen = start, optimizer.init(start), []
    for _ in range(steps):
        params, state = descend(optimizer, jnp.asarray(gradient), state, params, context)
        seen.append(np.asarray(params))
    return np.array(seen)


@pytest.mark.parametrize("build", [adam, sgd, rmsprop])
def test_the_step_size_falls_linearly_to_zero(build):
    decaying, constant = (path(build(0.1, **o), [1.0, -2.0], 6) for o in ({"decay_steps": 4}, {}))
    steps = lambda x: np.diff(x, axis=0, prepend=0.0)  # noqa: E731
    share = np.array([1.0, 0.75, 0.5, 0.25, 0.0, 0.0])
    np.testing.assert_allclose(steps(decaying), share[:, None] * steps(constant), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("build", [adam, sgd, rmsprop])
def test_a_decay_over_no_steps_is_refused(build):
    with pytest.raises(ConfigError, match="decay_steps is 0"):
        build(0.1, decay_steps=0)


def test_the_gradient_is_clipped_before_it_is_used():
    np.testing.assert_allclose(path(sgd(1.0, max_norm=0.5), [3.0, -4.0], 1)[0], [-0.3, 0.4], rtol=1e-6)


def test_the_proximal_term_pulls_towards_the_anchor():
    context = LocalContext(jnp.array([1.0, 0.0]), ZERO)
    bent = path(chain(fedprox(0.5), sgd(1.0)), [0.0, 0.0], 2, context)
    np.testing.assert_allclose(bent, [[0.5, 0.0], [0.75, 0.0]])


def test_the_correction_is_added_to_the_gradient():
    context = LocalContext(ZERO, jnp.array([0.25, -1.0]))
    np.testing.assert_allclose(path(chain(add_correction(), sgd(1.0)), [1.0, 1.0], 1, context)[0], [-1.25, 0.0])


def test_a_chain_is_optaxs_and_takes_plain_transformations_too():
    ours = path(chain(optax.scale(2.0), sgd(0.1)), [1.0, -1.0], 3)
    np.testing.assert_allclose(ours, path(optax.chain(optax.scale(2.0), optax.sgd(0.1)), [1.0, -1.0], 3))
