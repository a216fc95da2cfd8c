"""Networks: shapes, derivatives, and any function plugged in."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.core.environment import Box, Discrete
from fedrl.core.errors import ConfigError
from fedrl.core.learner import iterate
from fedrl.core.types import LocalContext
from fedrl.environments.probes import probe_truncation
from fedrl.learners import a2c, adam, reinforce, with_embedding
from fedrl.learners.parts.networks import affine, critic_of, mlp, network, per_player


def test_affine_has_the_derivatives_of_a_product():
    w, b, x = (jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate([(3, 4), (3,), (4, 6)]))

    def through(layer):
        return jax.grad(lambda w, b, x: jnp.sin(layer(w, b, x)).sum(), (0, 1, 2))(w, b, x)

    for found, expected in zip(through(affine), through(lambda w, b, x: w @ x + b[:, None]), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_slopes_of_an_agent_do_not_depend_on_its_seat_in_a_block():
    agents, rows, num_envs = 5, 2, 400
    keys = jax.random.split(jax.random.key(0), 3)
    weight = jax.random.normal(keys[0], (agents, rows, 3))
    x = jax.random.normal(keys[1], (agents, 3, num_envs))
    target = jax.random.normal(keys[2], (agents, rows, num_envs))

    def slopes(weight, x, target):
        return jax.grad(lambda w, b: (affine(w, b, x) * target).sum(), (0, 1))(weight, jnp.zeros(rows))

    block = jax.jit(jax.vmap(slopes))
    in_slots = block(weight, x, target)
    for slots in (np.array([4, 0, 1, 2, 3]), np.array([1, 4, 2, 0, 3])):
        other = block(weight[slots], x[slots], target[slots])
        for here, there in zip(in_slots, other, strict=True):
            np.testing.assert_array_equal(np.asarray(here)[slots], there)


def test_a_network_treats_every_instance_alone():
    shape = mlp((8, 8))
    params = shape.init(jax.random.key(0), Box((2, 3)), 5, 1.0)
    batch = jax.random.normal(jax.random.key(1), (2, 3, 7))
    whole = shape.apply(params, batch)
    assert whole.shape == (5, 7)
    np.testing.assert_allclose(whole[:, 2:3], shape.apply(params, batch[..., 2:3]), rtol=1e-5, atol=1e-6)


def test_discrete_observations_enter_one_hot():
    shape = mlp(())
    params = shape.init(jax.random.key(0), Discrete(6), 2, 1.0)
    seen = jnp.array([4, 0])
    np.testing.assert_allclose(shape.apply(params, seen), params[0]["weight"][:, seen], rtol=1e-6)


def test_the_first_layers_are_orthogonal_and_the_last_is_scaled():
    params = mlp((16,)).init(jax.random.key(0), Box((4,)), 3, 0.01)
    columns = params[0]["weight"].T @ params[0]["weight"]
    np.testing.assert_allclose(columns, 2.0 * jnp.eye(4), atol=1e-5)
    np.testing.assert_allclose(params[1]["weight"] @ params[1]["weight"].T, 1e-4 * jnp.eye(3), atol=1e-8)


def test_any_function_of_one_observation_plugs_in():
    linear = network(lambda key, space, outputs, gain: jnp.ones((outputs, *space.shape)), lambda w, x: w @ x)
    params = linear.init(jax.random.key(0), Box((3,)), 2, 1.0)
    np.testing.assert_allclose(linear.apply(params, jnp.arange(12.0).reshape(3, 4)), [[12, 15, 18, 21]] * 2)


def test_a_misspelt_activation_is_refused_with_the_nearest():
    with pytest.raises(ConfigError, match="'relu'"):
        mlp((4,), activation="rellu")
    with pytest.raises(ConfigError, match=r"output_activation.*'tanh'"):
        mlp((4,), output_activation="tahn")


@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: per_player(net, 2), with_embedding])
def test_the_activation_of_outputs_bounds_a_policy_and_not_a_critic(wrap):
    plain, bounded = wrap(mlp((8,), "relu")), wrap(mlp((8,), "relu", "tanh"))
    params = bounded.init(jax.random.key(0), Box((3,)), 2, 40.0)
    seen = jax.random.normal(jax.random.key(1), (3, 6))
    linear = plain.apply(params, seen)
    assert jnp.abs(linear).max() > 2.0
    np.testing.assert_array_equal(bounded.apply(params, seen), jnp.tanh(linear))
    np.testing.assert_array_equal(critic_of(bounded).apply(params, seen), linear)
    assert critic_of(plain) is plain


@pytest.mark.parametrize(
    "learner", [partial(a2c, num_steps=5), partial(reinforce, baseline="value")], ids=["a2c", "reinforce"]
)
def test_a_critic_beside_bounded_logits_learns_values_beyond_these_bounds(learner):
    """A reward of 1 for ever is worth 10."""
    environment, bounded = probe_truncation(max_steps=5), mlp((8,), output_activation="tanh")
    made = learner(environment, network=bounded, gamma=0.9, optimizer=adam(0.05))

    def step(state, key):
        context = LocalContext(state.params, jax.tree.map(jnp.zeros_like, state.params))
        return iterate(made, key, state, context)[0], None

    state, _ = jax.lax.scan(
        step, made.init(jax.random.key(0), environment.params), jax.random.split(jax.random.key(1), 300)
    )
    value = critic_of(bounded).apply(state.params["critic"], jnp.zeros((1, 1)))
    assert 7.0 < float(value[0, 0]) < 13.0
