"""SCAFFOLD in every composition: c is the sum of p_k c_k, so agents settle at the minimum of the sum of p_k f_k."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from fedrl.aggregators import mean, median
from fedrl.clocks import clock
from fedrl.core.errors import UnsoundError
from fedrl.core.stage import Noise, Stage
from fedrl.engines.simulate import simulate
from fedrl.federation.federate import federate
from fedrl.federation.nested import as_learner
from fedrl.federation.shares import shares
from fedrl.learners import add_correction, chain, sgd
from fedrl.server import fedavgm, greedy, linear, polynomial, proportional_to_measured_speed
from fedrl.server.decisions import LocalSteps
from fedrl.server.scheduler import Scheduler
from fedrl.server.schedules import bounded_staleness, fed_async, fed_buff, synchronous
from fedrl.stages import clip, error_feedback, lag, quantize, scaffold, sign, top_k, weight_by_capacity
from fedrl.topologies import tree
from tests.support.quadratic import FLEET, flat, quadratic, simulated_rounds

DEVICE = jax.devices()[:1]
RATE, AGENTS = 0.1, 4
WORK = [1, 3, 2, 3]
SPEEDS = [1.0, 1.3, 1.9, 4.1]  # seconds for a local step of each agent
CURVATURE, MINIMUM = np.float64(FLEET.curvature), np.float64(FLEET.minimum)


def optimum(weights) -> np.ndarray:
    """The minimum of sum_k p_k f_k."""
    p = np.asarray(weights, np.float64)[:, None]
    return (p * CURVATURE * MINIMUM).sum(0) / (p * CURVATURE).sum(0)


ALIKE, BY_SAMPLES = optimum([1, 1, 1, 1]), optimum(WORK)


def federated(aggregator, *stages, **options):
    learner = quadratic(chain(add_correction(), sgd(RATE)))
    return federate(learner, aggregator, scaffold(RATE), *stages, local_steps=3, **options)


def two_of_four(seed: int = 0):
    draws = np.random.default_rng(seed)
    return lambda i: draws.choice(AGENTS, 2, replace=False).tolist()


def settles_at(simulation, expected: np.ndarray, rounds: int, cohort=None):
    run_state = simulated_rounds(simulation, rounds, cohort=cohort)
    np.testing.assert_allclose(flat(run_state.server.params), expected, atol=2e-5)
    return run_state


def held(run_state):
    """c at the server, and p_k c_k of each agent in blocks."""
    own = [(np.asarray(b.agent) >= 0, np.asarray(b.share), flat(b.stage_states[0].variate)) for b in run_state.blocks]
    return flat(run_state.server.stage_states[0]), np.concatenate([(p[:, None] * c)[here] for here, p, c in own])


@pytest.mark.parametrize(
    ("aggregator", "expected", "cohort"),
    [(mean(), BY_SAMPLES, two_of_four()), (mean("uniform"), ALIKE, None)],
    ids=["by samples, two of four", "uniform, all"],
)
@pytest.mark.parametrize(
    "stages",
    [(), (clip(0.5),), (quantize(4),), (error_feedback(top_k(0.34)),), (error_feedback(sign()),)],
    ids=repr,
)
def test_it_settles_where_the_weights_of_all_agents_say(aggregator, expected, cohort, stages):
    federation = federated(aggregator, *stages)
    settles_at(simulate(federation, FLEET, local_steps=WORK, devices=DEVICE), expected, 400, cohort)


@pytest.mark.parametrize("aggregator", [mean(), mean("uniform")], ids=repr)
def test_c_is_the_sum_of_what_agents_hold_after_every_round_of_a_cohort(aggregator):
    simulation = simulate(federated(aggregator, quantize(4)), FLEET, local_steps=WORK, devices=DEVICE)
    run_state = simulation.init(0)
    cohort = two_of_four()
    for i in range(12):
        run_state, _ = simulation.round(run_state, cohort(i))
        c, own = held(run_state)
        assert np.abs(c).max() > 1e-3
        np.testing.assert_allclose(c, own.astype(np.float64).sum(0), atol=2e-6)


def test_the_two_optima_are_far_apart():
    assert np.abs(BY_SAMPLES - ALIKE).max() > 0.3


def test_a_server_that_takes_large_steps_settles_there_too():
    federation = federated(mean(), server_optimizer=fedavgm(1.0, 0.3))
    settles_at(simulate(federation, FLEET, local_steps=WORK, devices=DEVICE), BY_SAMPLES, 400, two_of_four())


@pytest.mark.parametrize("schedule", [
    synchronous(),
    synchronous(2, stragglers="keep"),
    fed_buff(4, staleness=polynomial(0.5)),
    fed_buff(2),
    bounded_staleness(3),
    bounded_staleness(0),
    fed_async(0.6),
], ids=repr)  # fmt: skip
def test_on_a_clock_however_stale_the_updates(schedule):
    federation = federated(mean("uniform"))
    simulation = simulate(federation, FLEET, scheduler=schedule, clock=clock(step_s=SPEEDS), devices=DEVICE)
    settles_at(simulation, ALIKE, 300)


@pytest.mark.parametrize("schedule", [synchronous(), fed_buff(2)], ids=repr)
def test_agents_that_drop_out_now_and_then_stay_counted(schedule):
    slow = clock(step_s=SPEEDS, drop_out=0.3)
    simulation = simulate(federated(mean()), FLEET, scheduler=schedule, clock=slow, local_steps=WORK, devices=DEVICE)
    settles_at(simulation, BY_SAMPLES, 400)


@pytest.mark.parametrize("cohort", [None, two_of_four()], ids=["all", "two of four"])
@pytest.mark.parametrize("shape", [tree([2]), tree([2], periods=[1, 4]), tree([2, 1], periods=[1, 2, 4])], ids=repr)
def test_servers_of_a_tree_add_up_what_their_agents_change(shape, cohort):
    simulation = simulate(federated(mean()), FLEET, topology=shape, local_steps=WORK, devices=DEVICE)
    settles_at(simulation, BY_SAMPLES, 400, cohort)


def test_a_tree_knows_c_exactly_whenever_all_of_it_has_merged():
    shape = tree([2, 1], periods=[1, 2, 4])
    simulation = simulate(federated(mean()), FLEET, topology=shape, local_steps=WORK, devices=DEVICE)
    run_state, pick = simulation.init(0), two_of_four()
    for i in range(12):
        run_state, _ = simulation.round(run_state, pick(i))
        c, own = held(run_state)
        if i % 4 == 3:
            np.testing.assert_allclose(c, own.sum(0), atol=1e-6)
            assert np.abs(c).max() > 0.05
            for edge in run_state.engine_state.topology[0][0]:
                np.testing.assert_array_equal(flat(edge.server.stage_states[0]), c)


def test_what_servers_above_servers_exchange_is_counted():
    inner = federate(quadratic(sgd(RATE)), mean(), local_steps=3)
    plain, steered = (
        simulate(federation, FLEET, topology=tree([2], periods=[1, 2]), devices=DEVICE)
        for federation in (inner, federated(mean()))
    )
    (_, a), (_, b) = (two_rounds(simulation) for simulation in (plain, steered))
    extra = 3 * 4  # c has three numbers
    assert b.levels[0] == (a.levels[0][0] + AGENTS * extra, a.levels[0][1] + AGENTS * extra)
    assert b.levels[1] == (a.levels[1][0] + 2 * extra, a.levels[1][1] + 2 * extra)


def two_rounds(simulation):
    run_state, _ = simulation.round(simulation.init(0))
    return simulation.round(run_state)


def test_agents_turned_away_by_a_budget_have_not_been_counted():
    federation, budget = federated(mean(), reports=["norm"]), greedy(90, patience=3)
    simulation = simulate(
        federation, FLEET, scheduler=Scheduler(upload_budget=budget), local_steps=WORK, devices=DEVICE
    )
    run_state = simulation.init(0)
    for _ in range(6):
        run_state, seen = simulation.round(run_state)
        assert 0 < len(seen.selected) < AGENTS
    c, own = held(run_state)
    np.testing.assert_allclose(c, own.sum(0), atol=1e-6)
    assert np.abs(c).max() > 0.05
    settles_at(simulation, BY_SAMPLES, 400)


def alternating(most: int) -> LocalSteps:
    """Odd agents take more steps in odd rounds, even agents in even ones, for ten rounds; then all as in `WORK`."""

    def plan(agents, number, state):
        del state
        return np.array(WORK) if number > 10 else np.where(np.arange(agents) % 2 == number % 2, most, 1)

    return LocalSteps(plan, most)


def test_shares_that_change_with_the_work_are_counted_as_they_are_now():
    simulation = simulate(federated(mean()), FLEET, scheduler=Scheduler(local_steps=alternating(3)), devices=DEVICE)
    run_state = simulation.init(0)
    for _ in range(7):
        run_state, _ = simulation.round(run_state)
    c, own = held(run_state)
    np.testing.assert_allclose(c, own.sum(0), atol=1e-6)
    shared = np.concatenate([np.asarray(b.share)[np.asarray(b.agent) >= 0] for b in run_state.blocks])
    np.testing.assert_allclose(shared, np.float32([1, 3, 1, 3]) / 8.0)
    settles_at(simulation, BY_SAMPLES, 400, two_of_four())


def test_on_a_clock_shares_follow_the_work_too():
    plan, slow = Scheduler(local_steps=alternating(3)), clock(step_s=SPEEDS)
    timed = simulate(federated(mean()), FLEET, scheduler=plan, clock=slow, devices=DEVICE)
    settles_at(timed, BY_SAMPLES, 400)


def test_the_share_of_an_update_is_that_of_when_its_agent_was_asked():
    """Whoever fills a block learns sooner, and may not know what others are asked for later."""
    plan = Scheduler(fed_buff(2), local_steps=proportional_to_measured_speed(3))
    federation = federated(mean(), reports=["duration_s"])
    options, devices = {"scheduler": plan, "clock": clock(step_s=[1.0, 1.3, 1.7, 4.0], latency_s=0.1)}, jax.devices()
    assert len(devices) > 1
    ends = [
        simulated_rounds(simulate(federation, FLEET, **options, block=2, devices=few), 8)
        for few in (devices[:1], devices[:2])
    ]
    jax.tree.map(np.testing.assert_array_equal, *(end.server for end in ends))
    assert len(np.unique(ends[0].engine_state.team.share)) > 1


def test_one_share_for_all_where_all_work_the_same():
    simulation = simulate(federated(mean()), FLEET, scheduler=Scheduler(local_steps=linear(1, 3, 20)), devices=DEVICE)
    settles_at(simulation, ALIKE, 300)


def test_shares_are_those_of_all_agents():
    assert shares(federated(mean()), np.array(WORK)).tolist() == (np.float32(WORK) / np.float32(9)).tolist()
    assert shares(federated(mean("uniform")), np.array(WORK)).tolist() == [0.25] * 4


NOISE = Noise("Gaussian", 1.0, "agent")


def through(**marks) -> Stage:
    return Stage(lambda key, context, shared, local, update: (update, local), **marks)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: federated(median()), r"scaffold\(0.1\) keeps a sum.*median\(\) is not a mean.*Use mean\(\)"),
        (
            lambda: federated(mean(), weight_by_capacity([1.0] * 4)),
            r"weight_by_capacity.*changes weights.*shares must be fixed",
        ),
        (
            lambda: federated(mean("uniform"), through(noise=NOISE)),
            r"hides single updates from the server",
        ),
        (lambda: federated(mean(), lag()), r"lag\(\) withholds messages, and scaffold\(0.1\) needs one in every"),
        (lambda: federated(mean(), scaffold(0.2)), r"both send statistics named 'scaffold'"),
        (lambda: as_learner(federated(mean()), 2), r"scaffold\(0.1\) keeps a sum over all.*topology of servers"),
    ],
)
def test_what_would_settle_elsewhere_or_tell_too_much_is_refused(build, message):
    with pytest.raises(UnsoundError, match=message):
        build()


def test_an_agent_at_fault_loses_the_round_and_not_its_variate():
    broken = FLEET._replace(minimum=FLEET.minimum.copy())
    broken.minimum[2] = np.nan
    simulation = simulate(federated(mean()), broken, local_steps=WORK, devices=DEVICE)
    run_state = simulated_rounds(simulation, 5)
    c, own = held(run_state)
    np.testing.assert_array_equal(own[2], 0.0)
    np.testing.assert_allclose(c, own.sum(0), atol=1e-6)
    assert np.abs(c).max() > 0.05


def fragile(bad: range) -> optax.GradientTransformation:
    """FedAvg whose result is not finite in some of the rounds: the server passes over these."""

    def update(gradient, count, params=None):
        del params
        broken = (count >= bad.start) & (count < bad.stop)
        return jax.tree.map(lambda g: jnp.where(broken, jnp.nan, -g), gradient), count + 1

    return optax.GradientTransformation(lambda params: jnp.int32(0), update)


@pytest.mark.parametrize("engine", ["blocks", "tree", "clock"])
def test_a_round_that_the_server_passes_over_changes_neither_c_nor_any_variate(engine):
    """From its third merge on the server makes nothing of what it hears."""
    federation = federated(mean(), server_optimizer=fragile(range(2, 99)))
    if engine == "blocks":
        simulation = simulate(federation, FLEET, local_steps=WORK, devices=DEVICE)
    elif engine == "tree":
        shape = tree([2], periods=[1, 2])
        simulation = simulate(federation, FLEET, topology=shape, local_steps=WORK, devices=DEVICE)
    else:
        simulation = simulate(federation, FLEET, clock=clock(), local_steps=WORK, devices=DEVICE)
    run_state, found = simulation.init(0), []
    for _ in range(6):
        run_state, seen = simulation.round(run_state)
        found.append(memory_of(run_state))
    assert seen.skipped
    assert np.abs(found[1]).max() > 0.1
    for after in found[2:]:
        np.testing.assert_array_equal(after, found[1])


def memory_of(run_state) -> np.ndarray:
    """What the stages of all agents remember."""
    return np.concatenate([flat(block.stage_states[0].variate) for block in run_state.blocks])


@pytest.mark.parametrize("late", ["cancel", "keep"])
def test_updates_without_a_quorum_have_not_been_counted(late):
    schedule = synchronous(quorum=3, stragglers=late)
    slow = clock(step_s=SPEEDS, drop_out=0.4)
    simulation = simulate(federated(mean()), FLEET, scheduler=schedule, clock=slow, local_steps=WORK, devices=DEVICE)
    run_state, abandoned = simulation.init(0), 0
    for _ in range(40):
        run_state, seen = simulation.round(run_state)
        abandoned += seen.weight == 0.0
    assert 5 < abandoned < 35
    settles_at(simulation, BY_SAMPLES, 600)
