"""What is refused goes by what a record says of itself, not by how it was built."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrl.aggregators import mean
from fedrl.clocks import clock
from fedrl.core.environment import Environment, HostEnvironment
from fedrl.core.errors import ConfigError, UnsoundError
from fedrl.engines.combinations import check
from fedrl.engines.executors.host import Host
from fedrl.engines.simulate import simulate
from fedrl.engines.topologies.choices import gossip
from fedrl.environments import cartpole, fleet, gridworld, model_of, windy_cliff
from fedrl.environments.adapters.gymnasium import gymnasium
from fedrl.federation.federate import federate
from fedrl.learners import a2c, mlp, sgd
from fedrl.server import greedy
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import fed_async, fed_buff, synchronous
from fedrl.stages import clip, lag
from fedrl.topologies import complete, metropolis, ring
from tests.support.hidden import veil
from tests.support.quadratic import FLEET, quadratic

LEARNER = quadratic(sgd(0.1))
CART = gymnasium("CartPole-v1", max_steps=20)


def without_server(federation):
    check(federation, 4, gossip(ring(), metropolis()), Scheduler(), None)


def on_a_clock(schedule):
    return lambda federation: check(federation, 4, None, Scheduler(schedule), clock())


def under_a_budget(federation):
    simulate(federation, FLEET, scheduler=Scheduler(upload_budget=greedy(1000)))


def on_the_host(federation):
    fleet_of_one = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], federation.learner.environment.params)
    simulate(federation, fleet_of_one, executor=Host).close()


REFUSED = {
    "a stage without a server": (
        lambda: federate(LEARNER, mean(), clip(1.0)),
        without_server,
        "no contraction. Without a server",
    ),
    "a server optimiser without a server": (
        lambda: federate(LEARNER, mean(), server_optimizer=optax.adam(0.1)),
        without_server,
        "Leave .* out, or run the federation with a server",
    ),
    "gradients without a server": (lambda: federate(LEARNER, mean(), payload="gradient"), without_server, "gradient"),
    "hidden updates that never meet": (
        lambda: federate(LEARNER, mean("uniform"), summation=veil()),
        on_a_clock(fed_buff(2)),
        "hides updates in the sum",
    ),
    "gradients to mix with parameters": (
        lambda: federate(LEARNER, mean(), payload="gradient"),
        on_a_clock(fed_async()),
        "mixes the parameters",
    ),
    "withheld updates to mix with parameters": (
        lambda: federate(LEARNER, mean(), lag()),
        on_a_clock(fed_async()),
        "an update withheld by",
    ),
    "bids that nobody makes": (lambda: federate(LEARNER, mean()), under_a_budget, "does not report it"),
    "compiled environments on the host": (lambda: federate(LEARNER, mean()), on_the_host, "no host environment"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("altered", [False, True], ids=["as built", "altered"])
def test_a_federation_is_refused_however_it_came_to_be(case, altered):
    build, run, message = REFUSED[case]
    federation = build()
    if altered:
        learner = dataclasses.replace(federation.learner)
        stages = tuple(dataclasses.replace(stage) for stage in federation.stages)
        federation = dataclasses.replace(federation, learner=learner, stages=stages)
        assert federation.call is None
    with pytest.raises((ConfigError, UnsoundError), match=message):
        run(federation)


@pytest.mark.parametrize("altered", [False, True], ids=["as built", "altered"])
def test_host_environments_run_without_a_server_and_on_a_clock(altered):
    learner = a2c(CART, network=mlp(hidden=(4,)), num_envs=2, num_steps=3)
    federation = federate(dataclasses.replace(learner) if altered else learner, mean())
    agents = fleet(CART, 3)
    with simulate(federation, agents, topology=gossip(complete(), metropolis()), workers=0) as simulation:
        run_state, _ = simulation.round(simulation.init(0))
        for leaf in jax.tree.leaves(simulation.params_of(simulation.adopt(run_state))):
            np.testing.assert_allclose(leaf, np.broadcast_to(leaf[:1], leaf.shape), rtol=1e-5, atol=1e-6)
    devices = clock(step_s=[1.0, 2.0, 3.0])
    with simulate(federation, agents, scheduler=synchronous(), clock=devices, workers=0) as simulation:
        times = [seen.clock_stats.time_s for seen in rounds(simulation, 2)]
    assert times == [3.0, 6.0]


def rounds(simulation, count):
    run_state = simulation.init(0)
    for _ in range(count):
        run_state, seen = simulation.round(run_state)
        yield seen


def test_a_federation_says_what_it_is_made_of():
    optimizer = optax.adam(0.1)
    stage = clip(1.0)
    federation = federate(LEARNER, mean(), stage, server_optimizer=optimizer, reports=["norm"])
    assert federation.stages == (stage,)
    assert federation.server_optimizer is optimizer
    assert (federation.payload, federation.reports) == ("delta", ("norm",))
    assert federate(LEARNER, mean(), payload="gradient").payload == "gradient"
    assert federate(LEARNER, mean()).server_optimizer is None


def test_an_altered_environment_keeps_its_model_its_variants_and_its_picture(tmp_path):
    altered = dataclasses.replace(gridworld("S..G"), max_steps=7)
    assert altered.call is None
    np.testing.assert_array_equal(model_of(altered).transition, model_of(gridworld("S..G")).transition)
    windy = dataclasses.replace(windy_cliff(), max_steps=7)
    thetas = fleet(windy, 2, {"theta": [0.0, 1.0]})
    expected = fleet(windy_cliff(), 2, {"theta": [0.0, 1.0]})
    np.testing.assert_array_equal(thetas.transition, expected.transition)
    assert not np.array_equal(thetas.transition[0], thetas.transition[1])
    assert altered.picture is not None
    assert dataclasses.replace(cartpole()).picture is not None


def test_an_environment_is_compiled_or_on_the_host():
    assert isinstance(cartpole(), Environment)
    assert isinstance(CART, HostEnvironment)
    assert not hasattr(CART, "step")
