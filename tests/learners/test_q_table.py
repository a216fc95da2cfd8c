"""Tabular Q-learning against hand numbers and exact planning."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.core.errors import ConfigError
from fedrl.core.learner import Trajectory, iterate
from fedrl.core.types import LocalContext
from fedrl.environments import cartpole, gridworld, random_mdp, random_mdps, tabular
from fedrl.environments.tabular.planning import model_of, optimal_q, policy_return
from fedrl.learners.algorithms.q_table import asynchronous, behaviour, q_table

NO_HINT = LocalContext((), ())
CHAIN = tabular(  # state 0 -> 1 by action 1; action 0 stays; state 1 pays and leads back
    transition=[[[1.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [1.0, 0.0]]], reward=[[0.0, 0.0], [1.0, 1.0]], initial=[1.0, 0.0]
)


def trained(learner, iterations, key=0, env_params=None):
    """The state after some iterations, and the metrics of each."""

    @jax.jit
    def run(key, env_params):
        state = learner.init(key, env_params)
        return jax.lax.scan(lambda s, k: iterate(learner, k, s, NO_HINT), state, jax.random.split(key, iterations))

    return run(jax.random.key(key), learner.environment.params if env_params is None else env_params)


def test_full_backups_with_the_model_reach_the_optimal_table():
    env = random_mdp(seed=3)
    state, _ = trained(q_table(env, sampling="expected", learning_rate=1.0, gamma=0.9, num_steps=50), 5)
    np.testing.assert_allclose(state.params["q"], optimal_q(env.params, 0.9), atol=1e-4)


def test_a_synchronous_sweep_of_a_deterministic_process_is_told_by_hand():
    learner = q_table(CHAIN, sampling="synchronous", learning_rate=0.5, gamma=0.8, num_steps=2)
    state, metrics = trained(learner, 1)
    np.testing.assert_allclose(state.params["q"], [[0.0, 0.2], [0.75, 0.75]], rtol=1e-6)
    assert metrics["loss"][0] == np.float32((2 * 1.0 / 4 + (0.4**2 + 2 * 0.5**2) / 4) / 2)


def test_synchronous_samples_follow_the_transition_probabilities():
    env = random_mdp(seed=1)
    sampled = q_table(env, sampling="synchronous", learning_rate=1.0, gamma=0.9)
    expected = q_table(env, sampling="expected", learning_rate=1.0, gamma=0.9)
    table = jax.random.uniform(jax.random.key(5), (5, 5))

    def after(learner, key):
        state = learner.init(key, env.params)
        return iterate(learner, key, state._replace(params={"q": table}), NO_HINT)[0].params["q"]

    found = jax.jit(jax.vmap(functools.partial(after, sampled)))(jax.random.split(jax.random.key(0), 4000))
    exact = after(expected, jax.random.key(0))
    error = found.std(0) / np.sqrt(4000)
    assert (np.abs(found.mean(0) - exact) < 4.5 * error + 1e-6).all()
    assert float(error.max()) < 0.01  # small enough to tell another transition table from this one


def test_a_trajectory_updates_in_time_order_and_bootstraps_only_where_the_episode_goes_on():
    def column(*values):
        return jnp.array(values)[:, None]

    q = jnp.array([[0.0, 2.0], [4.0, 0.0]])
    seen = Trajectory(
        observation=column(0, 1, 0),
        action=column(1, 0, 1),
        reward=column(1.0, 2.0, 0.0),
        terminated=column(False, True, False),
        truncated=column(False, False, True),
        next_observation=column(1, 0, 1),
    )
    table, visits, loss = asynchronous(q, seen, 0.5, 0.9)
    # 2 + .5 (1 + .9*4 - 2) = 3.3;  4 + .5 (2 - 4) = 3;  3.3 + .5 (.9*3 - 3.3) = 3
    np.testing.assert_allclose(table, [[0.0, 3.0], [3.0, 0.0]], rtol=1e-6)
    np.testing.assert_array_equal(visits, [[0, 2], [1, 0]])
    np.testing.assert_allclose(loss, (2.6**2 + 2.0**2 + 0.6**2) / 3, rtol=1e-5)


def test_instances_that_meet_in_a_pair_take_the_mean_of_their_errors():
    row = lambda *values: jnp.array([values])  # noqa: E731
    never = row(False, False, False)
    seen = Trajectory(row(0, 0, 1), row(0, 0, 1), row(1.0, 3.0, 8.0), never, never, row(0, 0, 0))
    table, visits, _ = asynchronous(jnp.zeros((2, 2)), seen, 0.5, 0.9)
    np.testing.assert_allclose(table, [[1.0, 0.0], [0.0, 4.0]])
    np.testing.assert_array_equal(visits, [[1, 0], [0, 1]])


def test_the_best_actions_share_what_exploration_leaves():
    found = behaviour(jnp.array([[1.0, 1.0, 0.0], [0.0, 0.0, 5.0]]), 0.3)
    np.testing.assert_allclose(found, [[0.45, 0.45, 0.1], [0.1, 0.1, 0.8]], rtol=1e-6)


def test_a_table_of_zeros_leaves_its_first_action_even_without_exploration():
    state, _ = trained(q_table(CHAIN, epsilon=0.0, gamma=0.8, learning_rate=0.5, num_steps=8), 40)
    assert state.params["q"][0, 1] > state.params["q"][0, 0]
    assert state.params["q"][1].max() > 1.0


def test_act_explores_as_often_as_it_is_told_and_never_when_greedy():
    learner = q_table(CHAIN, epsilon=0.4)
    params = {"q": jnp.array([[0.0, 1.0], [1.0, 0.0]])}
    seen = jnp.tile(jnp.array([0, 1]), 5000)
    greedy = learner.act(jax.random.key(0), params, seen, True)
    np.testing.assert_array_equal(greedy, 1 - seen)
    chosen = learner.act(jax.random.key(0), params, seen, False)
    assert chosen.dtype == np.int32
    assert abs(float((chosen != greedy).mean()) - 0.2) < 0.02


def test_sampled_learning_finds_the_way_through_a_gridworld():
    env = gridworld("4x4")
    learner = q_table(env, gamma=0.95, learning_rate=0.2, epsilon=0.3, num_envs=16, num_steps=32)
    state, _ = trained(learner, 200)
    model = model_of(env)
    best = jax.nn.one_hot(optimal_q(model, 0.95).argmax(-1), 4)
    found = jax.nn.one_hot(state.params["q"].argmax(-1), 4)
    assert policy_return(model, found, 0.95) > 0.95 * policy_return(model, best, 0.95)


def test_counted_visits_are_the_updates_and_stay_out_unless_asked_for():
    learner = q_table(random_mdp(), num_envs=1, num_steps=32, epsilon=1.0, count_visits=True)
    state, _ = trained(learner, 3)
    assert state.params["visits"].sum() == 96
    sweeps, _ = trained(q_table(random_mdp(), sampling="synchronous", num_steps=4, count_visits=True), 2)
    assert (sweeps.params["visits"] == 8).all()
    assert set(trained(q_table(random_mdp()), 1)[0].params) == {"q"}


@pytest.mark.parametrize("sampling", ["expected", "synchronous"])
def test_a_stack_of_processes_is_learned_as_their_mixture(sampling):
    family = random_mdps(jax.random.key(0), 3, 0.5)
    mixture = jax.tree.map(lambda leaf: leaf.mean(0), family)
    rate, sweeps = (1.0, 50) if sampling == "expected" else (0.02, 500)
    learner = q_table(random_mdp(), sampling=sampling, learning_rate=rate, gamma=0.8, num_steps=sweeps)
    state, _ = trained(learner, 2, env_params=family)
    tolerance = 1e-4 if sampling == "expected" else 0.15
    np.testing.assert_allclose(state.params["q"], optimal_q(mixture, 0.8), atol=tolerance)


def test_an_optimistic_table_starts_at_its_initial_value():
    state = q_table(random_mdp(), initial=3.0).init(jax.random.key(0), random_mdp().params)
    assert (state.params["q"] == 3.0).all()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: q_table(cartpole()), "Discrete"),
        (lambda: q_table(gridworld(), sampling="synchronous"), "sampling='sampled'"),
        (lambda: q_table(random_mdp(), sampling="sample"), "'sampled'"),
        (lambda: q_table(random_mdp(), learning_rate=1.5), "learning_rate is 1.5"),
        (lambda: q_table(random_mdp(), num_steps=0), "steps is 0"),
    ],
)
def test_what_cannot_work_is_refused_by_name(make, message):
    with pytest.raises(ConfigError, match=message):
        make()
