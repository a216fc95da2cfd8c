"""A2C: one step along one gradient, which may travel instead of the step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrl.aggregators import mean
from fedrl.core.federation import federate
from fedrl.core.types import Hint
from fedrl.environments import probe_match
from fedrl.learners import a2c, mlp, sgd

RATE = 0.3


@pytest.fixture(scope="module")
def learner():
    return a2c(probe_match(), network=mlp((4,)), optimizer=sgd(RATE), instances=4, steps=4, entropy_weight=0.01)


def test_one_iteration_is_one_step_along_the_gradient(learner):
    key, state = jax.random.key(0), learner.init(jax.random.key(1), learner.environment.params)
    hint = Hint((), ())
    slope, gathered, told = jax.jit(learner.gradient)(key, state, hint)
    after, metrics = jax.jit(learner.update)(key, state, hint)
    expected = jax.tree.map(lambda p, g: p - RATE * g, state.params, slope)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), after.params, expected)
    jax.tree.map(np.testing.assert_array_equal, gathered.params, state.params)
    jax.tree.map(np.testing.assert_array_equal, gathered.position, after.position)
    assert metrics["loss"] == told["loss"]
    assert min(jnp.abs(leaf).max() for leaf in jax.tree.leaves(slope)) > 0


def test_a_gradient_sent_is_the_step_taken_by_the_server(learner):
    federation = federate(learner, mean(), payload="gradient", server_opt=optax.sgd(RATE))
    key = jax.random.key(0)

    def round(key):
        server = federation.init_server(key)
        agent = federation.init_agent(key, jnp.int32(0), learner.environment.params, jnp.int32(1))
        update, after, _ = federation.agent(key, federation.broadcast(server), agent, jnp.int32(1))
        one = jax.tree.map(lambda leaf: leaf[None], update)
        return server, federation.server(key, server, one), update, after

    server, after, update, agent = jax.jit(round)(key)
    moved = jax.tree.map(lambda p, g: p + RATE * g, server.params, update.value)  # an update is a negative gradient
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), after.params, moved)
    jax.tree.map(np.testing.assert_array_equal, agent.learner.params, server.params)
