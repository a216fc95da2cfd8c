"""Worlds of other libraries through the adapters, against the worlds themselves."""

import jax
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.core.environment import Box, Discrete
from fedrl.core.errors import ConfigError
from fedrl.core.measures import Measure
from fedrl.engines.simulate import simulate
from fedrl.environments.adapters import gymnasium_world, pettingzoo
from fedrl.federation.federate import federate
from fedrl.learners import mlp, ppo
from tests.support import parallel_worlds

HERE = "tests.support.parallel_worlds"


def opened(environment, count=2, workers=0):
    return environment.open(
        jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[None], count, 0), environment.params), workers
    )


def test_players_see_act_and_earn_in_their_order_until_they_die():
    world = pettingzoo(f"{HERE}:Mortal")
    assert (world.players, world.max_steps, world.spaces.observation) == (3, 5, Box((2,)))
    assert world.overview.space == Box((1,))
    instances = opened(world)
    seen = instances.reset([1, 2])
    np.testing.assert_allclose(seen[1], np.float32([[0, 0], [1, 0], [2, 0]]) / 5)
    assert instances.overview.tolist() == [[0.0], [0.0]]
    actions = np.array([[1, 0, 1], [0, 0, 0]])
    for step in range(1, 6):
        after = instances.step(actions)
        assert after.next_overview.tolist() == [[step], [step]]
        alive_before = [True, step <= 1, step <= 2]
        expected = np.where(alive_before, actions + step - 1, 0.0)
        np.testing.assert_array_equal(after.reward, expected)
        assert after.terminated.tolist() == [step == 5] * 2
        # In the last step, the episode's own flag says that it ended.
        assert after.alive[0].tolist() == [True, step < 1, step < 2]
    assert instances.overview.tolist() == [[0.0], [0.0]]  # the next episode has begun
    np.testing.assert_allclose(after.observation[0], np.float32([[0, 0], [1, 0], [2, 0]]) / 5)


def test_unlike_spaces_are_padded_with_the_player_at_the_end():
    world = pettingzoo(f"{HERE}:Unlike")
    assert (world.spaces.observation.shape, world.spaces.action) == ((5,), Discrete(4))
    assert world.overview is None
    text, unlike = world.notes
    assert "p1.word" in text
    assert "unlike spaces" in unlike
    instances = opened(world, 1)
    seen = instances.reset([0])[0]
    np.testing.assert_array_equal(seen, [[1, 0, 0, 1, 0], [0, 7, 0, 0, 1]])
    # Actions count from the first of each player; a number that player 1 does not have is its first.
    assert instances.step(np.array([[1, 3]])).reward.tolist() == [[2.0, 4.0]]
    after = instances.step(np.array([[3, 2]]))
    assert after.reward.tolist() == [[1.0, 3.0]]
    np.testing.assert_array_equal(after.observation[0], [[0, 0, 1, 1, 0], [2, 7, 0, 0, 1]])


@pytest.mark.parametrize("alike", [True, False])
def test_an_action_may_be_several_choices_at_once(alike):
    world = pettingzoo(f"{HERE}:Driving", options={"alike": alike})
    assert world.spaces.action.parts == (Discrete(3), Box((2,), -1.0, 1.0))
    assert bool(world.notes) is not alike
    instances = opened(world, 1)
    instances.reset([0])
    lanes_and_pushes = np.float32([[[2, 0.25, 0.5], [2, 0.25, 0.5]]])
    # The second player has two lanes and one push where they are unlike.
    earned = 3 + 7.5 if alike else 1 + 2.5
    assert instances.step(lanes_and_pushes).reward.tolist() == [[10.5, earned]]
    # Continuous entries are clipped to the bounds of each player.
    earned = 1 - 20 if alike else 1 - 10
    assert instances.step(np.float32([[[0, 9, 9], [0, -9, -9]]])).reward.tolist() == [[21.0, earned]]


def test_a_world_of_several_choices_learns():
    world = pettingzoo(f"{HERE}:Driving")
    federation = federate(ppo(world, network=mlp((8,)), num_envs=2, num_steps=5, num_minibatches=1), mean())
    simulation = simulate(federation, jax.tree.map(lambda leaf: np.repeat(np.asarray(leaf)[None], 2, 0), world.params))
    _, result = simulation.round(simulation.init(0))
    assert result.metrics["episodes"].tolist() == [2, 2]


def test_who_is_cut_off_in_the_last_step_is_alive_and_truncated():
    instances = opened(pettingzoo(f"{HERE}:Unlike"), 1)
    instances.reset([0])
    after = [instances.step(np.zeros((1, 2), int)) for _ in range(5)][-1]
    assert (after.truncated[0], after.terminated[0], after.alive[0].tolist()) == (True, False, [True, True])
    assert after.next_observation[0, 1].tolist() == [5, 7, 0, 0, 1]


def test_a_shorter_limit_truncates():
    instances = opened(pettingzoo(f"{HERE}:Lucky", max_steps=2), 1)
    instances.reset([0])
    assert [bool(instances.step(np.zeros((1, 3))).truncated[0]) for _ in range(4)] == [False, True, False, True]


def test_every_episode_follows_from_the_seed_in_any_number_of_processes():
    found = []
    for workers in (0, 2):
        instances = opened(pettingzoo(f"{HERE}:Lucky"), 2, workers)
        seen = [instances.reset([3, 4]).copy()]
        seen += [instances.step(np.zeros((2, 3))).observation.copy() for _ in range(12)]
        instances.close()
        found.append(np.stack(seen))
    np.testing.assert_array_equal(*found)
    assert np.abs(found[0][0] - found[0][5]).max() > 0.1  # the second episode is another one


def test_settings_reach_each_copy_and_measures_are_read():
    world = pettingzoo(f"{HERE}:Mortal", settings={"bonus": 1.0}, measures={"time": Measure("step")})
    instances = world.open(world.params._replace(bonus=np.float32([1.0, 7.0])), 0)
    instances.reset([0, 0])
    after = instances.step(np.ones((2, 3), int))
    assert after.reward[:, 0].tolist() == [1.0, 7.0]
    assert after.measures["time"].tolist() == [1.0, 1.0]


def test_a_copy_that_fails_is_named_and_the_others_go_on():
    world = pettingzoo(f"{HERE}:Failing", settings={"how": 0.0})
    instances = world.open(world.params._replace(how=np.float32([0.0, 1.0])), 0)
    instances.reset([0, 0])
    for _ in range(3):
        instances.step(np.zeros((2, 3), int))
    assert list(instances.failed) == [1]
    assert "the arena is closed" in instances.failed[1].said
    instances.reset([0, 0])
    assert not instances.failed


@pytest.mark.parametrize(
    ("id", "words"),
    [
        ("no_such_package.world_v0", "no_such_package"),
        (f"{HERE}", "has no parallel_env"),
        (f"{HERE}:Nothing", "has no common distribution"),
        (f"{HERE}:Gone", "every player has to begin"),
    ],
)
def test_what_can_not_be_a_world_is_refused(id, words):
    with pytest.raises(ConfigError, match=words):
        pettingzoo(id)


@pytest.mark.parametrize("flags", ["list", "info"])
def test_tuples_are_players_and_a_list_of_flags_is_no_flag(flags):
    world = gymnasium_world(f"{HERE}:Pair-v0", options={"flags": flags})
    assert (world.players, world.max_steps, world.spaces.action) == (2, 9, Box((2,), -1.0, 1.0))
    instances = opened(world, 1)
    np.testing.assert_array_equal(instances.reset([0]), [[[0.0], [0.0]]])
    ends = []
    for _ in range(4):
        after = instances.step(np.float32([[[0.5, 0.25], [3.0, -0.5]]]))
        ends.append((bool(after.terminated[0]), after.alive[0].tolist(), after.reward[0].tolist()))
    assert ends[0] == (False, [True, True], [0.75, 0.5])  # clipped to the bounds
    assert ends[1] == (False, [False, True], [0.75, 0.5])
    assert ends[2] == (False, [False, True], [0.0, 0.5])
    assert ends[3] == (True, [False, True], [0.0, 0.5])


def test_classes_are_as_good_as_references():
    assert pettingzoo(parallel_worlds.Mortal).players == 3
    with pytest.raises(ConfigError, match="both a setting and an option"):
        pettingzoo(parallel_worlds.Mortal, settings={"bonus": 1.0}, options={"bonus": 2.0})
