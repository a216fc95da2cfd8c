"""Personal parts, interpolation and APFL against closed forms and plain NumPy on heterogeneous quadratics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.aggregators import mean
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.learner import iterate, policy_of
from fedrl.core.subtrees import belonging, joined, without
from fedrl.core.types import LocalContext
from fedrl.engines.messages import messages
from fedrl.engines.simulate import simulate
from fedrl.engines.topologies.choices import isolated, server
from fedrl.environments import cartpole, probe_match
from fedrl.federation.federate import federate
from fedrl.learners import a2c, apfl, chain, fedprox, interpolate, mlp, normalize, personal, sgd
from fedrl.stages import download_only, quantize
from tests.support.quadratic import FLEET, flat, quadratic, simulated_rounds

CURVATURE, MINIMUM = FLEET.curvature.astype(np.float64), FLEET.minimum.astype(np.float64)
RATE, STEPS, DEVICE = 0.1, 3, jax.devices()[:1]
SHRINK = (1 - RATE * CURVATURE) ** STEPS


def policies(learner, rounds=150, communicates=True, **options):
    """What each agent acts with after so many rounds, having heard the server once more."""
    federation = federate(learner, mean(), **({"local_steps": STEPS} | options))
    simulation = simulate(federation, FLEET, topology=server() if communicates else isolated(), devices=DEVICE)
    run_state = simulation.init(0)
    for _ in range(rounds):
        run_state, seen = simulation.round(run_state)
    adopted = simulation.adopt(run_state) if communicates else run_state
    return flat(simulation.params_of(adopted)), run_state, seen


def losses(x):
    return 0.5 * (CURVATURE * (x - MINIMUM) ** 2).sum(1)


@pytest.fixture(scope="module")
def alike():
    return policies(quadratic(sgd(RATE)))[0]


@pytest.fixture(scope="module")
def with_a_tail_of_its_own():
    return policies(personal(quadratic(sgd(RATE)), local=["tail"]))


def test_a_personal_part_finds_each_agents_own_optimum_and_the_rest_that_of_all(alike, with_a_tail_of_its_own):
    found, _, _ = with_a_tail_of_its_own
    np.testing.assert_allclose(found[:, 1:], MINIMUM[:, 1:], atol=5e-5)
    np.testing.assert_allclose(found[:, :1], alike[:, :1], atol=1e-6)


def test_personalised_is_no_worse_than_global_on_any_agent(alike, with_a_tail_of_its_own):
    found, _, _ = with_a_tail_of_its_own
    np.testing.assert_array_less(losses(found), losses(alike))
    assert losses(alike).min() > 0.1


def test_what_is_kept_is_in_no_message(with_a_tail_of_its_own):
    _, run_state, seen = with_a_tail_of_its_own
    assert run_state.server.params["tail"] is None
    assert seen.bytes_up == 4 * (4 * 1 + 8)  # four agents: one of three numbers, weight and version


def test_kept_parts_feel_no_anchor_that_is_not_there():
    """With one step a round, FedProx pulls only what is shared; the rest walks freely to its optimum."""
    found, _, _ = policies(personal(quadratic(chain(fedprox(5.0), sgd(RATE))), local=["tail"]), local_steps=1)
    alone = MINIMUM * (1 - (1 - RATE * CURVATURE) ** 150)
    np.testing.assert_allclose(found[:, 1:], alone[:, 1:], atol=1e-5)


def test_sharing_the_critic_only_leaves_every_actor_its_own():
    learner = personal(a2c(probe_match(), network=mlp((4,)), num_envs=2, num_steps=4), local=["actor"])
    fleet = jax.tree.map(lambda x: jnp.stack([x] * 3), probe_match().params)
    simulation = simulate(federate(learner, mean()), fleet, devices=DEVICE)
    run_state, seen = simulation.round(simulated_rounds(simulation, 1))
    held = simulation.params_of(simulation.adopt(run_state))
    critic = jax.tree.leaves(jax.tree.map(lambda x: x[0], held["critic"]))
    assert seen.bytes_up == 3 * (sum(x.nbytes for x in critic) + 8)  # and a weight and a version; no actor
    weight = held["critic"][0]["weight"]
    np.testing.assert_array_equal(weight, np.broadcast_to(weight[0], weight.shape))
    assert np.ptp(held["actor"][0]["weight"], axis=0).min() > 1e-4


def counting():
    return normalize(a2c(cartpole(), network=mlp((4,)), num_envs=2, num_steps=4))


def test_kept_statistics_are_an_agents_own_and_shared_ones_are_merged():
    assert personal(counting(), local=["moments"]).statistics is None
    assert personal(counting(), local=["critic"]).statistics is not None
    fleet = jax.tree.map(lambda x: np.full(3, x, np.float32), cartpole().params)
    fleet = fleet._replace(length=np.float32([0.1, 1.0, 5.0]))
    for keep, samples in [("moments", 2 * 8), ("critic", 3 * 2 * 8)]:  # two rounds of two instances, four steps each
        simulation = simulate(federate(personal(counting(), local=[keep]), mean()), fleet, devices=DEVICE)
        held = simulation.params_of(simulation.adopt(simulated_rounds(simulation, 2)))["moments"]["observation"]
        np.testing.assert_array_equal(held.samples, samples)
        assert (np.ptp(held.mean, axis=0).max() > 0) == (keep == "moments")


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (["tial"], "local has 'tial'.*Did you mean 'tail'"),
        (["head", "tail"], "which is every parameter"),
    ],
)
def test_parts_that_make_no_sense_are_refused(keep, message):
    with pytest.raises(ConfigError, match=message):
        personal(quadratic(sgd(RATE)), local=keep)


def test_statistics_are_kept_wholly_or_not_at_all():
    with pytest.raises(ConfigError, match="Name all of them"):
        personal(counting(), local=["return"])


def test_a_personal_learner_sends_no_gradients():
    with pytest.raises(UnsoundError, match="gradient"):
        federate(personal(quadratic(sgd(RATE)), local=["tail"]), mean(), payload="gradient")


def test_parts_are_named_by_any_run_of_their_path():
    tree = {"actor": ({"weight": 1, "bias": 2}, {"weight": 3, "bias": 4}), "critic": {"bias": 5}}
    for parts, expected in [
        (["critic"], [5]),
        (["actor/0"], [1, 2]),
        (["actor/-1"], [3, 4]),
        (["bias"], [2, 4, 5]),
        (["-1/weight", "critic"], [3, 5]),
        (["acto"], []),
    ]:
        chosen = [x for x, inside in zip(jax.tree.leaves(tree), belonging(tree, parts), strict=True) if inside]
        assert sorted(chosen) == expected
    assert jax.tree.leaves(without(tree, ["actor"])) == [5]
    assert joined(without(tree, ["bias"]), tree) == tree


def test_what_flows_one_way_stays_as_the_server_had_it_and_costs_nothing():
    federation = federate(quadratic(sgd(RATE)), mean(), download_only(["tail"]), quantize(8), local_steps=STEPS)
    simulation = simulate(federation, FLEET, devices=DEVICE)
    run_state, seen = simulation.round(simulation.init(0))
    np.testing.assert_array_equal(flat(run_state.server.params)[1:], 0.0)
    assert abs(flat(run_state.server.params)[0]) > 0.1
    assert np.abs(flat(simulation.params_of(run_state))[:, 1:]).max() > 0.05  # the agents did train it
    plain = messages(federate(quadratic(sgd(RATE)), mean(), quantize(8)), FLEET)
    assert seen.bytes_up < 4 * plain.up_bytes


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_interpolation_settles_where_it_is_computed_to(share):
    found, _, _ = policies(interpolate(quadratic(sgd(RATE)), share))
    x = np.zeros_like(MINIMUM)
    for _ in range(150):
        trained = MINIMUM + SHRINK * (x - MINIMUM)
        x = trained + share * (trained.mean(0) - trained)
    np.testing.assert_allclose(found, x, atol=3e-5)


def test_the_less_is_taken_over_the_better_an_agent_does_at_home_here(alike):
    found = [losses(policies(interpolate(quadratic(sgd(RATE)), share))[0]) for share in (0.5, 0.1)]
    np.testing.assert_array_less(found[0], losses(alike))
    np.testing.assert_array_less(found[1], found[0])


def test_alone_an_interpolating_agent_is_alone():
    alone, _, _ = policies(quadratic(sgd(RATE)), rounds=5, communicates=False)
    found, _, _ = policies(interpolate(quadratic(sgd(RATE)), 0.3), rounds=5, communicates=False)
    np.testing.assert_array_equal(found, alone)


@pytest.mark.parametrize("rate", [0.0, 0.2])
def test_apfl_is_the_papers_algorithm(rate):
    rounds, share = 20, np.full(4, 0.4)
    found, run_state, _ = policies(apfl(quadratic(sgd(RATE)), 0.4, rate), rounds)
    server, v = np.zeros(3), np.zeros_like(MINIMUM)
    for _ in range(rounds):
        w = np.tile(server, (4, 1))
        for _ in range(STEPS):
            mixed = share[:, None] * v + (1 - share)[:, None] * w
            slope = CURVATURE * (mixed - MINIMUM)
            change = rate * (-RATE * slope * (v - w)).sum(1)
            w = w - RATE * CURVATURE * (w - MINIMUM)
            v = v - RATE * share[:, None] * slope
            share = np.clip(share + change, 0, 1)
        server = w.mean(0)
    np.testing.assert_allclose(flat(run_state.server.params), server, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found, share[:, None] * v + (1 - share)[:, None] * server, rtol=1e-4, atol=1e-5)
    assert (np.abs(share - 0.4).max() > 0.01) == (rate > 0)


def test_apfl_takes_two_iterations_of_experience_for_one():
    assert apfl(quadratic(sgd(RATE), samples=8)).samples == 16


@pytest.mark.parametrize("wrap", [interpolate, apfl])
def test_interpolation_refuses_what_has_no_value_in_between(wrap):
    with pytest.raises(ConfigError, match=r"share is 1\.5"):
        wrap(quadratic(sgd(RATE)), 1.5)
    with pytest.raises(ConfigError, match="has statistics, and"):
        wrap(counting())
    with pytest.raises(ConfigError, match="personalised already"):
        wrap(personal(quadratic(sgd(RATE)), local=["tail"]))


def test_normalisation_goes_around_interpolation():
    learner = normalize(interpolate(a2c(cartpole(), network=mlp((4,)), num_envs=2, num_steps=4)))

    def go(key):
        state = learner.init(key, cartpole().params)
        params = learner.params(state)
        state, _ = iterate(learner, key, state, LocalContext(params, jax.tree.map(jnp.zeros_like, params)))
        return policy_of(learner, learner.adopt(state, params)), params

    policy, params = jax.eval_shape(go, jax.random.key(0))
    assert jax.tree.structure(policy) == jax.tree.structure(params)
