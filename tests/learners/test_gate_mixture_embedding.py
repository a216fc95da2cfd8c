"""Agents of opposite tastes: what a merged policy can't give them, and what helps."""

from dataclasses import replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.core.environment import Box, Discrete, Environment, Spaces, Timestep, draw_nothing, first
from fedrl.core.errors import ConfigError
from fedrl.core.learner import iterate, policy_of
from fedrl.core.types import LocalContext
from fedrl.engines.simulate import simulate
from fedrl.environments import probe_target, random_mdp
from fedrl.federation.federate import federate
from fedrl.learners import a2c, accept_if_better, adam, freeze_except, mixture, mlp, personal, q_table, with_embedding
from fedrl.learners.wrappers.self_play import acting_on_average
from fedrl.runs.evaluate import greedy_returns
from tests.support.quadratic import simulated_rounds

DEVICE = jax.devices()[:1]


class Taste(NamedTuple):
    """The action that this agent likes, 0 or 1; nothing in what it observes tells."""

    liked: jnp.ndarray


def taste(discrete: bool = False) -> Environment:
    """One step: a point for the action that is liked."""
    space = Discrete(1) if discrete else Box((1,))
    nothing = jnp.int32(0) if discrete else jnp.zeros(1)

    def reset(noise, params):
        del noise, params
        return first(nothing), (jnp.int32(0),)

    def step(noise, params, state, action):
        del noise
        reward = (action == params.liked).astype(jnp.float32)
        return Timestep(nothing, reward, jnp.bool_(True), jnp.bool_(False)), state

    return Environment(Taste(jnp.float32(0.0)), Spaces(space, Discrete(2)), draw_nothing, draw_nothing, reset, step, 1)


OPPOSITE = Taste(jnp.float32([0.0, 1.0, 0.0, 1.0]))
MOSTLY = Taste(jnp.float32([0.0, 0.0, 0.0, 1.0]))


def earned(learner, fleet, rounds):
    """What each agent earns greedily after so many rounds, with its own policy."""
    simulation = simulate(federate(learner, mean()), fleet, devices=DEVICE)
    run_state = simulated_rounds(simulation, rounds)
    held = simulation.params_of(simulation.adopt(run_state))
    return greedy_returns(learner, fleet, held, 4, 0, stacked=True).mean(1), held


def by_a2c(network):
    return a2c(taste(), network=network, optimizer=adam(0.05), num_envs=16, num_steps=1)


@pytest.fixture(scope="module")
def embeddings():
    """A learner, and what agents of opposite tastes came to hold, each with an embedding of its own."""
    learner = by_a2c(with_embedding(mlp((8,)), size=2))
    return learner, earned(personal(learner, local=["embedding"]), OPPOSITE, 60)[1]


def test_no_shared_policy_pleases_opposite_tastes_but_an_embedding_of_ones_own_does(embeddings):
    shared, _ = earned(by_a2c(mlp((8,))), OPPOSITE, 60)
    assert sorted(shared.tolist()) == [0.0, 0.0, 1.0, 1.0]
    learner, held = embeddings
    own = greedy_returns(learner, OPPOSITE, held, 4, 0, stacked=True)
    np.testing.assert_array_equal(own, 1.0)
    weight, embedding = held["actor"]["network"][0]["weight"], held["actor"]["embedding"]
    np.testing.assert_array_equal(weight, np.broadcast_to(weight[0], weight.shape))
    assert np.abs(embedding[0] - embedding[1]).max() > 0.1


def test_an_embedding_of_zeros_is_not_there():
    inner, key, seen = mlp((3,)), jax.random.key(0), jnp.ones((2, 5))
    network = with_embedding(inner, size=3)
    params = network.init(key, Box((2,)), 4, 1.0)
    first_layer = params["network"][0]
    narrow = ({**first_layer, "weight": first_layer["weight"][:, :2]}, *params["network"][1:])
    np.testing.assert_allclose(network.apply(params, seen), inner.apply(narrow, seen), rtol=1e-6)
    moved = dict(params, embedding=params["embedding"] + 1.0)
    assert np.abs(network.apply(moved, seen) - network.apply(params, seen)).min() > 1e-4
    with pytest.raises(ConfigError, match="appended to a vector"):
        network.init(key, Discrete(3), 4, 1.0)


def test_in_a_new_environment_the_embedding_alone_may_learn(embeddings):
    learner, held = embeddings
    trained = jax.tree.map(lambda leaf: leaf[0], held)
    for network in trained.values():
        network["embedding"] = jnp.zeros(2)
    careful = freeze_except(learner)

    @jax.jit
    @jax.vmap
    def adapted(env_params):
        state = careful.adopt(careful.init(jax.random.key(0), env_params), trained)
        context = LocalContext(trained, jax.tree.map(jnp.zeros_like, trained))
        keys = jax.random.split(jax.random.key(1), 200)
        return careful.params(jax.lax.scan(lambda s, k: (iterate(careful, k, s, context)[0], None), state, keys)[0])

    newcomers = Taste(jnp.float32([0.0, 1.0]))
    after = adapted(newcomers)
    weight = after["actor"]["network"][0]["weight"]
    np.testing.assert_array_equal(weight, np.stack([trained["actor"]["network"][0]["weight"]] * 2))
    before = greedy_returns(learner, newcomers, trained, 4, 0).mean(1)
    assert sorted(before.tolist()) == [0.0, 1.0]
    np.testing.assert_array_equal(greedy_returns(learner, newcomers, after, 4, 0, stacked=True), 1.0)


def likes(action: int, strength: float = 1.0):
    return {"q": jnp.zeros((1, 2)).at[0, action].set(strength)}


def by_table():
    return q_table(taste(discrete=True), learning_rate=0.5, epsilon=1.0, num_envs=4, num_steps=4)


@pytest.fixture(scope="module")
def adopt():
    return jax.jit(lambda gate, state, params: gate.adopt(state, params), static_argnums=0)


def test_a_gate_refuses_what_earns_less_and_adopts_what_earns_as_much(adopt):
    gate = accept_if_better(by_table(), trials=2)
    state = gate.init(jax.random.key(0), Taste(jnp.float32(1.0)))
    state = adopt(gate, state, likes(0))
    np.testing.assert_array_equal(gate.params(state)["q"], likes(0)["q"])  # the first parameters are not tried
    state = adopt(gate, state, likes(1))
    np.testing.assert_array_equal(gate.params(state)["q"], likes(1)["q"])  # better
    state = adopt(gate, state, likes(1, 3.0))
    np.testing.assert_array_equal(gate.params(state)["q"], likes(1, 3.0)["q"])  # as good
    rejected = adopt(gate, state, likes(0))
    np.testing.assert_array_equal(gate.params(rejected)["q"], likes(1, 3.0)["q"])  # worse
    assert (state.rejected, rejected.rejected) == (0.0, 1.0)
    lenient = accept_if_better(by_table(), trials=2, margin=1.0)
    np.testing.assert_array_equal(lenient.params(adopt(lenient, state, likes(0)))["q"], likes(0)["q"])
    not_a_number = jax.tree.map(lambda x: x * jnp.nan, likes(0))
    np.testing.assert_array_equal(gate.params(adopt(gate, state, not_a_number))["q"], likes(1, 3.0)["q"])


def test_a_refusal_is_told_once():
    gate = accept_if_better(by_table(), trials=2)
    state = gate.init(jax.random.key(0), Taste(jnp.float32(1.0)))
    for params in (likes(1), likes(0)):
        state = gate.adopt(state, params)
    told = []
    for _ in range(2):
        state, metrics = iterate(gate, jax.random.key(1), state, LocalContext((), ()))
        told.append(float(metrics["adoptions_refused"]))
    assert told == [1.0, 0.0]


def test_with_a_gate_no_agent_of_a_fleet_is_worse_off_than_with_the_merged_policy():
    merged, _ = earned(by_table(), MOSTLY, 20)
    found, _ = earned(accept_if_better(by_table(), trials=2), MOSTLY, 20)
    np.testing.assert_array_equal(merged, [1.0, 1.0, 1.0, 0.0])
    np.testing.assert_array_equal(found, 1.0)


def test_a_mixture_takes_each_action_as_often_as_its_policies_on_average():
    each = q_table(random_mdp(3, 4), epsilon=0.4)
    tables = {"q": jax.random.normal(jax.random.key(0), (5, 3, 4))}
    both, many = mixture(each), 20_000
    expected = np.mean([each.probabilities({"q": q}, jnp.array([1])) for q in tables["q"]], axis=0)
    np.testing.assert_allclose(both.probabilities(tables, jnp.array([1])), expected, rtol=1e-5)
    actions = jax.jit(lambda k: both.act(k, tables, jnp.full(many, 1), False))(jax.random.key(1))
    found = np.bincount(actions, minlength=4) / many
    np.testing.assert_allclose(found, expected[:, 0], atol=4 * 0.5 / np.sqrt(many))
    assert np.ptp(expected) > 0.1


def test_the_greedy_action_of_a_mixture_may_be_nobodys_first_choice():
    def fixed(params, observation):
        return jnp.repeat(params[:, None], observation.shape[-1], axis=1)

    learner = replace(q_table(random_mdp(3, 3)), probabilities=fixed)
    votes = jnp.array([[0.6, 0.4, 0.0], [0.0, 0.4, 0.6]])
    assert mixture(learner).act(jax.random.key(0), votes, jnp.array([0, 2]), True).tolist() == [1, 1]


def test_the_greedy_action_of_continuous_policies_is_their_mean():
    each = a2c(probe_target(), network=mlp((4,)), num_envs=2, num_steps=2)
    states = jax.vmap(lambda k: each.init(k, each.environment.params))(jax.random.split(jax.random.key(0), 3))
    held = policy_of(each, states)
    seen = jnp.ones((*each.environment.spaces.observation.shape, 6))
    alone = jax.vmap(lambda p: each.act(jax.random.key(0), p, seen, True))(held)
    found = mixture(each).act(jax.random.key(0), held, seen, True)
    np.testing.assert_allclose(found, alone.mean(0), rtol=1e-5)
    drawn = mixture(each).act(jax.random.key(0), held, seen, False)
    assert drawn.shape == found.shape
    assert mixture(each).probabilities is None


def test_actions_of_several_axes_keep_their_entries_in_a_mixture_and_in_an_average():
    # The action of each policy is its own table, whatever it observes.
    learner = replace(
        a2c(probe_target(), network=mlp((4,)), num_envs=2, num_steps=2),
        act=lambda key, params, seen, greedy: jnp.repeat(params[..., None], seen.shape[-1], -1),
        probabilities=None,
    )
    tables, seen = jnp.stack([jnp.arange(6.0).reshape(2, 3)] * 4), jnp.ones((1, 5))
    expected = np.repeat(np.asarray(tables[0])[..., None], 5, -1)
    np.testing.assert_array_equal(mixture(learner).act(jax.random.key(0), tables, seen, False), expected)
    average, _ = acting_on_average(learner, 4)
    held = {"policies": tables, "share": jnp.full(4, 0.25), "current": tables[0]}
    np.testing.assert_array_equal(average(jax.random.key(0), held, seen, False), expected)


def test_a_mixture_is_evaluated_like_any_policy_and_is_shared():
    learner = by_table()
    tables = {"q": jnp.stack([likes(0)["q"], likes(0)["q"], likes(1)["q"]])}
    np.testing.assert_array_equal(greedy_returns(mixture(learner), MOSTLY, tables, 4, 0).mean(1), [1.0, 1.0, 1.0, 0.0])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: accept_if_better(by_table(), trials=0), "trials is 0"),
        (lambda: accept_if_better(by_table(), margin=-1.0), r"margin is -1\.0"),
        (lambda: with_embedding(size=0), "size is 0"),
        (lambda: freeze_except(by_table(), trainable=["embedding"]), "trainable has 'embedding'"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
