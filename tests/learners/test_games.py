"""What learners settle at in games whose optima and equilibria are known."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.core.environment import Overview
from fedrl.core.errors import ConfigError
from fedrl.core.learner import Learner, iterate
from fedrl.core.types import LocalContext
from fedrl.environments import cartpole, climbing, joint_actions, navigation, stag_hunt
from fedrl.learners import a2c, adam, mappo, mlp, per_player, ppo
from fedrl.learners.parts.actor_critic import value_of
from fedrl.runs.evaluate import greedy_returns
from tests.support.worlds import LENGTH, mortal

OWN = per_player(mlp(hidden=[]), 2)
"""A policy for each player: the logits of its actions."""
TOGETHER, LOGITS = joint_actions(climbing()), mlp(hidden=[])
"""The climbing game played by one controller, and the logits of its joint actions."""
ONE_PLAY = {"num_envs": 64, "num_steps": 1, "num_epochs": 1, "num_minibatches": 1}


def trained(learner: Learner, iterations: int, seeds: int, begun=lambda key, params: params):
    """The parameters of several seeds, `[seeds, ...]`, after training, and the sums of each iteration."""

    @jax.jit
    @jax.vmap
    def train(key):
        state = learner.init(jax.random.fold_in(key, 0), learner.environment.params)
        state = learner.adopt(state, begun(jax.random.fold_in(key, 1), learner.params(state)))

        def step(state, key):
            params = learner.params(state)
            return iterate(learner, key, state, LocalContext(params, jax.tree.map(jnp.zeros_like, params)))

        state, sums = jax.lax.scan(step, state, jax.random.split(jax.random.fold_in(key, 2), iterations))
        return learner.params(state), sums

    return train(jax.vmap(jax.random.key)(jnp.arange(seeds)))


def played(learner: Learner, params, episodes: int) -> np.ndarray:
    """The mean greedy return of each seed."""
    fleet = jax.tree.map(lambda x: x[None], learner.environment.params)
    seeds = jax.tree.leaves(params)[0].shape[0]
    each = [jax.tree.map(lambda x, i=i: x[i], params) for i in range(seeds)]
    return np.array([greedy_returns(learner, fleet, one, episodes, seed=0).mean() for one in each])


@pytest.mark.parametrize(
    "learner",
    [
        a2c(climbing(), network=OWN, optimizer=adam(0.02), num_envs=64, num_steps=1, entropy_coef=0.5),
        mappo(
            climbing(),
            network=OWN,
            critic=mlp(hidden=[]),
            optimizer=adam(0.02),
            **ONE_PLAY,
            entropy_coef=0.1,  # advantages are normalised: their unit is not the payoffs'
        ),
    ],
    ids=["a2c", "mappo"],
)
def test_independent_policies_settle_at_seven_of_eleven_in_the_climbing_game(learner):
    params, _ = trained(learner, iterations=1000, seeds=5)
    np.testing.assert_array_equal(played(learner, params, episodes=1), [7.0] * 5)


@pytest.mark.parametrize(
    "learner",
    [
        a2c(TOGETHER, network=LOGITS, optimizer=adam(0.02), num_envs=64, num_steps=1, entropy_coef=0.5),
        ppo(TOGETHER, network=LOGITS, optimizer=adam(0.02), entropy_coef=0.1, **ONE_PLAY),
    ],
    ids=["a2c", "ppo"],
)
def test_a_learner_of_joint_actions_finds_the_eleven_of_the_climbing_game(learner):
    params, _ = trained(learner, iterations=1000, seeds=5)
    np.testing.assert_array_equal(played(learner, params, episodes=1), [11.0] * 5)


def test_the_stag_hunt_is_won_from_where_both_trust_enough_and_both_equilibria_are_reached():
    learner = a2c(stag_hunt(), network=OWN, optimizer=adam(0.05), num_envs=64, num_steps=1)

    def scattered(key, params):
        layer = params["actor"][0]
        return {**params, "actor": ({**layer, "bias": 2.0 * jax.random.normal(key, layer["bias"].shape)},)}

    _, sums = trained(learner, iterations=300, seeds=20, begun=scattered)
    stags, hares = (np.asarray(sums[name] / sums["episodes"])[:, -20:].mean(1) for name in ("stag_hunts", "hare_hunts"))
    assert np.isclose(np.maximum(stags, hares), 1.0, atol=0.05).all()
    assert 2 <= (stags > 0.5).sum() <= 10  # 4 of these 20 starts; those of even trust hunt hare


def test_shared_parameters_learn_navigation_better_than_chance():
    learner = ppo(navigation(), optimizer=adam(0.0015, max_norm=0.5), num_envs=16, num_steps=50)
    _, sums = trained(learner, iterations=60, seeds=2)
    returns = np.asarray(sums["episode_return"] / sums["episodes"])
    assert (returns[:, 0] < -23.0).all()  # at random -26; standing still earns -24
    assert (returns[:, -10:].mean(1) > -22.0).all()


def test_a_centralised_critic_reads_the_overview_and_no_policy_does():
    def refuse(params, state):
        raise AssertionError("the overview was read")

    world = navigation(max_steps=5)
    closed = replace(world, overview=Overview(world.overview.space, refuse))
    learner = mappo(closed, num_envs=2, num_steps=4, num_epochs=1, num_minibatches=1)
    state = learner.init(jax.random.key(0), closed.params)
    params = learner.params(state)
    assert greedy_returns(learner, jax.tree.map(lambda x: x[None], closed.params), params, 2, 0).shape == (1, 2)
    assert learner.act(jax.random.key(0), params, jnp.zeros((14, 3)), False).shape == (3,)
    with pytest.raises(AssertionError, match="the overview was read"):
        learner.collect(jax.random.key(1), state)


def test_what_the_overview_shows_changes_no_action():
    def rolled(see):
        world = replace(mortal(), overview=Overview(mortal().overview.space, see))
        learner = mappo(world, num_envs=2, num_steps=LENGTH, num_epochs=1, num_minibatches=1)
        state = learner.init(jax.random.key(0), world.params)
        seen, _, _ = jax.jit(learner.collect)(jax.random.key(1), state)
        return seen

    one, other = (rolled(lambda params, state, x=x: jnp.full(1, x, jnp.float32)) for x in (1.0, np.nan))
    assert np.isnan(other.overview).all()
    for name in ("observation", "action", "reward"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_a_centralised_critic_needs_an_overview_and_one_network():
    with pytest.raises(ConfigError, match="has no overview, which a centralised critic reads"):
        mappo(cartpole())
    with pytest.raises(ConfigError, match="critic has parameters of 2 players, and it reads one overview"):
        mappo(climbing(), critic=OWN)


def test_the_values_of_a_centralised_critic_have_no_bounds():
    def learned(critic):
        learner = mappo(climbing(), critic=critic, num_envs=2, num_steps=4, num_epochs=1, num_minibatches=1)
        state = learner.init(jax.random.key(0), learner.environment.params)
        seen, state, _ = learner.collect(jax.random.key(1), state)
        return learner.learn(jax.random.key(2), state, seen, LocalContext(state.params, state.params))[1]

    assert learned(mlp([], output_activation="tanh")) == learned(mlp([]))


def test_the_outputs_of_a_centralised_critic_are_the_values_of_each_players_rows():
    params = {"critic": ({"weight": jnp.zeros((3, 2)), "bias": jnp.arange(3.0)},)}
    found = value_of(mlp(hidden=[]), params, jnp.zeros((5, 12)), jnp.ones((2, 4)))
    np.testing.assert_array_equal(found, np.repeat([0.0, 1.0, 2.0], 4))
