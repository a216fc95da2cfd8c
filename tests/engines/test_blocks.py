"""What agents in compiled blocks guarantee: the same bits however agents are spread, and nothing compiled twice."""

import hashlib
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fedrl.aggregators import afl, mean, median, q_ffl, weight_by_diversity
from fedrl.core.component import component
from fedrl.core.errors import ConfigError
from fedrl.core.stage import Stage
from fedrl.engines.simulate import simulate
from fedrl.engines.state import block_size
from fedrl.engines.topologies.choices import isolated
from fedrl.environments import cartpole
from fedrl.federation.federate import federate
from fedrl.learners import adam, network, ppo, sgd
from fedrl.server import fedadam
from fedrl.server.decisions import LocalSteps
from fedrl.server.scheduler import Scheduler
from fedrl.stages import error_feedback, quantize, top_k
from tests.support.quadratic import Valley, flat, quadratic

AGENTS, BLOCK, ROUNDS, SIZE = 13, 5, 20, 6
DEVICES = jax.devices()
draws = np.random.default_rng(7)
FLEET = Valley(
    draws.uniform(0.2, 2.0, (AGENTS, SIZE)).astype(np.float32), draws.normal(size=(AGENTS, SIZE)).astype(np.float32)
)
WORK = [1 + k % 3 for k in range(AGENTS)]
SHUFFLED = np.random.default_rng(1).permutation(AGENTS).tolist()
PADDED = [-1, 3, 12, -1, 0, 1, 2, -1, -1, 4, 11, -1, 10, 5, 6, -1, -1, 7, 8, 9]  # -1 is an empty seat


def fingerprint(tree) -> str:
    """SHA-256 over every bit of every array."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(tree):
        digest.update(np.asarray(leaf).tobytes())
    return digest.hexdigest()


def cohort_of(round_: int) -> list[int] | None:
    """Everyone at first, then a different few each round."""
    return None if round_ < 5 else np.random.default_rng(round_).choice(AGENTS - 1, 6, replace=False).tolist()


def ran(simulation, rounds: int = ROUNDS, cohort=cohort_of):
    run_state = simulation.init(0)
    for i in range(rounds):
        run_state, seen = simulation.round(run_state, cohort=cohort(i))
    return run_state, seen


LEARNER = quadratic(sgd(0.1, momentum=0.5), size=SIZE, samples=3)
STAGES = (error_feedback(top_k(0.5), quantize(4)),)
BY_SUM = federate(LEARNER, mean(), *STAGES, server_optimizer=fedadam(0.1), local_steps=3)
BY_EACH = federate(LEARNER, median(), *STAGES, local_steps=3)


@pytest.fixture(scope="module")
def expected():
    """The hash after 20 rounds on one device, agents in order."""
    simulation = simulate(BY_SUM, FLEET, local_steps=WORK, block=BLOCK, devices=DEVICES[:1])
    run_state, _ = ran(simulation)
    return fingerprint(run_state.server), fingerprint(simulation.params_of(run_state))


@pytest.mark.parametrize(("devices", "order"), [(2, None), (1, PADDED)], ids=["two devices", "any order and padding"])
def test_twenty_rounds_give_the_same_bits(expected, devices, order):
    assert len(DEVICES) >= 2
    simulation = simulate(BY_SUM, FLEET, local_steps=WORK, block=BLOCK, devices=DEVICES[:devices], order=order)
    run_state, _ = ran(simulation)
    assert (fingerprint(run_state.server), fingerprint(simulation.params_of(run_state))) == expected


def test_the_fingerprint_sees_a_single_bit():
    x = np.ones(3, np.float32)
    assert fingerprint([x]) != fingerprint([np.nextafter(x, 2.0, dtype=np.float32)])


def test_an_agent_that_is_never_asked_leaves_no_trace():
    ids = list(range(AGENTS - 1))
    with_it = simulate(BY_SUM, FLEET, local_steps=WORK, block=BLOCK, devices=DEVICES[:1])
    without = simulate(
        BY_SUM, jax.tree.map(lambda x: x[:-1], FLEET), local_steps=WORK[:-1], block=BLOCK, devices=DEVICES[:1]
    )
    a, _ = ran(with_it, 8, lambda i: ids)
    b, _ = ran(without, 8, lambda i: None)
    assert fingerprint(a.server) == fingerprint(b.server)
    np.testing.assert_array_equal(flat(with_it.params_of(a))[-1], 0.0)  # it has not moved, either


def test_a_rule_that_sees_each_update_gives_the_same_bits_on_two_devices():
    one, two = (simulate(BY_EACH, FLEET, local_steps=WORK, block=BLOCK, devices=DEVICES[:n]) for n in (1, 2))
    assert fingerprint(ran(one)[0].server) == fingerprint(ran(two)[0].server)


@pytest.mark.parametrize("rule", [weight_by_diversity(), q_ffl(), afl(AGENTS)], ids=repr)
def test_a_rule_that_adds_up_by_itself_gives_the_same_bits_in_any_order(rule):
    learner = quadratic(sgd(0.1), size=SIZE, samples=3)
    orders = (
        simulate(federate(learner, rule), FLEET, block=BLOCK, devices=DEVICES[:1], order=order)
        for order in (None, SHUFFLED, PADDED)
    )
    assert len({fingerprint(ran(simulation)[0].server) for simulation in orders}) == 1


@pytest.mark.parametrize("block", [3, 13])
def test_other_block_sizes_agree_with_the_reference_to_float_tolerance(block):
    sizes = (simulate(BY_EACH, FLEET, local_steps=WORK, block=b, devices=DEVICES[:1]) for b in (1, block))
    reference, other = (flat(ran(s, 1)[0].server.params) for s in sizes)
    np.testing.assert_allclose(other, reference, rtol=1e-5, atol=1e-6)


@pytest.fixture
def compilations():
    """The names of the programs compiled so far; the list grows as the test goes on."""
    names: list[str] = []

    def listen(event: str, duration: float, **details) -> None:
        del duration
        if event.endswith("backend_compile_duration"):
            names.append(str(details))

    jax.monitoring.register_event_duration_secs_listener(listen)
    yield names
    jax.monitoring.unregister_event_duration_listener(listen)


@pytest.mark.parametrize(
    ("rule", "stages", "topology"),
    [(mean(), STAGES, None), (median(), STAGES, None), (mean(), (), isolated())],
    ids=["sum", "each", "isolated"],
)
def test_nothing_is_compiled_after_the_first_round(rule, stages, topology, compilations):
    learner = quadratic(sgd(0.11, momentum=0.5), size=SIZE, samples=3)  # of its own: equal ones share their programs
    federation = federate(learner, rule, *stages, local_steps=3)
    simulation = simulate(federation, FLEET, topology=topology, local_steps=WORK, block=BLOCK)
    run_state, _ = ran(simulation, 1)
    assert compilations  # the listener listens
    compilations.clear()
    for cohort in (None, [0, 1, 2, 3, 4, 5, 6], [12], None):
        run_state, _ = simulation.round(run_state, cohort=cohort)
    assert compilations == []


@pytest.mark.parametrize("payload", ["delta", "gradient"])
def test_a_schedule_of_local_steps_compiles_nothing_and_its_rounds_are_those_of_a_program_of_their_length(
    payload, compilations
):
    learner = quadratic(sgd(0.12, momentum=0.5), size=SIZE, samples=3)
    lengths = [1, 4, 2, 3, 1]

    def federation(most):
        return federate(learner, mean(), *STAGES, local_steps=most, payload=payload)

    plan = Scheduler(local_steps=given(lengths))
    planned = simulate(federation(4), FLEET, scheduler=plan, block=BLOCK, devices=DEVICES[:1])
    run_state, _ = planned.round(planned.init(0))
    assert compilations
    compilations.clear()
    for length in lengths[1:]:
        run_state, seen = planned.round(run_state)
        assert seen.steps.tolist() == [length] * AGENTS
    assert compilations == []
    short = simulate(federation(1), FLEET, block=BLOCK, devices=DEVICES[:1])
    once, _ = short.round(short.init(0))
    longer, _ = planned.round(planned.init(0))
    assert fingerprint(once.server) == fingerprint(longer.server)


@component("local_steps")
def given(lengths: Sequence[int]) -> LocalSteps:
    """So many local steps, round by round."""
    return LocalSteps(lambda agents, number, state: np.full(agents, lengths[number - 1]), max(lengths))


def test_updates_that_are_not_finite_are_left_out_and_counted():
    minimum = FLEET.minimum.copy()
    minimum[[2, 7], 1] = np.nan, np.inf
    sick = FLEET._replace(minimum=minimum)
    healthy = [k for k in range(AGENTS) if k not in (2, 7)]
    for rule in (mean(), median()):
        federation = federate(quadratic(sgd(0.1), size=SIZE), rule)
        simulation = simulate(federation, sick, block=BLOCK, devices=DEVICES[:1])
        run_state, seen = ran(simulation, 1)
        assert [agent for agent, _ in seen.rejected] == [2, 7]
        assert all(reason.endswith("is not finite") for _, reason in seen.rejected)
        step = 0.1 * FLEET.curvature[healthy] * FLEET.minimum[healthy]
        merged = step.mean(0) if rule == mean() else np.median(step, axis=0)
        np.testing.assert_allclose(flat(run_state.server.params), merged, rtol=1e-4, atol=1e-6)


def test_a_round_in_which_every_update_is_refused_changes_nothing_but_the_version():
    sick = FLEET._replace(minimum=np.full_like(FLEET.minimum, np.nan))
    simulation = simulate(federate(quadratic(sgd(0.1), size=SIZE), mean()), sick, block=BLOCK, devices=DEVICES[:1])
    run_state, seen = ran(simulation, 2)
    assert (len(seen.rejected), seen.weight, int(run_state.server.version)) == (AGENTS, 0.0, 2)
    np.testing.assert_array_equal(flat(run_state.server.params), 0.0)


def test_isolated_agents_learn_alone_and_what_stands_for_a_server_stands_still():
    federation = federate(quadratic(sgd(0.1), size=SIZE), mean())
    simulation = simulate(federation, FLEET, topology=isolated(), block=BLOCK, devices=DEVICES[:1])
    run_state, seen = ran(simulation, 4, lambda i: None)
    alone = FLEET.minimum * (1 - (1 - 0.1 * FLEET.curvature.astype(np.float64)) ** 4)
    np.testing.assert_allclose(flat(simulation.params_of(run_state)), alone, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(flat(run_state.server.params), 0.0)
    assert (seen.bytes_up, seen.bytes_down) == (0, 0)


def test_metrics_come_back_in_the_order_of_the_seats_and_only_for_the_cohort():
    simulation = simulate(federate(quadratic(sgd(0.1), size=SIZE), mean()), FLEET, block=BLOCK, devices=DEVICES[:1])
    _, seen = simulation.round(simulation.init(0), cohort=[11, 2])
    loss = 0.5 * (FLEET.curvature * FLEET.minimum**2).sum(1)
    np.testing.assert_allclose(seen.metrics["loss"][[2, 11]], loss[[2, 11]], rtol=1e-5)
    assert np.count_nonzero(seen.metrics["loss"]) == 2
    assert seen.bytes_up == 2 * (4 * SIZE + 8)


def tiny_ppo():
    """PPO with a linear policy: small enough to compile, random enough to tell orders apart."""
    linear = network(lambda key, space, outputs, gain: 0.1 * jax.random.normal(key, (outputs, 4)), jnp.matmul)
    return ppo(
        cartpole(), network=linear, optimizer=adam(0.01), num_envs=2, num_steps=4, num_epochs=2, num_minibatches=2
    )


POLES = jax.tree.map(lambda x: np.full(AGENTS, x, np.float32), cartpole().params)._replace(
    length=np.linspace(0.3, 1.0, AGENTS, dtype=np.float32)
)


def test_twenty_rounds_of_ppo_give_the_same_bits_on_two_devices_in_any_order():
    federation = federate(tiny_ppo(), mean(), local_steps=2)
    prints = []
    for devices, order in [(1, None), (2, SHUFFLED)]:
        simulation = simulate(federation, POLES, local_steps=[2, 1] * 6 + [2], devices=DEVICES[:devices], order=order)
        run_state, seen = ran(simulation)
        assert seen.rejected == ()
        prints.append((fingerprint(run_state.server), fingerprint(simulation.params_of(run_state))))
    assert prints[0] == prints[1]
    assert fingerprint(simulation.init(1).server) != fingerprint(simulation.init(0).server)
    assert block_size(AGENTS) == BLOCK


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"block": 0}, "block is 0"),
        ({"block": 17}, "block is 17.*at most 16"),
        ({"local_steps": [1] * 12}, r"one number per agent \(13\)"),
        ({"local_steps": [4] + [1] * 12}, r"each from 1 to the federation's local_steps \(3\)"),
        ({"local_steps": [0] + [1] * 12}, "each from 1"),
    ],
)
def test_arguments_that_do_not_fit_the_fleet_are_named(options, message):
    with pytest.raises(ConfigError, match=message):
        simulate(BY_SUM, FLEET, **options)


def test_where_nothing_had_any_weight_everybody_gets_the_memory_of_their_stages_back():
    """An update of weight zero is not refused, and nothing is made of it either."""

    def weightless(key, context, shared, local, update):
        return update._replace(weight=jnp.zeros_like(update.weight)), local

    federation = federate(LEARNER, mean(), error_feedback(top_k(0.34)), Stage(weightless, reweights=(0.0, 1.0)))
    simulation = simulate(federation, FLEET, devices=DEVICES[:1])
    first = simulation.init(0)
    before = [jax.tree.map(np.array, block.stage_states) for block in first.blocks]
    run_state, seen = simulation.round(first)
    assert seen.weight == 0.0
    assert not seen.rejected
    for old, block in zip(before, run_state.blocks, strict=True):
        jax.tree.map(np.testing.assert_array_equal, old, block.stage_states)
