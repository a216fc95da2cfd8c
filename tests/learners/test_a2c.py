"""A2C: one step along one gradient, which may travel instead of the step."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrl.aggregators import mean
from fedrl.core.aggregator import on_time
from fedrl.core.keys import server_below, turn_below
from fedrl.core.learner import differentiate, iterate
from fedrl.core.types import LocalContext
from fedrl.environments import cartpole, probe_match
from fedrl.federation.federate import federate
from fedrl.learners import a2c, mlp, sgd
from fedrl.runs.evaluate import greedy_returns

RATE = 0.3


@pytest.fixture(scope="module")
def learner():
    return a2c(probe_match(), network=mlp((4,)), optimizer=sgd(RATE), num_envs=4, num_steps=4, entropy_coef=0.01)


def test_one_iteration_is_one_step_along_the_gradient(learner):
    key, state = jax.random.key(0), learner.init(jax.random.key(1), learner.environment.params)
    context = LocalContext((), ())
    slope, gathered, told = jax.jit(functools.partial(differentiate, learner))(key, state, context)
    after, metrics = jax.jit(functools.partial(iterate, learner))(key, state, context)
    expected = jax.tree.map(lambda p, g: p - RATE * g, state.params, slope)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), after.params, expected)
    jax.tree.map(np.testing.assert_array_equal, gathered.params, state.params)
    jax.tree.map(np.testing.assert_array_equal, gathered.position, after.position)
    assert metrics["loss"] == told["loss"]
    assert min(jnp.abs(leaf).max() for leaf in jax.tree.leaves(slope)) > 0


def test_a_gradient_sent_is_the_step_taken_by_the_server(learner):
    federation = federate(learner, mean(), payload="gradient", server_optimizer=optax.sgd(RATE))
    key = jax.random.key(0)

    def round(key):
        server = federation.init_server(key)
        agent = federation.init_agent(key, jnp.int32(0), learner.environment.params, jnp.int32(1))
        update, after, _ = federation.agent(turn_below(key), federation.broadcast(server), agent, jnp.int32(1))
        one = jax.tree.map(lambda leaf: leaf[None], update)
        return server, federation.server(server_below(key), on_time(jnp.arange(1)), server, one), update, after

    server, after, update, agent = jax.jit(round)(key)
    moved = jax.tree.map(lambda p, g: p + RATE * g, server.params, update.value)  # an update is a negative gradient
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), after.params, moved)
    jax.tree.map(np.testing.assert_array_equal, agent.learner.params, server.params)


def test_the_defaults_solve_cartpole_and_stay_there():
    """Six seeds of eight: A2C now and then loses a balanced pole for some evaluations.

    Of forty seeds, the mean of the last five evaluations up to 255,000 steps is below 475 for one to three. The
    critic's value is the cause behind the rest: it has to reach 1 / (1 - gamma) = 100 within the budget.
    """
    seeds, evaluations, apart = 8, 17, 15_000
    learner = a2c(cartpole())
    context, settings = LocalContext((), ()), learner.environment.params

    @jax.jit
    def train(keys, states):
        def one(key, state):
            each = jax.random.split(key, apart // learner.samples)
            return jax.lax.scan(lambda state, k: (iterate(learner, k, state, context)[0], None), state, each)[0]

        return jax.vmap(one)(keys, states)

    keys = jax.random.split(jax.random.key(0), seeds)
    states = jax.jit(jax.vmap(learner.init, (0, None)))(keys, settings)
    fleet = jax.tree.map(lambda leaf: np.full(seeds, leaf, np.float32), settings)
    returns = []
    for i in range(evaluations):
        states = train(jax.vmap(jax.random.fold_in, (0, None))(keys, i), states)
        returns.append(greedy_returns(learner, fleet, learner.params(states), 20, seed=i, stacked=True).mean(1))
    assert (np.mean(returns[-5:], 0) >= 475.0).sum() >= 6
    upright = jnp.zeros((4, 1))
    values = jax.vmap(lambda critic: mlp().apply(critic, upright)[0, 0])(states.params["critic"])
    assert (np.abs(values - 100.0) <= 5.0).sum() >= 6
