"""In self-play the average of earlier policies converges where the current one does not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.core.errors import ConfigError
from fedrl.core.learner import Learner, iterate, policy_of, restored
from fedrl.core.types import LocalContext
from fedrl.environments import (
    cartpole,
    climbing,
    exploitability,
    foraging,
    matching_pennies,
    navigation,
    rock_paper_scissors,
)
from fedrl.environments.adapters import pettingzoo
from fedrl.learners import a2c, measure_exploitability, mlp, normalize, per_player, reinforce, self_play, sgd
from tests.support.worlds import LENGTH, mortal

LOGITS = mlp(hidden=[])
OWN = per_player(LOGITS, 2)
ITERATIONS = 1000


def player_of(game, network=OWN, entropy_coef=0.4):
    # Parameters that both players share get twice the gradient.
    rate = 1.0 if network.players else 0.5
    return a2c(game, network=network, optimizer=sgd(rate), num_envs=64, num_steps=1, entropy_coef=entropy_coef)


def trained(learner: Learner, iterations: int, seeds: int):
    """The states of several seeds and the metrics of each iteration."""

    @jax.jit
    @jax.vmap
    def train(key):
        def step(state, key):
            params = learner.params(state)
            return iterate(learner, key, state, LocalContext(params, jax.tree.map(jnp.zeros_like, params)))

        state = learner.init(jax.random.fold_in(key, 0), learner.environment.params)
        return jax.lax.scan(step, state, jax.random.split(jax.random.fold_in(key, 1), iterations))

    return train(jax.vmap(jax.random.key)(jnp.arange(seeds)))


@pytest.mark.parametrize(
    ("game", "network"),
    [(matching_pennies(), OWN), (rock_paper_scissors(), OWN), (rock_paper_scissors(), LOGITS)],
    ids=["pennies", "rock", "rock, shared"],
)
def test_the_average_policy_can_hardly_be_exploited(game, network):
    learner = measure_exploitability(self_play(player_of(game, network), pool_size=64, every=4))
    states, metrics = trained(learner, ITERATIONS, seeds=5)
    shown = jnp.ones((1, 2))
    policies = np.asarray(jax.vmap(lambda state: learner.probabilities(policy_of(learner, state), shown))(states))
    found = np.array([exploitability(game.params.payoff, each[:, 0], each[:, 1]) for each in policies])
    np.testing.assert_allclose(found, metrics["exploitability"][:, -1], atol=1e-5)
    assert (found <= 0.05).all()


def test_without_a_pool_the_current_policies_go_round_in_circles():
    learner = measure_exploitability(player_of(rock_paper_scissors(), entropy_coef=0.0))
    _, metrics = trained(learner, ITERATIONS, seeds=5)
    assert (np.asarray(metrics["exploitability"])[:, ITERATIONS // 2 :].mean(1) > 0.2).all()


def test_the_pool_is_a_uniform_sample_of_all_policies_so_far():
    # The parameters are counted up by one in each iteration: the pool shows when each of its policies was the current.
    learner = self_play(a2c(climbing(), network=LOGITS, num_envs=2, num_steps=1), pool_size=8, every=2)

    def step(state, key):
        state = learner.collect(key, state)[1]
        return state._replace(learner=learner_after(state.learner)), None

    def learner_after(inner):
        return inner._replace(params=jax.tree.map(lambda x: x + 1.0, inner.params))

    @jax.jit
    @jax.vmap
    def run(key):
        state = learner.init(key, learner.environment.params)
        state = learner.adopt(state, jax.tree.map(jnp.zeros_like, learner.params(state)))
        state, _ = jax.lax.scan(step, state, jax.random.split(key, 80))
        return state.pool["actor"][0]["bias"][:, 0], policy_of(learner, state)["share"]

    born, share = map(np.asarray, run(jax.vmap(jax.random.key)(jnp.arange(500))))
    np.testing.assert_allclose(share, 1 / 8)
    assert set(born.ravel()) <= set(range(0, 80, 2))
    assert all(len(set(row)) == 8 for row in born)
    counts = np.bincount((born.ravel() / 2).astype(int), minlength=40)  # 4000 draws, 100 of each
    assert np.square(counts - 100).sum() / 100 < 39 + 4 * np.sqrt(2 * 39)
    assert np.square(counts[::-1].cumsum()[:20] - 100 * np.arange(1, 21)).max() < 250**2


def test_one_player_of_each_copy_learns_and_the_others_are_earlier_policies():
    learner = self_play(a2c(mortal(), network=mlp(hidden=[4]), num_envs=6, num_steps=LENGTH))
    state = learner.init(jax.random.key(0), learner.environment.params)
    for turn in range(3):
        seen, state, _ = jax.jit(learner.collect)(jax.random.key(turn), state)
        first = np.asarray(seen.alive[0]).reshape(3, 6)
        np.testing.assert_array_equal(first, np.arange(3)[:, None] == (np.arange(6) + turn) % 3)


def pure(learner: Learner, params, action: int):
    """Parameters that always choose one action."""
    bias = params["actor"][0]["bias"]
    layer = {"weight": jnp.zeros_like(params["actor"][0]["weight"]), "bias": bias.at[..., action].set(100.0)}
    return {**params, "actor": (layer,)}


@pytest.mark.parametrize("latest", [0.0, 1.0])
def test_opponents_act_by_the_pool_and_who_learns_by_the_current_policy(latest):
    learner = self_play(player_of(rock_paper_scissors(), LOGITS), pool_size=4, every=1000, latest=latest)
    state = learner.init(jax.random.key(0), learner.environment.params)
    rock, paper = (pure(learner, learner.params(state), action) for action in (0, 1))
    state = learner.adopt(state, rock)  # the first one, which the pool keeps
    _, state, _ = learner.collect(jax.random.key(1), state)
    state = learner.adopt(state, paper)
    seen, state, _ = jax.jit(learner.collect)(jax.random.key(2), state)
    alive, action = np.asarray(seen.alive[0]), np.asarray(seen.action[0])
    assert (action[alive] == 1).all()
    assert (action[~alive] == int(latest)).all()
    played = learner.act(jax.random.key(3), policy_of(learner, state), jnp.ones((1, 50)), True)
    assert (np.asarray(played) == 0).all()


def test_acting_parameters_come_back():
    learner = self_play(player_of(rock_paper_scissors()), pool_size=4, every=1)
    state = learner.init(jax.random.key(0), learner.environment.params)
    _, state, _ = learner.collect(jax.random.key(1), state)
    params = jax.tree.map(lambda x: x + 1.0, policy_of(learner, state)) | {"share": jnp.array([0.5, 0.5, 0.0, 0.0])}
    for found, given in zip(
        *map(jax.tree.leaves, (policy_of(learner, restored(learner, state, params)), params)), strict=True
    ):
        np.testing.assert_array_equal(found, given)


def test_what_has_no_opponent_or_no_payoffs_is_refused():
    with pytest.raises(ConfigError, match=r"cartpole\(\) has a single agent, and in self-play it needs an opponent"):
        self_play(a2c(cartpole()))
    with pytest.raises(ConfigError, match=r"collects its experience in a way of its own"):
        self_play(reinforce(foraging()))
    with pytest.raises(ConfigError, match="no table of payoffs"):
        measure_exploitability(a2c(navigation()))
    with pytest.raises(ConfigError, match=r"is stepped on the host, where all players of a copy act by one policy"):
        self_play(a2c(pettingzoo("tests.support.parallel_worlds:Mortal")))
    with pytest.raises(ConfigError, match=r"acts with an average of its policies already"):
        self_play(self_play(a2c(climbing())))
    with pytest.raises(ConfigError, match=r"as in self_play\(normalize\(ppo\(\.\.\.\)\)\)"):
        normalize(self_play(a2c(climbing())))
