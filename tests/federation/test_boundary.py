"""Only an `Update` leaves an agent: by what crosses, and by what the server can know."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.aggregators import mean, median
from fedrl.core.aggregator import Arrivals
from fedrl.core.faults import FAULT
from fedrl.core.keys import turn_below
from fedrl.core.types import Broadcast, Update
from fedrl.engines.simulate import simulate
from fedrl.environments import cartpole
from fedrl.federation.federate import federate
from fedrl.federation.federation import Federation
from fedrl.learners import add_correction, chain, network, ppo, sgd
from fedrl.stages import clip, error_feedback, quantize, scaffold, top_k
from tests.support.quadratic import FLEET, quadratic

DEVICE = jax.devices()[:1]
INSTANCES, STEPS = 11, 13  # numbers that no shape of the parameters has
PIPELINES = [(), (clip(1.0),), (error_feedback(top_k(0.5), quantize(8)),), (scaffold(0.1),)]


def shapes(tree) -> list[tuple[int, ...]]:
    return [leaf.shape for leaf in jax.tree.leaves(tree)]


def linear_ppo(instances: int = INSTANCES, steps: int = STEPS):
    linear = network(lambda key, space, outputs, gain: jnp.zeros((outputs, 4)), jnp.matmul)
    steered = chain(add_correction(), sgd(0.1))  # as control variates ask for
    return ppo(cartpole(), network=linear, optimizer=steered, num_envs=instances, num_steps=steps, num_minibatches=1)


def outputs_of(federation: Federation):
    """The shapes of all that one agent's half returns: update, state, metrics; and of the broadcast it was given."""

    def once(key):
        sent = federation.broadcast(federation.init_server(key))
        agent = federation.init_agent(key, jnp.int32(0), federation.learner.environment.params, jnp.int32(1))
        return sent, federation.agent(turn_below(key), sent, agent, jnp.int32(1))

    return jax.eval_shape(once, jax.random.key(0))


def test_an_update_is_a_value_shaped_like_the_parameters_a_weight_and_a_version():
    sent, (update, _, _) = outputs_of(federate(linear_ppo(), mean()))
    assert type(update) is Update
    assert Update._fields == ("value", "weight", "version", "statistics", "report")
    assert (update.statistics, update.report) == ({}, {})
    assert jax.tree.structure(update.value) == jax.tree.structure(sent.params)
    assert shapes(update.value) == shapes(sent.params)
    assert (update.weight.shape, update.version.shape) == ((), ())


def test_a_broadcast_is_parameters_shared_state_and_a_version():
    sent, _ = outputs_of(federate(linear_ppo(), mean(), clip(1.0)))
    assert Broadcast._fields == ("params", "stage_states", "version")
    assert shapes(sent) == [*shapes(sent.params), ()]


@pytest.mark.parametrize("stages", PIPELINES, ids=repr)
def test_no_part_of_an_update_grows_with_the_experience(stages):
    """Observations, actions, rewards and episodes come in instances and steps; nothing that leaves does."""
    small, large = (
        outputs_of(federate(linear_ppo(*size), mean(), *stages))[1] for size in [(2, 3), (INSTANCES, STEPS)]
    )
    assert shapes(small[0]) == shapes(large[0])
    assert not {INSTANCES, STEPS, INSTANCES * STEPS} & {size for shape in shapes(large[0]) for size in shape}
    assert shapes(small[1]) != shapes(large[1])  # the state that stays does


def listening(federation: Federation) -> tuple[Federation, list]:
    """The same federation, with a record of all that its server's half is ever handed."""
    heard: list = []

    def recorded(name):
        step = getattr(federation, name)

        def recording(*inputs):
            heard.append((name, jax.tree.map(jnp.shape, inputs)))
            return step(*inputs)

        return recording

    ears = {name: recorded(name) for name in ("decode", "aggregate", "commit", "server")}
    return replace(federation, **ears), heard


@pytest.mark.parametrize("rule", [mean(), median()], ids=repr)
def test_all_that_the_engine_hands_the_server_is_updates(rule):
    federation, heard = listening(federate(quadratic(sgd(0.1)), rule))
    simulation = simulate(federation, FLEET, devices=DEVICE)
    simulation.round(simulation.init(0))
    agents = 1 if rule == mean() else 4  # of a sum, the server sees the sum
    one = Update({"head": (1,), "tail": (1, 2)}, (), ())
    stacked = Update({"head": (agents, 1), "tail": (agents, 1, 2)}, (agents,), (agents,))
    assert {name for name, _ in heard} == {"decode", "aggregate", "commit"}
    expected = {
        "decode": one,
        "aggregate": stacked,
        "commit": one,
    }  # the update each is handed, beside the server's own
    own = {"decode": {0}, "aggregate": {0, 1, 2}, "commit": {0, 1, 3}}
    for name, inputs in heard:
        assert [x for i, x in enumerate(inputs) if i not in own[name]] == [expected[name]]
    for _, (_, whose, *_) in ((name, inputs) for name, inputs in heard if name == "aggregate"):
        assert whose == Arrivals((agents,), (agents,))  # two numbers for each, which the engine states


def silenced(federation: Federation) -> Federation:
    """Agents that learn as ever, and say nothing: every update is all zeros, of weight one."""

    def agent(*given):
        update, state, metrics = federation.agent(*given)
        value, statistics = jax.tree.map(jnp.zeros_like, (update.value, update.statistics))
        return Update(value, jnp.float32(1.0), update.version, statistics), state, metrics

    return replace(federation, agent=agent)


def rounds(federation: Federation, fleet):
    simulation = simulate(federation, fleet, devices=DEVICE)
    run_state = simulation.init(0)
    for _ in range(3):
        run_state, seen = simulation.round(run_state)
    return run_state.server, seen.metrics["loss"]


@pytest.mark.parametrize(
    ("rule", "stages"),
    [(mean(), stages) for stages in PIPELINES] + [(median(), stages) for stages in PIPELINES[:-1]],
    ids=repr,
)
def test_with_the_updates_silenced_the_server_knows_nothing_of_the_agents(rule, stages):
    """Non-interference: two fleets that differ in everything leave the same server, bit for bit."""
    federation = federate(quadratic(chain(add_correction(), sgd(0.1))), rule, *stages, local_steps=2)
    other = jax.tree.map(lambda x: np.float32(3.0) - 2 * x[::-1], FLEET)
    (mine, losses), (theirs, other_losses) = (rounds(silenced(federation), fleet) for fleet in (FLEET, other))
    jax.tree.map(np.testing.assert_array_equal, mine, theirs)
    assert not np.array_equal(losses, other_losses)  # the agents themselves did see different things


def test_with_the_updates_heard_the_server_does_learn():
    federation = federate(quadratic(sgd(0.1)), mean())
    other = jax.tree.map(lambda x: np.float32(3.0) - 2 * x[::-1], FLEET)
    mine, theirs = (rounds(federation, fleet)[0].params["head"] for fleet in (FLEET, other))
    assert not np.array_equal(mine, theirs)


def test_metrics_do_not_reach_the_server():
    federation = federate(quadratic(sgd(0.1)), mean())

    def boasting(*given):
        update, state, metrics = federation.agent(*given)
        return update, state, {name: x if name == FAULT else x * jnp.nan for name, x in metrics.items()}

    (honest, _), (boasted, lost) = rounds(federation, FLEET), rounds(replace(federation, agent=boasting), FLEET)
    jax.tree.map(np.testing.assert_array_equal, honest, boasted)
    assert np.isnan(lost).all()
