"""Runs that start from what another one has learned: deterministic learners go on as if they had never stopped."""

import jax
import numpy as np
import pytest

from fedrl.aggregators import mean, median
from fedrl.clocks import clock
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.core.learner import environment_in, policy_of, policy_shapes, restored
from fedrl.engines.continuing import named
from fedrl.engines.simulate import simulate as simulated
from fedrl.engines.topologies.choices import gossip, isolated
from fedrl.environments import cartpole, gridworld
from fedrl.environments.fleet import fleet
from fedrl.federation.federate import federate
from fedrl.federation.parts import part
from fedrl.learners import (
    accept_if_better,
    add_correction,
    apfl,
    chain,
    freeze_except,
    interpolate,
    mlp,
    normalize,
    personal,
    ppo,
    q_table,
    sgd,
)
from fedrl.server import fedadam
from fedrl.stages import error_feedback, quantize, scaffold, top_k
from fedrl.topologies import gradient_tracking, metropolis, ring, tree
from tests.support.quadratic import FLEET, quadratic

BEFORE, AFTER = 4, 3
DEVICE = jax.local_devices()[:1]
PLAIN, STEERED = quadratic(sgd(0.1)), quadratic(chain(add_correction(), sgd(0.1)))
POLE = cartpole(max_steps=20)
SMALL = ppo(POLE, network=mlp([8]), num_envs=2, num_steps=8, num_epochs=1, num_minibatches=2)
TABLE = q_table(gridworld("S..G", max_steps=20), num_envs=2, num_steps=8)
LEARNERS = {
    "ppo": SMALL,
    "normalize": normalize(SMALL),
    "personal": personal(SMALL, ["actor"]),
    "personal moments": personal(normalize(SMALL), ["moments"]),
    "interpolate": interpolate(SMALL),
    "apfl": apfl(SMALL),
    "accept_if_better": accept_if_better(SMALL, trials=1, horizon=4),
    "freeze_except": freeze_except(SMALL, ["critic"]),
    "q_table": TABLE,
}
SIMULATIONS = {
    "FedAdam": lambda fleet: simulate(federate(PLAIN, mean(), server_optimizer=fedadam(0.1)), fleet),
    "SCAFFOLD": lambda fleet: simulate(federate(STEERED, mean("uniform"), scaffold(0.1)), fleet),
    "error feedback": lambda fleet: simulate(federate(PLAIN, median(), error_feedback(top_k(0.4))), fleet),
    "down stages": lambda fleet: simulate(federate(PLAIN, mean(), down_stages=(top_k(0.4),)), fleet),
    "tree": lambda fleet: simulate(federate(PLAIN, mean()), fleet, topology=tree([2], periods=[1, 2])),
    "gossip": lambda fleet: simulate(
        federate(STEERED, mean()), fleet, topology=gossip(ring(), metropolis(), gradient_tracking(0.1))
    ),
    "CHOCO": lambda fleet: simulate(federate(PLAIN, mean(), top_k(0.4)), fleet, topology=gossip(ring(), metropolis())),
    "clock": lambda fleet: simulate(
        federate(PLAIN, mean(), server_optimizer=fedadam(0.1)), fleet, clock=clock(step_s=1.0)
    ),
    "alone": lambda fleet: simulate(federate(PLAIN, mean()), fleet, topology=isolated()),
}


def simulate(federation, fleet, **options):
    return simulated(federation, fleet, devices=DEVICE, **options)


def rounds(simulation, run_state, count):
    for _ in range(count):
        run_state, _ = simulation.round(run_state)
    return run_state


def same(one, other):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), one, other)


@pytest.mark.parametrize("case", SIMULATIONS)
def test_a_run_that_starts_from_a_whole_state_goes_on_to_the_same_bits(case):
    with SIMULATIONS[case](FLEET) as simulation:
        whole = rounds(simulation, simulation.init(0), BEFORE + AFTER)
        halfway = rounds(simulation, simulation.init(0), BEFORE)
        again = simulation.init(5, earlier=halfway)
        assert int(again.server.version) == 0
        same(simulation.params_of(rounds(simulation, again, AFTER)), simulation.params_of(whole))
        assert halfway.server.params is not None  # the earlier state can be used again
        same(simulation.params_of(rounds(simulation, halfway, AFTER)), simulation.params_of(whole))


@pytest.mark.parametrize("case", SIMULATIONS)
def test_a_run_that_starts_from_a_policy_has_it_everywhere(case):
    policy = {"head": np.array([0.5], np.float32), "tail": np.array([[-1.0, 2.0]], np.float32)}
    with SIMULATIONS[case](FLEET) as simulation:
        run_state = simulation.init(3, params=policy)
        for k in range(len(FLEET.minimum)):
            same(jax.tree.map(lambda x, k=k: x[k], simulation.params_of(run_state)), policy)
            same(jax.tree.map(lambda x, k=k: x[k], simulation.params_of(simulation.adopt(run_state))), policy)
        moved = simulation.params_of(rounds(simulation, run_state, 1))
        elsewhere = simulation.params_of(rounds(simulation, simulation.init(3), 1))
        assert not np.array_equal(moved["tail"], elsewhere["tail"])


def test_the_environments_of_a_whole_state_stay_those_of_the_new_run():
    lands = [fleet(TABLE.environment, 2, {"slip": x}) for x in (0.1, 0.2)]
    simulations = [simulate(federate(TABLE, mean()), each) for each in lands]
    halfway = rounds(simulations[0], simulations[0].init(0), 2)
    moved, before = simulations[1].states_of(simulations[1].init(0, earlier=halfway)), simulations[0].states_of(halfway)
    same(moved.env_params, lands[1])
    same((moved.params, moved.position), (before.params, before.position))


@pytest.mark.parametrize("case", LEARNERS)
def test_every_learner_takes_the_parameters_of_a_policy_and_knows_what_is_of_its_environment(case):
    learner = LEARNERS[case]
    draw = np.random.default_rng(0)
    policy = jax.tree.map(
        lambda x: draw.uniform(0.5, 1.0, x.shape).astype(x.dtype) if x.dtype == np.float32 else x,
        policy_shapes(learner),
    )
    policy = jax.tree.map(lambda x: np.ones(x.shape, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x, policy)
    state = restored(learner, learner.init(jax.random.key(0), learner.environment.params), policy)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), policy_of(learner, state), policy)
    names = [name for name, own in zip(named(state), environment_in(learner), strict=True) if own]
    assert names == [name for name in named(state) if "env_params" in name] != []


def test_an_agent_that_restarts_begins_from_the_policy_of_the_run():
    policy = {"head": np.array([8.0], np.float32), "tail": np.array([[8.0, 8.0]], np.float32)}
    always = clock(step_s=1.0, restart=0.999)
    for topology in (None, gossip(ring(), metropolis())):
        simulation = simulate(federate(PLAIN, mean()), FLEET, clock=always, topology=topology)
        run_state = rounds(simulation, simulation.init(0, params=policy), 2)
        assert run_state.engine_state.team.restarts.max() > 0
        assert np.asarray(simulation.params_of(run_state)["tail"]).min() > 4.0


def test_what_does_not_fit_is_refused_by_name_with_both_shapes():
    simulation = simulate(federate(PLAIN, mean()), FLEET)
    for params, words in (
        ({"head": np.zeros(1, np.float32)}, "params has no array tail, which this run needs as float32[1, 2]. Use"),
        (
            {"head": np.zeros(2, np.float32), "tail": np.zeros((1, 2), np.float32)},
            "params has the array head as float32[2], and this run needs it as float32[1]. Use",
        ),
        (
            {"head": np.zeros(1), "tail": np.zeros((1, 2), np.float32)},
            "params has the array head as float64[1], and this run needs it as float32[1]. Use",
        ),
    ):
        with pytest.raises(ConfigError) as refused:
            simulation.init(0, params=params)
        assert str(refused.value).startswith(words)
    smaller = simulate(federate(PLAIN, mean()), jax.tree.map(lambda x: x[:2], FLEET))
    with pytest.raises(ConfigError, match=r"params/head as float32\[2, 1\], and this run needs it as float32\[1, 1\]"):
        smaller.init(0, earlier=simulation.init(0))


def test_what_is_merged_in_periods_is_continued_after_whole_ones_only():
    nested = simulate(federate(PLAIN, mean()), FLEET, topology=tree([2], periods=[1, 2]))
    with pytest.raises(UnsoundError, match="in version 3, in the middle of a period of 2 versions"):
        nested.init(0, earlier=rounds(nested, nested.init(0), 3))
    parted = simulate(federate(PLAIN, mean(), parts=[part("head", every=2)]), FLEET)
    with pytest.raises(UnsoundError, match="a part of the parameters is merged in a period"):
        parted.init(0, earlier=rounds(parted, parted.init(0), 2))


def test_quantised_updates_of_a_continued_run_are_drawn_anew():
    simulation = simulate(federate(PLAIN, mean(), quantize(2)), FLEET)
    halfway = rounds(simulation, simulation.init(0), BEFORE)
    one, other = (rounds(simulation, simulation.init(seed, earlier=halfway), 1) for seed in (0, 1))
    assert not np.array_equal(one.server.params["tail"], other.server.params["tail"])
