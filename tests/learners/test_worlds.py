"""Every learner is a learner of worlds: dead players weigh nothing, and the others learn as single agents do."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.core.environment import Environment
from fedrl.core.errors import ConfigError
from fedrl.core.learner import Learner, explore, iterate
from fedrl.core.types import LocalContext
from fedrl.environments import cartpole, climbing, navigation
from fedrl.learners import (
    a2c,
    accept_if_better,
    apfl,
    gradient_penalty,
    mlp,
    normalize,
    per_player,
    ppo,
    q_table,
    reinforce,
    sgd,
)
from fedrl.learners.algorithms.reinforce import others
from tests.support.worlds import PLAYERS, mortal

SMALL = mlp(hidden=[8])
SIZES = {"num_envs": 4, "num_steps": 6}


def small_ppo(world: Environment, **given) -> Learner:
    return ppo(world, network=given.pop("network", SMALL), num_epochs=2, num_minibatches=2, **SIZES, **given)


LEARNERS = {
    "ppo": lambda world: small_ppo(world, entropy_coef=0.1),
    "ppo_per_player": lambda world: small_ppo(world, network=per_player(SMALL, PLAYERS)),
    "ppo_by_episode": lambda world: small_ppo(world, trajectory_clip=1.0),
    "a2c": lambda world: a2c(world, network=SMALL, **SIZES),
    "a2c_by_episode": lambda world: a2c(world, network=SMALL, trajectory_clip=1.0, **SIZES),
    "reinforce": lambda world: reinforce(world, network=SMALL, episodes_per_step=4),
    "reinforce_value": lambda world: reinforce(world, network=SMALL, episodes_per_step=4, baseline="value"),
    "reinforce_by_episode": lambda world: reinforce(
        world, network=SMALL, episodes_per_step=4, baseline="value", trajectory_clip=1.0
    ),
    "normalize": lambda world: normalize(small_ppo(world)),
    "apfl": lambda world: apfl(a2c(world, network=per_player(SMALL, PLAYERS), **SIZES)),
    "gradient_penalty": lambda world: gradient_penalty(a2c(world, network=SMALL, **SIZES)),
    "accept_if_better": lambda world: accept_if_better(a2c(world, network=SMALL, **SIZES), trials=2),
    "q_table": lambda world: q_table(world, **SIZES),
}


def world_of(name: str) -> Environment:
    return mortal(table=name == "q_table")


def context(learner: Learner, state) -> LocalContext:
    params = learner.params(state)
    return LocalContext(params, jax.tree.map(jnp.zeros_like, params))


def trained(learner: Learner, fillers: tuple[float, ...]):
    """The parameters and the metrics after two iterations in worlds that differ in what the dead observe and earn."""

    @jax.jit
    def run(env_params):
        state = learner.init(jax.random.key(0), env_params)
        state, _ = iterate(learner, jax.random.key(1), state, context(learner, state))
        state, metrics = iterate(learner, jax.random.key(2), state, context(learner, state))
        return learner.params(state), metrics

    params = learner.environment.params
    return [run(params._replace(filler=jnp.float32(filler))) for filler in fillers]


@pytest.mark.parametrize("name", LEARNERS)
def test_nothing_that_the_dead_observe_or_earn_reaches_a_learner(name):
    calm, loud = trained(LEARNERS[name](world_of(name)), (0.0, np.nan))
    for quiet, found in zip(jax.tree.leaves(calm), jax.tree.leaves(loud), strict=True):
        assert np.isfinite(found).all()
        np.testing.assert_array_equal(quiet, found)


@pytest.mark.parametrize("name", ["ppo", "ppo_by_episode", "a2c", "reinforce_value", "normalize", "q_table"])
def test_rows_of_the_dead_weigh_nothing_in_an_update(name):
    learner = LEARNERS[name](world_of(name))
    state = learner.init(jax.random.key(0), learner.environment.params)
    seen, state, _ = jax.jit(learner.collect)(jax.random.key(1), state)
    dead, noise = ~seen.alive, jax.random.normal(jax.random.key(2), seen.reward.shape)
    assert dead.any()
    table = name == "q_table"
    observation = (
        jnp.where(dead, 3, seen.observation) if table else jnp.where(dead[:, None], noise[:, None], seen.observation)
    )
    changed = seen._replace(
        observation=observation,
        action=jnp.where(dead, 1 - seen.action, seen.action),
        reward=jnp.where(dead, noise, seen.reward),
    )
    learn = jax.jit(
        lambda seen: learner.params(learner.learn(jax.random.key(3), state, seen, context(learner, state))[0])
    )
    before, plain, other = learner.params(state), learn(seen), learn(changed)
    assert any((x != y).any() for x, y in zip(*map(jax.tree.leaves, (before, plain)), strict=True))
    for x, y in zip(*map(jax.tree.leaves, (plain, other)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("make", [a2c, lambda *args, **given: small_ppo(args[0], optimizer=given["optimizer"])])
def test_a_loss_is_the_mean_over_the_living(make):
    # One player lives and two are dead in every step: the update is that of a world without these two.
    def update(players: int):
        world = mortal(players=players)
        learner = make(world, network=SMALL, optimizer=sgd(0.1), num_envs=4, num_steps=6)
        state = learner.init(jax.random.key(0), world.params)
        seen = jax.jit(learner.collect)(jax.random.key(1), state)[0]
        rng = np.random.default_rng(0)
        observation, reward = rng.normal(size=(6, 2, 4)), rng.normal(size=(6, 4))
        action = rng.integers(0, 2, (6, 4))
        again = seen._replace(
            observation=jnp.asarray(np.tile(observation, players), jnp.float32),
            next_observation=jnp.asarray(np.tile(observation, players), jnp.float32),
            action=jnp.asarray(np.tile(action, players), jnp.int32),
            reward=jnp.asarray(np.tile(reward, players), jnp.float32),
            alive=jnp.asarray(np.arange(4 * players) < 4)[None].repeat(6, 0),
            terminated=jnp.zeros((6, 4 * players), bool),
            truncated=jnp.zeros((6, 4 * players), bool),
        )
        learn = jax.jit(learner.learn)
        return learner.params(learn(jax.random.key(3), state, again, context(learner, state))[0])

    for one, three in zip(*map(jax.tree.leaves, (update(1), update(3))), strict=True):
        np.testing.assert_allclose(one, three, rtol=1e-4, atol=1e-6)


def test_moments_count_the_living_alone():
    learner = normalize(small_ppo(mortal()))
    state = learner.init(jax.random.key(0), learner.environment.params)
    seen, state, _ = jax.jit(learner.collect)(jax.random.key(1), state)
    after, _ = jax.jit(learner.learn)(jax.random.key(2), state, seen, context(learner, state))
    living = np.moveaxis(np.asarray(seen.observation), 1, 0)[:, np.asarray(seen.alive)]
    sums = after.sums["observation"]
    assert float(sums.samples) == living.shape[1] < seen.alive.size
    np.testing.assert_allclose(sums.shift, living.mean(1), rtol=1e-5)
    np.testing.assert_allclose(sums.squares, living.var(1) * living.shape[1], rtol=1e-4)
    doubt = learner.statistics.doubt
    gathered = jax.tree.map(np.asarray, learner.statistics.gathered(after))
    assert doubt(gathered, learner.samples) == ""
    assert "samples" in doubt(gathered, int(sums.samples) - 1)


def test_the_baseline_of_other_episodes_is_that_of_the_same_player():
    going = jnp.array([[1.0, 2.0, 6.0, 100.0, 200.0, 600.0]])  # two players in three copies
    found = others(going, jnp.ones((1, 6), bool), 2)
    np.testing.assert_allclose(found, [[4.0, 3.5, 1.5, 400.0, 350.0, 150.0]])


def test_a_network_of_other_players_is_refused():
    for world, found in ((navigation(players=3), "3 players"), (cartpole(), "a single agent")):
        for make in (ppo, a2c, reinforce):
            with pytest.raises(ConfigError, match=f"network has parameters for 2 players and .* has {found}"):
                make(world, network=per_player(mlp(), 2))
    with pytest.raises(ConfigError, match=r"3 observations came, and each of 2 players"):
        per_player(mlp(), 2).apply(
            per_player(mlp(), 2).init(jax.random.key(0), climbing().spaces.observation, 1, 1.0), jnp.ones((1, 3))
        )
    with pytest.raises(ConfigError, match="acts by parameters of 2 players, and gradient_penalty"):
        gradient_penalty(a2c(climbing(), network=per_player(mlp(), 2)))
    with pytest.raises(ConfigError, match="has parameters of 2 players already"):
        per_player(per_player(mlp(), 2), 3)


def test_each_player_has_parameters_of_its_own_in_every_batch():
    # A network whose output is the number of its player shows which rows it was given, also in shuffled minibatches.
    network = per_player(mlp(hidden=[]), 2)
    params = network.init(jax.random.key(0), climbing().spaces.observation, 1, 1.0)
    numbered = jax.tree.map(lambda x: jnp.zeros_like(x) + jnp.arange(2.0).reshape(2, *[1] * (x.ndim - 1)), params)
    numbered[0]["weight"] = jnp.zeros_like(numbered[0]["weight"])
    np.testing.assert_array_equal(network.apply(numbered, jnp.ones((1, 6)))[0], [0, 0, 0, 1, 1, 1])


def test_behaviour_policies_share_the_copies_of_a_world_and_not_its_players():
    def act(key, params, observation, greedy):
        return jnp.full(observation.shape[-1], params)

    learner = replace(small_ppo(climbing()), act=act)
    actions = explore(learner, jax.random.key(0), (jnp.int32(1), jnp.int32(2)), jnp.ones((1, 2 * 4)))
    assert actions.tolist() == [1, 1, 2, 2] * 2  # the rows of the first player in all copies come first
