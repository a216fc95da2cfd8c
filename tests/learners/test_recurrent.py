"""Recurrent networks: the formula, unrolling, and a memory that the environment keeps."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.core.environment import Box, Discrete, Environment, Spaces, Timestep, draw_nothing
from fedrl.core.errors import ConfigError
from fedrl.core.host import HostStep
from fedrl.core.learner import iterate
from fedrl.core.types import LocalContext
from fedrl.environments import (
    common_world,
    navigation,
    probe_memory,
    probe_observation,
    pursuit,
    random_mdp,
    rock_paper_scissors,
)
from fedrl.environments.adapters import gymnasium
from fedrl.federation.federate import federate
from fedrl.federation.nested import as_learner
from fedrl.learners import (
    a2c,
    accept_if_better,
    adam,
    apfl,
    dqn,
    freeze_except,
    gradient_penalty,
    gru,
    interpolate,
    mappo,
    measure_exploitability,
    mixture,
    mlp,
    normalize,
    per_player,
    personal,
    ppo,
    reinforce,
    self_play,
    sgd,
    vdn,
    with_embedding,
)
from fedrl.learners.algorithms.ppo import loss
from fedrl.learners.parts.actor_critic import evaluated, flat
from fedrl.learners.parts.actors import actor_and_critic
from fedrl.learners.parts.memory import RememberingInstances, with_memory
from fedrl.learners.parts.moments import Moments
from fedrl.learners.parts.networks import critic_of
from fedrl.learners.parts.rollout import Sampler, episodes
from fedrl.learners.wrappers.normalize import shifted

TIME, COPIES, FEATURES, UNITS = 6, 4, 3, 5


def sequences():
    """Observations `[features + memory + 1, time, copies]`, in which some episodes begin on the way."""
    random = np.random.default_rng(0)
    seen = random.normal(size=(FEATURES + UNITS + 1, TIME, COPIES)).astype(np.float32)
    seen[-1] = random.random((TIME, COPIES)) < 0.3
    seen[-1, 0] = [0, 1, 0, 0]
    return jnp.asarray(seen)


def sigma(x):
    return 1.0 / (1.0 + np.exp(-x))


@pytest.fixture(scope="module")
def made():
    network = gru(UNITS, hidden=(4,), output_activation="tanh")

    @jax.jit
    def moved(key):
        params = network.init(key, Box((FEATURES,)), 2, 3.0)
        return jax.tree.map(lambda x: x + 0.1 * jax.random.normal(key, x.shape), params)

    return network, moved(jax.random.key(0))


def test_a_step_is_the_formula_and_forgets_at_the_beginning(made):
    network, params = made
    seen = sequences()[:, 0]
    x, h = np.asarray(seen[:FEATURES]), np.where(seen[-1] > 0, 0.0, seen[FEATURES:-1])
    w, u = (np.split(np.asarray(params[name]["weight"]), 3) for name in ("input", "memory"))
    b, c = (np.split(np.asarray(params[name]["bias"])[:, None], 3) for name in ("input", "memory"))
    r, z = (sigma(w[i] @ x + b[i] + u[i] @ h + c[i]) for i in (0, 1))
    n = np.tanh(w[2] @ x + b[2] + r * (u[2] @ h + c[2]))
    np.testing.assert_allclose(network.remember(params, seen), (1 - z) * n + z * h, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("wrap", [lambda net: net, lambda net: per_player(net, 2), with_embedding])
def test_unrolling_is_acting_step_by_step_from_the_first_memory(wrap):
    network = wrap(gru(UNITS))
    seen = sequences()

    @jax.jit
    def both(key):
        params = network.init(key, Box((FEATURES,)), 2, 1.0)
        memory, steps = seen[FEATURES:-1, 0], []
        for t in range(TIME):
            shown = jnp.concatenate([seen[:FEATURES, t], memory, seen[-1:, t]])
            steps.append(network.apply(params, shown))
            memory = network.remember(params, shown)
        return network.unroll(params, seen), jnp.stack(steps, 1)

    unrolled, expected = both(jax.random.key(0))
    np.testing.assert_allclose(unrolled, expected, rtol=1e-4, atol=1e-5)


def test_gradients_flow_through_time_and_not_across_episodes(made):
    network, params = made
    seen = sequences().at[-1].set(0.0)

    slope_of_last = jax.jit(jax.grad(lambda seen: network.unroll(params, seen)[:, -1].sum()))
    slope = slope_of_last(seen)[:FEATURES]
    assert (jnp.abs(slope).max((0, 2)) > 0.0).all()
    cut = slope_of_last(seen.at[-1, 3].set(1.0))[:FEATURES]
    assert (cut[:, :3] == 0.0).all()
    assert (jnp.abs(cut[:, 3:]).max((0, 2)) > 0.0).all()


def test_the_gradient_through_time_is_that_of_steps_written_out(made):
    network, params = made
    seen = sequences()

    def unrolled(params):
        return jnp.square(network.unroll(params, seen)).sum()

    def written_out(params):
        memory, total = seen[FEATURES:-1, 0], 0.0
        for t in range(TIME):
            shown = jnp.concatenate([seen[:FEATURES, t], memory, seen[-1:, t]])
            total += jnp.square(network.apply(params, shown)).sum()
            memory = network.remember(params, shown)
        return total

    ours, theirs = jax.jit(lambda params: (jax.grad(unrolled)(params), jax.grad(written_out)(params)))(params)
    for one, other in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert all(float(jnp.abs(leaf).max()) > 1e-3 for leaf in jax.tree.leaves(ours))


WORLD = navigation(max_steps=4)


FORGETFUL = replace(gru(3), critic=mlp((4,)))


@pytest.mark.parametrize(
    ("environment", "network"),
    [
        (probe_memory(2), gru(3, hidden=(4,))),
        (random_mdp(3, 2, max_steps=4), FORGETFUL),
        (WORLD, gru(3)),
        (WORLD, per_player(gru(3), 3)),
    ],
    ids=["one agent", "a critic without a memory", "a world", "parameters of each player"],
)
def test_what_is_trained_is_what_acted(environment, network):
    """With the parameters that acted, the unrolled actor and critic are those of the single steps, row by row."""
    learner = a2c(environment, network=network, num_envs=3, num_steps=7)
    parts = actor_and_critic(environment, network, critic_of(network), 7)

    @jax.jit
    def played(key):
        state = learner.init(key, environment.params)
        keys = jax.random.split(key, len(jax.tree.leaves(state.params)))
        leaves, structure = jax.tree.flatten(state.params)
        moved = [x + 0.3 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
        state = learner.adopt(state, jax.tree.unflatten(structure, moved))
        seen, _, _ = learner.collect(key, state)
        observation = flat(seen.observation, environment.players)
        pairs = [
            (one(state.params[who], observation), several(state.params[who], observation))
            for one, several, who in (
                (parts.policy.outputs, parts.trained.outputs, "actor"),
                (parts.critic.apply, parts.trained_critic.apply, "critic"),
            )
        ]
        return seen, pairs

    seen, pairs = played(jax.random.key(0))
    begins, noted = seen.observation[:, -1], seen.action[:, -parts.memory :]
    assert 0 < float(begins[1:].mean()) < 0.5, "some episodes begin on the way"
    # What is observed beside the observation is what was noted in the step before, and nothing at a beginning.
    kept = np.where(begins[1:, None] > 0.0, 0.0, noted[:-1])
    np.testing.assert_array_equal(seen.observation[1:, -1 - parts.memory : -1], kept)
    for alone, several in pairs:
        assert float(alone.std(-1).max()) > 0.05
        np.testing.assert_allclose(several, alone, rtol=1e-4, atol=1e-5)


def test_who_leaves_a_world_forgets_it():
    environment = with_memory(WORLD, 2)
    noise = WORLD.draw_reset(jax.random.key(0), ())
    timestep, state = environment.reset(noise, WORLD.params)
    here = jnp.array([True, False, True])
    noted = jnp.concatenate([jnp.zeros((1, 3)), jnp.ones((2, 3))])
    for begins in (1.0, 0.0):
        observation, state = environment.attend(WORLD.params, state, here)
        assert observation[-1].tolist() == [begins] * 3
        timestep, state = environment.step(WORLD.draw_step(jax.random.key(1), ()), WORLD.params, state, noted)
        assert timestep.observation[-3:-1].tolist() == [[1.0, 0.0, 1.0]] * 2
    observation, _ = environment.attend(WORLD.params, state, ~here)
    assert observation[-3:-1].tolist() == [[0.0, 0.0, 0.0]] * 2


def places():
    """A world of two places: the second one is empty after the steps 2 and 3, and another player comes in step 4."""
    there = jnp.array([[True, True], [True, True], [True, False], [True, False], [True, True], [True, True]])

    def shown(time):
        none = jnp.bool_(False)
        return Timestep(jnp.ones((1, 2)), jnp.zeros(2), none, none, alive=there[time]), time

    def step(noise, params, state, action):
        return shown(state + 1)

    def reset(noise, params):
        return shown(jnp.int32(0))

    draw, spaces = draw_nothing, Spaces(Box((1,)), Discrete(2))
    return Environment(jnp.zeros(()), spaces, draw, draw, reset, step, 5, players=2, revives=True)


def test_who_comes_to_a_place_does_not_know_what_the_one_before_has_seen():
    environment = with_memory(places(), 1)
    timestep, state = environment.reset((), environment.params)
    found = [timestep.observation[1:]]
    for _ in range(5):  # a policy whose memory is always 1 afterwards
        timestep, state = environment.step((), environment.params, state, jnp.array([[0.0, 0.0], [1.0, 1.0]]))
        found.append(timestep.observation[1:])
    memory, begins = jnp.stack(found, 1)
    assert memory[:, 0].tolist() == [0.0, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert begins[:, 0].tolist() == [1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    # The second place after the steps in which somebody is there.
    assert memory[jnp.array([0, 1, 4, 5]), 1].tolist() == [0.0, 1.0, 0.0, 1.0]
    assert begins[jnp.array([0, 1, 4, 5]), 1].tolist() == [1.0, 0.0, 1.0, 0.0]


class Pairs:
    """Two copies of a world of two players on the host, whose observations are states; the second one ends."""

    name, failed = "pairs", {}
    overview = np.float32([[7.0], [8.0]])

    def reset(self, seeds, active=None):
        del seeds, active
        return np.array([[0, 1], [2, 0]])

    def step(self, action, active=None):
        del active
        self.taken = action
        seen, ends = np.array([[1, 1], [2, 2]]), np.array([False, True])
        return HostStep(seen, np.zeros((2, 2), np.float32), ends, np.zeros(2, bool), seen)

    def close(self):
        pass


def test_players_of_worlds_on_the_host_have_a_memory_each():
    inner = Pairs()
    copies = RememberingInstances(inner, Spaces(Discrete(3), Discrete(2)), 2)
    seen = copies.reset([0, 1])
    np.testing.assert_array_equal(seen[..., :3], np.eye(3)[[[0, 1], [2, 0]]])
    np.testing.assert_array_equal(seen[..., 3:], np.broadcast_to([0.0, 0.0, 1.0], (2, 2, 3)))
    memory = np.arange(8, dtype=np.float32).reshape(2, 2, 2)
    after = copies.step(np.concatenate([np.float32([[[1], [0]], [[0], [1]]]), memory], -1))
    assert inner.taken.tolist() == [[1, 0], [0, 1]]
    np.testing.assert_array_equal(after.next_observation[..., 3:5], memory)
    np.testing.assert_array_equal(after.observation[..., 3:5], [memory[0], np.zeros((2, 2))])
    np.testing.assert_array_equal(after.observation[..., 5], [[0.0, 0.0], [1.0, 1.0]])
    assert copies.overview is inner.overview


def test_copies_remember_what_the_policy_notes_and_forget_at_the_end():
    environment = with_memory(probe_memory(2), 3)
    assert environment.spaces.observation == Box((1 + 3 + 1,))
    timestep, state = environment.reset(jnp.array([0.9]), environment.params)
    assert timestep.observation.tolist() == [1.0, 0.0, 0.0, 0.0, 1.0]
    timestep, _ = environment.step((), environment.params, state, jnp.array([1.0, 0.5, -0.5, 2.0]))
    assert timestep.observation.tolist() == [0.0, 0.5, -0.5, 2.0, 0.0]


def test_copies_on_the_host_remember_likewise():
    inner = gymnasium("CartPole-v1", max_steps=3)
    environment = with_memory(inner, 2)
    rows = jax.tree.map(lambda leaf: np.broadcast_to(leaf, 3), environment.params)
    ours, plain = environment.open(rows, 0), inner.open(rows, 0)
    seen = np.concatenate([plain.reset([1, 2, 3]), np.tile([0.0, 0.0, 1.0], (3, 1))], 1)
    np.testing.assert_allclose(ours.reset([1, 2, 3]), seen)
    for step in range(4):
        memory = np.random.default_rng(step).normal(size=(3, 2)).astype(np.float32)
        active = np.array([True, True, step != 1])
        after = ours.step(np.concatenate([[[1.0], [0.0], [1.0]], memory], 1).astype(np.float32), active)
        expected = plain.step(np.array([1, 0, 1]), active)
        np.testing.assert_allclose(after.next_observation[active, :4], expected.next_observation[active])
        np.testing.assert_allclose(after.next_observation[active, 4:], np.pad(memory, ((0, 0), (0, 1)))[active])
        done = (expected.terminated | expected.truncated)[:, None]
        kept = np.where(done, [0.0, 0.0, 1.0], np.pad(memory, ((0, 0), (0, 1))))
        np.testing.assert_allclose(after.observation[active, 4:], kept[active])
    ours.close()
    plain.close()


SEEDS = (0, 1, 2)


def greedy_returns(learner, iterations):
    """The mean greedy return after training, over 64 episodes, for each of the seeds."""
    environment = learner.environment

    def step(state, key):
        context = LocalContext(state.params, jax.tree.map(jnp.zeros_like, state.params))
        return iterate(learner, key, state, context)[0], None

    def one(seed):
        for_init, for_training, for_play = jax.random.split(jax.random.key(seed), 3)
        state = learner.init(for_init, environment.params)
        state, _ = jax.lax.scan(step, state, jax.random.split(for_training, iterations))
        sampler = Sampler(lambda key, batch: key, lambda key, seen: learner.act(key, state.params, seen, True))
        _, counts = episodes(for_play, environment, environment.params, sampler, 64, environment.max_steps)
        return counts["episode_return"] / 64

    return np.asarray(jax.jit(jax.vmap(one))(jnp.array(SEEDS)))


ADAM = adam(0.01, max_norm=0.5)


def by_a2c(network):
    return a2c(probe_memory(4), network=network, num_envs=16, num_steps=20, optimizer=ADAM)


def by_ppo(network):
    """With minibatches of whole rollouts."""
    size = {"num_envs": 16, "num_steps": 32, "num_minibatches": 2, "num_epochs": 2}
    return ppo(probe_memory(4), network=network, optimizer=ADAM, **size)


@pytest.mark.parametrize(("by", "iterations"), [(by_a2c, 150), (by_ppo, 60)])
def test_a_cue_is_recalled_by_a_recurrent_network_and_not_by_another_one(by, iterations):
    assert greedy_returns(by(gru(16)), iterations).tolist() == [1.0] * len(SEEDS)
    # One action for both cues: 64 signs, whose mean has the standard deviation 0.125.
    assert (np.abs(greedy_returns(by(mlp((16,))), iterations)) < 0.5).all()


def test_ppo_learns_from_whole_rollouts_in_whatever_order_copies_are_dealt():
    sizes = {"num_envs": 4, "num_steps": 7, "num_epochs": 1, "num_minibatches": 1}
    learner = ppo(WORLD, network=gru(3), optimizer=sgd(0.1), **sizes)
    parts = actor_and_critic(WORLD, gru(3), critic_of(gru(3)), 7)

    @jax.jit
    def both(key):
        state = learner.init(key, WORLD.params)
        seen, state, _ = learner.collect(key, state)
        context = LocalContext(state.params, jax.tree.map(jnp.zeros_like, state.params))
        after, _ = learner.learn(key, state, seen, context)
        taken = jax.tree.map(lambda new, old: (old - new) / 0.1, after.params, state.params)
        experience = evaluated(parts.policy, parts.critic, state.params, seen, None, 0.99, 0.95, WORLD.players)
        slope = jax.grad(lambda p: loss(parts.trained, parts.trained_critic, p, experience, 0.2, 0.5, 0.0))
        return taken, slope(state.params)

    taken, slope = both(jax.random.key(0))
    for one, other in zip(jax.tree.leaves(taken), jax.tree.leaves(slope), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=2e-5)


WRAPPERS = {
    "personal": lambda network: personal(small(network), local=["actor"]),
    "interpolate": lambda network: interpolate(small(network)),
    "apfl": lambda network: apfl(small(network), rate=0.1),
    "accept_if_better": lambda network: accept_if_better(small(network), trials=2),
    "freeze_except": lambda network: freeze_except(small(with_embedding(network))),
    "normalize": lambda network: normalize(small(network)),
    "measure_exploitability": lambda network: measure_exploitability(small(network, rock_paper_scissors())),
    "reinforce, value": lambda network: reinforce(
        probe_memory(2), network=network, episodes_per_step=2, baseline="value"
    ),
    "reinforce, by episode": lambda network: reinforce(
        probe_memory(2), network=network, episodes_per_step=2, baseline="none", trajectory_clip=1.0
    ),
    "ppo, by episode": lambda network: ppo(
        probe_memory(2), network=network, num_envs=2, num_steps=3, num_minibatches=2, trajectory_clip=1.0
    ),
    "mappo": lambda network: mappo(WORLD, network=network, num_envs=2, num_steps=3, num_minibatches=2),
    "places that are taken again": lambda network: small(network, places()),
    "a federation": lambda network: as_learner(federate(small(network), mean()), 2),
}


def small(network, environment=None):
    return a2c(probe_memory(2) if environment is None else environment, network=network, num_envs=2, num_steps=3)


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_keep_the_memory_and_an_iteration_keeps_all_shapes(name):
    learner = WRAPPERS[name](gru(3))
    assert learner.memory >= 3
    around = learner.with_memory(probe_memory(2))
    assert around.spaces.observation == Box((1 + learner.memory + 1,))

    def iterated(key):
        state = learner.init(key, learner.environment.params)
        context = LocalContext(learner.params(state), jax.tree.map(jnp.zeros_like, learner.params(state)))
        return state, iterate(learner, key, state, context)[0]

    before, after = jax.eval_shape(iterated, jax.random.key(0))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), before) == jax.tree.map(lambda x: (x.shape, x.dtype), after)


def test_messages_name_the_environment_inside():
    world = common_world(WORLD)
    for environment in (WORLD, world, probe_memory(2)):
        assert repr(with_memory(environment, 3)) == repr(environment)
    assert repr(with_memory(world, 3).common.world) == repr(WORLD)
    assert with_memory(WORLD, 3) != WORLD


def test_a_memory_that_is_not_finite_is_no_failure_of_the_environment():
    copies = RememberingInstances(Pairs(), Spaces(Discrete(3), Discrete(2)), 2)
    copies.reset([0, 1])
    after = copies.step(np.broadcast_to(np.float32([1.0, np.nan, np.inf]), (2, 2, 3)))
    assert np.isfinite(after.observation).all()
    assert np.isfinite(after.next_observation).all()


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: ppo(probe_memory(), network=gru(4), num_envs=2, num_steps=8, num_minibatches=4), "divide num_envs"),
        (lambda: mappo(navigation(), critic=gru(4)), "reads one overview"),
        (lambda: mixture(a2c(probe_memory(), network=gru(4))), "means nothing to the next"),
        (lambda: self_play(a2c(rock_paper_scissors(), network=gru(4))), "means nothing to the next"),
        (lambda: dqn(probe_memory(), network=gru(4)), "replay buffer"),
        (lambda: vdn(pursuit(), network=gru(4)), "replay buffer"),
        (lambda: gradient_penalty(a2c(probe_memory(), network=gru(4)), strength=0.1), "depend on all before"),
        (lambda: gru(0), "units"),
    ],
)
def test_what_a_memory_has_no_meaning_for_is_refused(build, words):
    with pytest.raises(ConfigError, match=words):
        build()


def test_moments_are_of_what_is_observed_alone():
    learner = normalize(a2c(probe_observation(), network=gru(3), num_envs=2, num_steps=4))
    state = jax.eval_shape(lambda key: learner.init(key, learner.environment.params), jax.random.key(0))
    assert state.moments["observation"].mean.shape == (1,)
    moments = Moments(jnp.float32(9.0), jnp.array([2.0]), jnp.array([4.0]))
    seen = shifted(moments, jnp.array([[[6.0], [0.5], [1.0]]]), 10.0, 2)
    np.testing.assert_allclose(seen, [[[2.0], [0.5], [1.0]]], rtol=1e-4)


def test_discrete_observations_are_one_hot_beside_a_memory():
    network = gru(3)
    params = network.init(jax.random.key(0), Discrete(6), 2, 1.0)
    assert params["input"]["weight"].shape == (9, 6)
