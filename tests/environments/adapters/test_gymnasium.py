"""Gymnasium through the adapter, against Gymnasium itself."""

import gymnasium as gym
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.core.environment import Box, Discrete
from fedrl.core.errors import ConfigError
from fedrl.engines.executors.blocks import Blocks
from fedrl.engines.simulate import simulate
from fedrl.environments import fleet
from fedrl.environments.adapters import gymnasium
from fedrl.federation.federate import federate
from fedrl.learners import ppo

SEEDS = (3, 1, 4)


def opened(environment, count=3, **settings):
    params = environment.params._replace(**settings)
    rows = jax.tree.map(lambda leaf: np.broadcast_to(leaf, count), params)
    return environment.open(rows, 1)


def random_actions(steps, count=3, actions=2):
    return np.random.default_rng(0).integers(actions, size=(steps, count))


def test_instances_go_where_gymnasium_goes_with_the_same_seeds_and_actions():
    instances = opened(gymnasium("CartPole-v1"))
    plain = [gym.make("CartPole-v1") for _ in SEEDS]
    shown = [one.reset(seed=seed)[0] for one, seed in zip(plain, SEEDS, strict=True)]
    np.testing.assert_array_equal(instances.reset(SEEDS), shown)
    ended = 0
    for action in random_actions(200):
        after = instances.step(action)
        for i, one in enumerate(plain):
            reached, reward, terminated, truncated, _ = one.step(int(action[i]))
            np.testing.assert_array_equal(after.next_observation[i], reached)
            assert (after.reward[i], after.terminated[i], after.truncated[i]) == (reward, terminated, truncated)
            if terminated or truncated:
                ended += 1
                reached, _ = one.reset()
            np.testing.assert_array_equal(after.observation[i], reached)
    assert ended > 10


def test_the_time_limit_truncates_and_the_final_observation_survives():
    environment = gymnasium("CartPole-v1", max_steps=5)
    assert environment.max_steps == 5
    instances, plain = opened(environment, 1), gym.make("CartPole-v1")
    instances.reset([7])
    plain.reset(seed=7)
    for step, action in enumerate((0, 1, 0, 1, 0)):
        after, (reached, *_) = instances.step(np.array([action])), plain.step(action)
        assert after.truncated[0] == (step == 4)
        assert not after.terminated[0]
        np.testing.assert_array_equal(after.next_observation[0], reached)
    assert not np.array_equal(after.observation[0], reached)
    assert np.abs(after.observation[0]).max() <= 0.05


def test_an_episode_that_ends_both_ways_has_terminated():
    instances = opened(gymnasium("tests.support.walks:Walk-v0"), 1)
    instances.reset([0])
    last = [instances.step(np.array([1])) for _ in range(4)][-1]
    assert last.next_observation[0, 0] == 4.0
    assert last.terminated[0]
    assert not last.truncated[0]


def test_discrete_actions_count_from_zero_whatever_the_space_calls_them():
    environment = gymnasium("tests.support.walks:Walk-v0")
    assert environment.spaces.action == Discrete(2)
    instances = opened(environment, 2)
    instances.reset([0, 0])
    np.testing.assert_array_equal(instances.step(np.array([0, 1])).reward, [-0.5, 1.0])


def test_continuous_actions_are_clipped_entry_by_entry():
    environment = gymnasium("tests.support.walks:Far-v0")
    assert environment.spaces.action == Box((2,), -4.0, 2.0)
    instances = opened(environment, 2)
    instances.reset([0, 0])
    seen = instances.step(np.array([[-9.0, -9.0], [0.5, 9.0]])).next_observation
    np.testing.assert_array_equal(seen, [[-1.0, -4.0], [0.5, 2.0]])


def test_composite_observations_come_flat():
    environment = gymnasium("tests.support.walks:Tuples-v0")
    assert environment.spaces.observation.shape == (5,)
    np.testing.assert_array_equal(opened(environment, 1).reset([0]), [[0.0, 1.0, 0.0, 0.0, 1.0]])


def test_fields_that_are_text_are_left_out_and_named():
    environment = gymnasium("tests.support.walks:Mission-v0")
    assert environment.spaces.observation.shape == (5,)
    (note,) = environment.notes
    assert "(mission, told.hint)" in note
    instances = opened(environment, 1)
    np.testing.assert_array_equal(instances.reset([3]), [[0.0, 1.0, 1.0, 0.0, 1.0]])
    np.testing.assert_array_equal(instances.step(np.array([1])).next_observation, [[1.0, 1.0, 1.0, 0.0, 1.0]])
    assert gymnasium("tests.support.walks:Tuples-v0").notes == ()


def test_an_environment_that_says_nothing_but_words_is_refused():
    with pytest.raises(ConfigError, match="Only observations of a fixed size"):
        gymnasium("tests.support.walks:Talk-v0")


def test_instances_that_are_not_active_stand_still():
    instances = opened(gymnasium("tests.support.walks:Walk-v0"), 2)
    instances.reset([0, 0])
    for active in ([True, False], [True, False], [True, True]):
        after = instances.step(np.array([1, 1]), np.array(active))
    np.testing.assert_array_equal(after.observation[:, 0], [3.0, 1.0])


@pytest.mark.parametrize("name", ["gain", "slope"], ids=["argument", "attribute"])
def test_settings_reach_each_instance_as_argument_or_attribute(name):
    instances = opened(
        gymnasium("tests.support.walks:Walk-v0", settings={name: 1.0}), **{name: np.float32([1.0, 2.0, 0.25])}
    )
    instances.reset(SEEDS)
    np.testing.assert_array_equal(instances.step(np.array([1, 1, 1])).reward, [1.0, 2.0, 0.25])


def test_settings_change_the_physics_as_gymnasium_would():
    settings = {"length": 0.5, "polemass_length": 0.05}
    lengths = np.float32([0.5, 1.0, 1.0])
    environment = gymnasium("CartPole-v1", settings=settings)
    instances = opened(environment, length=lengths, polemass_length=0.1 * lengths)
    instances.reset([5, 5, 5])
    after = [instances.step(np.array([1, 1, 1])).observation.copy() for _ in range(3)][-1]
    plain = gym.make("CartPole-v1")
    plain.reset(seed=5)
    unchanged = [plain.step(1)[0] for _ in range(3)][-1]
    np.testing.assert_array_equal(after[0], unchanged)  # a default that went through float32 is still the default
    plain.unwrapped.length, plain.unwrapped.polemass_length = 1.0, 0.1
    plain.reset(seed=5)
    np.testing.assert_allclose(after[1], [plain.step(1)[0] for _ in range(3)][-1], rtol=1e-6)
    assert np.abs(after[1] - after[0]).max() > 0.01


def test_two_environments_with_the_same_settings_have_equal_pytrees():
    one, two = (gymnasium("CartPole-v1", settings={"gravity": 9.8, "tau": t}) for t in (0.02, 0.03))
    assert jax.tree.structure(one.params) == jax.tree.structure(two.params)
    assert one.params._fields == ("gravity", "tau")
    assert one != two
    assert repr(one) == "gymnasium('CartPole-v1', settings={'gravity': 9.8, 'tau': 0.02})"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"id": "CartPol-v1"}, "Did you mean 'CartPole-v1'?"),
        ({"id": "no_such_module:X-v0"}, "there is no module 'no_such_module'"),
        ({"id": "CartPole-v1", "settings": {"lenght": 1.0}}, "Did you mean 'length'?"),
        ({"id": "CartPole-v1", "settings": {"_x": 1.0}}, "can't be a setting"),
        ({"id": "CartPole-v1", "settings": {"kinematics_integrator": 1.0}}, "and no attribute with a number"),
        ({"id": "CartPole-v1", "max_steps": 0}, "max_steps is 0"),
        ({"id": "Pendulum-v1", "options": {"gravity": 1.0}}, "Use these: g."),
        ({"id": "Pendulum-v1", "options": {"g": 1.0}, "settings": {"g": 1.0}}, "both a setting and an option"),
        ({"id": "tests.support.walks:Endless-v0"}, "Set max_steps"),
        ({"id": "tests.support.walks:Pairs-v0"}, "MultiDiscrete"),
    ],
)
def test_what_can_not_work_is_refused_with_a_way_out(arguments, words):
    with pytest.raises(ConfigError) as caught:
        gymnasium(**arguments)
    assert words in str(caught.value)


def test_compiled_programs_refuse_a_host_environment():
    learner = ppo(gymnasium("CartPole-v1"))
    federation = federate(learner, mean())
    fleet = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], learner.environment.params)
    with pytest.raises(ConfigError, match=r"fedrl\.engines\.executors\.host\.Host"):
        simulate(federation, fleet, executor=Blocks)


class Site(gym.Env):
    """An environment with the arguments that it was made with."""

    observation_space, action_space = gym.spaces.Box(-1.0, 1.0, (2,)), gym.spaces.Discrete(2)

    def __init__(self, **given):
        self.given = given
        if given.get("broken"):
            raise TypeError("a fault of its own")

    def reset(self, *, seed=None, options=None):
        return np.array([self.given["day"] - 20240100, self.given["city"] == "Oslo"], np.float32) / 10, {}


def test_whole_numbers_reach_the_environment_exactly_and_any_keyword_as_an_argument():
    environment = gymnasium(Site, max_steps=5, settings={"day": 20240104, "city": "Oslo"})
    agents = fleet(environment, 3, {"day": [20240103, 20240104, 20240105], "city": ["Oslo", "Rome", "Oslo"]})
    instances = environment.open(agents, 1)
    assert instances.reset([0, 1, 2]).tolist() == np.float32([[0.3, 0.1], [0.4, 0], [0.5, 0.1]]).tolist()
    instances.close()


def test_an_error_inside_a_constructor_is_not_blamed_on_the_arguments():
    with pytest.raises(ConfigError, match=r"can't be opened(.|\n)*a fault of its own"):
        gymnasium(Site, max_steps=5, options={"broken": True})
