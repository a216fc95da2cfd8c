"""A controller of all players plays the same world as players who act on their own."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.core.environment import Box, Discrete, Product, Spaces
from fedrl.core.errors import ConfigError
from fedrl.environments import cartpole, climbing, common_world, fleet, foraging, joint_actions, navigation, penalty
from tests.support.worlds import LENGTH, mortal


def played(environment, actions):
    """The timesteps of an episode, with the actions of each step."""
    timestep, state = environment.reset(environment.draw_reset(jax.random.key(0), ()), environment.params)
    steps, go = [timestep], jax.jit(environment.step)
    for i, action in enumerate(actions):
        noise = environment.draw_step(jax.random.key(i + 1), ())
        timestep, state = go(noise, environment.params, state, jnp.asarray(action))
        steps.append(timestep)
    return steps


def test_the_digits_of_a_joint_action_are_the_actions_of_the_players():
    world = foraging(players=3, size=4)
    moves = np.random.default_rng(0).integers(0, 6, (12, 3))
    numbers = moves @ [36, 6, 1]
    joint = joint_actions(world)
    assert joint.spaces.action == Discrete(216)
    assert joint.players is None
    for apart, together in zip(played(world, moves), played(joint, numbers), strict=True):
        np.testing.assert_array_equal(together.observation, apart.observation.T.reshape(-1))
        np.testing.assert_allclose(together.reward, apart.reward.mean(), rtol=1e-6)
        for name in ("terminated", "truncated"):
            assert getattr(together, name) == getattr(apart, name)


@pytest.mark.parametrize("space", [Box((2,), -1.0, 1.0), Product((Discrete(4), Box((1,), -1.0, 1.0)))])
def test_actions_that_are_arrays_are_those_of_one_player_after_the_other(space):
    world = navigation(players=2)
    step = world.step

    def pushed(noise, params, state, action):
        timestep, after = step(noise, params, state, (action[0] > 0).astype(jnp.int32))
        return timestep._replace(reward=action[0] - 10.0 * action[1]), after

    pushing = replace(world, spaces=Spaces(world.spaces.observation, space), step=pushed)
    joint = joint_actions(pushing)
    both = Box((4,), -1.0, 1.0) if isinstance(space, Box) else Product(space.parts * 2)
    assert joint.spaces.action == both
    _, timestep = played(joint, [[1.0, 2.0, 3.0, 5.0]])
    assert float(timestep.reward) == (1.0 - 20.0 + 3.0 - 50.0) / 2


@pytest.mark.parametrize("table", [False, True])
def test_nothing_of_the_dead_reaches_the_controller(table):
    calm, loud = (mortal(filler, table) for filler in (0.0, np.nan))
    moves = [0] * LENGTH
    for quiet, found in zip(*(played(joint_actions(world), moves) for world in (calm, loud)), strict=True):
        assert found.alive is None
        np.testing.assert_array_equal(quiet.observation, found.observation)
        np.testing.assert_array_equal(quiet.reward, found.reward)
    # Player 0 lives on, and player p > 0 for p steps; who lives earns the number of the step, from 0.
    rewards = [float(step.reward) for step in played(joint_actions(loud), moves)[1:]]
    np.testing.assert_allclose(rewards, [0.0, 1 * 2 / 3, 2 * 1 / 3, 3 * 1 / 3, 4 * 1 / 3], rtol=1e-6)


def test_what_belongs_to_the_world_is_kept():
    world = joint_actions(navigation())
    steps = played(world, [0, 1])
    assert {"covered", "collisions"} == set(world.measures) == set(steps[-1].measures)
    _, state = world.reset(world.draw_reset(jax.random.key(0), ()), world.params)
    assert world.overview.see(world.params, state).shape == (18,)
    assert world.picture.frame(state, world.params).size == (352, 352)
    games = fleet(joint_actions(penalty()), 2, {"penalty": [-100.0, -10.0]}, jax.random.key(0))
    np.testing.assert_array_equal(games.payoff[:, 1, 0, 2], [-100.0, -10.0])


def test_a_single_agent_and_too_many_joint_actions_are_refused():
    with pytest.raises(ConfigError, match=r"cartpole\(\) has a single agent"):
        joint_actions(cartpole())
    with pytest.raises(ConfigError, match=r"has a single agent"):
        joint_actions(joint_actions(climbing()))
    with pytest.raises(ConfigError, match=r"14 players with 5 choices each, and 5\^14 joint choices"):
        joint_actions(navigation(players=14))


def test_a_world_that_is_stepped_on_the_host_is_refused():
    with pytest.raises(ConfigError, match=r"world is .*, which is stepped on the host, .* part of a compiled program"):
        joint_actions(common_world(climbing()))
